// Where the Psi of a tile's pairs go: partial sums, packed, a rectangle, or counts by interval.
#pragma once

#include "../index.h"
#include "terms.cuh"

namespace ckrm {
namespace cuda {

// The tiles of all pairs (those at or above the diagonal) or of a x b, and how their slices are split.
struct TilePlan {
  int64_t row_tiles, column_tiles, tiles, slices_per_split, splits;
  bool triangular;

  __device__ __forceinline__ Pair tile(int64_t index) const {
    if (triangular) return folded_tile(index, row_tiles);
    return {index / column_tiles, index % column_tiles};
  }
};

enum class ResultKind { kPacked, kRectangle, kCounts };

template <class T>
struct Result {
  ResultKind kind;
  T* partial;  // [split][tile][row][column], where slices are split; else null
  void* psi;   // packed or a rectangle
  bool is_float32;
  unsigned long long* counts;  // of intervals between the edges, then NaN
  const void* edges;
  int64_t edge_count;
};

template <class T>
constexpr int kTilePairs = kTile<T> * kTile<T>;
constexpr int kSharedCounts = 256;  // more intervals are counted in global memory

// Receives the sums of one tile's pairs, from all threads of a block.
template <class T>
class Receiver {
 public:
  __device__ __forceinline__ Receiver(const Result<T>& result, const Bank<T>& a, const Bank<T>& b, bool triangular,
                                      unsigned* shared_counts)
      : result_(result), a_(a), b_(b), triangular_(triangular), shared_counts_(shared_counts) {
    if (!counts_in_shared()) return;
    for (int at = threadIdx.x; at < kSharedCounts; at += kThreads) shared_counts_[at] = 0;
    __syncthreads();
  }

  __device__ __forceinline__ void take(int64_t i, int64_t j, T sum) const {
    if (i >= a_.filters || j >= b_.filters || (triangular_ && j <= i)) return;
    const T psi = sum / static_cast<T>(a_.slices) + a_.poison[i] + b_.poison[j];
    if (sizeof(T) == sizeof(float) || result_.is_float32)
      put<float>(i, j, static_cast<float>(psi));
    else
      put<T>(i, j, psi);
  }

  __device__ __forceinline__ void finish() const {
    if (!counts_in_shared()) return;
    __syncthreads();
    for (int at = threadIdx.x; at < result_.edge_count + 2; at += kThreads)
      if (shared_counts_[at] > 0) atomicAdd(&result_.counts[at], static_cast<unsigned long long>(shared_counts_[at]));
  }

 private:
  __device__ __forceinline__ bool counts_in_shared() const {
    return result_.kind == ResultKind::kCounts && result_.edge_count + 2 <= kSharedCounts;
  }

  template <class Out>
  __device__ __forceinline__ void put(int64_t i, int64_t j, Out psi) const {
    Out* out = static_cast<Out*>(result_.psi);
    if (result_.kind == ResultKind::kPacked)
      out[pair_index(i, j, b_.filters)] = psi;
    else if (result_.kind == ResultKind::kRectangle)
      out[i * b_.filters + j] = psi;
    else
      count(interval_of(psi));
  }

  // The number of edges below psi, by bisection.
  template <class Out>
  __device__ __forceinline__ int64_t interval_of(Out psi) const {
    if (psi != psi) return result_.edge_count + 1;
    const Out* edges = static_cast<const Out*>(result_.edges);
    int64_t low = 0, high = result_.edge_count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (edges[middle] < psi)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

  __device__ __forceinline__ void count(int64_t interval) const {
    if (counts_in_shared())
      atomicAdd(&shared_counts_[interval], 1u);
    else
      atomicAdd(&result_.counts[interval], 1ull);
  }

  const Result<T>& result_;
  const Bank<T>&a_, &b_;
  bool triangular_;
  unsigned* shared_counts_;
};

}  // namespace cuda
}  // namespace ckrm
