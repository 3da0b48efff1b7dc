// The instruction set that every processor of the target has: SSE2 on x86-64, NEON on 64-bit Arm.
#include <type_traits>
#include <utility>

#include "kernels.h"

#define CKRM_ISA baseline
#define CKRM_VECTOR_BYTES 16
#if defined(__aarch64__)
#define CKRM_ISA_NAME "neon"
#elif defined(__x86_64__)
#define CKRM_ISA_NAME "sse2"
#else
#define CKRM_ISA_NAME "plain"
#endif
#include "kernels_impl.h"
