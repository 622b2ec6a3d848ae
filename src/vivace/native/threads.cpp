#include "threads.h"

#include <cassert>
#include <chrono>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace vivace {
namespace {

constexpr auto spin_time = std::chrono::microseconds(100);
constexpr int pauses_between_clock_reads = 64;

// A Run's word: the job's number, then the first tile, then the end.
constexpr int tile_bits = 20;
constexpr std::uint64_t tile_mask = (std::uint64_t{1} << tile_bits) - 1;

std::uint64_t as_word(std::uint64_t job, std::uint64_t first, std::uint64_t end) {
  return job << 2 * tile_bits | first << tile_bits | end;
}

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadTeam::ThreadTeam(int threads) : runs_(threads) {
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
  assert(static_cast<std::uint64_t>(tiles) <= tile_mask);
  call_.store(call, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  const std::uint64_t job = job_.load(std::memory_order_relaxed) + 1;
  const std::int64_t threads = size();
  for (std::int64_t thread = 0; thread < threads; thread++)
    runs_[thread].word.store(as_word(job, tiles * thread / threads, tiles * (thread + 1) / threads), std::memory_order_release);
  job_.store(job);  // seq_cst: ordered before the read of parked_
  if (parked_.load() > 0) {
    { std::lock_guard lock(mutex_); }
    wake_.notify_all();
  }
  claim_and_run(0);
  for (int pauses = 0; done_.load(std::memory_order_acquire) != static_cast<std::uint32_t>(tiles);) {
    pause();
    if (++pauses % 4096 == 0) std::this_thread::yield();  // the holder of the last tile may need this core
  }
}

// Takes the first tile of a thread's own run, or the last of another's.
bool ThreadTeam::claim_from(Run& run, bool own, int& tile) {
  std::uint64_t word = run.word.load(std::memory_order_acquire), claimed;
  do {
    const std::uint64_t first = word >> tile_bits & tile_mask, end = word & tile_mask;
    if (first == end) return false;
    tile = static_cast<int>(own ? first : end - 1);
    claimed = own ? word + (std::uint64_t{1} << tile_bits) : word - 1;
  } while (!run.word.compare_exchange_weak(word, claimed, std::memory_order_acq_rel, std::memory_order_acquire));
  return true;
}

// Runs tiles until none is left, and says whether there was one. They are counted as done together: between claims,
// threads write to no line that they share. No later job can begin before that.
bool ThreadTeam::claim_and_run(int thread) {
  std::uint32_t ran = 0;
  for (int i = 0; i < size();) {
    int tile;
    if (!claim_from(runs_[(thread + i) % size()], i == 0, tile)) {
      i++;
      continue;
    }
    call_.load(std::memory_order_relaxed)(context_.load(std::memory_order_relaxed), tile, thread);
    ran++;
  }
  if (ran > 0) done_.fetch_add(ran, std::memory_order_release);
  return ran > 0;
}

void ThreadTeam::work(int thread) {
  while (!stopping_.load(std::memory_order_relaxed)) {
    const std::uint64_t seen = job_.load(std::memory_order_acquire);  // before looking for tiles: none of a later job is missed
    if (claim_and_run(thread)) continue;
    const auto give_up = std::chrono::steady_clock::now() + spin_time;
    for (int pauses = 0; job_.load(std::memory_order_relaxed) == seen;) {
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
  wake_.wait(lock, [&] { return stopping_.load() || job_.load() != seen; });
  parked_.fetch_sub(1);
}

}  // namespace vivace
