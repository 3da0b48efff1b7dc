// Fast logarithm and power, float32. On a GPU the logarithm and the power of 2 are one instruction each.
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

// x^exponent for x >= 0 and any exponent but 0; 0 stays 0.
template <class V>
CKRM_INLINE V positive_power(V x, Scalar<V> exponent) {
  if constexpr (sizeof(Scalar<V>) == sizeof(float)) {
    const V power = fast_exp2(fast_log2(x) * exponent);
    return x == V{} ? V{} : power;
  } else if constexpr (sizeof(V) == sizeof(Scalar<V>)) {
    return x == 0 ? 0 : pow(x, exponent);
  } else {
    V result;
    for (unsigned lane = 0; lane < sizeof(V) / sizeof(Scalar<V>); ++lane)
      result[lane] = x[lane] == 0 ? 0 : __builtin_pow(x[lane], exponent);
    return result;
  }
}

template <class V>
CKRM_INLINE V power(V x, Scalar<V> exponent) {
  if (exponent == 0) return broadcast<V>(1);
  if (exponent == 1) return x;
  return positive_power(x, exponent);
}

constexpr int kFitTerms = 8;
constexpr double kLargestFitted = 0.98;

// x^exponent for a fixed exponent in (-1, 1): a polynomial for the mantissa, beside 2^(exponent * e) for the exponent
// e. Shorter than a logarithm and a power, above all in its longest chain of dependent operations.
struct PowerFit {
  float exponent;
  float coefficients[kFitTerms];
};

// 1 + t P(t) for (1 + t)^exponent on [sqrt(1/2) - 1, sqrt(2) - 1], exact at t = 0, where alike slices are: P
// interpolates at Chebyshev nodes, by Newton's divided differences.
inline PowerFit fit_power(double exponent) {
  constexpr int kTerms = kFitTerms - 1;
  const double low = std::sqrt(0.5) - 1, high = std::sqrt(2.0) - 1, pi = 3.14159265358979323846;
  double node[kTerms], newton[kTerms], quotient[kTerms] = {};
  for (int i = 0; i < kTerms; ++i) {
    node[i] = 0.5 * (low + high) + 0.5 * (high - low) * std::cos(pi * (i + 0.5) / kTerms);
    newton[i] = (std::pow(1 + node[i], exponent) - 1) / node[i];
  }
  for (int order = 1; order < kTerms; ++order)
    for (int i = kTerms - 1; i >= order; --i) newton[i] = (newton[i] - newton[i - 1]) / (node[i] - node[i - order]);
  for (int i = kTerms - 1; i >= 0; --i) {  // quotient = quotient * (t - node[i]) + newton[i]
    for (int d = kTerms - 1; d > 0; --d) quotient[d] = quotient[d - 1] - node[i] * quotient[d];
    quotient[0] = newton[i] - node[i] * quotient[0];
  }
  PowerFit fit{static_cast<float>(exponent), {1.0f}};
  for (int d = 0; d < kTerms; ++d) fit.coefficients[d + 1] = static_cast<float>(quotient[d]);
  return fit;
}

// x^fit.exponent of a positive normal float; relative error at most 1e-6 (6e-6 for exponents below 0), plus 1e-7 times
// the magnitude of the result's log2. 0 stays 0.
template <class V>
CKRM_INLINE V fitted_power(V x, const PowerFit& fit) {
#if defined(CKRM_ON_GPU)
  return fast_exp2(fast_log2(x) * fit.exponent);
#else
  const Bits<V> bits = reinterpret<Bits<V>>(x);
  const Bits<V> exponent = (bits - 0x3f3504f3) & static_cast<int32_t>(0xff800000);
  const V t = reinterpret<V>(bits - exponent) - 1.0f, e = convert<V>(exponent);
  V mantissa = broadcast<V>(fit.coefficients[kFitTerms - 1]);
  for (int d = kFitTerms - 2; d >= 0; --d) mantissa = mantissa * t + fit.coefficients[d];
  const V power = scaled_exp2(e * (fit.exponent * 0x1p-23f), mantissa);
  return x == V{} ? V{} : power;
#endif
}

}  // namespace ckrm
