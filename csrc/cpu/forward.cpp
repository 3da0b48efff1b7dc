// Psi of all pairs, of a x b and of listed pairs.
#include <torch/csrc/stable/ops.h>

#include "../index.h"
#include "../operators.h"
#include "tiles.h"

namespace ckrm {
namespace {

// Every Psi, packed (triangular) or as a rectangle.
template <class Out, class T>
void store_all(const PreparedBank<T>& prepared_a, const PreparedBank<T>& prepared_b, bool triangular,
               const Scalars<T>& scalars, void* out) {
  Out* result = static_cast<Out*>(out);
  const Bank<T>&a = prepared_a.bank(), &b = prepared_b.bank();
  parallel_tiles(a, b, triangular, [&](Tiles<T>& tiles) {
    while (tiles.take()) {
      tiles.add(0, a.slices, scalars);
      for (int64_t i = tiles.row_begin(); i < tiles.row_end(); ++i)
        for (int64_t j = tiles.column_begin(i); j < tiles.column_end(); ++j) {
          const int64_t at = triangular ? pair_index(i, j, b.filters) : i * b.filters + j;
          result[at] = static_cast<Out>(mean_of(tiles.sums(i)[j], a.slices));
        }
    }
  });
}

template <class Out, class T>
void store_pairs(const PreparedBank<T>& prepared, const int64_t* pairs, int64_t count, const Scalars<T>& scalars,
                 void* out) {
  constexpr int64_t kGrain = 64;
  const Bank<T>& bank = prepared.bank();
  parallel_items(divide_up(count, kGrain), nanoseconds_for<T>(count * bank.slices, bank.coordinates),
                 [&](Items& items) {
                   for (int64_t item; items.take(item);) {
                     const int64_t begin = item * kGrain, length = std::min(kGrain, count - begin);
                     T values[kGrain];
                     kernels<T>().listed(bank, pairs + 2 * begin, length, scalars, values);
                     std::transform(values, values + length, static_cast<Out*>(out) + begin,
                                    [](T value) { return static_cast<Out>(value); });
                   }
                 });
}

}  // namespace

Tensor pairwise_psi(const Tensor& weight, const std::string& name, bool is_signed,
                    const std::vector<double>& parameters) {
  const Weight w(weight);
  const int64_t n = w.view().filters;
  Tensor out = torch::stable::new_empty(weight, {n * (n - 1) / 2}, result_type(weight));
  if (n < 2) return out;
  const Similarity similarity(name, is_signed, parameters);
  with_prepared(w, Layout::kFiltersInLanes, similarity, false, [&](const auto& scalars, const auto& a, const auto& b) {
    if (result_type(weight) == ScalarType::Double)
      store_all<double>(a, b, true, scalars, out.mutable_data_ptr());
    else
      store_all<float>(a, b, true, scalars, out.mutable_data_ptr());
  });
  return out;
}

Tensor cross_psi(const Tensor& a, const Tensor& b, const std::string& name, bool is_signed,
                 const std::vector<double>& parameters) {
  const Weight wa(a), wb(b);
  check_alike(wa, wb);
  Tensor out = torch::stable::new_empty(a, {wa.view().filters, wb.view().filters}, result_type(a));
  if (out.numel() == 0) return out;
  const Similarity similarity(name, is_signed, parameters);
  with_prepared(wa, wb, Layout::kFiltersInLanes, similarity, false,
                [&](const auto& scalars, const auto& pa, const auto& pb) {
                  if (result_type(a) == ScalarType::Double)
                    store_all<double>(pa, pb, false, scalars, out.mutable_data_ptr());
                  else
                    store_all<float>(pa, pb, false, scalars, out.mutable_data_ptr());
                });
  return out;
}

Tensor psi_of_pairs(const Tensor& weight, const Tensor& pairs, const std::string& name, bool is_signed,
                    const std::vector<double>& parameters) {
  const Weight w(weight);
  const Tensor list = checked_pairs(pairs, w.view().filters);
  Tensor out = torch::stable::new_empty(weight, {list.size(0)}, result_type(weight));
  if (list.size(0) == 0) return out;
  const Similarity similarity(name, is_signed, parameters);
  const int64_t* index = list.const_data_ptr<int64_t>();
  with_prepared(w, Layout::kSlicesInLanes, similarity, false,
                [&](const auto& scalars, const auto& prepared, const auto&) {
                  if (result_type(weight) == ScalarType::Double)
                    store_pairs<double>(prepared, index, list.size(0), scalars, out.mutable_data_ptr());
                  else
                    store_pairs<float>(prepared, index, list.size(0), scalars, out.mutable_data_ptr());
                });
  return out;
}

}  // namespace ckrm
