// From tensors to what the kernels take, and which kernel a call needs. No operator waits for the device, so that none
// can turn to float64 where the numbers of a float32 weight ask for it.
//
// float32 and half weights are computed in float32, but psi in float64 for an eps below 2^-64. In float32 a filter
// counts as not finite, with NaN for its Psi, if in one of its slices
//   psi:     the mean or the standard deviation is above 2^38 sqrt(eps) (2.7e9 at the default eps), or nearly so
//   cosine:  the root mean square is above 2^63 (9e18); below 2^-63 (1e-19) the slice counts as zeros
// psi_of_pairs gives NaN for a pair that is out of range.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <exception>
#include <type_traits>
#include <vector>

#include "../arguments.h"
#include "prepare.cuh"
#include "terms.cuh"

namespace ckrm {
namespace cuda {

inline void check_same_device(const Tensor& tensor, const Tensor& weight, const char* name) {
  STD_TORCH_CHECK(tensor.device() == weight.device(), name, " must be on the weight's device");
}

// A weight (filters, slices, *K) as the kernels read it.
class Weight {
 public:
  explicit Weight(const Tensor& tensor) : tensor_(tensor) {
    STD_TORCH_CHECK(tensor.dim() >= 2, "weight must have the shape (F2, F1, *K), got ", tensor.dim(), " dimensions");
    if (!view_positions()) {
      tensor_ = torch::stable::contiguous(tensor);
      view_positions();
    }
    int64_t positions = 1;
    for (int64_t d = 2; d < tensor.dim(); ++d) positions *= tensor.size(d);
    STD_TORCH_CHECK(positions <= INT32_MAX, "weight has slices of more than 2^31 - 1 numbers");
    view_.data = tensor_.const_data_ptr();
    view_.element = element_of(tensor_);
    view_.filters = tensor_.size(0), view_.filter_stride = tensor_.stride(0);
    view_.slices = tensor_.size(1), view_.slice_stride = tensor_.stride(1);
    view_.positions = static_cast<int>(positions);
    STD_TORCH_CHECK(view_.filters == 0 || view_.slices * positions > 0, "weight has filters without slices");
  }
  const WeightView& view() const { return view_; }
  const Tensor& tensor() const { return tensor_; }

 private:
  // Merges dimensions that follow each other in memory; whether at most three are left.
  bool view_positions() {
    std::vector<int64_t> size, stride;
    for (int64_t d = 2; d < tensor_.dim(); ++d) {
      if (tensor_.size(d) == 1) continue;
      if (!size.empty() && stride.back() == tensor_.size(d) * tensor_.stride(d)) {
        size.back() *= tensor_.size(d);
        stride.back() = tensor_.stride(d);
      } else {
        size.push_back(tensor_.size(d));
        stride.push_back(tensor_.stride(d));
      }
    }
    if (size.size() > 3) return false;
    for (size_t d = 0; d < 3; ++d) {
      const size_t missing = 3 - size.size();
      view_.size[d] = d < missing ? 1 : size[d - missing];
      view_.stride[d] = d < missing ? 0 : stride[d - missing];
    }
    return true;
  }

