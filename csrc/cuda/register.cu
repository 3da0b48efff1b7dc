// Registers the kernels under the schemas that ckrm_kernels/ops.py defines.
#include <torch/csrc/stable/library.h>

#include "operators.h"
#include "runtime.h"

STABLE_TORCH_LIBRARY_IMPL(ckrm_cuda, CKRM_DISPATCH_KEY, m) {
  m.impl("pairwise_psi", TORCH_BOX(&ckrm::cuda::pairwise_psi));
  m.impl("pairwise_psi_backward", TORCH_BOX(&ckrm::cuda::pairwise_psi_backward));
  m.impl("cross_psi", TORCH_BOX(&ckrm::cuda::cross_psi));
  m.impl("cross_psi_backward", TORCH_BOX(&ckrm::cuda::cross_psi_backward));
  m.impl("psi_of_pairs", TORCH_BOX(&ckrm::cuda::psi_of_pairs));
  m.impl("psi_of_pairs_backward", TORCH_BOX(&ckrm::cuda::psi_of_pairs_backward));
  m.impl("psi_counts", TORCH_BOX(&ckrm::cuda::psi_counts));
}
