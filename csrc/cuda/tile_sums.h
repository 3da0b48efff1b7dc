// Psi of tiles of pairs, for the operators: defined, with its kernels, in forward.cu.
#pragma once

#include "prepared.h"
#include "result.cuh"

namespace ckrm {
namespace cuda {

// Psi of all pairs of each bank (triangular, a and b alike), or of each a x b. All of one kind; a result each.
template <class T>
void sum_tiles(const PreparedBanks<T>& a, const PreparedBanks<T>& b, bool triangular, const Scalars<T>& scalars,
               const std::vector<Result<T>>& results, const CurrentStream& stream);

}  // namespace cuda
}  // namespace ckrm