  Tensor tensor_;
  WeightView view_;
};

// Raises unless the slices of a can be compared with those of b.
inline void check_alike(const Weight& a, const Weight& b) {
  STD_TORCH_CHECK(a.view().slices == b.view().slices && a.view().positions == b.view().positions,
                  "a and b must have slices of one number and shape");
  STD_TORCH_CHECK(a.view().element == b.view().element, "a and b must have one dtype");
  check_same_device(b.tensor(), a.tensor(), "b");
}

template <class T>
constexpr ScalarType scalar_type() {
  return sizeof(T) == sizeof(float) ? ScalarType::Float : ScalarType::Double;
}

// An uninitialised tensor on the device of `like`, or an error that says how much memory is missing.
inline Tensor new_tensor(const Tensor& like, const std::vector<int64_t>& shape, ScalarType type) {
  try {
    return torch::stable::new_empty(like, shape, type);
  } catch (const std::exception&) {  // the stable ABI hands on no message
    double bytes = type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2;
    for (const int64_t size : shape) bytes *= static_cast<double>(size);
    STD_TORCH_CHECK(false, "ckrm_kernels can't allocate ", bytes / 0x1p30, " GiB of memory on the weight's device");
  }
}

template <class T>
Tensor new_numbers(const Tensor& like, int64_t count) {
  const std::vector<int64_t> shape(1, count);  // nvcc misreads {count} in a template
  return new_tensor(like, shape, scalar_type<T>());
}

// A prepared filter bank and its memory.
template <class T>
class PreparedBank {
 public:
  PreparedBank(const Weight& weight, Layout layout, const Scalars<T>& scalars, const CurrentStream& stream) {
    const WeightView& w = weight.view();
    const bool by_filter = layout == Layout::kFiltersInRow;
    bank_.filters = w.filters, bank_.slices = w.slices, bank_.coordinates = w.positions - 1, bank_.layout = layout;
    bank_.padded = divide_up(w.filters, kFilterPadding) * kFilterPadding;
    bank_.row_stride = by_filter ? bank_.padded : w.slices;
    bank_.slice_stride = by_filter ? bank_.rows() * bank_.padded : 1;
    bank_.filter_stride = by_filter ? 1 : bank_.rows() * w.slices;
    const int64_t filters = by_filter ? bank_.padded : w.filters;
    data_ = new_numbers<T>(weight.tensor(), filters * w.slices * bank_.rows());
    poison_ = new_numbers<T>(weight.tensor(), bank_.padded);
    torch::stable::zero_(poison_);
    bank_.data = static_cast<T*>(data_.mutable_data_ptr());
    bank_.poison = static_cast<T*>(poison_.mutable_data_ptr());
    const int64_t blocks = divide_up(filters, kBlockFilters) * divide_up(w.slices, kBlockSlices);
    with_scalars(scalars, [&](const auto& own) {
      using OwnScalars = std::decay_t<decltype(own)>;
      scale_ = own.scale;
      stream.launch(prepare_kernel<OwnScalars, T>, blocks, 1, kThreads, w, bank_, own, static_cast<T>(own.scale));
    });
  }

  const Bank<T>& bank() const { return bank_; }
  const Tensor& data() const { return data_; }
  // What the weight was multiplied by.
  double scale() const { return scale_; }

 private:
  double scale_;
  Bank<T> bank_;
  Tensor data_, poison_;
};

// Calls compute(scalars) with those of the arithmetic that the weight and the similarity need.
template <class Compute>
void with_arithmetic(const Tensor& weight, const Similarity& similarity, bool for_gradient, const Compute& compute) {
  if (weight.scalar_type() != ScalarType::Double && similarity.fits_float32())
    compute(similarity.scalars<float>(for_gradient));
  else
    compute(similarity.scalars<double>(for_gradient));
}

template <int kCoordinates>
using CoordinatesConstant = std::integral_constant<int, kCoordinates>;

// Calls launch(term, coordinates) with the similarity's term, and the number of coordinates as a constant where it has
// kernels of its own: 1 x 1, and, where `has_3x3`, 3 x 3 in float32.
template <bool kHas3x3, class T, class Launch>
void with_term_of(const Scalars<T>& scalars, int coordinates, const Launch& launch) {
  if (coordinates == 0)
    return with_term<true>(scalars, [&](const auto& term) { launch(term, CoordinatesConstant<0>()); });
  with_term<false>(scalars, [&](const auto& term) {
    if constexpr (kHas3x3 && sizeof(T) == sizeof(float))
      if (coordinates == 8) return launch(term, CoordinatesConstant<8>());
    launch(term, CoordinatesConstant<kAnyCoordinates>());
  });
}

}  // namespace cuda
}  // namespace ckrm
