// Large zeroed memory: mapped lazily, freed by its owner, on huge pages where the kernel gives them.
#pragma once

#include <cstddef>
#include <utility>

namespace vivace {

// Owns `bytes` of zeroed memory, aligned to a page. Pages cost nothing until they are written.
class Memory {
 public:
  Memory() = default;
  explicit Memory(std::size_t bytes);  // throws std::bad_alloc
  ~Memory();
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }

  std::size_t bytes() const { return bytes_; }
  template <class T>
  T* as() {
    return static_cast<T*>(data_);
  }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data_);
  }

 private:
  void swap(Memory& other) {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// A Memory of elements of one type.
template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(std::size_t size) : memory_(size * sizeof(T)) {}
  T* data() { return memory_.as<T>(); }
  const T* data() const { return memory_.as<T>(); }
  T& operator[](std::size_t i) { return data()[i]; }
  const T& operator[](std::size_t i) const { return data()[i]; }
  std::size_t bytes() const { return memory_.bytes(); }
  bool empty() const { return memory_.bytes() == 0; }

 private:
  Memory memory_;
};

}  // namespace vivace
