#include "memory.h"

#include <sys/mman.h>

#include <new>

namespace vivace {

Memory::Memory(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  constexpr std::size_t huge_page = std::size_t{2} << 20;
  if (bytes >= huge_page) madvise(mapped, bytes, MADV_HUGEPAGE);  // a hint: refused is fine
  data_ = mapped;
}

Memory::~Memory() {
  if (data_) munmap(data_, bytes_);
}

}  // namespace vivace
