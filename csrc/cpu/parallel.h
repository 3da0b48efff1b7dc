// Threads for loops whose items differ in cost: each thread takes the next item when it is done with the last. What an
// item computes never depends on the thread, so neither do the results.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace ckrm {

// Calls make_worker() once on each thread taking part, then worker(item) for items 0 .. count - 1 in any order.
template <class MakeWorker>
void parallel_items(int64_t count, const MakeWorker& make_worker) {
  const int64_t threads = std::min<int64_t>(count, torch::stable::get_num_threads());
  std::atomic<int64_t> next{0};
  const auto run = [&](int64_t, int64_t) {
    auto worker = make_worker();
    for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < count;) worker(item);
  };
  if (threads > 1) torch::stable::parallel_for(0, threads, 1, run);
  else if (count > 0) run(0, 1);
}

}  // namespace ckrm
