// The CUDA operators, compiled for the processor: torch.ops.ckrm_cuda.* on CPU tensors.
#include "cuda_on_host.h"

#include "cuda/backward.cu"
#include "cuda/forward.cu"
#include "cuda/listed.cu"
#include "cuda/register.cu"
#include "cuda/soft.cu"
