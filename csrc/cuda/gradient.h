// From the gradient of a prepared bank to that of the weight, for all pairs and for lists.
#pragma once

#include "backward.cuh"
#include "prepared.h"

namespace ckrm {
namespace cuda {

inline Tensor empty_gradient(const Tensor& weight) {
  return new_tensor(weight, shape_of(weight), weight.scalar_type());
}

inline Tensor zero_gradient(const Tensor& weight) { return torch::stable::new_zeros(weight, shape_of(weight)); }

// Blocks that share a slice's coordinates.
template <int kCoordinates>
int64_t parts_of_coordinates(int coordinates) {
  return kCoordinates == 0 ? 1 : divide_up(coordinates, std::max(1, kOwnedCoordinates<kCoordinates>));
}

// of_bank: the sums that the kernels gathered, in the bank's layout. out: contiguous, of the weight's shape and dtype.
template <class T>
void finish_gradient(const PreparedBank<T>& prepared, const Tensor& of_bank, const Tensor& out,
                     const CurrentStream& stream) {
  const Bank<T>& bank = prepared.bank();
  const int64_t blocks = divide_up(bank.filters, kBlockFilters) * divide_up(bank.slices, kBlockSlices);
  const double scale = prepared.scale() / static_cast<double>(bank.slices);
  stream.launch(finish_gradient_kernel<T>, blocks, 1, kThreads, bank, static_cast<const T*>(of_bank.const_data_ptr()),
                static_cast<T>(scale), out.mutable_data_ptr(), element_of(out));
}

// The gradient of a's filters from their pairs with b's: defined, with its kernels, in backward.cu.
template <class T>
void tile_gradient(const PreparedBank<T>& prepared_a, const PreparedBank<T>& prepared_b, const PairGradient& grad,
                   const Scalars<T>& scalars, const Tensor& out, const CurrentStream& stream);

}  // namespace cuda
}  // namespace ckrm
