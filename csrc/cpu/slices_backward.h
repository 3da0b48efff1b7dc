// The gradient of banks, slice by slice, given that of Psi of all their pairs. Threads own slices (or vectors of
// slices), or parts of them that have sums of their own: both filters of a pair are updated in one visit, in one order,
// with no sum shared between threads.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../index.h"
#include "prepared.h"

namespace ckrm {

// Writes the gradients of `count` slices, `step` apart in the weight from `first` on, into a contiguous tensor of the
// weight's shape and dtype. values: a row of lanes for each of the K positions.
template <class T>
void store_slices(const Tensor& out, int64_t first, int64_t step, int64_t count, int64_t positions, const T* values) {
  void* data = out.mutable_data_ptr();
  const auto store_as = [&, lanes = kernels<T>().lanes](auto* typed) {
    using To = std::remove_pointer_t<decltype(typed)>;
    for (int64_t lane = 0; lane < count; ++lane)
      for (int64_t q = 0; q < positions; ++q)
        typed[(first + lane * step) * positions + q] = static_cast<To>(values[q * lanes + lane]);
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

// The incoming gradient of all pairs of a x b, or packed of a = b, as the kernels read it.
template <class T>
class LaneGradient {
 public:
  // Not filled.
  LaneGradient(const Bank<T>& a, const Bank<T>& b, bool packed)
      : count_(size(divide_up(a.filters, kernels<T>().lanes), divide_up(b.filters, kernels<T>().lanes), packed)),
        data_(count_),
        view_{data_.get(), packed, kernels<T>().lanes, divide_up(b.filters, kernels<T>().lanes)} {}
  LaneGradient(const Tensor& grad, const Bank<T>& a, const Bank<T>& b, bool packed) : LaneGradient(a, b, packed) {
    const Tensor dense = torch::stable::contiguous(grad);
    if (dense.scalar_type() == ScalarType::Double)
      fill(dense.const_data_ptr<double>(), a, b);
    else
      fill(dense.const_data_ptr<float>(), a, b);
  }
  const PairGradient<T>& view() const { return view_; }
  // 0 everywhere.
  void clear() { std::fill_n(data_.get(), count_, T(0)); }

 private:
  static int64_t size(int64_t blocks_a, int64_t blocks_b, bool packed) {
    const int64_t lanes = kernels<T>().lanes;
    return (packed ? blocks_a * (blocks_a + 1) / 2 : blocks_a * blocks_b) * lanes * lanes;
  }

  template <class From>
  void fill(const From* grad, const Bank<T>& a, const Bank<T>& b) {
    const int64_t rows = divide_up(a.filters, view_.lanes) * view_.lanes, columns = view_.blocks * view_.lanes;
    const double nanoseconds = 0.5 * static_cast<double>(rows * columns);
    parallel_items(rows, nanoseconds, [&](Items& items) {
      for (int64_t i; items.take(i);) {
        T* row = view_.row(i);
        std::fill(row + columns - view_.width(i), row + columns, T(0));
        if (i >= a.filters) continue;
        const int64_t first = view_.packed ? i + 1 : 0;
        const From* from = grad + (view_.packed ? pair_index(i, i + 1, b.filters) - (i + 1) : i * b.filters);
        for (int64_t j = first; j < b.filters; ++j) row[j] = static_cast<T>(from[j]) + (a.poison[i] + b.poison[j]);
      }
    });
  }

  int64_t count_;
  Buffer<T> data_;
  PairGradient<T> view_;
};

// From the accumulators of vector `block` of filters at slice k to their gradient in `out`. positions: room for K rows.
template <class T>
void finish_filters(const Bank<T>& bank, int64_t block, int64_t k, const T* of, double scale, T* positions,
                    const Tensor& out) {
  const int64_t lanes = kernels<T>().lanes;
  const T* slice = bank.data + (block * bank.slices + k) * bank.rows() * lanes;
  kernels<T>().finish_gradient(slice, of, bank.norms, bank.coordinates, scale, positions);
  store_slices(out, block * lanes * bank.slices + k, bank.slices, std::min(lanes, bank.filters - block * lanes),
               bank.coordinates + 1, positions);
}

// With fewer slices than this, the pairs of a slice are shared out, too: by the shapes alone, so that the sums are
// those of any number of threads.
constexpr int64_t kFewSlices = 16;

template <class T>
void slices_backward(const PreparedBank<T>& prepared_a, const PreparedBank<T>& prepared_b, bool packed,
                     const LaneGradient<T>& gradient, const Scalars<T>& scalars, const Tensor& out_a,
                     const Tensor& out_b) {
  const Bank<T>&a = prepared_a.bank(), &b = prepared_b.bank();
  const int64_t lanes = kernels<T>().lanes, row = a.rows() * lanes, of_row = a.gradient_rows() * lanes;
  const int64_t blocks_a = divide_up(a.filters, lanes), blocks_b = packed ? 0 : divide_up(b.filters, lanes);
  const int64_t blocks = blocks_a + blocks_b, positions = (a.coordinates + 1) * lanes;
  const int64_t parts = std::min(blocks_a, divide_up(kFewSlices, a.slices));
  const double scale = scale_of(scalars) / static_cast<double>(a.slices);
  const auto finish = [&](int64_t k, int64_t block, const T* of, T* room) {
    if (block < blocks_a)
      finish_filters(a, block, k, of, scale, room, out_a);
    else
      finish_filters(b, block - blocks_a, k, of, scale, room, out_b);
  };
  const Buffer<T> of_parts(parts > 1 ? a.slices * parts * blocks * of_row : 0);
  const int64_t slice_pairs = a.filters * b.filters * a.slices / (packed ? 2 : 1);
  parallel_items(a.slices * parts, 3 * nanoseconds_for<T>(slice_pairs, a.coordinates), [&](Items& items) {
    const Buffer<T> room(blocks * (row + of_row) + lanes * of_row + positions);
    SliceScratch<T> s;
    s.slice_a = room.get();
    s.slice_b = packed ? s.slice_a : s.slice_a + blocks_a * row;
    T* const own = s.slice_a + blocks * row;
    s.of_rows = own + blocks * of_row;
    for (int64_t item; items.take(item);) {
      const int64_t k = item / parts;
      s.of_a = parts > 1 ? of_parts.get() + item * blocks * of_row : own;
      s.of_b = packed ? s.of_a : s.of_a + blocks_a * of_row;
      std::fill_n(s.of_a, blocks * of_row, T(0));
      kernels<T>().tile_gradient(a, b, k, gradient.view(), scalars, item % parts, parts, s);
      for (int64_t block = 0; parts == 1 && block < blocks; ++block)
        finish(k, block, own + block * of_row, s.of_rows + lanes * of_row);
    }
  });
  if (parts == 1) return;
  parallel_items(a.slices * blocks, static_cast<double>(a.slices * parts * blocks * of_row), [&](Items& items) {
    const Buffer<T> room(positions);
    for (int64_t item; items.take(item);) {
      const int64_t k = item / blocks, block = item % blocks;
      T* of = of_parts.get() + (k * parts * blocks + block) * of_row;
      for (int64_t part = 1; part < parts; ++part)
        for (int64_t i = 0; i < of_row; ++i) of[i] += of[part * blocks * of_row + i];
      finish(k, block, of, room.get());
    }
  });
}

inline Tensor zeros_of(const Tensor& weight, ScalarType type) {
  return torch::stable::new_zeros(weight, shape_of(weight), type);
}

}  // namespace ckrm
