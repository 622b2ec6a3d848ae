// A small team of threads that shares out the tiles of one job at a time.
//
// Each thread has a run of tiles of its own, claims them one by one from the front, and then takes from the back of
// others' runs: a thread that the system has taken off its core delays a job by at most the tile it holds, threads
// meet at a cache line only near the end, and the same thread reads the same weights at every step.
// Workers spin briefly for the next job, then park: fast between the layers of a step, silent when idle.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace vivace {

class ThreadTeam {
 public:
  explicit ThreadTeam(int threads);  // the calling thread counts as one of them
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return static_cast<int>(runs_.size()); }

  // Calls body(tile, thread) once for each tile in [0, tiles) and returns when all are done. `thread` is below size()
  // and tells apart calls that may run at the same time. One caller at a time; not from inside a body.
  template <class Body>
  void for_each(int tiles, Body&& body) {
    if (tiles <= 0) return;
    if (tiles == 1 || workers_.empty()) {
      for (int tile = 0; tile < tiles; tile++) body(tile, 0);
      return;
    }
    using Plain = std::remove_reference_t<Body>;
    run(tiles, [](void* context, int tile, int thread) { (*static_cast<Plain*>(context))(tile, thread); }, &body);
  }

 private:
  using Call = void (*)(void* context, int tile, int thread);

  // Of one thread, what is not yet claimed: tiles [first, end) of job number `job`, all in one word, so that a late
  // thread cannot claim a tile of a job it has not seen.
  struct alignas(64) Run {
    std::atomic<std::uint64_t> word{0};
  };

  void run(int tiles, Call call, void* context);
  bool claim_and_run(int thread);
  bool claim_from(Run& run, bool own, int& tile);
  void work(int thread);
  void park(std::uint64_t seen);

  // The job, written by run() before any Run is, and unchanged until every tile is done.
  std::atomic<Call> call_{nullptr};
  std::atomic<void*> context_{nullptr};

  alignas(64) std::atomic<std::uint64_t> job_{0};
  alignas(64) std::atomic<std::uint32_t> done_{0};

  alignas(64) std::atomic<int> parked_{0};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Run> runs_;  // of each thread
  std::vector<std::thread> workers_;
};

}  // namespace vivace
