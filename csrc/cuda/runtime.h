// What the operators need of the CUDA runtime. The tests replace it (tests/cpp/cuda_on_host.h) to run the kernels, and
// the very operators, on a machine without a GPU.
#pragma once

#if !defined(CKRM_CUDA_ON_HOST)

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#define CKRM_DISPATCH_KEY CUDA

namespace ckrm {
namespace cuda {

// A pointer into the device's memory, of which the compiler knows that only where it is an argument of a kernel.
template <class T>
__device__ __forceinline__ T* in_global(T* pointer) {
  __builtin_assume(__isGlobal(pointer));
  return pointer;
}

// The device and the current stream of a tensor, for as long as this lives.
class CurrentStream {
 public:
  explicit CurrentStream(const torch::stable::Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), int64_t blocks_x, int64_t blocks_y, int threads,
              const Arguments&... arguments) const {
    STD_TORCH_CHECK(blocks_x <= INT32_MAX && blocks_y <= UINT16_MAX, "weight is too large for one launch");
    if (blocks_x == 0 || blocks_y == 0) return;
    kernel<<<dim3(static_cast<unsigned>(blocks_x), static_cast<unsigned>(blocks_y)), threads, 0, stream_>>>(
        arguments...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace cuda
}  // namespace ckrm

#endif
