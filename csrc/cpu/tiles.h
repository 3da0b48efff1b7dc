// The tiles of pairs that threads share out among themselves.
#pragma once

#include "prepared.h"

namespace ckrm {

constexpr int64_t kLargestTile = 32;

// How all pairs of a bank (triangular), or those of a x b, are cut into tiles; by the shapes alone.
template <class T>
struct TileGrid {
  const Bank<T>&a, &b;
  bool triangular;
  int64_t rows, columns;  // of a tile

  TileGrid(const Bank<T>& a, const Bank<T>& b, bool triangular)
      : a(a),
        b(b),
        triangular(triangular),
        rows(tile_size(a.filters, b.filters)),
        columns(std::max(rows, std::min(kLargestTile, 2 * kernels<T>().lanes))) {}

  int64_t count() const { return row_tiles() * column_tiles(); }
  int64_t row_tiles() const { return divide_up(a.filters, rows); }
  int64_t column_tiles() const { return divide_up(b.filters, columns); }

  Tile tile(int64_t index) const {
    const int64_t row = index / column_tiles() * rows, column = index % column_tiles() * columns;
    return {row, std::min(row + rows, a.filters), column, std::min(column + columns, b.filters), triangular};
  }

 private:
  // Small enough that threads share the work evenly, large enough to be worth fetching.
  static int64_t tile_size(int64_t row_count, int64_t column_count) {
    int64_t size = kLargestTile;
    while (size > 8 && divide_up(row_count, size) * divide_up(column_count, size) < 128) size /= 2;
    return size;
  }
};

// The tiles that one thread takes, one after another, and the sums of the pairs of the last.
template <class T>
class Tiles {
 public:
  Tiles(const TileGrid<T>& grid, Items& items) : grid_(grid), items_(items) {}

  // Whether there was one more tile; its sums then hold 0, or NaN for filters that are not finite.
  bool take() {
    while (items_.take(index_)) {
      tile_ = grid_.tile(index_);
      if (tile_.triangular && tile_.column_end <= tile_.row_begin + 1) continue;
      for (int64_t i = row_begin(); i < row_end(); ++i)
        for (int64_t j = tile_.column_begin; j < tile_.column_begin + grid_.columns; ++j)
          sums(i)[j] = j < grid_.b.filters ? grid_.a.poison[i] + grid_.b.poison[j] : 0;
      return true;
    }
    return false;
  }

  // Adds the terms of slices [k_begin, k_end) to the sums.
  void add(int64_t k_begin, int64_t k_end, const Scalars<T>& scalars) {
    kernels<T>().tile(grid_.a, grid_.b, tile_, k_begin, k_end, scalars, sums_, kLargestTile);
  }

  // Of the last tile in the grid.
  int64_t index() const { return index_; }
  // The pairs (i, j) of the tile: rows [row_begin, row_end), of each the columns [column_begin(i), column_end).
  int64_t row_begin() const { return tile_.row_begin; }
  int64_t row_end() const { return tile_.row_end; }
  int64_t column_begin(int64_t i) const {
    return tile_.triangular ? std::max(tile_.column_begin, i + 1) : tile_.column_begin;
  }
  int64_t column_end() const { return tile_.column_end; }
  // Of row i, by column.
  T* sums(int64_t i) { return sums_ + (i - tile_.row_begin) * kLargestTile - tile_.column_begin; }

 private:
  const TileGrid<T>& grid_;
  Items& items_;
  int64_t index_ = 0;
  Tile tile_;
  alignas(kAlignment) T sums_[kLargestTile * kLargestTile];
};

// Calls work(tiles) once on each thread taking part, which takes tiles until none is left.
template <class T, class Work>
void parallel_tiles(const Bank<T>& a, const Bank<T>& b, bool triangular, const Work& work) {
  const TileGrid<T> grid(a, b, triangular);
  const int64_t slice_pairs = a.filters * b.filters * a.slices / (triangular ? 2 : 1);
  parallel_items(grid.count(), nanoseconds_for<T>(slice_pairs, a.coordinates), [&](Items& items) {
    Tiles<T> tiles(grid, items);
    work(tiles);
  });
}

}  // namespace ckrm
