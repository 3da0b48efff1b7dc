// Registers the kernels under the schemas that ckrm_kernels/ops.py defines.
#include "../operators.h"
#include "kernels.h"

namespace ckrm {

// The instruction set in use: "sse2", "avx2", "avx512", "neon" or "plain".
std::string cpu_capability() { return kernels<float>().name; }

}  // namespace ckrm

STABLE_TORCH_LIBRARY_FRAGMENT(ckrm, m) { m.def("cpu_capability() -> str"); }

STABLE_TORCH_LIBRARY_IMPL(ckrm, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&ckrm::cpu_capability));
}

STABLE_TORCH_LIBRARY_IMPL(ckrm, CPU, m) {
  ckrm::register_operators(m);
  m.impl("cross_psi_counts", TORCH_BOX(&ckrm::cross_psi_counts));
}
