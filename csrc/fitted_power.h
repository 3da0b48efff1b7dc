// x^exponent in float32 for an exponent that is known before the loop. Tables or a polynomial, made for it once, take
// fewer operations than a logarithm and a power, and a shorter chain of dependent ones.
#pragma once

#include "power.h"

namespace ckrm {

constexpr double kLargestFitted = 2;  // exponents from -1 on

#if defined(__CUDACC__) || defined(CKRM_ON_GPU)  // kForGpu

// A GPU has the logarithm and the power as instructions.
struct PowerFit {
  float exponent;
};

inline PowerFit fit_power(double exponent) { return {static_cast<float>(exponent)}; }

template <class V>
CKRM_INLINE V fitted_power(V x, const PowerFit& fit) {
  return fast_exp2(fast_log2(x) * fit.exponent);
}

template <class V>
CKRM_INLINE V fitted_slope(V x, const PowerFit& fit) {
  return fitted_power(x, fit);
}

#else

constexpr int kMantissaBits = 23, kExponentBits = 8, kBias = 127;  // of a float
constexpr int32_t kMantissaMask = (1 << kMantissaBits) - 1, kOneBits = kBias << kMantissaBits;

// For processors that look numbers up in tables of 2^kBits by an instruction. With x = 2^e m, m in [1, 2): a polynomial
// for m^exponent whose coefficients go by the first bits of m, and 2^(exponent e) as a product by the digits of e.
template <int kBits>
struct PowerTables {
  static constexpr int kEntries = 1 << kBits, kDigits = (kExponentBits + kBits - 1) / kBits;
  // Where the last digit is 0 only of numbers too small to matter, its entry is that of 0, and no comparison is needed.
  static constexpr double kSmallest = kBits >= 4 ? 0x1p-111 : 0;
  // Of the polynomial in m - 1: as short as Psi's 1e-5 allows; the power is steeper for an exponent below 0.
  static constexpr int kDegree = kBits >= 4 ? 2 : 3, kSlopeDegree = 3;
  alignas(64) float coefficients[kSlopeDegree + 1][kEntries];
  alignas(64) float digits[kDigits][kEntries];
};

// For others: the mantissa's polynomial, and 2^(exponent e) by another.
constexpr int kFitTerms = 8;

struct PowerFit {
  float exponent;
  float at_zero;  // 1 for the exponent 0, else 0
  float polynomial[kFitTerms];
  PowerTables<3> eight;
  PowerTables<4> sixteen;
};

// Coefficients in t, m = 1 + t, for m^exponent where |m - middle| <= half: Taylor's series at the middle, of which the
// first term left out is replaced by the polynomial that it differs least from (Chebyshev).
inline void fit_interval(double exponent, double middle, double half, bool cubic, double (&c)[4]) {
  double next = c[0] = std::pow(middle, exponent);
  for (int d = 1; d <= 4; ++d) {
    next *= (exponent - (d - 1)) / (d * middle);
    if (d < 4) c[d] = next;
  }
  if (cubic) {
    c[0] -= next * half * half * half * half / 8;
    c[2] += next * half * half;
  } else {
    c[1] += c[3] * half * half * 3 / 4;
    c[3] = 0;
  }
  for (int first = 0; first < 3; ++first)
    for (int d = 2; d >= first; --d) c[d] -= (middle - 1) * c[d + 1];
}

inline float power_of_zero(double exponent) { return exponent == 0 ? 1.0f : 0.0f; }

template <int kBits>
inline void fill_tables(double exponent, PowerTables<kBits>& tables) {
  using Tables = PowerTables<kBits>;
  const bool cubic = exponent < 0 || Tables::kDegree == 3;
  const double half = 0.5 / Tables::kEntries;
  for (int i = 0; i < Tables::kEntries; ++i) {
    double c[4];
    fit_interval(exponent, 1 + half * (2 * i + 1), half, cubic, c);
    for (int d = 0; d < 4; ++d) tables.coefficients[d][i] = static_cast<float>(c[d]);
  }
  tables.coefficients[0][0] = 1;  // exact at 1, where alike slices are
  for (int digit = 0; digit < Tables::kDigits; ++digit) {
    // counted from the digit that 1 has, which therefore is exact, too
    const int shift = kBits * digit, of_one = (kBias >> shift) & (Tables::kEntries - 1);
    for (int i = 0; i < Tables::kEntries; ++i)
      tables.digits[digit][i] = static_cast<float>(std::exp2(exponent * ((i - of_one) * (1 << shift))));
  }
  if (Tables::kSmallest > 0) tables.digits[Tables::kDigits - 1][0] = power_of_zero(exponent);
}

// 1 + t P(t) for (1 + t)^exponent on [sqrt(1/2) - 1, sqrt(2) - 1], exact at t = 0: P interpolates at Chebyshev nodes,
// by Newton's divided differences.
inline void fit_polynomial(double exponent, float (&polynomial)[kFitTerms]) {
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
  polynomial[0] = 1;
  for (int d = 0; d < kTerms; ++d) polynomial[d + 1] = static_cast<float>(quotient[d]);
}

inline PowerFit fit_power(double exponent) {
  PowerFit fit;
  fit.exponent = static_cast<float>(exponent);
  fit.at_zero = power_of_zero(exponent);
  fit_polynomial(exponent, fit.polynomial);
  fill_tables(exponent, fit.eight);
  fill_tables(exponent, fit.sixteen);
  return fit;
}

// By tables, from a polynomial of kDegree; the relative errors are those of fitted_power and fitted_slope.
template <int kDegree, int kBits, class V>
CKRM_INLINE V table_power(V x, const PowerTables<kBits>& tables, float at_zero) {
  // A lookup takes the last kBits of an index.
  const Bits<V> bits = reinterpret<Bits<V> >(x), interval = bits >> (kMantissaBits - kBits);
  const V t = reinterpret<V>((bits & kMantissaMask) | kOneBits) - 1.0f;
  V power = Lanes<V>::lookup(tables.coefficients[kDegree], interval);
  for (int d = kDegree - 1; d >= 0; --d) power = power * t + Lanes<V>::lookup(tables.coefficients[d], interval);
  V scale = Lanes<V>::lookup(tables.digits[0], bits >> kMantissaBits);
  for (int digit = 1; digit < PowerTables<kBits>::kDigits; ++digit)
    scale *= Lanes<V>::lookup(tables.digits[digit], bits >> (kMantissaBits + kBits * digit));
  if constexpr (PowerTables<kBits>::kSmallest > 0) return power * scale;
  return x == V{} ? broadcast<V>(at_zero) : power * scale;
}

// Without tables.
template <class V>
CKRM_INLINE V polynomial_power(V x, const PowerFit& fit) {
  const Bits<V> bits = reinterpret<Bits<V> >(x);
  const Bits<V> exponent = (bits - 0x3f3504f3) & static_cast<int32_t>(0xff800000);
  const V t = reinterpret<V>(bits - exponent) - 1.0f;
  V mantissa = broadcast<V>(fit.polynomial[kFitTerms - 1]);
  for (int d = kFitTerms - 2; d >= 0; --d) mantissa = mantissa * t + fit.polynomial[d];
  const V y = maximum(convert<V>(exponent) * (fit.exponent * 0x1p-23f), broadcast<V>(-126.0f));
  return x == V{} ? broadcast<V>(fit.at_zero) : scaled_exp2(y, mantissa);
}

template <int kDegreeOf16, class V>
CKRM_INLINE V any_fitted_power(V x, const PowerFit& fit) {
  if constexpr (Lanes<V>::kTableBits == 4) return table_power<kDegreeOf16>(x, fit.sixteen, fit.at_zero);
  if constexpr (Lanes<V>::kTableBits == 3) return table_power<3>(x, fit.eight, fit.at_zero);
  return polynomial_power(x, fit);
}

// x^exponent of 0 (0, or 1 for the exponent 0) or a positive normal float, for a fit of an exponent in [0, 2]; relative
// error at most 1.5e-6, plus 1e-7 times the magnitude of the result's log2. Powers below 2^-126 may be 0; x below
// 2^-111 may count as 0: it is what cancellation leaves of larger numbers' rounding (psi_factors' ranges).
template <class V>
CKRM_INLINE V fitted_power(V x, const PowerFit& fit) {
  return any_fitted_power<PowerTables<4>::kDegree>(x, fit);
}

// The same for an exponent in [-1, 1]; relative error at most 6e-6.
template <class V>
CKRM_INLINE V fitted_slope(V x, const PowerFit& fit) {
  return any_fitted_power<PowerTables<4>::kSlopeDegree>(x, fit);
}

#endif

}  // namespace ckrm
