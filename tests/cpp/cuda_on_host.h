// CUDA's language and runtime as far as csrc/cuda uses them, in plain C++ on the processor: the kernels, and the very
// operators, run on CPU tensors, with no GPU. Blocks run one after another, the threads of a block as fibers that
// change at __syncthreads: in every second block in reverse, so that a result that depends on their order shows.
#pragma once

#include <setjmp.h>
#include <torch/csrc/stable/tensor.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define CKRM_CUDA_ON_HOST
#define CKRM_ON_GPU  // gpu.h leaves its place to the functions below
#define CKRM_DISPATCH_KEY CPU
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

namespace ckrm {

// The instructions that approximate, as wrong as NVIDIA's PTX manual lets them be, up or down by the bits of x.
namespace gpu {

inline double direction(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return (bits * 2654435761u) >> 31 ? 1 : -1;
}
inline float without_subnormals(double x) {
  return std::fabs(x) < 0x1p-126 ? std::copysign(0.0f, static_cast<float>(x)) : static_cast<float>(x);
}
inline float reciprocal(float x) {
  return without_subnormals(1.0 / static_cast<double>(without_subnormals(x)) * (1 + direction(x) * 0x1p-23));
}
inline float log2(float x) {
  const double exact = std::log2(static_cast<double>(without_subnormals(x)));
  return without_subnormals(exact + direction(x) * 0x1p-22 * std::max(x > 0.5f && x < 2 ? 1.0 : 0.0, std::fabs(exact)));
}
inline float exp2(float x) {
  return without_subnormals(std::exp2(static_cast<double>(x)) * (1 + direction(x) * 0x1p-22));
}

}  // namespace gpu

namespace cuda {

struct Index {
  unsigned x, y;
};
inline Index threadIdx, blockIdx;

inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }

template <class T>
T* in_global(T* pointer) {
  return pointer;
}

template <class T>
void atomicAdd(T* to, T value) {
  *to += value;
}

// The threads of one block.
class Fibers {
 public:
  static Fibers& instance() {
    static Fibers fibers;
    return fibers;
  }

  void run(int count, bool reversed, const std::function<void()>& body) {
    body_ = &body;
    while (fibers_.size() < static_cast<size_t>(count)) start_one();
    std::vector<bool> done(static_cast<size_t>(count));
    for (int waiting = count; waiting > 0;) {
      int ended = 0;
      for (int step = 0; step < count; ++step) {
        const int thread = reversed ? count - 1 - step : step;
        if (done[static_cast<size_t>(thread)]) continue;
        if (resume(thread)) done[static_cast<size_t>(thread)] = true, ++ended;
      }
      waiting -= ended;
    }
  }

  // Called in a fiber: lets the others come as far.
  void wait() { leave(false); }

 private:
  static constexpr size_t kStack = 256 * 1024;
  struct Fiber {
    std::unique_ptr<char[]> stack;
    ucontext_t context;
    jmp_buf place;
    bool started = false;
  };

  void start_one() {
    auto fiber = std::make_unique<Fiber>();
    fiber->stack = std::make_unique<char[]>(kStack);
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.get();
    fiber->context.uc_stack.ss_size = kStack;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, &Fibers::fiber_main, 0);
    fibers_.push_back(std::move(fiber));
  }

  // Whether the thread has come to its end. Only a fiber's first step goes through ucontext, whose system calls are
  // slow; the jumps stay within stacks that are alive.
  bool resume(int thread) {
    current_ = thread;
    threadIdx.x = static_cast<unsigned>(thread);
    Fiber& fiber = *fibers_[static_cast<size_t>(thread)];
    if (_setjmp(scheduler_) == 0) {
      if (fiber.started) _longjmp(fiber.place, 1);
      fiber.started = true;
      setcontext(&fiber.context);
    }
    return ended_;
  }

  void leave(bool ended) {
    ended_ = ended;
    if (_setjmp(fibers_[static_cast<size_t>(current_)]->place) == 0) _longjmp(scheduler_, 1);
  }

  static void fiber_main() {
    for (;;) {
      (*instance().body_)();
      instance().leave(true);
    }
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  const std::function<void()>* body_ = nullptr;
  jmp_buf scheduler_;
  int current_ = 0;
  bool ended_ = false;
};

inline void __syncthreads() { Fibers::instance().wait(); }

inline int64_t launches = 0;  // of kernels, so far

class CurrentStream {
 public:
  explicit CurrentStream(const torch::stable::Tensor&) {}

  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), int64_t blocks_x, int64_t blocks_y, int threads,
              const Arguments&... arguments) const {
    ++launches;
    const std::function<void()> body = [&] { kernel(arguments...); };
    for (unsigned y = 0; y < blocks_y; ++y)
      for (unsigned x = 0; x < blocks_x; ++x) {
        blockIdx = {x, y};
        Fibers::instance().run(threads, (x + y) % 2 == 1, body);
      }
  }
};

}  // namespace cuda
}  // namespace ckrm
