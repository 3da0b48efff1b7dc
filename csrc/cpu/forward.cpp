// Psi of all pairs, of a x b, of listed pairs, and counts without storing Omega.
#include <torch/csrc/stable/ops.h>

#include <mutex>

#include "operators.h"
#include "packed.h"

namespace ckrm {
namespace {

constexpr int64_t kLargestTile = 32;
// Slices after which a counted tile asks whether more can change its counts.
constexpr int64_t kCountStep = 32;

// Tiles small enough that threads share the work evenly, large enough to be worth fetching; by the shapes alone.
int64_t tile_size(int64_t rows, int64_t columns) {
  int64_t size = kLargestTile;
  while (size > 8 && divide_up(rows, size) * divide_up(columns, size) < 128) size /= 2;
  return size;
}

template <class T>
struct TileSums {
  alignas(kAlignment) T sums[kLargestTile * kLargestTile];

  T* row(const Tile& tile, int64_t i) { return sums + (i - tile.row_begin) * kLargestTile - tile.column_begin; }
};

// First column of row i that belongs to the tile.
int64_t first_column(const Tile& tile, int64_t i) {
  return tile.triangular ? std::max(tile.column_begin, i + 1) : tile.column_begin;
}

// Calls make_consumer() once on each thread, then consume(tile, sums) for each tile once its sums hold 0, or NaN for
// filters that are not finite: the consumer adds the psi of as many slices as it needs.
template <class T, class MakeConsumer>
void for_each_tile(const Bank<T>& a, const Bank<T>& b, bool triangular, const MakeConsumer& make_consumer) {
  const int64_t rows = tile_size(a.filters, b.filters);
  const int64_t columns = std::max(rows, std::min(kLargestTile, 2 * kernels<T>().lanes));
  const int64_t row_tiles = divide_up(a.filters, rows), column_tiles = divide_up(b.filters, columns);
  const int64_t slice_pairs = a.filters * b.filters * a.slices / (triangular ? 2 : 1);
  parallel_items(row_tiles * column_tiles, nanoseconds_for(slice_pairs, a.coordinates), [&] {
    return [&, consume = make_consumer(), tile_sums = TileSums<T>()](int64_t item) mutable {
      const int64_t row = item / column_tiles * rows, column = item % column_tiles * columns;
      const Tile tile{row, std::min(row + rows, a.filters), column, std::min(column + columns, b.filters), triangular};
      if (triangular && tile.column_end <= tile.row_begin + 1) return;
      for (int64_t i = tile.row_begin; i < tile.row_end; ++i)
        for (int64_t j = tile.column_begin; j < tile.column_begin + columns; ++j)
          tile_sums.row(tile, i)[j] = j < b.filters ? a.poison[i] + b.poison[j] : 0;
      consume(tile, tile_sums);
    };
  });
}

template <class T, class Store>
void all_psi(const Bank<T>& a, const Bank<T>& b, bool triangular, const PsiParameters<T>& psi, const Store& store) {
  for_each_tile(a, b, triangular, [&] {
    return [&](const Tile& tile, TileSums<T>& sums) {
      kernels<T>().tile(a, b, tile, 0, a.slices, psi, sums.sums, kLargestTile);
      for (int64_t i = tile.row_begin; i < tile.row_end; ++i)
        for (int64_t j = first_column(tile, i); j < tile.column_end; ++j)
          store(i, j, mean_of(sums.row(tile, i)[j], a.slices));
    };
  });
}

// Whether slices not yet added can't move any Psi of the tile across an edge: psi lies in [0, 1].
template <class T>
bool is_decided(const Tile& tile, TileSums<T>& sums, int64_t done, int64_t slices, T lowest, T highest) {
  const T rounding = T(1e-5) * static_cast<T>(slices);
  const T below = lowest * static_cast<T>(slices) - static_cast<T>(slices - done) - rounding;
  const T above = highest * static_cast<T>(slices) + rounding;
  for (int64_t i = tile.row_begin; i < tile.row_end; ++i)
    for (int64_t j = first_column(tile, i); j < tile.column_end; ++j) {
      const T sum = sums.row(tile, i)[j];
      if (!(sum < below || sum > above)) return false;
    }
  return true;
}

// rounded: to the dtype that Psi is returned in, so that counts agree with what pairwise_psi returns.
template <class T, class Rounded>
void count_pairs(const Bank<T>& bank, const PsiParameters<T>& psi, const std::vector<T>& edges, const Rounded& rounded,
                 int64_t* counts) {
  std::mutex mutex;
  struct LocalCounts {
    std::vector<int64_t> counts;
    int64_t* total;
    std::mutex* mutex;
    ~LocalCounts() {
      const std::lock_guard<std::mutex> lock(*mutex);
      for (size_t e = 0; e < counts.size(); ++e) total[e] += counts[e];
    }
  };
  for_each_tile(bank, bank, true, [&] {
    auto local = std::make_shared<LocalCounts>();
    *local = {std::vector<int64_t>(edges.size() + 2), counts, &mutex};
    return [&, local](const Tile& tile, TileSums<T>& sums) {
      for (int64_t k = 0; k < bank.slices; k += kCountStep) {
        if (k > 0 && !edges.empty() && is_decided(tile, sums, k, bank.slices, edges.front(), edges.back())) break;
        kernels<T>().tile(bank, bank, tile, k, std::min(k + kCountStep, bank.slices), psi, sums.sums, kLargestTile);
      }
      for (int64_t i = tile.row_begin; i < tile.row_end; ++i)
        for (int64_t j = first_column(tile, i); j < tile.column_end; ++j) {
          const T value = rounded(mean_of(sums.row(tile, i)[j], bank.slices));
          const bool is_nan = value != value;
          const auto below = std::lower_bound(edges.begin(), edges.end(), value) - edges.begin();
          ++local->counts[is_nan ? edges.size() + 1 : static_cast<size_t>(below)];
        }
    };
  });
}

template <class Out, class T>
void store_all(const PackedBank<T>& a, const PackedBank<T>& b, bool triangular, const Exponents& exponents, void* out) {
  Out* result = static_cast<Out*>(out);
  const int64_t n = b.bank().filters;
  all_psi(a.bank(), b.bank(), triangular, exponents.scaled<T>(a.scale(), exponents.alpha),
          [=](int64_t i, int64_t j, T psi) {
            result[triangular ? pair_index(i, j, n) : i * n + j] = static_cast<Out>(psi);
          });
}

template <class Out, class T>
void store_pairs(const PackedBank<T>& packed, const int64_t* pairs, int64_t count, const Exponents& exponents,
                 void* out) {
  constexpr int64_t kGrain = 64;
  const PsiParameters<T> psi = exponents.scaled<T>(packed.scale(), exponents.alpha);
  const Bank<T>& bank = packed.bank();
  parallel_items(divide_up(count, kGrain), nanoseconds_for(count * bank.slices, bank.coordinates), [&] {
    return [&](int64_t item) {
      const int64_t begin = item * kGrain, length = std::min(kGrain, count - begin);
      T values[kGrain];
      kernels<T>().pairs(bank, pairs + 2 * begin, length, psi, values);
      std::transform(values, values + length, static_cast<Out*>(out) + begin,
                     [](T value) { return static_cast<Out>(value); });
    };
  });
}

}  // namespace

Tensor pairwise_psi(const Tensor& weight, double alpha, double beta, double gamma, double eps) {
  const Weight w(weight);
  const int64_t n = w.view().filters;
  Tensor out = torch::stable::new_empty(weight, {n * (n - 1) / 2}, result_type(weight));
  if (n < 2) return out;
  const Exponents exponents{alpha, beta, gamma, eps};
  with_packed(w, Layout::kFiltersInLanes, eps, [&](const auto& a, const auto& b) {
    if (result_type(weight) == ScalarType::Double)
      store_all<double>(a, b, true, exponents, out.mutable_data_ptr());
    else
      store_all<float>(a, b, true, exponents, out.mutable_data_ptr());
  });
  return out;
}

Tensor cross_psi(const Tensor& a, const Tensor& b, double alpha, double beta, double gamma, double eps) {
  const Weight wa(a), wb(b);
  check_alike(wa, wb);
  Tensor out = torch::stable::new_empty(a, {wa.view().filters, wb.view().filters}, result_type(a));
  if (out.numel() == 0) return out;
  const Exponents exponents{alpha, beta, gamma, eps};
  with_packed(wa, wb, Layout::kFiltersInLanes, eps, [&](const auto& pa, const auto& pb) {
    if (result_type(a) == ScalarType::Double)
      store_all<double>(pa, pb, false, exponents, out.mutable_data_ptr());
    else
      store_all<float>(pa, pb, false, exponents, out.mutable_data_ptr());
  });
  return out;
}

Tensor checked_pairs(const Tensor& pairs, int64_t filters) {
  STD_TORCH_CHECK(pairs.dim() == 2 && pairs.size(1) == 2 && pairs.scalar_type() == ScalarType::Long,
                  "pairs must be an int64 tensor of shape (P, 2)");
  const Tensor list = torch::stable::contiguous(pairs);
  const int64_t* index = list.const_data_ptr<int64_t>();
  for (int64_t p = 0; p < list.size(0); ++p, index += 2) {
    STD_TORCH_CHECK(index[0] >= 0 && index[0] < filters && index[1] >= 0 && index[1] < filters,
                    "pairs must index filters 0 to ", filters - 1, ", got (", index[0], ", ", index[1], ")");
    STD_TORCH_CHECK(index[0] != index[1], "pairs must name two different filters each, got ", index[0], " twice");
  }
  return list;
}

Tensor psi_of_pairs(const Tensor& weight, const Tensor& pairs, double alpha, double beta, double gamma, double eps) {
  const Weight w(weight);
  const Tensor list = checked_pairs(pairs, w.view().filters);
  Tensor out = torch::stable::new_empty(weight, {list.size(0)}, result_type(weight));
  if (list.size(0) == 0) return out;
  const Exponents exponents{alpha, beta, gamma, eps};
  const int64_t* index = list.const_data_ptr<int64_t>();
  with_packed(w, Layout::kSlicesInLanes, eps, [&](const auto& packed, const auto&) {
    if (result_type(weight) == ScalarType::Double)
      store_pairs<double>(packed, index, list.size(0), exponents, out.mutable_data_ptr());
    else
      store_pairs<float>(packed, index, list.size(0), exponents, out.mutable_data_ptr());
  });
  return out;
}

Tensor psi_counts(const Tensor& weight, const Tensor& edges, double alpha, double beta, double gamma, double eps) {
  const Weight w(weight);
  const ScalarType type = result_type(weight);
  STD_TORCH_CHECK(edges.dim() == 1 && edges.scalar_type() == type,
                  "edges must be one-dimensional and of the dtype that Psi is returned in");
  const Tensor sorted = torch::stable::contiguous(edges);
  Tensor out = torch::stable::new_empty(weight, {edges.size(0) + 2}, ScalarType::Long);
  int64_t* counts = out.mutable_data_ptr<int64_t>();
  std::fill_n(counts, edges.size(0) + 2, 0);
  if (w.view().filters < 2) return out;
  const Exponents exponents{alpha, beta, gamma, eps};
  with_packed(w, Layout::kFiltersInLanes, eps, [&](const auto& packed, const auto&) {
    using T = std::remove_reference_t<decltype(*packed.bank().data)>;
    std::vector<T> limits(static_cast<size_t>(edges.size(0)));
    const PsiParameters<T> psi = exponents.scaled<T>(packed.scale(), alpha);
    if (type == ScalarType::Double) {
      std::copy_n(sorted.const_data_ptr<double>(), limits.size(), limits.begin());
      count_pairs(packed.bank(), psi, limits, [](T value) { return value; }, counts);
    } else {
      std::copy_n(sorted.const_data_ptr<float>(), limits.size(), limits.begin());
      count_pairs(
          packed.bank(), psi, limits, [](T value) { return static_cast<T>(static_cast<float>(value)); }, counts);
    }
  });
  return out;
}

}  // namespace ckrm
