// The gradient of all pairs, by recomputing every term. A block owns a slice of some filters of one bank and meets all
// filters of the other: no sum is shared between blocks, so none needs atomics, and all have one order.
#pragma once

#include "../index.h"
#include "terms.cuh"

namespace ckrm {
namespace cuda {

template <class T>
constexpr int kOwnedPerThread = kPerThread<T> / 2;
template <class T>
constexpr int kOwnedFilters = kSide * kOwnedPerThread<T>;

// Coordinates whose gradients a block sums up, in registers; slices with more go through several blocks, each of which
// recomputes the terms.
template <int kCoordinates>
constexpr int kOwnedCoordinates = kCoordinates == kAnyCoordinates ? 24 : kCoordinates;

// What the gradient of Psi is read from: packed, or a rectangle with any strides.
struct PairGradient {
  const void* grad;
  bool is_float32, packed;
  int64_t strides[2];
};

template <class T>
__device__ __forceinline__ T gradient_at(const PairGradient& g, int64_t at) {
  if (sizeof(T) == sizeof(float) || g.is_float32) return static_cast<T>(static_cast<const float*>(g.grad)[at]);
  return static_cast<const T*>(g.grad)[at];
}

// square: the gradient of every pair as a padded matrix, 0 where there is no pair, NaN where a filter is not finite.
// of_a: for each of a's filters and slices the rows of Gathered, dz before the moments, where the bank has its own.
template <class T>
struct GradientWork {
  Bank<T> a, b;
  PairGradient grad;
  T *square, *of_a;
  int64_t first_spread, first_block;
};

template <class T>
__global__ void __launch_bounds__(kThreads) spread_gradient_kernel(Works<GradientWork<T>> works) {
  __shared__ GradientWork<T> work;
  const int64_t block = works.share(&GradientWork<T>::first_spread, work);
  const Bank<T>&a = work.a, &b = work.b;
  const PairGradient& g = work.grad;
  const int64_t at = block * kThreads + threadIdx.x, i = at / b.padded, j = at % b.padded;
  if (i >= a.padded) return;
  T value = 0;
  if (i < a.filters && j < b.filters && !(g.packed && i == j)) {
    const int64_t from = g.packed ? pair_index(i < j ? i : j, i < j ? j : i, a.filters) * g.strides[0]
                                  : i * g.strides[0] + j * g.strides[1];
    value = gradient_at<T>(g, from) + (a.poison[i] + b.poison[j]);
  }
  work.square[at] = value;
}

// What one filter's slice has gathered as the first of all its pairs: the gradients of its moments, and of the owned
// coordinates.
template <int kCoordinates, class T>
struct Gathered {
  static constexpr int kMoments = kCoordinates == 0 ? 1 : kGradientRows;
  static constexpr int kOwned = kOwnedCoordinates<kCoordinates>;
  T moments[kMoments] = {};
  T z[kOwned > 0 ? kOwned : 1] = {};

