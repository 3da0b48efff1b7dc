// Gradients, by recomputing every term. Threads own slices (or vectors of slices), never pairs: both filters of a pair
// are updated in one visit, in one order, with no sum shared between threads.
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../operators.h"
#include "prepared.h"

namespace ckrm {
namespace {

// Writes one slice's gradient, `lanes` apart in values, into a contiguous tensor of the weight's shape and dtype.
template <class T>
void store_slice(const Tensor& out, int64_t slice, int64_t positions, const T* values) {
  void* data = out.mutable_data_ptr();
  const auto store_as = [&, lanes = kernels<T>().lanes](auto* typed) {
    using To = std::remove_pointer_t<decltype(typed)>;
    for (int64_t q = 0; q < positions; ++q) typed[slice * positions + q] = static_cast<To>(values[q * lanes]);
  };
  switch (out.scalar_type()) {
    case ScalarType::Double:
      return store_as(static_cast<double*>(data));
    case ScalarType::Half:
      return store_as(static_cast<c10::Half*>(data));
    case ScalarType::BFloat16:
      return store_as(static_cast<c10::BFloat16*>(data));
    default:
      return store_as(static_cast<float*>(data));
  }
}

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
void store_finished(const Bank<T>& bank, const T* slice, const T* of_slice, int64_t k, double scale, T* positions,
                    const Tensor& out) {
  const int64_t lanes = kernels<T>().lanes, size = bank.rows() * lanes, count = bank.coordinates + 1;
  const int64_t gradient_size = bank.gradient_rows() * lanes;
  for (int64_t block = 0; block * lanes < bank.filters; ++block) {
    kernels<T>().finish_gradient(slice + block * size, of_slice + block * gradient_size, bank.norms, bank.coordinates,
                                 scale, positions);
    for (int64_t lane = 0; lane < std::min(lanes, bank.filters - block * lanes); ++lane)
      store_slice(out, (block * lanes + lane) * bank.slices + k, count, positions + lane);
  }
}

template <class T>
void slices_backward(const PreparedBank<T>& prepared_a, const PreparedBank<T>& prepared_b, bool packed,
                     const Tensor& grad, const Scalars<T>& scalars, const Tensor& out_a, const Tensor& out_b) {
  const Bank<T>&a = prepared_a.bank(), &b = prepared_b.bank();
  const int64_t lanes = kernels<T>().lanes, row = a.rows() * lanes, of_row = a.gradient_rows() * lanes;
  const int64_t blocks_a = divide_up(a.filters, lanes), blocks_b = packed ? 0 : divide_up(b.filters, lanes);
  const std::vector<T> g = values_of<T>(grad);
  const double scale = scale_of(scalars) / static_cast<double>(a.slices);
  const int64_t slice_pairs = a.filters * b.filters * a.slices, count = a.coordinates + 1;
  parallel_items(a.slices, 3 * nanoseconds_for<T>(slice_pairs, a.coordinates), [&](Items& items) {
    const Buffer<T> room((blocks_a + blocks_b) * (row + of_row) + 2 * of_row + count * lanes);
    SliceScratch<T> s;
    s.slice_a = room.get();
    s.slice_b = packed ? s.slice_a : s.slice_a + blocks_a * row;
    s.of_a = s.slice_a + (blocks_a + blocks_b) * row;
    s.of_b = packed ? s.of_a : s.of_a + blocks_a * of_row;
    s.of_row = s.of_a + (blocks_a + blocks_b) * of_row;
    T* positions = s.of_row + 2 * of_row;
    for (int64_t k; items.take(k);) {
      std::fill_n(s.of_a, (blocks_a + blocks_b) * of_row, T(0));
      kernels<T>().tile_gradient(a, b, k, {g.data(), packed}, scalars, s);
      store_finished(a, s.slice_a, s.of_a, k, scale, positions, out_a);
      if (!packed) store_finished(b, s.slice_b, s.of_b, k, scale, positions, out_b);
    }
  });
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
        for (int64_t lane = 0; lane < std::min(lanes, bank.slices - block * lanes); ++lane)
          store_slice(out, filter * bank.slices + block * lanes + lane, count, positions + lane);
      }
    }
  });
}

Tensor zeros_like(const Tensor& weight) {
  Tensor out = torch::stable::new_empty(weight, shape_of(weight));
  return torch::stable::zero_(out);
}

}  // namespace

Tensor pairwise_psi_backward(const Tensor& grad, const Tensor& weight, const std::string& name, bool is_signed,
                             const std::vector<double>& parameters) {
  const Similarity similarity(name, is_signed, parameters);
  const Weight w(weight);
  const int64_t n = w.view().filters;
  check_gradient(grad, weight, {n * (n - 1) / 2});
  if (n < 2) return zeros_like(weight);
  const Tensor out = torch::stable::new_empty(weight, shape_of(weight));
  with_prepared(w, Layout::kFiltersInLanes, similarity, true, [&](const auto& scalars, const auto& a, const auto& b) {
    slices_backward(a, b, true, grad, scalars, out, out);
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
  if (grad.numel() == 0) return {zeros_like(a), zeros_like(b)};
  const Tensor out_a = torch::stable::new_empty(a, shape_of(a)), out_b = torch::stable::new_empty(b, shape_of(b));
  with_prepared(wa, wb, Layout::kFiltersInLanes, similarity, true,
                [&](const auto& scalars, const auto& prepared_a, const auto& prepared_b) {
                  slices_backward(prepared_a, prepared_b, false, grad, scalars, out_a, out_b);
                });
  return {out_a, out_b};
}

Tensor psi_of_pairs_backward(const Tensor& grad, const Tensor& weight, const Tensor& pairs, const std::string& name,
                             bool is_signed, const std::vector<double>& parameters) {
  const Similarity similarity(name, is_signed, parameters);
  const Weight w(weight);
  const Tensor list = checked_pairs(pairs, w.view().filters);
  check_gradient(grad, weight, {list.size(0)});
  if (list.size(0) == 0) return zeros_like(weight);
  const Tensor out = torch::stable::new_empty(weight, shape_of(weight));
  with_prepared(w, Layout::kSlicesInLanes, similarity, true,
                [&](const auto& scalars, const auto& prepared, const auto&) {
                  listed_backward(prepared, list.template const_data_ptr<int64_t>(), grad, scalars, out);
                });
  return out;
}

}  // namespace ckrm
