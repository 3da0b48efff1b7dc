// The CUDA operators, compiled for the processor: torch.ops.ckrm_cuda.* on CPU tensors.
#include "cuda_on_host.h"

#include "cuda/backward.cu"
#include "cuda/forward.cu"
#include "cuda/listed.cu"
#include "cuda/register.cu"
#include "cuda/soft.cu"

static int64_t launches() { return ckrm::cuda::launches; }
STABLE_TORCH_LIBRARY_FRAGMENT(ckrm_cuda_on_host, m) { m.def("launches() -> int"); }
STABLE_TORCH_LIBRARY_IMPL(ckrm_cuda_on_host, CompositeExplicitAutograd, m) { m.impl("launches", TORCH_BOX(&launches)); }
