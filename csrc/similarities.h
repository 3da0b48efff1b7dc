// The similarities that there are.
#pragma once

#include "cosine.h"
#include "psi.h"

namespace ckrm {

enum class SimilarityName { kPsi, kCosine };
constexpr const char* kSimilarityNames[] = {"psi", "cosine"};

// The scalars of the similarity that it names; the others are unused.
template <class T>
struct Scalars {
  SimilarityName name;
  PsiScalars<T> psi;
  CosineScalars<T> cosine;
};

// Calls compute(scalars) with those of the similarity.
template <class AnyScalars, class Compute>
CKRM_HOST_INLINE auto with_scalars(AnyScalars& scalars, const Compute& compute) {
  if (scalars.name == SimilarityName::kCosine) return compute(scalars.cosine);
  return compute(scalars.psi);
}

// Calls compute(term) with the similarity's term. kNumbers: of slices of one number
template <bool kNumbers, class T, class Compute>
CKRM_HOST_INLINE void with_term(const Scalars<T>& scalars, const Compute& compute) {
  if (scalars.name == SimilarityName::kCosine) return compute(CosineTerm<kNumbers, T>(scalars.cosine));
  if constexpr (kNumbers)
    return with_psi_term<PsiTermOfNumbers>(scalars.psi, compute);
  else
    return with_psi_term<PsiTerm>(scalars.psi, compute);
}

}  // namespace ckrm
