// The kernels' bodies, compiled once for each instruction set: CKRM_ISA names its namespace, CKRM_VECTOR_BYTES its
// width. Included after the instruction set's #pragma, so none of these files may be the first to include
// a system header.

#include "../index.h"
#include "../lanes.h"
#include "../similarities.h"
#include "vectors_impl.h"
#include "prepare_impl.h"
#include "forward_impl.h"
#include "gradient_impl.h"

namespace ckrm {
namespace CKRM_ISA {

template <class T>
void tile(const Bank<T>& a, const Bank<T>& b, const Tile& t, int64_t k_begin, int64_t k_end, const Scalars<T>& scalars,
          T* sums, int64_t ld) {
  if (a.coordinates == 0)
    with_term<true>(scalars, [&](const auto& term) { tile_of<0>(a, b, t, k_begin, k_end, term, sums, ld); });
  else if (a.coordinates == 8)
    with_term<false>(scalars, [&](const auto& term) { tile_of<8>(a, b, t, k_begin, k_end, term, sums, ld); });
  else
    with_term<false>(scalars,
                     [&](const auto& term) { tile_of<kAnyCoordinates>(a, b, t, k_begin, k_end, term, sums, ld); });
}

template <class T>
void tile_gradient(const Bank<T>& a, const Bank<T>& b, int64_t k, const PairGradient<T>& grad,
                   const Scalars<T>& scalars, int64_t part, int64_t parts, const SliceScratch<T>& scratch) {
  if (a.coordinates == 0)
    with_term<true>(scalars,
                    [&](const auto& term) { slice_gradient_of<0>(a, b, k, grad, term, part, parts, scratch); });
  else if (a.coordinates == 8)
    with_term<false>(scalars,
                     [&](const auto& term) { slice_gradient_of<8>(a, b, k, grad, term, part, parts, scratch); });
  else
    with_term<false>(scalars, [&](const auto& term) {
      slice_gradient_of<kAnyCoordinates>(a, b, k, grad, term, part, parts, scratch);
    });
}

template <class T>
void listed(const Bank<T>& bank, const int64_t* list, int64_t count, const Scalars<T>& scalars, T* out) {
  if (bank.coordinates == 0)
    with_term<true>(scalars, [&](const auto& term) { listed_of(bank, list, count, term, out); });
  else
    with_term<false>(scalars, [&](const auto& term) { listed_of(bank, list, count, term, out); });
}

template <class T>
void listed_gradient(const Bank<T>& bank, int64_t k_block, const int64_t* list, int64_t count, const T* grad,
                     const Scalars<T>& scalars, T* of_bank) {
  if (bank.coordinates == 0)
    with_term<true>(scalars,
                    [&](const auto& term) { listed_gradient_of(bank, k_block, list, count, grad, term, of_bank); });
  else
    with_term<false>(scalars,
                     [&](const auto& term) { listed_gradient_of(bank, k_block, list, count, grad, term, of_bank); });
}

extern const Kernels<float> kFloat32 = {CKRM_ISA_NAME, kLanes<float>, prepare,         tile,
                                        tile_gradient, listed,        listed_gradient, finish_gradient};
extern const Kernels<double> kFloat64 = {CKRM_ISA_NAME, kLanes<double>, prepare,         tile,
                                         tile_gradient, listed,         listed_gradient, finish_gradient};

}  // namespace CKRM_ISA
}  // namespace ckrm
