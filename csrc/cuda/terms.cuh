// Rows of slices in shared memory, from which the threads of a block read a tile of filters by filters, and what a term
// (../similarity.h) takes of them.
#pragma once

#include "../similarity.h"
#include "bank.h"

namespace ckrm {
namespace cuda {

constexpr int kAnyCoordinates = -1;  // else the number is known at compile time; 0: slices of one number (K = 1)

constexpr int kSide = 16;  // threads along each side of a tile
template <class T>
constexpr int kTile = sizeof(T) == sizeof(float) ? 64 : 32;  // filters along a tile
template <class T>
constexpr int kPerThread = kTile<T> / kSide;
constexpr int kStageRows = 48;
constexpr int kPartCoordinates = kStageRows - kMomentRows;  // of a slice with more rows than a stage

// Some rows of two banks, of a tile's filters each.
template <class T, int kRowTile>
struct Stage {
  alignas(16) T a[kStageRows][kRowTile];
  alignas(16) T b[kStageRows][kTile<T>];
};

// Which of a tile's kSide x kSide places the thread has: a warp's are 8 x 4, so that it reads little.
struct Place {
  int row, column;
};
__device__ __forceinline__ Place place_of_thread() {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  return {warp / 4 * 8 + lane / 4, warp % 4 * 4 + lane % 4};
}

template <class T, int kWidth>
__device__ __forceinline__ void load_rows(const Bank<T>& bank, int64_t first_row, int rows, int64_t first_filter,
                                          T (&to)[kStageRows][kWidth]) {
  constexpr int kNumbers = 16 / sizeof(T), kPacks = kWidth / kNumbers;
  constexpr int kStep = kThreads / kPacks, kTurns = (kStageRows + kStep - 1) / kStep;
  const int first = static_cast<int>(threadIdx.x) / kPacks, column = static_cast<int>(threadIdx.x) % kPacks * kNumbers;
  const T* from = in_global(bank.data) + (first_row + first) * bank.row_stride + first_filter + column;
  Pack<T, kNumbers> loaded[kTurns];  // all on their way before the first is waited for
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn)
    if (first + turn * kStep < rows) loaded[turn] = load_pack<T, kNumbers>(from + turn * kStep * bank.row_stride);
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn)
    if (first + turn * kStep < rows)
      *reinterpret_cast<Pack<T, kNumbers>*>(&to[first + turn * kStep][column]) = loaded[turn];
}

// The moments of N neighbouring filters, whose rows begin at `row`.
template <int kCoordinates, int N, class T, int kWidth>
__device__ __forceinline__ void load_moments(const T (&from)[kStageRows][kWidth], int row, int column,
                                             Moments<T> (&to)[N]) {
  const Pack<T, N> mu = load_pack<T, N>(&from[row][column]), first = load_pack<T, N>(&from[row + 1][column]);
  Pack<T, N> sigma{}, second{};
  if constexpr (kCoordinates != 0) {
    sigma = load_pack<T, N>(&from[row + 2][column]);
    second = load_pack<T, N>(&from[row + 3][column]);
  }
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = {mu.v[i], first.v[i], sigma.v[i], second.v[i]};
}

// cov[r][c] += the product of coordinates [row, row + count) of the thread's filters.
template <int kCoordinates, int kRows, int kColumns, class T, int kRowTile>
__device__ __forceinline__ void add_covariances(const Stage<T, kRowTile>& stage, int row, int count, Place place,
                                                T (&cov)[kRows][kColumns]) {
  const auto add = [&](int q) {
    const Pack<T, kRows> x = load_pack<T, kRows>(&stage.a[row + q][place.row * kRows]);
    const Pack<T, kColumns> y = load_pack<T, kColumns>(&stage.b[row + q][place.column * kColumns]);
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int c = 0; c < kColumns; ++c) cov[r][c] += x.v[r] * y.v[c];
  };
  if constexpr (kCoordinates == kAnyCoordinates) {
#pragma unroll 1  // else the compiler runs out of registers for two blocks
    for (int q = 0; q < count; ++q) add(q);
  } else {
#pragma unroll
    for (int q = 0; q < kCoordinates; ++q) add(q);
  }
}

// How a slice's rows come through a stage: several slices at once, or one in several parts, the last with the moments.
struct Passage {
  int coordinates, rows, slices, parts;

  __device__ __forceinline__ explicit Passage(int n)
      : coordinates(n),
        rows(n + moment_rows(n)),
        slices(rows <= kStageRows ? kStageRows / rows : 1),
        parts(rows <= kStageRows ? 1 : (n + kPartCoordinates - 1) / kPartCoordinates) {}

  __device__ __forceinline__ int coordinates_of(int part) const {
    return part + 1 < parts ? kPartCoordinates : coordinates - part * kPartCoordinates;
  }
  __device__ __forceinline__ int rows_of(int part) const {
    return part + 1 < parts ? kPartCoordinates : rows - part * kPartCoordinates;
  }
};

template <int kCoordinates>
__device__ __forceinline__ int number_of_coordinates(int coordinates) {
  return kCoordinates == kAnyCoordinates ? coordinates : kCoordinates;
}

}  // namespace cuda
}  // namespace ckrm
