// What the operators make of their arguments, the same on every device.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <string>
#include <vector>

#include "element.h"
#include "similarities.h"

namespace ckrm {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline std::vector<int64_t> shape_of(const Tensor& tensor) {
  std::vector<int64_t> shape;
  for (int64_t d = 0; d < tensor.dim(); ++d) shape.push_back(tensor.size(d));
  return shape;
}

inline Element element_of(const Tensor& weight) {
  switch (weight.scalar_type()) {
    case ScalarType::Float:
      return Element::kFloat32;
    case ScalarType::Double:
      return Element::kFloat64;
    case ScalarType::Half:
      return Element::kFloat16;
    case ScalarType::BFloat16:
      return Element::kBFloat16;
    default:
      STD_TORCH_CHECK(false, "weight must be float32, float64, float16 or bfloat16");
  }
}

// The dtype that Psi is returned in.
inline ScalarType result_type(const Tensor& weight) {
  return weight.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Raises unless the banks have one dtype, and the edges that which their Psi is returned in.
inline void check_edges(const Tensor& edges, const std::vector<Tensor>& banks) {
  STD_TORCH_CHECK(edges.dim() == 1, "edges must be one-dimensional, got ", edges.dim(), " dimensions");
  for (const Tensor& bank : banks) {
    STD_TORCH_CHECK(bank.scalar_type() == banks.front().scalar_type(), "banks must have one dtype");
    STD_TORCH_CHECK(edges.scalar_type() == result_type(bank), "edges must be of the dtype that Psi is returned in");
  }
}

// Raises unless there is a threshold a bank and the temperature is one; else as `check_edges`.
inline void check_soft(const Tensor& thresholds, const std::vector<Tensor>& banks, double temperature) {
  STD_TORCH_CHECK(temperature > 0, "temperature must be > 0, got ", temperature);
  STD_TORCH_CHECK(thresholds.dim() == 1 && thresholds.size(0) == static_cast<int64_t>(banks.size()),
                  "thresholds must be of shape (", banks.size(), ",)");
  for (const Tensor& bank : banks) {
    STD_TORCH_CHECK(bank.scalar_type() == banks.front().scalar_type(), "banks must have one dtype");
    STD_TORCH_CHECK(thresholds.scalar_type() == result_type(bank),
                    "thresholds must be of the dtype that Psi is returned in");
  }
}

inline void check_gradient(const Tensor& grad, const Tensor& weight, const std::vector<int64_t>& shape) {
  STD_TORCH_CHECK(shape_of(grad) == shape && grad.scalar_type() == result_type(weight),
                  "grad must have the shape and dtype of the result");
}

// A similarity as an operator takes it.
class Similarity {
 public:
  Similarity(const std::string& name, bool is_signed, const std::vector<double>& parameters)
      : is_signed_(is_signed), parameters_(parameters) {
    constexpr int kCount = sizeof(kSimilarityNames) / sizeof(kSimilarityNames[0]);
    int index = 0;
    while (index < kCount && name != kSimilarityNames[index]) ++index;
    STD_TORCH_CHECK(index < kCount, "there is no similarity ", name);
    name_ = static_cast<SimilarityName>(index);
    Scalars<float> scalars{name_, {}, {}};
    with_scalars(scalars, [&](auto& own) {
      STD_TORCH_CHECK(parameters_.size() == own.kParameters, name, " takes ", own.kParameters, " parameters, got ",
                      parameters_.size());
    });
  }

  // The least that a term can be, up to rounding; the most is 1.
  double lowest() const { return is_signed_ ? -1 : 0; }

  // Whether float32 arithmetic is worth a try.
  bool fits_float32() const {
    Scalars<float> scalars{name_, {}, {}};
    return with_scalars(scalars, [&](auto& own) { return own.fits_float32(parameters_.data()); });
  }

  template <class T>
  Scalars<T> scalars(bool for_gradient) const {
    Scalars<T> scalars{name_, {}, {}};
    with_scalars(scalars, [&](auto& own) { own = own.of(parameters_.data(), is_signed_, for_gradient); });
    return scalars;
  }

 private:
  SimilarityName name_;
  bool is_signed_;
  std::vector<double> parameters_;
};

}  // namespace ckrm
