// Threads for loops whose items differ in cost: each thread takes the next item when it is done with the last. What an
// item computes never depends on the thread, so neither do the results.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace ckrm {

// With less work for each, threads cost more than they bring: to wake one takes several microseconds.
constexpr double kNanosecondsPerThread = 2e4;

// Items 0 .. count - 1, each for the one thread that takes it.
class Items {
 public:
  explicit Items(int64_t count) : count_(count) {}
  // Whether there was one more item, which `item` now is.
  bool take(int64_t& item) { return (item = next_.fetch_add(1, std::memory_order_relaxed)) < count_; }

 private:
  std::atomic<int64_t> next_{0};
  int64_t count_;
};

// Calls work(items) once on each thread taking part, which takes items until none is left.
// nanoseconds: an estimate of the whole work on one thread.
template <class Work>
void parallel_items(int64_t count, double nanoseconds, const Work& work) {
  const int64_t worthwhile = static_cast<int64_t>(std::min(nanoseconds / kNanosecondsPerThread, 1e6));
  const int64_t threads = worthwhile < 2 ? 1 : std::min({count, worthwhile, int64_t{torch::stable::get_num_threads()}});
  Items items(count);
  if (threads > 1)
    torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) { work(items); });
  else if (count > 0)
    work(items);
}

}  // namespace ckrm
