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
inline int64_t parts_of_coordinates(int coordinates) {
  return std::max<int64_t>(1, divide_up(coordinates, kOwnedCoordinates<kAnyCoordinates>));
}

// of_banks: the sums that the kernels gathered, in memory like that of the banks. out: contiguous, of each weight's
// shape, and of one dtype.
template <class T>
void finish_gradient(const PreparedBanks<T>& prepared, const Tensor& of_banks, const std::vector<Tensor>& out,
                     const CurrentStream& stream) {
  std::vector<FinishWork<T>> works;
  const T* of = static_cast<const T*>(of_banks.const_data_ptr());
  for (size_t i = 0; i < out.size(); ++i) {
    const Bank<T>& bank = prepared.banks()[i];
    const double scale = prepared.scale() / static_cast<double>(bank.slices);
    works.push_back({bank, of, out[i].mutable_data_ptr(), static_cast<T>(scale)});
    of += bank.numbers();
  }
  const int64_t blocks = share_out(works, &FinishWork<T>::first_block, [](const FinishWork<T>& work) {
    return divide_up(work.bank.filters, kBlockFilters) * divide_up(work.bank.slices, kBlockSlices);
  });
  const WorkTable<FinishWork<T>> table(works, of_banks, stream);
  stream.launch(finish_gradient_kernel<T>, blocks, 1, kThreads, table.works(), element_of(out.front()));
}

// The gradients of a's banks from their pairs with b's, all of one kind: defined, with its kernels, in backward.cu.
template <class T>
void tile_gradient(const PreparedBanks<T>& a, const PreparedBanks<T>& b, const std::vector<PairGradient>& grads,
                   const Scalars<T>& scalars, const std::vector<Tensor>& out, const CurrentStream& stream);

}  // namespace cuda
}  // namespace ckrm
