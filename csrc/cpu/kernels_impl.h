// The kernels' bodies, compiled once for each instruction set: CKRM_ISA names its namespace, CKRM_VECTOR_BYTES its
// width. Included after the instruction set's #pragma, so none of these files may be the first to include
// a system header.

#include "../index.h"
#include "../lanes.h"
#include "../psi.h"
#include "vectors_impl.h"
#include "prepare_impl.h"
#include "psi_impl.h"
#include "gradient_impl.h"

namespace ckrm {
namespace CKRM_ISA {

#define CKRM_BY_CASE(KERNEL, COORDINATES, ...)                        \
  switch (case_of(psi)) {                                             \
    case PsiCase::kNoLuminance:                                       \
      return KERNEL<PsiCase::kNoLuminance, COORDINATES>(__VA_ARGS__); \
    case PsiCase::kLinear:                                            \
      return KERNEL<PsiCase::kLinear, COORDINATES>(__VA_ARGS__);      \
    case PsiCase::kPower:                                             \
      return KERNEL<PsiCase::kPower, COORDINATES>(__VA_ARGS__);       \
    default:                                                          \
      return KERNEL<PsiCase::kGeneral, COORDINATES>(__VA_ARGS__);     \
  }

template <class T>
void tile(const Bank<T>& a, const Bank<T>& b, const Tile& t, int64_t k_begin, int64_t k_end, const PsiScalars<T>& psi,
          T* sums, int64_t ld) {
  if (a.coordinates == 0) {
    CKRM_BY_CASE(tile_of, 0, a, b, t, k_begin, k_end, psi, sums, ld)
  }
  if (a.coordinates == 8) {
    CKRM_BY_CASE(tile_of, 8, a, b, t, k_begin, k_end, psi, sums, ld)
  }
  CKRM_BY_CASE(tile_of, kAnyCoordinates, a, b, t, k_begin, k_end, psi, sums, ld)
}

template <class T>
void tile_gradient(const Bank<T>& a, const Bank<T>& b, int64_t k, const PairGradient<T>& grad, const PsiScalars<T>& psi,
                   const SliceScratch<T>& scratch) {
  if (a.coordinates == 0) {
    CKRM_BY_CASE(slice_gradient_of, 0, a, b, k, grad, psi, scratch)
  }
  if (a.coordinates == 8) {
    CKRM_BY_CASE(slice_gradient_of, 8, a, b, k, grad, psi, scratch)
  }
  CKRM_BY_CASE(slice_gradient_of, kAnyCoordinates, a, b, k, grad, psi, scratch)
}

template <class T>
void listed(const Bank<T>& bank, const int64_t* list, int64_t count, const PsiScalars<T>& psi, T* out) {
  if (bank.coordinates == 0) {
    CKRM_BY_CASE(listed_psi, 0, bank, list, count, psi, out)
  }
  CKRM_BY_CASE(listed_psi, kAnyCoordinates, bank, list, count, psi, out)
}

template <class T>
void listed_gradient(const Bank<T>& bank, int64_t k_block, const int64_t* list, int64_t count, const T* grad,
                     const PsiScalars<T>& psi, T* of_bank) {
  if (bank.coordinates == 0) {
    CKRM_BY_CASE(listed_gradient_of, 0, bank, k_block, list, count, grad, psi, of_bank)
  }
  CKRM_BY_CASE(listed_gradient_of, kAnyCoordinates, bank, k_block, list, count, grad, psi, of_bank)
}

#undef CKRM_BY_CASE

extern const Kernels<float> kFloat32 = {CKRM_ISA_NAME, kLanes<float>, prepare,         tile,
                                        tile_gradient, listed,        listed_gradient, finish_gradient};
extern const Kernels<double> kFloat64 = {CKRM_ISA_NAME, kLanes<double>, prepare,         tile,
                                         tile_gradient, listed,         listed_gradient, finish_gradient};

}  // namespace CKRM_ISA
}  // namespace ckrm
