// Gradients, by recomputing every term: see slices_backward.h.
#include "../operators.h"
#include "slices_backward.h"

namespace ckrm {
namespace {

// The incoming gradient in the arithmetic's type.
template <class T>
std::vector<T> values_of(const Tensor& grad) {
  const Tensor dense = torch::stable::contiguous(grad);
  std::vector<T> values(static_cast<size_t>(dense.numel()));
  if (dense.scalar_type() == ScalarType::Double)
    std::copy_n(dense.const_data_ptr<double>(), values.size(), values.begin());
  else
    std::copy_n(dense.const_data_ptr<float>(), values.size(), values.begin());
  return values;
}

template <class T>
void listed_backward(const PreparedBank<T>& prepared, const int64_t* pairs, const Tensor& grad,
                     const Scalars<T>& scalars, const Tensor& out) {
  const Bank<T>& bank = prepared.bank();
  const int64_t lanes = kernels<T>().lanes, row = bank.rows() * lanes, blocks = divide_up(bank.slices, lanes);
  const int64_t of_row = bank.gradient_rows() * lanes;
  const std::vector<T> g = values_of<T>(grad);
  const double scale = scale_of(scalars) / static_cast<double>(bank.slices);
  const int64_t count = bank.coordinates + 1;
  const int64_t slice_pairs = static_cast<int64_t>(g.size()) * bank.slices;
  parallel_items(blocks, 3 * nanoseconds_for<T>(slice_pairs, bank.coordinates), [&](Items& items) {
    const Buffer<T> room(bank.filters * of_row + count * lanes);
    T *of_bank = room.get(), *positions = room.get() + bank.filters * of_row;
    for (int64_t block; items.take(block);) {
      std::fill_n(of_bank, bank.filters * of_row, T(0));
      kernels<T>().listed_gradient(bank, block, pairs, static_cast<int64_t>(g.size()), g.data(), scalars, of_bank);
      for (int64_t filter = 0; filter < bank.filters; ++filter) {
        const T* slices = bank.data + (filter * blocks + block) * row;
        kernels<T>().finish_gradient(slices, of_bank + filter * of_row, bank.norms, bank.coordinates, scale, positions);
        store_slices(out, filter * bank.slices + block * lanes, 1, std::min(lanes, bank.slices - block * lanes), count,
                     positions);
      }
    }
  });
}

}  // namespace

Tensor pairwise_psi_backward(const Tensor& grad, const Tensor& weight, const std::string& name, bool is_signed,
                             const std::vector<double>& parameters) {
  const Similarity similarity(name, is_signed, parameters);
  const Weight w(weight);
  const int64_t n = w.view().filters;
  check_gradient(grad, weight, {n * (n - 1) / 2});
  if (n < 2) return zeros_of(weight, weight.scalar_type());
  const Tensor out = torch::stable::new_empty(weight, shape_of(weight));
  with_prepared(w, Layout::kFiltersInLanes, similarity, true, [&](const auto& scalars, const auto& a, const auto& b) {
    const LaneGradient gradient(grad, a.bank(), b.bank(), true);
    slices_backward(a, b, true, gradient, scalars, out, out);
  });
  return out;
}

std::tuple<Tensor, Tensor> cross_psi_backward(const Tensor& grad, const Tensor& a, const Tensor& b,
                                              const std::string& name, bool is_signed,
                                              const std::vector<double>& parameters) {
  const Similarity similarity(name, is_signed, parameters);
  const Weight wa(a), wb(b);
  check_alike(wa, wb);
  check_gradient(grad, a, {wa.view().filters, wb.view().filters});
  if (grad.numel() == 0) return {zeros_of(a, a.scalar_type()), zeros_of(b, b.scalar_type())};
  const Tensor out_a = torch::stable::new_empty(a, shape_of(a)), out_b = torch::stable::new_empty(b, shape_of(b));
  with_prepared(wa, wb, Layout::kFiltersInLanes, similarity, true,
                [&](const auto& scalars, const auto& prepared_a, const auto& prepared_b) {
                  const LaneGradient gradient(grad, prepared_a.bank(), prepared_b.bank(), false);
                  slices_backward(prepared_a, prepared_b, false, gradient, scalars, out_a, out_b);
                });
  return {out_a, out_b};
}

Tensor psi_of_pairs_backward(const Tensor& grad, const Tensor& weight, const Tensor& pairs, const std::string& name,
                             bool is_signed, const std::vector<double>& parameters) {
  const Similarity similarity(name, is_signed, parameters);
  const Weight w(weight);
  const Tensor list = checked_pairs(pairs, w.view().filters);
  check_gradient(grad, weight, {list.size(0)});
  if (list.size(0) == 0) return zeros_of(weight, weight.scalar_type());
  const Tensor out = torch::stable::new_empty(weight, shape_of(weight));
  with_prepared(w, Layout::kSlicesInLanes, similarity, true,
                [&](const auto& scalars, const auto& prepared, const auto&) {
                  listed_backward(prepared, list.template const_data_ptr<int64_t>(), grad, scalars, out);
                });
  return out;
}

}  // namespace ckrm
