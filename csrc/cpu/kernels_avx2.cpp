// AVX2 and FMA: x86-64 since 2013.
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,bmi2")
#endif
#define CKRM_AVX2
#define CKRM_ISA avx2
#define CKRM_ISA_NAME "avx2"
#define CKRM_VECTOR_BYTES 32
#include "kernels.h"
#include "kernels_impl.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
