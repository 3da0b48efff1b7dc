// The operators of ckrm_kernels/ops.py on CPU tensors; shapes are documented there.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <tuple>

namespace ckrm {

using torch::stable::Tensor;

Tensor pairwise_psi(const Tensor& weight, double alpha, double beta, double gamma, double eps);
Tensor cross_psi(const Tensor& a, const Tensor& b, double alpha, double beta, double gamma, double eps);
Tensor psi_of_pairs(const Tensor& weight, const Tensor& pairs, double alpha, double beta, double gamma, double eps);
Tensor psi_counts(const Tensor& weight, const Tensor& edges, double alpha, double beta, double gamma, double eps);

Tensor pairwise_psi_backward(const Tensor& grad, const Tensor& weight, double alpha, double beta, double gamma,
                             double eps);
std::tuple<Tensor, Tensor> cross_psi_backward(const Tensor& grad, const Tensor& a, const Tensor& b, double alpha,
                                              double beta, double gamma, double eps);
Tensor psi_of_pairs_backward(const Tensor& grad, const Tensor& weight, const Tensor& pairs, double alpha, double beta,
                             double gamma, double eps);

// Raises unless pairs is (P, 2) int64 with different indices in [0, filters).
Tensor checked_pairs(const Tensor& pairs, int64_t filters);

}  // namespace ckrm
