// The operators of ckrm_kernels/ops.py on CUDA tensors; shapes are documented there. None waits for the device.
//
// float32 and half weights are computed in float32 from eps = 2^-64 up, else in float64. In float32 a filter with a
// mean or a standard deviation above 2^39 sqrt(eps) (5e9 at the default eps) may have NaN for its Psi, as one that is
// not finite has; psi_of_pairs gives NaN for a pair that is out of range.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <tuple>

namespace ckrm {
namespace cuda {

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

}  // namespace cuda
}  // namespace ckrm
