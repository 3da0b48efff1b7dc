// Logarithm and powers, fast in float32 and accurate in float64. On a GPU float32's logarithm and power of 2 are one
// instruction each, and float64's power is CUDA's.
#pragma once

#include <cmath>
#include <cstdint>

#include "gpu.h"
#include "lanes.h"

namespace ckrm {

// log2 of a positive normal float; relative error at most 1.5e-6 (minimax polynomial on [sqrt(1/2), sqrt(2))).
template <class V>
CKRM_INLINE V fast_log2(V x) {
#if defined(CKRM_ON_GPU)
  return gpu::log2(x);
#else
  const Bits<V> bits = reinterpret<Bits<V>>(x);
  const Bits<V> exponent = (bits - 0x3f3504f3) & static_cast<int32_t>(0xff800000);
  const V t = reinterpret<V>(bits - exponent) - 1.0f;
  V p = broadcast<V>(0.171624579f);
  p = p * t + -0.269320221f;
  p = p * t + 0.295699518f;
  p = p * t + -0.359371643f;
  p = p * t + 0.480626768f;
  p = p * t + -0.721363576f;
  p = p * t + 1.44269645f;
  return p * t + convert<V>(exponent) * 0x1p-23f;
#endif
}

// factor * 2^y for y in [-126, 127].
template <class V>
CKRM_INLINE V scaled_exp2(V y, V factor) {
  const V shifted = y + 12582912.0f;  // 1.5 * 2^23 leaves round(y) in the low bits
  const V r = y - (shifted - 12582912.0f);
  V p = broadcast<V>(0.00132764722f);
  p = p * r + 0.00967554133f;
  p = p * r + 0.0555071327f;
  p = p * r + 0.240221197f;
  p = p * r + 0.693146967f;
  p = p * r + 1.0f;
  return reinterpret<V>(reinterpret<Bits<V>>(p * factor) + (reinterpret<Bits<V>>(shifted) << 23));
}

// 2^y; relative error at most 2.5e-7 for y in [-126, 127]; 2^-126 below.
template <class V>
CKRM_INLINE V fast_exp2(V y) {
#if defined(CKRM_ON_GPU)
  return gpu::exp2(y);
#else
  return scaled_exp2(maximum(y, broadcast<V>(-126.0f)), broadcast<V>(1.0f));
#endif
}

// A sum of two doubles, for more digits than one has.
template <class V>
struct TwoParts {
  V whole, rest;
};

constexpr double kRounding = 0x1.8p52;  // added, it leaves a number's nearest integer in the low bits
constexpr int64_t kRoundingBits = 0x4338000000000000;

// c[0] + c[1] x + .. + c[7] x^7 by Estrin's scheme: its chain of dependent operations is half as long as Horner's.
template <class V>
CKRM_INLINE V polynomial_of_8(const double (&c)[8], V x) {
  const V x2 = x * x;
  const V low = (c[3] * x + c[2]) * x2 + (c[1] * x + c[0]), high = (c[7] * x + c[6]) * x2 + (c[5] * x + c[4]);
  return high * (x2 * x2) + low;
}

// log2 of a positive normal double x = 2^e m with m in [sqrt(1/2), sqrt(2)), as e and log2 m.
template <class V>
CKRM_INLINE TwoParts<V> accurate_log2(V x) {
  const Bits<V> bits = reinterpret<Bits<V>>(x), from_sqrt_half = bits - 0x3fe6a09e667f3bcd;
  const V m = reinterpret<V>(bits - (from_sqrt_half & static_cast<int64_t>(0xfff0000000000000)));
  const V e = reinterpret<V>((from_sqrt_half >> 52) + kRoundingBits) - kRounding;
  // log2 m = s P(s^2) with s = (m - 1) / (m + 1); P interpolates at Chebyshev nodes
  const V s = (m - 1.0) / (m + 1.0), w = s * s;
  constexpr double kLog[8] = {2.8853900817779268,  0.9617966939259898, 0.5770780163455203, 0.4121985858409005,
                              0.32059853491395984, 0.262334352504183,  0.2209130842311768, 0.2136589569431927};
  const V p = polynomial_of_8(kLog, w);
  return {e, s * p};
}

// exponent * log2, its whole part exactly: 42 bits of the exponent times an integer of 11.
template <class V>
CKRM_INLINE TwoParts<V> times(TwoParts<V> log2, double exponent) {
  const double coarse = reinterpret<double>(reinterpret<int64_t>(exponent) & ~int64_t(0x7ff));
  return {coarse * log2.whole, (exponent - coarse) * log2.whole + exponent * log2.rest};
}

// 2^r for r in [-1, 1], accurate in [-1/2, 1/2].
template <class V>
CKRM_INLINE V exp2_of_fraction(V r) {
  // 1 + r Q(r); Q interpolates at Chebyshev nodes
  constexpr double kLow[8] = {0.6931471805599453,     0.240226506959101,     0.0555041086648216,
                              0.009618129107606541,   0.001333355814641675,  0.00015403530442319546,
                              1.5252733830147138e-05, 1.3215442232969344e-06};
  const V r2 = r * r, r4 = r2 * r2;
  const V high = (4.4549983631048684e-10 * r + 7.072656799362923e-09) * r + 1.0178062256646543e-07;
  const V q = high * (r4 * r4) + polynomial_of_8(kLow, r);
  return q * r + 1.0;
}

// x^exponent of 0, which stays 0, or a normal double of which the power is normal too. Relative error at most
// 2^-52 (1 + |exponent|): a rounding of x costs as much.
template <class V>
CKRM_INLINE V normal_power(V x, double exponent) {
  const TwoParts<V> y = times(accurate_log2(x), exponent);
  const V shifted = y.whole + y.rest + kRounding;
  const V fraction = exp2_of_fraction(y.whole - (shifted - kRounding) + y.rest);
  const V power = reinterpret<V>(reinterpret<Bits<V>>(fraction) + (reinterpret<Bits<V>>(shifted) << 52));
  return x == V{} ? V{} : power;
}

// log2 of any positive double.
template <class V>
CKRM_INLINE TwoParts<V> log2_of_any(V x) {
  constexpr double kSmallestNormal = 0x1p-1022;
  TwoParts<V> log2 = accurate_log2(x < kSmallestNormal ? x * 0x1p54 : x);
  log2.whole -= x < kSmallestNormal ? broadcast<V>(54) : V{};
  return log2;
}

// x^exponent for x in [0, 2] or NaN and an exponent in [0, 2^1000); 0^0 = 1. The same relative error, beside 2^-1000
// where the power is less.
template <class V>
CKRM_INLINE V power_of_fraction(V x, double exponent) {
  const TwoParts<V> y = times(log2_of_any(x), exponent);
  const V shifted = maximum(y.whole + y.rest, broadcast<V>(-1020)) + kRounding;
  const V r = y.whole - (shifted - kRounding) + y.rest, least = broadcast<V>(-1);  // less where the sum was
  const V power =
      reinterpret<V>(reinterpret<Bits<V>>(exp2_of_fraction(maximum(r, least))) + (reinterpret<Bits<V>>(shifted) << 52));
  return x > V{} ? power : x + (exponent == 0 ? 1.0 : 0.0);
}

// x^exponent for any double x >= 0, NaN among them, and any exponent but 0; 0 stays 0. The same relative error, beside
// 2^-1074 where the power is subnormal.
template <class V>
CKRM_INLINE V accurate_power(V x, double exponent) {
#if defined(CKRM_ON_GPU)
  return x == 0 ? 0 : pow(x, exponent);
#else
  constexpr double kLargest = 0x1.fffffffffffffp1023;
  const TwoParts<V> y = times(log2_of_any(x), exponent);
  const V sum = y.whole + y.rest, low = broadcast<V>(-1500), high = broadcast<V>(1500);
  const V shifted = maximum(sum > high ? high : sum, low) + kRounding, n = shifted - kRounding;
  const V r = y.whole - n + y.rest, one = broadcast<V>(1);  // beyond [-1, 1] where the sum was
  const V fraction = exp2_of_fraction(maximum(r > one ? one : r, -one));
  // 2^n in two steps, so that the power may be subnormal or infinite
  const V half = 0.5 * n + kRounding;
  const Bits<V> first = reinterpret<Bits<V>>(half), second = reinterpret<Bits<V>>(shifted) - first;
  const V power = fraction * reinterpret<V>((first + 1023) << 52) * reinterpret<V>((second + 1023) << 52);
  const V of_infinity = exponent > 0 ? x : (x > kLargest ? V{} : x);
  return x == V{} ? V{} : x <= kLargest ? power : of_infinity;
#endif
}

// x^exponent for x >= 0 and any exponent but 0; 0 stays 0.
template <class V>
CKRM_INLINE V positive_power(V x, Scalar<V> exponent) {
  if constexpr (sizeof(Scalar<V>) == sizeof(float)) {
    const V power = fast_exp2(fast_log2(x) * exponent);
    return x == V{} ? V{} : power;
  } else {
    return accurate_power(x, exponent);
  }
}

template <class V>
CKRM_INLINE V power(V x, Scalar<V> exponent) {
  if (exponent == 0) return broadcast<V>(1);
  if (exponent == 1) return x;
  return positive_power(x, exponent);
}

// x^exponent for x in [0, 2] and an exponent >= 0. On a processor without a branch: a compiler may contract a sum of
// products otherwise where it copies one, and a pair's psi would depend on the pairs beside it, in its last bits.
template <class V>
CKRM_INLINE V unit_power(V x, Scalar<V> exponent) {
#if defined(CKRM_ON_GPU)
  return power(x, exponent);
#else
  if constexpr (sizeof(Scalar<V>) == sizeof(double)) return power_of_fraction(x, exponent);
  const V power = fast_exp2(fast_log2(x) * exponent);
  return x == V{} ? broadcast<V>(exponent == 0 ? 1 : 0) : power;
#endif
}

}  // namespace ckrm
