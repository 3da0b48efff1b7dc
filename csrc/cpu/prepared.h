// From a tensor to a prepared filter bank in the arithmetic that its numbers need.
#pragma once

#include <memory>
#include <new>

#include "../arguments.h"
#include "kernels.h"
#include "parallel.h"

namespace ckrm {

// Uninitialised memory aligned for any vector; trivial types only.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(::operator new(sizeof(T) * static_cast<size_t>(count), std::align_val_t(kAlignment)))) {}
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t(kAlignment)); }
  };
  std::unique_ptr<T, Free> data_;
};

// A weight (filters, slices, *K) as the kernels read it.
class Weight {
 public:
  explicit Weight(const Tensor& tensor) : offsets_{0} {
    STD_TORCH_CHECK(tensor.dim() >= 2, "weight must have the shape (F2, F1, *K), got ", tensor.dim(), " dimensions");
    for (int64_t d = 2; d < tensor.dim(); ++d) {
      std::vector<int64_t> longer;
      longer.reserve(offsets_.size() * static_cast<size_t>(tensor.size(d)));
      for (const int64_t offset : offsets_)
        for (int64_t q = 0; q < tensor.size(d); ++q) longer.push_back(offset + q * tensor.stride(d));
      offsets_.swap(longer);
    }
    view_ = {tensor.const_data_ptr(),
             element_of(tensor),
             tensor.size(0),
             tensor.size(1),
             tensor.stride(0),
             tensor.stride(1),
             offsets_.data(),
             static_cast<int64_t>(offsets_.size()),
             0};
    STD_TORCH_CHECK(view_.filters == 0 || view_.slices * view_.positions > 0, "weight has filters without slices");
    if (view_.filters > 0 && positions_are_consecutive())
      view_.readable =
          (view_.filters - 1) * view_.filter_stride + (view_.slices - 1) * view_.slice_stride + view_.positions;
  }
  const WeightView& view() const { return view_; }

 private:
  bool positions_are_consecutive() const {
    for (size_t q = 0; q < offsets_.size(); ++q)
      if (offsets_[q] != static_cast<int64_t>(q)) return false;
    return true;
  }

  std::vector<int64_t> offsets_;
  WeightView view_;
};

// Raises unless the slices of a can be compared with those of b.
inline void check_alike(const Weight& a, const Weight& b) {
  STD_TORCH_CHECK(a.view().slices == b.view().slices && a.view().positions == b.view().positions,
                  "a and b must have slices of one number and shape");
  STD_TORCH_CHECK(a.view().element == b.view().element, "a and b must have one dtype");
}

