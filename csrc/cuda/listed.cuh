// Psi of listed pairs, and its gradient. Banks have slices in a row, so that neighbouring threads read neighbours.
#pragma once

#include "backward.cuh"

namespace ckrm {
namespace cuda {

constexpr int kThreadsPerPair = 32, kPairsPerBlock = kThreads / kThreadsPerPair;

struct PairList {
  const int64_t* filters;  // (count, 2), contiguous
  int64_t count;

  // Whether the pair may be read: a list is not checked on the way, which would wait for the device.
  __device__ __forceinline__ bool is_inside(int64_t p, int64_t bank_filters) const {
    const int64_t i = filters[2 * p], j = filters[2 * p + 1];
    return i >= 0 && i < bank_filters && j >= 0 && j < bank_filters;
  }
};

template <int kCoordinates, class T>
__device__ __forceinline__ Moments<T> moments_of(const Bank<T>& bank, int64_t filter, int64_t slice) {
  const T* from = bank.at(filter, number_of_coordinates<kCoordinates>(bank.coordinates), slice);
  if constexpr (kCoordinates == 0) return {from[0], from[bank.row_stride], T(0), T(0)};
  return {from[0], from[bank.row_stride], from[2 * bank.row_stride], from[3 * bank.row_stride]};
}

template <int kCoordinates, class T>
__device__ __forceinline__ T covariance_of(const Bank<T>& bank, int64_t i, int64_t j, int64_t slice, T start) {
  const int n = number_of_coordinates<kCoordinates>(bank.coordinates);
  const T *x = bank.at(i, 0, slice), *y = bank.at(j, 0, slice);
  T cov = start;
  for (int q = 0; q < n; ++q) cov += x[q * bank.row_stride] * y[q * bank.row_stride];
  return cov;
}

// psi_of: (count,), NaN for pairs out of range.
template <int kCoordinates, class Term, class T>
__global__ void __launch_bounds__(kThreads, 2)  // else the compiler spills to make room for more blocks
    listed_kernel(Bank<T> bank, PairList pairs, Term term, void* psi_of, bool is_float32) {
  __shared__ T sums[kThreads];
  const int lane = threadIdx.x % kThreadsPerPair;
  const int64_t p = blockIdx.x * int64_t{kPairsPerBlock} + threadIdx.x / kThreadsPerPair;
  const bool is_pair = p < pairs.count, is_inside = is_pair && pairs.is_inside(p, bank.filters);
  const int64_t i = is_inside ? pairs.filters[2 * p] : 0, j = is_inside ? pairs.filters[2 * p + 1] : 0;
  T sum = 0;
  for (int64_t slice = lane; slice < bank.slices && is_inside; slice += kThreadsPerPair)
    sum += term.value(term.parts(moments_of<kCoordinates>(bank, i, slice), moments_of<kCoordinates>(bank, j, slice),
                                 covariance_of<kCoordinates>(bank, i, j, slice, term.covariance_start)));
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (lane > 0 || !is_pair) return;
  for (int other = 1; other < kThreadsPerPair; ++other) sum += sums[threadIdx.x + other];
  const T value = is_inside ? sum / static_cast<T>(bank.slices) + bank.poison[i] + bank.poison[j] : static_cast<T>(NAN);
  if (sizeof(T) == sizeof(float) || is_float32)
    static_cast<float*>(psi_of)[p] = static_cast<float>(value);
  else
    static_cast<T*>(psi_of)[p] = value;
}

// The filters that a list names, sorted, each with its place 2 p + side in the list.
struct Incidence {
  const int64_t *filters, *places;
  int64_t count;

  // The first entry whose filter is at least this one.
  __device__ __forceinline__ int64_t first_of(int64_t filter) const {
    int64_t low = 0, high = count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (filters[middle] < filter)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
};

// As tile_gradient_kernel; a thread owns one slice of one filter. blockIdx: filters and slices, part of the
// coordinates.
template <int kCoordinates, class Term, class T>
__global__ void __launch_bounds__(kThreads)
    listed_gradient_kernel(Bank<T> bank, PairList pairs, Incidence incidence, PairGradient g, Term term, T* of_bank) {
  constexpr int kOwned = Gathered<kCoordinates, T>::kOwned;
  const int64_t at = blockIdx.x * int64_t{kThreads} + threadIdx.x, filter = at / bank.slices, slice = at % bank.slices;
  if (filter >= bank.filters) return;
  const int n = number_of_coordinates<kCoordinates>(bank.coordinates);
  const int first_owned = blockIdx.y * kOwned;
  const Moments<T> a = moments_of<kCoordinates>(bank, filter, slice);
  Gathered<kCoordinates, T> gathered;
  for (int64_t entry = incidence.first_of(filter); entry < incidence.count && incidence.filters[entry] == filter;
       ++entry) {
    const int64_t place = incidence.places[entry], p = place / 2;
    const bool is_inside = pairs.is_inside(p, bank.filters);
    const int64_t other = is_inside ? pairs.filters[place ^ 1] : filter;
    const T of_pair = is_inside ? gradient_at<T>(g, p * g.strides[0]) + (bank.poison[filter] + bank.poison[other])
                                : static_cast<T>(NAN);
    const Moments<T> b = moments_of<kCoordinates>(bank, other, slice);
    const T cov = covariance_of<kCoordinates>(bank, filter, other, slice, term.covariance_start);
    const TermGradient<T> d = term.gradient(of_pair, a, b, term.factors(a, b, cov));
    gathered.add(d);
#pragma unroll
    for (int q = 0; q < kOwned; ++q) {
      if (first_owned + q >= n) break;
      gathered.z[q] += d.of_covariance * *bank.at(other, first_owned + q, slice);
    }
  }
  T* to = of_bank + (bank.at(filter, 0, slice) - bank.data);
#pragma unroll
  for (int q = 0; q < kOwned; ++q) {
    if (first_owned + q >= n) break;
    to[(first_owned + q) * bank.row_stride] = gathered.z[q];
  }
  if (blockIdx.y > 0) return;
#pragma unroll
  for (int m = 0; m < Gathered<kCoordinates, T>::kMoments; ++m) to[(n + m) * bank.row_stride] = gathered.moments[m];
}

}  // namespace cuda
}  // namespace ckrm
