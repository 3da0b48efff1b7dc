// Registers the kernels under the schemas that ckrm_kernels/ops.py defines.
#include <torch/csrc/stable/library.h>

#include "kernels.h"
#include "operators.h"

namespace ckrm {

// The instruction set in use: "sse2", "avx2", "avx512", "neon" or "plain".
std::string cpu_capability() { return kernels<float>().name; }

}  // namespace ckrm

STABLE_TORCH_LIBRARY_FRAGMENT(ckrm, m) { m.def("cpu_capability() -> str"); }

STABLE_TORCH_LIBRARY_IMPL(ckrm, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&ckrm::cpu_capability));
}

STABLE_TORCH_LIBRARY_IMPL(ckrm, CPU, m) {
  m.impl("pairwise_psi", TORCH_BOX(&ckrm::pairwise_psi));
  m.impl("pairwise_psi_backward", TORCH_BOX(&ckrm::pairwise_psi_backward));
  m.impl("cross_psi", TORCH_BOX(&ckrm::cross_psi));
  m.impl("cross_psi_backward", TORCH_BOX(&ckrm::cross_psi_backward));
  m.impl("psi_of_pairs", TORCH_BOX(&ckrm::psi_of_pairs));
  m.impl("psi_of_pairs_backward", TORCH_BOX(&ckrm::psi_of_pairs_backward));
  m.impl("psi_counts", TORCH_BOX(&ckrm::psi_counts));
}
