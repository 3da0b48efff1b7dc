// An operator of the CUDA library alone: on the CPU ops.py makes it of the others.
#pragma once

#include "../operators.h"

namespace ckrm {

std::tuple<Tensor, std::vector<Tensor>> soft_redundancy(const std::vector<Tensor>& banks, const Tensor& thresholds,
                                                        double temperature, bool with_gradient,
                                                        const std::string& similarity, bool is_signed,
                                                        const std::vector<double>& parameters);

}  // namespace ckrm
