// How functions shared by the processor and the GPU are declared.
#pragma once

#if defined(__CUDACC__)
#define CKRM_MEMBER __host__ __device__ __forceinline__
#define CKRM_INLINE static CKRM_MEMBER
#define CKRM_HOST_INLINE static __forceinline__  // of the processor alone: it calls what the GPU can't
#else
// Always inlined: code compiled for one instruction set must never be merged with that of another by the linker.
#define CKRM_MEMBER inline __attribute__((always_inline))
#define CKRM_INLINE static CKRM_MEMBER
#define CKRM_HOST_INLINE CKRM_INLINE
#endif
