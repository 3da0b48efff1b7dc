// Psi of tiles of pairs, for the operators: defined, with its kernels, in forward.cu.
#pragma once

#include "prepared.h"
#include "result.cuh"

namespace ckrm {
namespace cuda {

// Psi of all pairs of a bank (triangular, a and b alike), or of a x b.
template <class T>
void sum_tiles(const PreparedBank<T>& prepared_a, const PreparedBank<T>& prepared_b, bool triangular,
               const Scalars<T>& scalars, Result<T> result, const CurrentStream& stream);

}  // namespace cuda
}  // namespace ckrm
