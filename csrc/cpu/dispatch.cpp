// Picks the kernels of this processor, once.
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace ckrm {

#define CKRM_DECLARE(ISA)                \
  namespace ISA {                        \
  extern const Kernels<float> kFloat32;  \
  extern const Kernels<double> kFloat64; \
  }
CKRM_DECLARE(baseline)
#if defined(__x86_64__)
CKRM_DECLARE(avx2)
CKRM_DECLARE(avx512)
#endif
#undef CKRM_DECLARE

namespace {

enum class Capability { kBaseline, kAvx2, kAvx512 };

Capability of_processor() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (avx2) return avx512 ? Capability::kAvx512 : Capability::kAvx2;
#endif
  return Capability::kBaseline;
}

Capability allowed() {
  const char* wanted = std::getenv("ATEN_CPU_CAPABILITY");
  if (wanted && std::strcmp(wanted, "default") == 0) return Capability::kBaseline;
  if (wanted && std::strcmp(wanted, "avx2") == 0) return Capability::kAvx2;
  return Capability::kAvx512;
}

Capability capability() {
  static const Capability best = of_processor() < allowed() ? of_processor() : allowed();
  return best;
}

}  // namespace

#if defined(__x86_64__)
#define CKRM_PICK(TABLE)      \
  switch (capability()) {     \
    case Capability::kAvx512: \
      return avx512::TABLE;   \
    case Capability::kAvx2:   \
      return avx2::TABLE;     \
    default:                  \
      return baseline::TABLE; \
  }
#else
#define CKRM_PICK(TABLE) return baseline::TABLE;
#endif

template <>
const Kernels<float>& kernels<float>() {
  CKRM_PICK(kFloat32)
}

template <>
const Kernels<double>& kernels<double>() {
  CKRM_PICK(kFloat64)
}

}  // namespace ckrm
