// AVX-512 as in Skylake servers and Zen 4.
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma,bmi2"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,fma,bmi2")
#endif
#define CKRM_AVX512
#define CKRM_ISA avx512
#define CKRM_ISA_NAME "avx512"
#define CKRM_VECTOR_BYTES 64
#include "kernels.h"
#include "kernels_impl.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
