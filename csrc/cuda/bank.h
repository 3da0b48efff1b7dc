// How the CUDA kernels see weights and prepared filter banks.
//
// A slice is prepared as in csrc/cpu/kernels.h: the K - 1 coordinates of the centred slice in an orthonormal (Helmert)
// basis scaled by 1 / sqrt(K), whose dot product is the population covariance, then its moments (similarity.h); of
// slices of one number (K = 1) mu and first alone. Each of these is a row of numbers:
//   filters in a row:  [slice][row][filter]   (all pairs, a x b: a tile reads rows of neighbouring filters)
//   slices in a row:   [filter][row][slice]   (lists of pairs: the threads of a pair read its slices)
// Filters past the last, up to a multiple of kFilterPadding, are zero slices.
#pragma once

#include "../element.h"
#include "../inline.h"
#include "works.h"

namespace ckrm {
namespace cuda {

constexpr int kFilterPadding = 64;
constexpr int kMomentRows = 4;    // mu, first, sigma, second
constexpr int kGradientRows = 2;  // of mu and sigma, after those of the coordinates
CKRM_MEMBER int moment_rows(int coordinates) { return coordinates == 0 ? kMomentRows / 2 : kMomentRows; }

enum class Layout { kFiltersInRow, kSlicesInRow };

// A weight (filters, slices, *K) of any strides, in elements. The K positions are at most three dimensions.
struct WeightView {
  const void* data;
  Element element;
  int64_t filters, slices, filter_stride, slice_stride;
  int64_t size[3], stride[3];
  int positions;  // K
};

template <class T>
struct Bank {
  T* data;
  T* poison;  // per filter, padded: 0, or NaN if the filter is not finite or above float32's range
  int64_t filters, padded, slices;
  int64_t filter_stride, row_stride, slice_stride;
  int coordinates;  // K - 1
  Layout layout;

  CKRM_MEMBER int rows() const { return coordinates + moment_rows(coordinates); }
  CKRM_MEMBER int64_t numbers() const { return (layout == Layout::kFiltersInRow ? padded : filters) * slices * rows(); }
  CKRM_MEMBER T* at(int64_t filter, int64_t row, int64_t slice) const {
    return data + filter * filter_stride + row * row_stride + slice * slice_stride;
  }
};

// N numbers that are loaded at once.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

template <class T, int N>
__device__ __forceinline__ Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}

}  // namespace cuda
}  // namespace ckrm
