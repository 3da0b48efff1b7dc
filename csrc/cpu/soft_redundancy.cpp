// The mean over pairs of sigmoid((Psi - threshold) / temperature) of each bank, and its gradient, from one preparation:
// what Psi's gradient is weighed with goes straight to where the gradient's kernels read it.
#include "../operators.h"
#include "slices_backward.h"
#include "tiles.h"

namespace ckrm {
namespace {

// The value of a bank of at least two filters. gradient: where to put that of each Psi, or null.
template <class T>
double soft_value(const Bank<T>& bank, const Scalars<T>& scalars, double threshold, double temperature,
                  const PairGradient<T>* gradient) {
  const double pairs = 0.5 * static_cast<double>(bank.filters) * static_cast<double>(bank.filters - 1);
  const T of_one = static_cast<T>(1 / (temperature * pairs)), at = static_cast<T>(threshold);
  const T per_unit = static_cast<T>(1 / temperature);
  std::vector<double> of_tiles(static_cast<size_t>(TileGrid<T>(bank, bank, true).count()));
  parallel_tiles(bank, bank, true, [&](Tiles<T>& tiles) {
    while (tiles.take()) {
      tiles.add(0, bank.slices, scalars);
      double sum = 0;
      for (int64_t i = tiles.row_begin(); i < tiles.row_end(); ++i)
        for (int64_t j = tiles.column_begin(i); j < tiles.column_end(); ++j) {
          const T from = (mean_of(tiles.sums(i)[j], bank.slices) - at) * per_unit;
          const T small = std::exp(-std::abs(from)), share = 1 / (1 + small);
          sum += static_cast<double>(from < 0 ? small * share : share);
          if (gradient) gradient->row(i)[j] = small * share * share * of_one;
        }
      of_tiles[static_cast<size_t>(tiles.index())] = sum;
    }
  });
  double total = 0;  // in one order, whatever the threads
  for (const double sum : of_tiles) total += sum;
  return total / pairs;
}

// The value of a prepared bank; its gradient goes to `out`, if that is not null.
template <class T>
double soft_bank(const PreparedBank<T>& prepared, const Scalars<T>& scalars, const Similarity& similarity,
                 double threshold, double temperature, const Tensor* out) {
  const Bank<T>& bank = prepared.bank();
  if (!out) return soft_value<T>(bank, scalars, threshold, temperature, nullptr);
  LaneGradient<T> gradient(bank, bank, true);
  gradient.clear();
  const double value = soft_value(bank, scalars, threshold, temperature, &gradient.view());
  Scalars<T> of_gradient = similarity.scalars<T>(true);
  if (!prepared.in_range()) with_scalars(of_gradient, [](auto& own) { own.widen(); });
  slices_backward(prepared, prepared, true, gradient, of_gradient, *out, *out);
  return value;
}

}  // namespace

std::tuple<Tensor, std::vector<Tensor>> soft_redundancy(const std::vector<Tensor>& banks, const Tensor& thresholds,
                                                        double temperature, bool with_gradient, const std::string& name,
                                                        bool is_signed, const std::vector<double>& parameters) {
  check_soft(thresholds, banks, temperature);
  const Similarity similarity(name, is_signed, parameters);
  const Tensor values = torch::stable::new_zeros(thresholds, shape_of(thresholds));
  const Tensor dense = torch::stable::contiguous(thresholds);
  const bool in_float64 = thresholds.scalar_type() == ScalarType::Double;
  std::vector<Weight> weights;
  std::vector<Tensor> gradients;
  weights.reserve(banks.size());
  for (const Tensor& bank : banks) {
    weights.emplace_back(bank);
    if (with_gradient)
      gradients.push_back(weights.back().view().filters < 2
                              ? zeros_of(bank, result_type(bank))
                              : torch::stable::new_empty(bank, shape_of(bank), result_type(bank)));
  }
  const auto compute = [&](size_t index) {
    const double threshold =
        in_float64 ? dense.const_data_ptr<double>()[index] : static_cast<double>(dense.const_data_ptr<float>()[index]);
    with_prepared(weights[index], Layout::kFiltersInLanes, similarity, false,
                  [&](const auto& scalars, const auto& prepared, const auto&) {
                    const double value = soft_bank(prepared, scalars, similarity, threshold, temperature,
                                                   with_gradient ? &gradients[index] : nullptr);
                    if (in_float64)
                      values.mutable_data_ptr<double>()[index] = value;
                    else
                      values.mutable_data_ptr<float>()[index] = static_cast<float>(value);
                  });
  };
  // banks of which no loop is worth several threads are shared out whole
  std::vector<size_t> small;
  double of_small = 0;
  for (size_t index = 0; index < banks.size(); ++index) {
    const WeightView& view = weights[index].view();
    if (view.filters < 2) continue;
    const int64_t slice_pairs = view.filters * view.filters * view.slices / 2;
    const double forward = nanoseconds_for<float>(slice_pairs, view.positions - 1), backward = 3 * forward;
    if ((with_gradient ? backward : forward) < 2 * kNanosecondsPerThread) {
      small.push_back(index);
      of_small += with_gradient ? forward + backward : forward;
    } else {
      compute(index);
    }
  }
  parallel_items(static_cast<int64_t>(small.size()), of_small, [&](Items& items) {
    for (int64_t item; items.take(item);) compute(small[static_cast<size_t>(item)]);
  });
  return {values, gradients};
}

}  // namespace ckrm
