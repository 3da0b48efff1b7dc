// The instructions by which a GPU approximates 1 / x, log2 and exp2. CKRM_ON_GPU says that they are there.
#pragma once

#include "inline.h"

namespace ckrm {

// Whether this is the library for a GPU, of which the host's code is a part.
#if defined(__CUDACC__) || defined(CKRM_ON_GPU)
constexpr bool kForGpu = true;
#else
constexpr bool kForGpu = false;
#endif

}  // namespace ckrm

#if defined(__CUDA_ARCH__)
#define CKRM_ON_GPU

namespace ckrm {
namespace gpu {

// Relative errors of at most 2^-23, 2^-22 and 2^-22 (of log2 between 1/2 and 2: absolute); numbers below 2^-126 are 0.
CKRM_INLINE float reciprocal(float x) {
  asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}
CKRM_INLINE float log2(float x) {
  asm("lg2.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}
CKRM_INLINE float exp2(float x) {
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}

}  // namespace gpu
}  // namespace ckrm

#endif
