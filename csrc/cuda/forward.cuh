// Psi of tiles of pairs. A block owns a tile of filters by filters and a range of slices, a thread kPerThread by
// kPerThread pairs of it.
#pragma once

#include "result.cuh"

namespace ckrm {
namespace cuda {

// Slices whose terms are added up before they join the sum, so that long sums in float32 lose nothing.
constexpr int kChunkSlices = 32;

template <int kCoordinates, class Term, class T>
__device__ __forceinline__ void add_terms(const Stage<T, kTile<T>>& stage, int row, Place place,
                                          const T (&cov)[kPerThread<T>][kPerThread<T>], const Term& term,
                                          T (&sums)[kPerThread<T>][kPerThread<T>]) {
  constexpr int N = kPerThread<T>;
  Moments<T> x[N], y[N];
  load_moments<kCoordinates>(stage.a, row, place.row * N, x);
  load_moments<kCoordinates>(stage.b, row, place.column * N, y);
#pragma unroll
  for (int r = 0; r < N; ++r)
#pragma unroll
    for (int c = 0; c < N; ++c) sums[r][c] += term.value(term.parts(x[r], y[c], cov[r][c]));
}

template <int N, class T>
__device__ __forceinline__ void fill(T (&to)[N][N], T value) {
#pragma unroll
  for (int r = 0; r < N; ++r)
#pragma unroll
    for (int c = 0; c < N; ++c) to[r][c] = value;
}

// Moves the thread's sums to those of the tile.
template <int N, class T>
__device__ __forceinline__ void flush(T (&chunk)[N][N], T (&total)[kTilePairs<T>], Place place) {
#pragma unroll
  for (int r = 0; r < N; ++r)
#pragma unroll
    for (int c = 0; c < N; ++c) {
      total[(place.row * N + r) * kTile<T> + place.column * N + c] += chunk[r][c];
      chunk[r][c] = 0;
    }
}

// float64 needs more registers than two blocks leave each other.
template <class T>
constexpr int kBlocksAtOnce = sizeof(T) == sizeof(float) ? 2 : 1;

template <class T>
struct TileWork {
  Bank<T> a, b;
  TilePlan plan;
  Result<T> result;
  int64_t first_block, first_combined, first_part;
};

// A work's blocks: tiles, of each split.
template <int kCoordinates, class Term, class T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<T>) tile_kernel(Works<TileWork<T>> works, Term term) {
  constexpr int N = kPerThread<T>;
  __shared__ TileWork<T> work;
  const int64_t block = works.share(&TileWork<T>::first_block, work);
  const Bank<T>&a = work.a, &b = work.b;
  const TilePlan& plan = work.plan;
  const Result<T>& result = work.result;
  __shared__ Stage<T, kTile<T>> stage;
  __shared__ T total[kTilePairs<T>];
  __shared__ unsigned shared_counts[kSharedCounts];
  const Pair tile = plan.tile(block % plan.tiles);
  const int64_t first_row = tile.i * kTile<T>, first_column = tile.j * kTile<T>;
  const Place place = place_of_thread();
  const bool is_needed = !plan.triangular || first_column + place.column * N + N - 1 > first_row + place.row * N;
  const Passage passage(number_of_coordinates<kCoordinates>(a.coordinates));

  T chunk[N][N], cov[N][N];
  fill(chunk, T(0));
  for (int at = threadIdx.x; at < kTilePairs<T>; at += kThreads) total[at] = 0;
  const int64_t begin = block / plan.tiles * plan.slices_per_split, rest = a.slices - begin;
  const int slices = static_cast<int>(rest < plan.slices_per_split ? rest : plan.slices_per_split);
  int in_chunk = 0;
  for (int k = 0; k < slices; k += passage.slices) {
    const int at_once = slices - k < passage.slices ? slices - k : passage.slices;
    for (int part = 0; part < passage.parts; ++part) {
      const bool is_last = part + 1 == passage.parts;
      const int rows = passage.parts == 1 ? at_once * passage.rows : passage.rows_of(part);
      const int64_t from = (begin + k) * passage.rows + part * kPartCoordinates;
      __syncthreads();
      load_rows(a, from, rows, first_row, stage.a);
      load_rows(b, from, rows, first_column, stage.b);
      __syncthreads();
      for (int s = 0; s < at_once && is_needed; ++s) {
        const int row = s * passage.rows, count = passage.coordinates_of(part);
        if (part == 0) fill(cov, term.covariance_start);
        add_covariances<kCoordinates>(stage, row, count, place, cov);
        if (is_last) add_terms<kCoordinates>(stage, row + count, place, cov, term, chunk);
      }
    }
    in_chunk += at_once;
    if (in_chunk >= kChunkSlices) flush(chunk, total, place), in_chunk = 0;
  }
  flush(chunk, total, place);
  __syncthreads();

  // neighbouring threads store neighbours; found again, rather than in registers all the while: which block this is
  const int64_t own_block = blockIdx.x - work.first_block;
  const Pair own_tile = plan.tile(own_block % plan.tiles);
  const Receiver<T> receiver(result, a, b, plan.triangular, shared_counts);
#pragma unroll 1
  for (int at = threadIdx.x; at < kTilePairs<T>; at += kThreads) {
    if (result.partial != nullptr)
      result.partial[own_block * kTilePairs<T> + at] = total[at];
    else
      receiver.take(own_tile.i * kTile<T> + at / kTile<T>, own_tile.j * kTile<T> + at % kTile<T>, total[at]);
  }
  if (result.partial == nullptr) receiver.finish();
}

// Adds the partial sums, in order. A work's blocks: tiles; blockIdx.y: part of one.
template <class T>
__global__ void __launch_bounds__(kThreads) combine_kernel(Works<TileWork<T>> works) {
  __shared__ TileWork<T> work;
  const int64_t block = works.share(&TileWork<T>::first_combined, work);
  const TilePlan& plan = work.plan;
  __shared__ unsigned shared_counts[kSharedCounts];
  const int at = blockIdx.y * kThreads + threadIdx.x;
  const Pair tile = plan.tile(block);
  T sum = 0;
  for (int64_t split = 0; split < plan.splits; ++split)
    sum += work.result.partial[(split * plan.tiles + block) * kTilePairs<T> + at];
  const Receiver<T> receiver(work.result, work.a, work.b, plan.triangular, shared_counts);
  receiver.take(tile.i * kTile<T> + at / kTile<T>, tile.j * kTile<T> + at % kTile<T>, sum);
  receiver.finish();
}

}  // namespace cuda
}  // namespace ckrm
