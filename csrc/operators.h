// The operators of ckrm_kernels/ops.py, on CPU tensors in one library and on CUDA tensors in the other; shapes are
// documented there.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

namespace ckrm {

using torch::stable::Tensor;

Tensor pairwise_psi(const Tensor& weight, double alpha, double beta, double gamma, double eps);
Tensor cross_psi(const Tensor& a, const Tensor& b, double alpha, double beta, double gamma, double eps);
Tensor psi_of_pairs(const Tensor& weight, const Tensor& pairs, double alpha, double beta, double gamma, double eps);
Tensor psi_counts(const std::vector<Tensor>& banks, const Tensor& edges, double alpha, double beta, double gamma,
                  double eps);

Tensor pairwise_psi_backward(const Tensor& grad, const Tensor& weight, double alpha, double beta, double gamma,
                             double eps);
std::tuple<Tensor, Tensor> cross_psi_backward(const Tensor& grad, const Tensor& a, const Tensor& b, double alpha,
                                              double beta, double gamma, double eps);
Tensor psi_of_pairs_backward(const Tensor& grad, const Tensor& weight, const Tensor& pairs, double alpha, double beta,
                             double gamma, double eps);

// Registers them all under a library's namespace and dispatch key.
template <class Library>
void register_operators(Library& library) {
  library.impl("pairwise_psi", TORCH_BOX(&pairwise_psi));
  library.impl("pairwise_psi_backward", TORCH_BOX(&pairwise_psi_backward));
  library.impl("cross_psi", TORCH_BOX(&cross_psi));
  library.impl("cross_psi_backward", TORCH_BOX(&cross_psi_backward));
  library.impl("psi_of_pairs", TORCH_BOX(&psi_of_pairs));
  library.impl("psi_of_pairs_backward", TORCH_BOX(&psi_of_pairs_backward));
  library.impl("psi_counts", TORCH_BOX(&psi_counts));
}

}  // namespace ckrm
