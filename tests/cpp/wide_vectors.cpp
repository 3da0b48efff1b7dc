// The 64-byte vectors of the AVX-512 kernels, compiled for AVX2: the same code, checked where AVX-512 is missing.
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("arch=haswell"))), apply_to = function)
#else
#pragma GCC target("arch=haswell")
#endif
#define CKRM_ISA wide
#define CKRM_ISA_NAME "64-byte vectors on avx2"
#define CKRM_VECTOR_BYTES 64
#include "cpu/kernels.h"
#include "cpu/kernels_impl.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
