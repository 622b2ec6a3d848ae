#include "threads.h"

#include <chrono>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace vivace {
namespace {

constexpr auto spin_time = std::chrono::microseconds(100);
constexpr int pauses_between_clock_reads = 64;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadTeam::ThreadTeam(int threads) {
  for (int thread = 1; thread < threads; thread++) workers_.emplace_back([this, thread] { work(thread); });
}

ThreadTeam::~ThreadTeam() {
  {
    std::lock_guard lock(mutex_);
    stopping_.store(true);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadTeam::run(int tiles, Call call, void* context) {
  call_.store(call, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  tiles_.store(static_cast<std::uint32_t>(tiles), std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  const std::uint64_t job = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(job << 32 | static_cast<std::uint32_t>(tiles));  // seq_cst: ordered before the read of parked_
  if (parked_.load() > 0) {
    { std::lock_guard lock(mutex_); }
    wake_.notify_all();
  }
  while (claim_and_run(0)) {
  }
  for (int pauses = 0; done_.load(std::memory_order_acquire) != static_cast<std::uint32_t>(tiles);) {
    pause();
    if (++pauses % 4096 == 0) std::this_thread::yield();  // the holder of the last tile may need this core
  }
}

bool ThreadTeam::claim_and_run(int thread) {
  std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
  do {
    if (static_cast<std::uint32_t>(ticket) == 0) return false;
  } while (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel, std::memory_order_acquire));
  const int tile = static_cast<int>(tiles_.load(std::memory_order_relaxed) - static_cast<std::uint32_t>(ticket));
  call_.load(std::memory_order_relaxed)(context_.load(std::memory_order_relaxed), tile, thread);
  done_.fetch_add(1, std::memory_order_release);
  return true;
}

void ThreadTeam::work(int thread) {
  while (!stopping_.load(std::memory_order_relaxed)) {
    if (claim_and_run(thread)) continue;
    const std::uint64_t seen = ticket_.load(std::memory_order_relaxed);
    const auto give_up = std::chrono::steady_clock::now() + spin_time;
    for (int pauses = 0; ticket_.load(std::memory_order_relaxed) == seen;) {
      pause();
      if (++pauses % pauses_between_clock_reads == 0 && std::chrono::steady_clock::now() > give_up) {
        park(seen);
        break;
      }
    }
  }
}

void ThreadTeam::park(std::uint64_t seen) {
  std::unique_lock lock(mutex_);
  parked_.fetch_add(1);
  wake_.wait(lock, [&] { return stopping_.load() || ticket_.load() != seen; });
  parked_.fetch_sub(1);
}

}  // namespace vivace
