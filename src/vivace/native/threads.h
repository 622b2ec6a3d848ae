// A small team of threads that shares out the tiles of one job at a time.
//
// Tiles are claimed one by one, so a thread that the system has taken off its core delays a job by at most the tile
// it holds. Workers spin briefly for the next job, then park: fast between the layers of a step, silent when idle.
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

  int size() const { return static_cast<int>(workers_.size()) + 1; }

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

  void run(int tiles, Call call, void* context);
  bool claim_and_run(int thread);
  void work(int thread);
  void park(std::uint64_t seen);

  // The job, written by run() before `ticket_` is, and unchanged until every tile is done.
  std::atomic<Call> call_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<std::uint32_t> tiles_{0};

  // High half: number of the job, so that a late worker cannot claim a tile of a job it has not seen.
  // Low half: tiles not yet claimed.
  alignas(64) std::atomic<std::uint64_t> ticket_{0};
  alignas(64) std::atomic<std::uint32_t> done_{0};

  alignas(64) std::atomic<int> parked_{0};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

}  // namespace vivace
