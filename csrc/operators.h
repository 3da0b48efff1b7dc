// The operators of ckrm_kernels/ops.py, on CPU tensors in one library and on CUDA tensors in the other; shapes are
// documented there.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <string>
#include <tuple>
#include <vector>

namespace ckrm {

using torch::stable::Tensor;

Tensor pairwise_psi(const Tensor& weight, const std::string& similarity, bool is_signed,
                    const std::vector<double>& parameters);
Tensor cross_psi(const Tensor& a, const Tensor& b, const std::string& similarity, bool is_signed,
                 const std::vector<double>& parameters);
Tensor psi_of_pairs(const Tensor& weight, const Tensor& pairs, const std::string& similarity, bool is_signed,
                    const std::vector<double>& parameters);
Tensor psi_counts(const std::vector<Tensor>& banks, const Tensor& edges, const std::string& similarity, bool is_signed,
                  const std::vector<double>& parameters);
// Of the CPU alone: elsewhere made of cross_psi.
Tensor cross_psi_counts(const Tensor& a, const Tensor& b, const Tensor& edges, const std::string& similarity,
                        bool is_signed, const std::vector<double>& parameters);
std::tuple<Tensor, std::vector<Tensor>> soft_redundancy(const std::vector<Tensor>& banks, const Tensor& thresholds,
                                                        double temperature, bool with_gradient, const std::string& name,
                                                        bool is_signed, const std::vector<double>& parameters);

Tensor pairwise_psi_backward(const Tensor& grad, const Tensor& weight, const std::string& similarity, bool is_signed,
                             const std::vector<double>& parameters);
std::tuple<Tensor, Tensor> cross_psi_backward(const Tensor& grad, const Tensor& a, const Tensor& b,
                                              const std::string& similarity, bool is_signed,
                                              const std::vector<double>& parameters);
Tensor psi_of_pairs_backward(const Tensor& grad, const Tensor& weight, const Tensor& pairs,
                             const std::string& similarity, bool is_signed, const std::vector<double>& parameters);

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
  library.impl("soft_redundancy", TORCH_BOX(&soft_redundancy));
}

}  // namespace ckrm
