// From a weight to a prepared filter bank, and from the gradient of a bank to that of the weight.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../index.h"
#include "../similarity.h"
#include "bank.h"

namespace ckrm {
namespace cuda {

// A block's share: 32 filters by 8 slices, a slice a thread. In memory a weight's slices are neighbours, in rows of
// filters the filters are: numbers change threads in between, so that both sides are read and written side by side.
constexpr int kBlockFilters = 32, kBlockSlices = kThreads / kBlockFilters;

struct SliceOfBlock {
  int filter, slice;
};
__device__ __forceinline__ SliceOfBlock neighbouring_slices() {
  return {static_cast<int>(threadIdx.x) / kBlockSlices, static_cast<int>(threadIdx.x) % kBlockSlices};
}
__device__ __forceinline__ SliceOfBlock neighbouring_filters() {
  return {static_cast<int>(threadIdx.x) % kBlockFilters, static_cast<int>(threadIdx.x) / kBlockFilters};
}

template <class T>
using Exchange = T[kBlockSlices][kBlockFilters + 1];

// The value of the thread whose slice is `to`, given that each thread's own is `from`.
template <class T>
__device__ __forceinline__ T exchanged(Exchange<T>& shared, T value, SliceOfBlock from, SliceOfBlock to) {
  shared[from.slice][from.filter] = value;
  __syncthreads();
  const T result = shared[to.slice][to.filter];
  __syncthreads();
  return result;
}

// The first filter and slice of a block, of a bank with so many filters.
__device__ __forceinline__ Pair block_origin(int64_t block, int64_t filters) {
  const int64_t blocks = (filters + kBlockFilters - 1) / kBlockFilters;
  return {block % blocks * kBlockFilters, block / blocks * kBlockSlices};
}

// ---- sums over a slice's positions ---------------------------------------------------------------------------------

template <class T>
struct SliceSums;

// float32: the sum as high + low, so that neither a coordinate nor the mean loses digits where it nearly cancels, and
// a constant slice has coordinates of exactly 0.
template <>
struct SliceSums<float> {
  float high = 0, low = 0;

  // (sum so far) - r x; then x joins the sum.
  __device__ __forceinline__ float against(float x, float r) {
    const float product = __fmul_rn(r, x), product_error = __fmaf_rn(r, x, -product);
    float error;
    const float difference = two_sum(high, -product, error);
    const float result = difference + (error + (low - product_error));
    high = two_sum(high, x, error);
    low += error;
    return result;
  }
  __device__ __forceinline__ float mean(float count) const {
    const float rough = high / count;
    return rough + (__fmaf_rn(-rough, count, high) + low) / count;
  }

 private:
  static __device__ __forceinline__ float two_sum(float a, float b, float& error) {
    const float sum = __fadd_rn(a, b), b_in_sum = __fadd_rn(sum, -a);
    error = __fadd_rn(__fadd_rn(a, -__fadd_rn(sum, -b_in_sum)), __fadd_rn(b, -b_in_sum));
    return sum;
  }
};

// float64: plain sums of the differences to the first position.
template <>
struct SliceSums<double> {
  double first = 0, sum = 0;

  __device__ __forceinline__ double against(double x, double r) {
    if (r == 0) first = x;
    const double shifted = x - first, result = sum - r * shifted;
    sum += shifted;
    return result;
  }
  __device__ __forceinline__ double mean(double count) const { return first + sum / count; }
};

// The length of coordinate r = 1 .. K - 1: 1 / sqrt(r (r + 1) K).
template <class T>
__device__ __forceinline__ T coordinate_norm(int r, int positions) {
  return T(1) / sqrt(static_cast<T>(r) * static_cast<T>(r + 1) * static_cast<T>(positions));
}

// ---- packing -------------------------------------------------------------------------------------------------------

template <class T>
__device__ __forceinline__ T element_at(const WeightView& w, int64_t at) {
  switch (w.element) {
    case Element::kFloat16:
      return static_cast<T>(static_cast<float>(static_cast<const c10::Half*>(w.data)[at]));
    case Element::kBFloat16:
      return static_cast<T>(static_cast<float>(static_cast<const c10::BFloat16*>(w.data)[at]));
    case Element::kFloat64:
      if constexpr (sizeof(T) == sizeof(double)) return static_cast<const double*>(w.data)[at];
      [[fallthrough]];  // float64 weights are computed in float64
    default:
      return static_cast<T>(static_cast<const float*>(w.data)[at]);
  }
}

// Where a slice's positions are, one after another.
struct PositionWalk {
  int64_t offset = 0, at[3] = {0, 0, 0};

