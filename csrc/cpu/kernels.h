// The CPU kernels: one table of functions for each instruction set, chosen once at run time.
//
// A filter bank is prepared before the pair loop. Per slice it holds the K - 1 coordinates of the centred slice in an
// orthonormal (Helmert) basis scaled by 1 / sqrt(K), so that the population covariance of two slices is their dot
// product, then its moments (similarity.h). These rows of numbers come in vectors of lanes:
//   filters in lanes:  [filter / lanes][slice][row][lane = filter % lanes]   (all pairs, a x b)
//   slices in lanes:   [filter][slice / lanes][row][lane = slice % lanes]    (lists of pairs)
// Lanes past the end hold zero slices.
#pragma once

#include <cstdint>

#include "../element.h"
#include "../inline.h"
#include "../similarities.h"

namespace ckrm {

enum class Layout { kFiltersInLanes, kSlicesInLanes };

// A weight (filters, slices, *K) of any strides, in elements.
struct WeightView {
  const void* data;
  Element element;
  int64_t filters, slices, filter_stride, slice_stride;
  const int64_t* offsets;  // of the K positions inside a slice
  int64_t positions;       // K
};

constexpr int64_t kMomentRows = 4;    // mu, first, sigma, second
constexpr int64_t kGradientRows = 2;  // of mu and sigma, after those of the coordinates
constexpr int64_t kAlignment = 64;

template <class T>
struct Bank {
  T* data;
  T* poison;            // per filter, padded to lanes: 0, or NaN if the filter is not finite
  const double* norms;  // of the coordinates: 1 / sqrt(r (r + 1) K), r = 1 .. K - 1
  int64_t filters, slices, coordinates;
  Layout layout;

  CKRM_MEMBER int64_t rows() const { return coordinates + kMomentRows; }
  CKRM_MEMBER int64_t gradient_rows() const { return coordinates + kGradientRows; }
};

// Rows [row_begin, row_end) against columns [column_begin, column_end); column_begin is a multiple of the lanes.
struct Tile {
  int64_t row_begin, row_end, column_begin, column_end;
  bool triangular;  // only columns > row count: vectors of lanes wholly at or below the diagonal are skipped
};

// The gradient of Psi, of a x b or of all pairs, in vectors of lanes: a row for each filter of a, padded to lanes, with a
// number for each filter of b, and of all pairs only from the vector on that holds the filter of a. 0 where there is no
// pair, NaN where one of it is not finite.
template <class T>
struct PairGradient {
  T* grad;
  bool packed;
  int64_t lanes, blocks;  // the vectors of b

  // How many numbers filter i has; the next filter of its vector has as many.
  CKRM_MEMBER int64_t width(int64_t i) const { return (packed ? blocks - i / lanes : blocks) * lanes; }
  // With filter j of b: row(i)[j].
  CKRM_MEMBER T* row(int64_t i) const {
    if (!packed) return grad + i * blocks * lanes;
    const int64_t block = i / lanes, before = block * blocks - block * (block - 1) / 2;
    return grad + before * lanes * lanes + (i % lanes) * width(i) - block * lanes;
  }
};

// Room for one slice of both banks, prepared, blocks * rows() * lanes numbers each, and for its gradient, blocks *
// gradient_rows() * lanes, of_rows lanes * gradient_rows() * lanes. The same arrays twice where a is b; of_a and of_b
// begin as zeros.
template <class T>
struct SliceScratch {
  T *slice_a, *slice_b, *of_a, *of_b, *of_rows;
};

template <class T>
struct Kernels {
  const char* name;
  int64_t lanes;

  // Packs blocks [begin, end) of `lanes` filters (filters in lanes) or filters [begin, end) (slices in lanes) of
  // scale * weight. Returns the largest size of a slice (OwnMoments) met. scratch: K * lanes doubles, aligned.
  double (*prepare)(const WeightView& weight, const Scalars<T>& scalars, const Bank<T>& bank, int64_t begin,
                    int64_t end, double* scratch);

  // Adds to sums[row - row_begin][column - column_begin] (ld apart) the terms of slices [k_begin, k_end).
  void (*tile)(const Bank<T>& a, const Bank<T>& b, const Tile& tile, int64_t k_begin, int64_t k_end,
               const Scalars<T>& scalars, T* sums, int64_t ld);

  // The gradient of both banks at slice k, for the pairs with every vector of filters of a from `part` on, `parts` apart,
  // added to scratch.of_a and of_b.
  void (*tile_gradient)(const Bank<T>& a, const Bank<T>& b, int64_t k, const PairGradient<T>& grad,
                        const Scalars<T>& scalars, int64_t part, int64_t parts, const SliceScratch<T>& scratch);

  // Psi of the listed pairs (slices in lanes).
  void (*listed)(const Bank<T>& bank, const int64_t* pairs, int64_t count, const Scalars<T>& scalars, T* out);

  // The gradient at the slices of vector k_block, for all listed pairs: gradient_rows() * filters * lanes accumulators.
  void (*listed_gradient)(const Bank<T>& bank, int64_t k_block, const int64_t* pairs, int64_t count, const T* grad,
                          const Scalars<T>& scalars, T* of_bank);

  // From one vector of prepared slices and their accumulated gradient to that of their K positions, times scale:
  // positions[q * lanes + lane].
  void (*finish_gradient)(const T* slice, const T* gradient, const double* norms, int64_t coordinates, double scale,
                          T* positions);
};

// The table of the best instruction set that this processor and the environment variable ATEN_CPU_CAPABILITY
// ("default", "avx2", "avx512": torch's own) allow.
template <class T>
const Kernels<T>& kernels();

}  // namespace ckrm