// Raises unless pairs is (P, 2) int64 with different indices in [0, filters).
inline Tensor checked_pairs(const Tensor& pairs, int64_t filters) {
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

template <class T>
class PreparedBank {
 public:
  PreparedBank(const WeightView& weight, Layout layout, const Scalars<T>& scalars)
      : numbers_(numbers(weight, layout)),
        room_(numbers_ + divide_up(weight.filters, kernels<T>().lanes) * kernels<T>().lanes),
        norms_(norms(weight.positions)),
        bank_{room_.get(),   room_.get() + numbers_, norms_.data(), weight.filters,
              weight.slices, weight.positions - 1,   layout} {
    const int64_t lanes = kernels<T>().lanes, per_item = layout == Layout::kFiltersInLanes ? lanes : 1;
    const int64_t units = divide_up(weight.filters, per_item);
    // enough work for an item to be worth fetching
    const int64_t grain = std::max<int64_t>(1, 4096 / (per_item * weight.slices * weight.positions));
    std::atomic<bool> in_range{true};
    const double largest_size = with_scalars(scalars, [](const auto& own) { return own.largest_size; });
    const double nanoseconds = 0.5 * static_cast<double>(weight.filters * weight.slices * weight.positions);
    parallel_items(divide_up(units, grain), nanoseconds, [&](Items& items) {
      const Buffer<double> scratch(weight.positions * lanes);
      for (int64_t item; items.take(item);) {
        const int64_t begin = item * grain, end = std::min(units, begin + grain);
        if (kernels<T>().prepare(weight, scalars, bank_, begin, end, scratch.get()) > largest_size) in_range = false;
      }
    });
    in_range_ = in_range;
  }

  const Bank<T>& bank() const { return bank_; }
  // Whether the arithmetic's range holds all slices (OwnMoments).
  bool in_range() const { return in_range_; }

 private:
  static int64_t numbers(const WeightView& weight, Layout layout) {
    const int64_t lanes = kernels<T>().lanes;
    const int64_t vectors = layout == Layout::kFiltersInLanes ? divide_up(weight.filters, lanes) * weight.slices
                                                              : weight.filters * divide_up(weight.slices, lanes);
    return vectors * (weight.positions - 1 + kMomentRows) * lanes;
  }

  static std::vector<double> norms(int64_t positions) {
    std::vector<double> result;
    result.reserve(static_cast<size_t>(positions));
    for (int64_t r = 1; r < positions; ++r)
      result.push_back(1.0 /
                       std::sqrt(static_cast<double>(r) * static_cast<double>(r + 1) * static_cast<double>(positions)));
    return result;
  }

  int64_t numbers_;  // of the slices; the filters' poison follows them
  Buffer<T> room_;
  std::vector<double> norms_;
  Bank<T> bank_;
  bool in_range_ = true;
};

// Packs the weights (one or two) and calls compute(scalars, banks...) in float32 where that is exact enough, else in
// float64: for a float64 weight, and for numbers out of the range that the similarity has in float32.
template <class Compute>
void with_prepared(const Weight& a, Layout layout, const Similarity& similarity, bool for_gradient,
                   const Compute& compute) {
  if (a.view().element != Element::kFloat64 && similarity.fits_float32()) {
    const Scalars<float> scalars = similarity.scalars<float>(for_gradient);
    const PreparedBank<float> prepared(a.view(), layout, scalars);
    if (prepared.in_range()) return compute(scalars, prepared, prepared);
  }
  Scalars<double> scalars = similarity.scalars<double>(for_gradient);
  const PreparedBank<double> prepared(a.view(), layout, scalars);
  if (!prepared.in_range()) with_scalars(scalars, [](auto& own) { own.widen(); });
  compute(scalars, prepared, prepared);
}

template <class Compute>
void with_prepared(const Weight& a, const Weight& b, Layout layout, const Similarity& similarity, bool for_gradient,
                   const Compute& compute) {
  if (a.view().element != Element::kFloat64 && similarity.fits_float32()) {
    const Scalars<float> scalars = similarity.scalars<float>(for_gradient);
    const PreparedBank<float> prepared_a(a.view(), layout, scalars), prepared_b(b.view(), layout, scalars);
    if (prepared_a.in_range() && prepared_b.in_range()) return compute(scalars, prepared_a, prepared_b);
  }
  Scalars<double> scalars = similarity.scalars<double>(for_gradient);
  const PreparedBank<double> prepared_a(a.view(), layout, scalars), prepared_b(b.view(), layout, scalars);
  if (!(prepared_a.in_range() && prepared_b.in_range())) with_scalars(scalars, [](auto& own) { own.widen(); });
  compute(scalars, prepared_a, prepared_b);
}

// What the weights were multiplied by.
template <class T>
double scale_of(const Scalars<T>& scalars) {
  return with_scalars(scalars, [](const auto& own) { return own.scale; });
}

// Rough time of one thread for that many slice pairs; only decides how many threads to use.
template <class T>
double nanoseconds_for(int64_t slice_pairs, int64_t coordinates) {
  const double of_vector = sizeof(T) == sizeof(float) ? 8 : 40;  // float64's powers are slow
  return static_cast<double>(slice_pairs) / static_cast<double>(kernels<T>().lanes) * of_vector *
         (1 + 0.05 * static_cast<double>(coordinates));
}

template <class T>
T mean_of(T sum, int64_t slices) {
  return sum / static_cast<T>(slices);
}

}  // namespace ckrm
