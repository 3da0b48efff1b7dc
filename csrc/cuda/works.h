// What the blocks of a launch work on. One work comes as an argument of its kernel; many lie in a table on the device,
// in which each block finds its own, so that a kernel is launched once for all of them.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "runtime.h"
#include "tensors.h"

namespace ckrm {
namespace cuda {

constexpr int kThreads = 256;  // of every block

// A Work has members that number its first block, a launch each.
template <class Work>
struct Works {
  Work one;
  const Work* table;  // null: there is but one
  int64_t count;

  // Copies the work at a place for all threads of the block.
  __device__ __forceinline__ void share(int64_t at, Work& shared) const {
    if (threadIdx.x == 0) shared = table == nullptr ? one : table[at];
    __syncthreads();
  }

  // Copies the work of this block, and returns the block's number among those of the work.
  __device__ __forceinline__ int64_t share(int64_t Work::* first_block, Work& shared) const {
    int64_t low = 0, high = count;  // works without blocks come before the one that has them
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (table[middle].*first_block <= blockIdx.x ? low : high) = middle;
    }
    share(low, shared);
    return blockIdx.x - shared.*first_block;
  }
};

// A part of a table, small enough for the arguments of a kernel: they are read before a launch returns, and kept by a
// CUDA graph, where a copy from the host's memory would have to wait.
struct TablePart {
  static constexpr int64_t kWords = 500;
  uint64_t words[kWords];
};

template <class Part>
__global__ void __launch_bounds__(kThreads) store_kernel(Part part, uint64_t* to, int64_t words) {
  for (int64_t at = threadIdx.x; at < words; at += kThreads) to[at] = part.words[at];
}

// Works, at least one, with the memory of their table.
template <class Work>
class WorkTable {
  static_assert(std::is_trivially_copyable_v<Work> && sizeof(Work) % sizeof(uint64_t) == 0);

 public:
  WorkTable(const std::vector<Work>& works, const Tensor& like, const CurrentStream& stream)
      : works_{works.front(), nullptr, static_cast<int64_t>(works.size())} {
    if (works.size() == 1) return;
    const int64_t words = works_.count * static_cast<int64_t>(sizeof(Work) / sizeof(uint64_t));
    memory_ = new_numbers<double>(like, words);
    uint64_t* table = static_cast<uint64_t*>(memory_.mutable_data_ptr());
    for (int64_t first = 0; first < words; first += TablePart::kWords) {
      TablePart part;
      const int64_t here = std::min(words - first, TablePart::kWords);
      std::memcpy(part.words, reinterpret_cast<const char*>(works.data()) + first * sizeof(uint64_t),
                  static_cast<size_t>(here) * sizeof(uint64_t));
      stream.launch(store_kernel<TablePart>, 1, 1, kThreads, part, table + first, here);
    }
    works_.table = reinterpret_cast<const Work*>(table);
  }
  const Works<Work>& works() const { return works_; }

 private:
  Works<Work> works_;
  Tensor memory_;
};

// Gives each work number_of(work) blocks or other places, one after another from `first` on; returns how many in all.
template <class Work, class NumberOf>
int64_t share_out(std::vector<Work>& works, int64_t Work::* first, const NumberOf& number_of) {
  int64_t total = 0;
  for (Work& work : works) {
    work.*first = total;
    total += number_of(work);
  }
  return total;
}

}  // namespace cuda
}  // namespace ckrm
