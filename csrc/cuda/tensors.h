// New tensors on a device.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <exception>
#include <vector>

#include "../arguments.h"

namespace ckrm {
namespace cuda {

// An uninitialised tensor on the device of `like`, or an error that says how much memory is missing.
inline Tensor new_tensor(const Tensor& like, const std::vector<int64_t>& shape, ScalarType type) {
  try {
    return torch::stable::new_empty(like, shape, type);
  } catch (const std::exception&) {  // the stable ABI hands on no message
    double bytes = type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2;
    for (const int64_t size : shape) bytes *= static_cast<double>(size);
    STD_TORCH_CHECK(false, "ckrm_kernels can't allocate ", bytes / 0x1p30, " GiB of memory on the weight's device");
  }
}

template <class T>
Tensor new_numbers(const Tensor& like, int64_t count) {
  const std::vector<int64_t> shape(1, count);  // nvcc misreads {count} in a template
  return new_tensor(like, shape, sizeof(T) == sizeof(float) ? ScalarType::Float : ScalarType::Double);
}

}  // namespace cuda
}  // namespace ckrm
