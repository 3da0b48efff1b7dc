// Where pairs of filters, and tiles of pairs, stand in their order.
#pragma once

#include <cmath>
#include <cstdint>

#include "inline.h"

namespace ckrm {

struct Pair {
  int64_t i, j;
};

// Place of the pair i < j of n filters in packed order, the order of torch.pdist.
CKRM_INLINE int64_t pair_index(int64_t i, int64_t j, int64_t n) { return i * (2 * n - i - 1) / 2 + (j - i - 1); }

// The pair at a place in packed order. Exact: the square root only starts the search.
CKRM_INLINE Pair pair_of_index(int64_t index, int64_t n) {
  const double b = 2.0 * static_cast<double>(n) - 1.0;
  int64_t i = static_cast<int64_t>((b - sqrt(b * b - 8.0 * static_cast<double>(index))) * 0.5);
  i = i < 0 ? 0 : (i > n - 2 ? n - 2 : i);
  while (i > 0 && pair_index(i, i + 1, n) > index) --i;
  while (i < n - 2 && pair_index(i + 1, i + 2, n) <= index) ++i;
  return {i, i + 1 + (index - pair_index(i, i + 1, n))};
}

// The tiles that touch the upper triangle, in row order: row tile I meets column tiles J >= I.
CKRM_INLINE int64_t triangle_tiles(int64_t n) { return n * (n + 1) / 2; }

CKRM_INLINE Pair triangle_tile(int64_t index, int64_t n) {
  const Pair pair = pair_of_index(index, n + 1);
  return {pair.i, pair.j - 1};
}

// The same tiles in another order that needs no square root: the triangle folded to a rectangle of (n + 1) / 2 rows,
// whose row r holds the triangle's row r and what fits beside it from the other end.
CKRM_INLINE Pair folded_tile(int64_t index, int64_t n) {
  const int64_t width = n | 1, row = index / width, column = index % width;
  if (column < n - row) return {row, row + column};
  const int64_t other = ((n - 1) | 1) - row;
  return {other, other + column - (n - row)};
}

}  // namespace ckrm
