// Psi counted softly: the mean over a bank's pairs of sigmoid((Psi - threshold) / temperature), and what every Psi gets
// of it as a gradient.
#pragma once

#include "terms.cuh"

namespace ckrm {
namespace cuda {

constexpr int kSoftPairs = 8 * kThreads;  // that a block counts

// The pairs of a bank.
template <class T>
struct SoftWork {
  T* psi;   // becomes the gradient of the mean, where there is to be one
  T* sums;  // one of each block
  int64_t pairs;
  const void* threshold;  // one number, of the dtype of the result
  void* mean;             // as well
  int64_t first_block, blocks;
};

// The sum of the threads' numbers, for the first of them, always in the same order.
template <class T>
__device__ __forceinline__ T sum_of_block(T (&shared)[kThreads], T value) {
  shared[threadIdx.x] = value;
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  return shared[0];
}

// is_float32: the dtype of the result.
template <class T>
__global__ void __launch_bounds__(kThreads)
    soft_kernel(Works<SoftWork<T>> works, T temperature, bool is_float32, bool with_gradient) {
  __shared__ T shared[kThreads];
  __shared__ SoftWork<T> soft;
  const int64_t block = works.share(&SoftWork<T>::first_block, soft);
  const T threshold = sizeof(T) == sizeof(float) || is_float32
                          ? static_cast<T>(*static_cast<const float*>(soft.threshold))
                          : *static_cast<const T*>(soft.threshold);
  const T scale = T(1) / (temperature * static_cast<T>(soft.pairs));
  T sum = 0;
  for (int turn = 0; turn < kSoftPairs; turn += kThreads) {
    const int64_t at = block * kSoftPairs + turn + threadIdx.x;
    if (at >= soft.pairs) break;
    const T x = (soft.psi[at] - threshold) / temperature;
    const T e = exp(x < 0 ? x : -x), larger = T(1) / (T(1) + e);  // exp(-|x|) does not overflow
    sum += x < 0 ? e * larger : larger;
    if (with_gradient) soft.psi[at] = e * larger * larger * scale;
  }
  const T total = sum_of_block(shared, sum);
  if (threadIdx.x == 0) soft.sums[block] = total;
}

// A block a work.
template <class T>
__global__ void __launch_bounds__(kThreads) soft_mean_kernel(Works<SoftWork<T>> works, bool is_float32) {
  __shared__ T shared[kThreads];
  __shared__ SoftWork<T> soft;
  works.share(blockIdx.x, soft);
  T sum = 0;
  for (int64_t at = threadIdx.x; at < soft.blocks; at += kThreads) sum += soft.sums[at];
  const T mean = sum_of_block(shared, sum) / static_cast<T>(soft.pairs);
  if (threadIdx.x > 0) return;
  if (sizeof(T) == sizeof(float) || is_float32)
    *static_cast<float*>(soft.mean) = static_cast<float>(mean);
  else
    *static_cast<T*>(soft.mean) = mean;
}

}  // namespace cuda
}  // namespace ckrm
