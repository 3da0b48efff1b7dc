// What the operators make of their arguments, the same on every device.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <vector>

#include "element.h"
#include "psi.h"

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

inline void check_gradient(const Tensor& grad, const Tensor& weight, const std::vector<int64_t>& shape) {
  STD_TORCH_CHECK(shape_of(grad) == shape && grad.scalar_type() == result_type(weight),
                  "grad must have the shape and dtype of the result");
}

// A power of two c: psi(c x, c y; c^2 eps) = psi(x, y; eps). With eps c^2 / 2 in [2^-40, 2^-38) the product of the
// three denominators stays a normal float (psi.h); float64 only needs that the inverse of eps is finite.
template <class T>
double scale_for(double eps) {
  if (sizeof(T) == sizeof(double)) return eps > 0 && eps < 0x1p-900 ? 0x1p150 : 1;
  return std::ldexp(1.0, static_cast<int>(std::ceil((-39 - std::log2(eps)) / 2)));
}

// Psi's exponents and eps, as an operator takes them.
struct Scalars {
  double alpha, beta, gamma, eps;

  // For weights scaled by `scale`; fitted: the exponent of |L|, alpha forward and alpha - 1 backward.
  template <class T>
  PsiScalars<T> scaled(double scale, double fitted) const {
    return {static_cast<T>(alpha), static_cast<T>(beta), static_cast<T>(gamma), static_cast<T>(eps * scale * scale),
            fit_power(fitted)};
  }
};

}  // namespace ckrm