  __device__ __forceinline__ void add(const TermGradient<T>& d) {
    moments[0] += d.of_mu_a;
    if constexpr (kCoordinates != 0) moments[1] += d.of_sigma_a;
  }
};

// Adds the numbers of the threads along a tile's row, in order, and stores them for the block's filters.
template <class T>
__device__ __forceinline__ void store_sums(T (&shared)[kSide][kOwnedFilters<T>], Place place,
                                           const T (&values)[kOwnedPerThread<T>], T* to) {
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kOwnedPerThread<T>; ++r) shared[place.column][place.row * kOwnedPerThread<T> + r] = values[r];
  __syncthreads();
  if (threadIdx.x >= kOwnedFilters<T>) return;
  T sum = 0;
  for (int column = 0; column < kSide; ++column) sum += shared[column][threadIdx.x];
  to[threadIdx.x] = sum;
}

// Blocks that a multiprocessor takes at least, 0: no matter. Else the compiler spills to make room for more.
template <int kCoordinates, class T>
constexpr int kGradientBlocksAtOnce = kCoordinates == 0 && sizeof(T) == sizeof(float) ? 3 : 0;

// A work's blocks: filters, of each slice; blockIdx.y: part of the coordinates.
template <int kCoordinates, class Term, class T>
__global__ void __launch_bounds__(kThreads, kGradientBlocksAtOnce<kCoordinates, T>)
    tile_gradient_kernel(Works<GradientWork<T>> works, Term term) {
  constexpr int R = kOwnedPerThread<T>, C = kPerThread<T>, kOwned = Gathered<kCoordinates, T>::kOwned;
  __shared__ Stage<T, kOwnedFilters<T>> stage;
  __shared__ T shared[kSide][kOwnedFilters<T>];
  __shared__ GradientWork<T> work;
  const int64_t block = works.share(&GradientWork<T>::first_block, work);
  const Bank<T>&a = work.a, &b = work.b;
  const T* square = in_global(work.square);
  const Passage passage(number_of_coordinates<kCoordinates>(a.coordinates));
  const Place place = place_of_thread();
  const int64_t blocks = a.padded / kOwnedFilters<T>;
  const int64_t first_row = block % blocks * kOwnedFilters<T>, slice = block / blocks;
  const int64_t slice_row = slice * passage.rows;
  const int first_owned = blockIdx.y * kOwned, rest = passage.coordinates - first_owned;
  if (blockIdx.y > 0 && rest <= 0) return;  // the part is of another work's slices
  const int owned = rest < kOwned ? rest : kOwned;

  Gathered<kCoordinates, T> gathered[R];
  for (int64_t first_column = 0; first_column < b.filters; first_column += kTile<T>) {
    T cov[R][C], coefficients[R][C];
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < C; ++c) cov[r][c] = term.covariance_start;
    for (int part = 0; part < passage.parts; ++part) {
      const int count = passage.coordinates_of(part);
      const int64_t from = slice_row + part * kPartCoordinates;
      __syncthreads();
      if (passage.parts > 1 || first_column == 0) load_rows(a, from, passage.rows_of(part), first_row, stage.a);
      load_rows(b, from, passage.rows_of(part), first_column, stage.b);
      __syncthreads();
      add_covariances<kCoordinates>(stage, 0, count, place, cov);
      if (part + 1 < passage.parts) continue;

      Moments<T> x[R], y[C];
      load_moments<kCoordinates>(stage.a, count, place.row * R, x);
      load_moments<kCoordinates>(stage.b, count, place.column * C, y);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const Pack<T, C> g =
            load_pack<T, C>(square + (first_row + place.row * R + r) * b.padded + first_column + place.column * C);
#pragma unroll
        for (int c = 0; c < C; ++c) {
          const TermGradient<T> d = term.gradient(g.v[c], x[r], y[c], term.factors(x[r], y[c], cov[r][c]));
          gathered[r].add(d);
          coefficients[r][c] = d.of_covariance;
        }
      }
    }
    if constexpr (kCoordinates != 0) {
      int row = first_owned;
      if (passage.parts > 1) {
        __syncthreads();
        load_rows(b, slice_row + first_owned, owned, first_column, stage.b);
        __syncthreads();
        row = 0;
      }
#pragma unroll
      for (int q = 0; q < kOwned; ++q) {
        if (kCoordinates == kAnyCoordinates && q >= owned) break;
        const Pack<T, C> y = load_pack<T, C>(&stage.b[row + q][place.column * C]);
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
          for (int c = 0; c < C; ++c) gathered[r].z[q] += coefficients[r][c] * y.v[c];
      }
    }
  }

  T values[R];
  T* to = work.of_a + slice * a.slice_stride + first_row;
#pragma unroll
  for (int q = 0; q < kOwned; ++q) {
    if (q >= owned) break;
#pragma unroll
    for (int r = 0; r < R; ++r) values[r] = gathered[r].z[q];
    store_sums<T>(shared, place, values, to + (first_owned + q) * a.row_stride);
  }
  if (blockIdx.y > 0) return;
#pragma unroll
  for (int m = 0; m < Gathered<kCoordinates, T>::kMoments; ++m) {
#pragma unroll
    for (int r = 0; r < R; ++r) values[r] = gathered[r].moments[m];
    store_sums<T>(shared, place, values, to + (passage.coordinates + m) * a.row_stride);
  }
}

}  // namespace cuda
}  // namespace ckrm
