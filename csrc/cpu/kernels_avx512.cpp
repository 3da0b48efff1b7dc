// AVX-512 as in Skylake servers and Zen 4.
#include <cmath>
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("arch=skylake-avx512"))), apply_to = function)
#else
#pragma GCC target("arch=skylake-avx512")
#endif
#define CKRM_ISA avx512
#define CKRM_ISA_NAME "avx512"
#define CKRM_VECTOR_BYTES 64
#include "kernels.h"
#include "kernels_impl.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
