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

#include <map>
#include <type_traits>
#include <utility>
#include <vector>

#include "prepare.cuh"
#include "tensors.h"
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

inline int64_t padded_filters(int64_t filters) { return divide_up(filters, kFilterPadding) * kFilterPadding; }

// Prepared filter banks, at least one, and their memory: one after another.
template <class T>
class PreparedBanks {
 public:
  PreparedBanks(const std::vector<Weight>& weights, Layout layout, const Scalars<T>& scalars,
                const CurrentStream& stream) {
    const bool by_filter = layout == Layout::kFiltersInRow;
    std::vector<PrepareWork<T>> works;
    int64_t numbers = 0, poisons = 0;
    for (const Weight& weight : weights) {
      const WeightView& w = weight.view();
      Bank<T> bank{};
      bank.filters = w.filters, bank.slices = w.slices, bank.coordinates = w.positions - 1, bank.layout = layout;
      bank.padded = padded_filters(w.filters);
      bank.row_stride = by_filter ? bank.padded : w.slices;
      bank.slice_stride = by_filter ? bank.rows() * bank.padded : 1;
      bank.filter_stride = by_filter ? 1 : bank.rows() * w.slices;
      works.push_back({w, bank});
      numbers += bank.numbers(), poisons += bank.padded;
    }
    data_ = new_numbers<T>(weights.front().tensor(), numbers);
    poison_ = new_numbers<T>(data_, poisons);
    torch::stable::zero_(poison_);
    T *data = static_cast<T*>(data_.mutable_data_ptr()), *poison = static_cast<T*>(poison_.mutable_data_ptr());
    for (PrepareWork<T>& work : works) {
      work.bank.data = data, work.bank.poison = poison;
      data += work.bank.numbers(), poison += work.bank.padded;
      banks_.push_back(work.bank);
    }
    const int64_t blocks = share_out(works, &PrepareWork<T>::first_block, [&](const PrepareWork<T>& work) {
      return divide_up(by_filter ? work.bank.padded : work.bank.filters, kBlockFilters) *
             divide_up(work.bank.slices, kBlockSlices);
    });
    const WorkTable<PrepareWork<T>> table(works, data_, stream);
    with_scalars(scalars, [&](const auto& own) {
      using OwnScalars = std::decay_t<decltype(own)>;
      scale_ = own.scale;
      stream.launch(prepare_kernel<OwnScalars, T>, blocks, 1, kThreads, table.works(), own, static_cast<T>(own.scale));
    });
  }

  const std::vector<Bank<T>>& banks() const { return banks_; }
  const Tensor& data() const { return data_; }
  // What the weights were multiplied by.
  double scale() const { return scale_; }

 private:
  double scale_;
  std::vector<Bank<T>> banks_;
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

// The number of coordinates where it has kernels of its own.
inline int own_coordinates(int coordinates) {
  return coordinates == 0 || coordinates == 8 ? coordinates : kAnyCoordinates;
}

// Weights that one launch of each kernel takes, and which of a list they are.
struct Run {
  std::vector<Weight> weights;
  std::vector<size_t> places;
};

constexpr int64_t kMostNumbers = int64_t{1} << 26;  // of a run, in its banks and pairs, unless one bank alone has more

// Those of at least two filters in runs of one kind: slices of one number, 3 x 3, or any.
inline std::vector<Run> runs_of(const std::vector<Weight>& weights) {
  std::vector<Run> runs;
  std::map<int, std::pair<size_t, int64_t>> open;  // by kind: the run, its numbers
  for (size_t place = 0; place < weights.size(); ++place) {
    const WeightView& w = weights[place].view();
    if (w.filters < 2) continue;
    const int64_t padded = padded_filters(w.filters);
    const int64_t added = padded * (w.slices * (w.positions + kMomentRows) + padded);
    const auto [at, is_new] = open.try_emplace(own_coordinates(w.positions - 1), runs.size(), 0);
    auto& [run, numbers] = at->second;
    if (is_new || numbers + added > kMostNumbers) run = runs.size(), numbers = 0, runs.emplace_back();
    runs[run].weights.push_back(weights[place]);
    runs[run].places.push_back(place);
    numbers += added;
  }
  return runs;
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
