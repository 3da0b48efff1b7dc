// What a number and a vector of numbers have in common, so that the arithmetic of psi is written once for scalars,
// vectors of lanes and CUDA.
//
// V is float, double or a vector of them (GCC / Clang vector extension); Bits<V> is the integer type of the same shape.
#pragma once

#include <cmath>
#include <cstdint>

#include "gpu.h"
#include "inline.h"

namespace ckrm {

template <class V>
struct Lanes;  // Scalar, Bits and reciprocal(V), which may be off by one unit in the last place

template <>
struct Lanes<float> {
  using Scalar = float;
  using Bits = int32_t;
  CKRM_INLINE float reciprocal(float x) {
#if defined(CKRM_ON_GPU)
    return gpu::reciprocal(x);
#else
    return 1.0f / x;
#endif
  }
};
template <>
struct Lanes<double> {
  using Scalar = double;
  using Bits = int64_t;
  CKRM_INLINE double reciprocal(double x) { return 1.0 / x; }
};

template <class V>
using Scalar = typename Lanes<V>::Scalar;
template <class V>
using Bits = typename Lanes<V>::Bits;

template <class To, class From>
CKRM_INLINE To reinterpret(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

template <class V>
CKRM_INLINE V broadcast(Scalar<V> value) {
  return value - V{};  // folds to a broadcast: value + 0 would not, for the sign of zero
}

// The number that the integer lanes hold, as V.
template <class V>
CKRM_INLINE V convert(Bits<V> integers) {
#if !defined(__CUDACC__)
  if constexpr (sizeof(V) != sizeof(Scalar<V>))
    return __builtin_convertvector(integers, V);
  else
#endif
    return static_cast<V>(integers);
}

template <class V>
CKRM_INLINE Bits<V> sign_mask() {
  using Integer = typename Lanes<Scalar<V>>::Bits;
  return Bits<V>{} + static_cast<Integer>(sizeof(Integer) == 4 ? INT32_MIN : INT64_MIN);
}

template <class V>
CKRM_INLINE V absolute(V x) {
#if defined(CKRM_ON_GPU)
  return fabs(x);  // free: a modifier of the instruction that reads it
#else
  return reinterpret<V>(reinterpret<Bits<V>>(x) & ~sign_mask<V>());
#endif
}

// x with its sign flipped where `sign` is negative.
template <class V>
CKRM_INLINE V apply_sign(V x, V sign) {
  return reinterpret<V>(reinterpret<Bits<V>>(x) ^ (reinterpret<Bits<V>>(sign) & sign_mask<V>()));
}

// What becomes of the signs of a similarity: kept, or taken off, so that opposites count as alike.
template <class T>
class Sign {
 public:
  CKRM_MEMBER explicit Sign(bool is_kept) : is_kept_(is_kept), dropped_(is_kept ? 0 : sign_mask<T>()) {}

  // x, or |x|
  template <class V>
  CKRM_MEMBER V of(V x) const {
#if defined(CKRM_ON_GPU)
    return is_kept_ ? x : fabs(x);
#else
    return reinterpret<V>(reinterpret<Bits<V>>(x) & ~(Bits<V>{} + dropped_));
#endif
  }

  // y with its sign flipped where x is negative and signs are kept.
  template <class V>
  CKRM_MEMBER V carry(V y, V x) const {
    return reinterpret<V>(reinterpret<Bits<V>>(y) ^
                          (reinterpret<Bits<V>>(x) & sign_mask<V>() & ~(Bits<V>{} + dropped_)));
  }

  // y with its sign flipped where x is negative and signs are taken off.
  template <class V>
  CKRM_MEMBER V drop(V y, V x) const {
    return reinterpret<V>(reinterpret<Bits<V>>(y) ^ (reinterpret<Bits<V>>(x) & (Bits<V>{} + dropped_)));
  }

 private:
  bool is_kept_;
  Bits<T> dropped_;
};

template <class V>
CKRM_INLINE V maximum(V x, V y) {
  return x > y ? x : y;
}

template <class V>
CKRM_INLINE V square_root(V x) {
#if !defined(__CUDACC__)
  if constexpr (sizeof(V) != sizeof(Scalar<V>)) {
    for (unsigned lane = 0; lane < sizeof(V) / sizeof(Scalar<V>); ++lane) x[lane] = __builtin_sqrt(x[lane]);
    return x;
  } else  // NOLINT
#endif
    return sqrt(x);
}

// numerator / denominator; on a GPU float32 is a unit in the last place off, and denominators above 2^126 are too
// large.
template <class V>
CKRM_INLINE V divide(V numerator, V denominator) {
#if defined(CKRM_ON_GPU)
  if constexpr (sizeof(Scalar<V>) == sizeof(float)) return numerator * Lanes<V>::reciprocal(denominator);
#endif
  return numerator / denominator;
}

// numerator / denominator, and 1 where the denominator is 0: the limit as eps -> 0.
template <class V>
CKRM_INLINE V ratio_or_one(V numerator, V denominator) {
  const V zero = V{}, one = broadcast<V>(1);
  return denominator == zero ? one : numerator / (denominator == zero ? one : denominator);
}

// 1 / x, and 0 where x is 0, so that a factor fixed at 1 passes no gradient on.
template <class V>
CKRM_INLINE V inverse_or_zero(V x) {
  const V zero = V{}, one = broadcast<V>(1);
  return x == zero ? zero : one / (x == zero ? one : x);
}

}  // namespace ckrm