  __device__ __forceinline__ void step(const WeightView& w) {
    offset += w.stride[2];
    if (++at[2] < w.size[2]) return;
    at[2] = 0;
    offset += w.stride[1] - w.size[2] * w.stride[2];
    if (++at[1] < w.size[1]) return;
    at[1] = 0;
    offset += w.stride[0] - w.size[1] * w.stride[1];
  }
};

// Above, a slice counts as not finite: float64, unlike float32, is right for all finite numbers.
template <class T, class OwnScalars>
constexpr T kLargestSize = sizeof(T) == sizeof(float) ? T(OwnScalars::largest_size) : T(0x1.fffffffffffffp1023);

template <class T>
struct PrepareWork {
  WeightView weight;
  Bank<T> bank;  // its poison holds zeros
  int64_t first_block;
};

// scale: that of the similarity's scalars.
template <class OwnScalars, class T>
__global__ void __launch_bounds__(kThreads) prepare_kernel(Works<PrepareWork<T>> works, OwnScalars scalars, T scale) {
  __shared__ Exchange<T> shared;
  __shared__ PrepareWork<T> work;
  const int64_t block = works.share(&PrepareWork<T>::first_block, work);
  const WeightView w = work.weight;
  const Bank<T> bank = work.bank;
  const bool by_filter = bank.layout == Layout::kFiltersInRow;
  const SliceOfBlock own = neighbouring_slices(), stored = by_filter ? neighbouring_filters() : own;
  const Pair origin = block_origin(block, by_filter ? bank.padded : bank.filters);
  const int64_t filter = origin.i + own.filter, slice = origin.j + own.slice;
  const bool inside = filter < w.filters && slice < w.slices;
  const int64_t base = inside ? filter * w.filter_stride + slice * w.slice_stride : 0;

  const int64_t to_filter = origin.i + stored.filter, to_slice = origin.j + stored.slice;
  const bool is_stored = to_slice < w.slices && to_filter < (by_filter ? bank.padded : bank.filters);
  T* to = is_stored ? bank.at(to_filter, 0, to_slice) : nullptr;
  const auto store = [&](T value) {
    if (by_filter) value = exchanged(shared, value, own, stored);
    if (is_stored) *to = value, to += bank.row_stride;
  };

  SliceSums<T> sums;
  PositionWalk walk;
  T var = 0;
  for (int r = 0; r < w.positions; ++r) {
    const T x = inside ? element_at<T>(w, base + walk.offset) * scale : T(0);
    walk.step(w);
    const T against = sums.against(x, static_cast<T>(r));
    if (r == 0) continue;
    const T z = against * coordinate_norm<T>(r, w.positions);
    var += z * z;
    store(z);
  }
  const T mu = sums.mean(static_cast<T>(w.positions));
  const OwnMoments<T> moments = scalars.own_moments(mu, var);
  store(mu);
  store(moments.first);
  if (w.positions > 1) {
    store(sqrt(var));
    store(moments.second);
  }
  // threads of one filter may all write, the same number
  if (inside && !(moments.size <= kLargestSize<T, OwnScalars>)) bank.poison[filter] = static_cast<T>(NAN);
}

// ---- the gradient of the weight ------------------------------------------------------------------------------------

template <class T>
__device__ __forceinline__ void store_element(void* to, Element element, int64_t at, T value) {
  switch (element) {
    case Element::kFloat16:
      static_cast<c10::Half*>(to)[at] = static_cast<c10::Half>(static_cast<float>(value));
      break;
    case Element::kBFloat16:
      static_cast<c10::BFloat16*>(to)[at] = static_cast<c10::BFloat16>(static_cast<float>(value));
      break;
    case Element::kFloat64:
      if constexpr (sizeof(T) == sizeof(double)) static_cast<double*>(to)[at] = value;
      break;
    default:
      static_cast<float*>(to)[at] = static_cast<float>(value);
  }
}

template <class T>
struct FinishWork {
  Bank<T> bank;
  const T* of;  // as the bank: dz, dmu, dsigma
  void* to;     // (filters, slices, K), contiguous
  T scale;
  int64_t first_block;
};

// From coordinates back to positions: dx = H^T dz + dmu / K, with dz += dsigma z / sigma (0 where sigma is 0).
template <class T>
__global__ void __launch_bounds__(kThreads, 2)  // else the compiler spills to make room for more blocks
    finish_gradient_kernel(Works<FinishWork<T>> works, Element element) {
  __shared__ Exchange<T> shared;
  __shared__ FinishWork<T> work;
  const int64_t block = works.share(&FinishWork<T>::first_block, work);
  const Bank<T> bank = work.bank;
  const T* of = work.of;
  const T scale = work.scale;
  const bool by_filter = bank.layout == Layout::kFiltersInRow;
  const SliceOfBlock stored = neighbouring_slices(), own = by_filter ? neighbouring_filters() : stored;
  const Pair origin = block_origin(block, bank.filters);
  const int64_t filter = origin.i + own.filter, slice = origin.j + own.slice;
  const int64_t to_filter = origin.i + stored.filter, to_slice = origin.j + stored.slice;
  const bool inside = filter < bank.filters && slice < bank.slices;
  const bool is_stored = to_filter < bank.filters && to_slice < bank.slices;
  const int64_t base = inside ? bank.at(filter, 0, slice) - bank.data : 0;
  const int n = bank.coordinates, positions = n + 1;

  // a filter that is not finite has no gradient of its own: NaN comes from its pairs
  const auto slice_row = [&](int row) {
    const T x = inside ? bank.data[base + row * bank.row_stride] : T(0);
    return x - x == 0 ? x : T(0);
  };
  const auto of_row = [&](int row) { return inside ? of[base + row * bank.row_stride] : T(0); };
  const auto store = [&](int position, T value) {
    if (by_filter) value = exchanged(shared, value, own, stored);
    if (is_stored) store_element(work.to, element, (to_filter * bank.slices + to_slice) * positions + position, value);
  };

  T suffix = of_row(n) / static_cast<T>(positions);
  const T along = n > 0 ? of_row(n + 1) * inverse_or_zero(slice_row(n + 2)) : T(0);
  for (int r = n; r >= 1; --r) {
    const T of_z = (of_row(r - 1) + along * slice_row(r - 1)) * coordinate_norm<T>(r, positions);
    store(r, (suffix - static_cast<T>(r) * of_z) * scale);
    suffix += of_z;
  }
  store(0, suffix * scale);
}

}  // namespace cuda
}  // namespace ckrm
