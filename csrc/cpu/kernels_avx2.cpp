// AVX2 and FMA: x86-64 since 2013.
#include <cmath>
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("arch=haswell"))), apply_to = function)
#else
#pragma GCC target("arch=haswell")
#endif
#define CKRM_ISA avx2
#define CKRM_ISA_NAME "avx2"
#define CKRM_VECTOR_BYTES 32
#include "kernels.h"
#include "kernels_impl.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
