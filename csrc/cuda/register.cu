// Registers the kernels under the schemas that ckrm_kernels/ops.py defines.
#include "../operators.h"
#include "runtime.h"

STABLE_TORCH_LIBRARY_IMPL(ckrm_cuda, CKRM_DISPATCH_KEY, m) { ckrm::register_operators(m); }
