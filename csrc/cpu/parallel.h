// Threads for loops whose items differ in cost: each thread takes the next item when it is done with the last. What an
// item computes never depends on the thread, so neither do the results.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace ckrm {

// Below this much work a thread costs more than it brings.
constexpr double kNanosecondsPerThread = 1e4;

// Calls make_worker() once on each thread taking part, then worker(item) for items 0 .. count - 1 in any order.
// nanoseconds: an estimate of the whole work on one thread.
template <class MakeWorker>
void parallel_items(int64_t count, double nanoseconds, const MakeWorker& make_worker) {
  const int64_t worthwhile = 1 + static_cast<int64_t>(std::min(nanoseconds / kNanosecondsPerThread, 1e6));
  const int64_t threads = std::min({count, worthwhile, static_cast<int64_t>(torch::stable::get_num_threads())});
  std::atomic<int64_t> next{0};
  const auto run = [&](int64_t, int64_t) {
    auto worker = make_worker();
    for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < count;) worker(item);
  };
  if (threads > 1)
    torch::stable::parallel_for(0, threads, 1, run);
  else if (count > 0)
    run(0, 1);
}

}  // namespace ckrm
