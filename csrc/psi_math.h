// The arithmetic of psi, written once for scalars, vectors of lanes and CUDA.
//
// V is float, double or a vector of them (GCC / Clang vector extension); Bits<V> is the integer type of the same shape.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define CKRM_MEMBER __host__ __device__ __forceinline__
#define CKRM_INLINE static CKRM_MEMBER
#else
// Always inlined: code compiled for one instruction set must never be merged with that of another by the linker.
#define CKRM_MEMBER inline __attribute__((always_inline))
#define CKRM_INLINE static CKRM_MEMBER
#endif

namespace ckrm {

// ---- instructions that a GPU has -----------------------------------------------------------------------------------

#if defined(__CUDA_ARCH__)
#define CKRM_ON_GPU
namespace gpu {

// Relative errors of at most 2^-23, 2^-22 and 2^-22 (of log2 between 1/2 and 2: absolute); numbers below 2^-126 are 0.
CKRM_INLINE float reciprocal(float x) {
  asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}
CKRM_INLINE float log2(float x) {
  asm("lg2.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}
CKRM_INLINE float exp2(float x) {
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}

}  // namespace gpu
#endif

// ---- lanes ---------------------------------------------------------------------------------------------------------

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

template <class V>
CKRM_INLINE V maximum(V x, V y) {
  return x > y ? x : y;
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

// ---- fast logarithm and power, float32 -----------------------------------------------------------------------------
// On a GPU the logarithm and the power of 2 are one instruction each.

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

// ---- one term ------------------------------------------------------------------------------------------------------

// Which factors need a power: known at compile time, so that the default pays for one logarithm and no branch.
enum class PsiCase {
  kNoLuminance,  // alpha = 0, beta = gamma = 1
  kLinear,       // alpha = beta = gamma = 1
  kPower,        // 0 < alpha < kLargestFitted (on a GPU any other alpha), beta = gamma = 1
  kGeneral,      // anything else
};

template <class T>
struct PsiParameters {
  T alpha, beta, gamma, eps;
  PowerFit fit;  // of alpha forward, of alpha - 1 backward; kPower alone reads it
};

template <class T>
CKRM_INLINE PsiCase case_of(const PsiParameters<T>& psi) {
  if (psi.beta != 1 || psi.gamma != 1) return PsiCase::kGeneral;
  if (psi.alpha == 0) return PsiCase::kNoLuminance;
  if (psi.alpha == 1) return PsiCase::kLinear;
  return psi.alpha < kLargestFitted ? PsiCase::kPower : PsiCase::kGeneral;
}

// What a pair needs to know of a slice beside its coordinates. The halves drop factors of 2, exactly.
template <class V>
struct Moments {
  V mu;
  V half_mu2;  // (mu^2 + eps / 2) / 2: two of them make half the denominator of L
  V sigma;
  V half_var;  // (sigma^2 + eps / 2) / 2: likewise for C
};

// L, C, S (magnitudes) and what the gradient needs of them.
template <class V>
struct Factors {
  V numerator_l, numerator_s;         // signed: mu mu + eps / 2, cov + eps
  V inverse_l, inverse_c, inverse_s;  // of half the denominators of L and C and of the denominator of S
  V luminance, contrast, structure;
};

// The float arithmetic shares one reciprocal between the three factors. It needs eps / 2 >= 2^-41 and half_mu2,
// half_var <= 2^40, so that the product of the denominators stays a normal number.
template <class V>
CKRM_INLINE Factors<V> psi_factors(const Moments<V>& a, const Moments<V>& b, V cov_plus_eps, Scalar<V> eps) {
  Factors<V> f;
  const Scalar<V> half_eps = eps * Scalar<V>(0.5);
  f.numerator_l = a.mu * b.mu + half_eps;
  f.numerator_s = cov_plus_eps;
  const V denominator_l = a.half_mu2 + b.half_mu2;
  const V denominator_c = a.half_var + b.half_var;
  const V denominator_s = a.sigma * b.sigma + eps;
  const V numerator_c = denominator_s - half_eps;
  if constexpr (sizeof(Scalar<V>) == sizeof(float)) {
    const V denominator_cs = denominator_c * denominator_s;
    const V r = Lanes<V>::reciprocal(denominator_l * denominator_cs);
    const V inverse_cs = denominator_l * r;
    f.inverse_l = denominator_cs * r;
    f.inverse_c = denominator_s * inverse_cs;
    f.inverse_s = denominator_c * inverse_cs;
    f.luminance = absolute(f.numerator_l) * f.inverse_l;
    f.contrast = numerator_c * f.inverse_c;
    f.structure = absolute(f.numerator_s) * f.inverse_s;
  } else {
    f.inverse_l = inverse_or_zero(denominator_l);
    f.inverse_c = inverse_or_zero(denominator_c);
    f.inverse_s = inverse_or_zero(denominator_s);
    f.luminance = ratio_or_one(absolute(f.numerator_l), denominator_l);
    f.contrast = ratio_or_one(numerator_c, denominator_c);
    f.structure = ratio_or_one(absolute(f.numerator_s), denominator_s);
  }
  return f;
}

// psi = power_of_luminance(luminance) * rest. Apart, so that a loop can take many logarithms at once.
template <class V>
struct PsiParts {
  V luminance, rest;
};

template <PsiCase kCase, class V>
CKRM_INLINE PsiParts<V> psi_parts(const Moments<V>& a, const Moments<V>& b, V cov_plus_eps,
                                  const PsiParameters<Scalar<V>>& psi) {
  if constexpr (kCase == PsiCase::kGeneral || sizeof(Scalar<V>) != sizeof(float)) {
    const Factors<V> f = psi_factors(a, b, cov_plus_eps, psi.eps);
    return {f.luminance, power(f.contrast, psi.beta) * power(f.structure, psi.gamma)};
  } else {
    const float half_eps = psi.eps * 0.5f;
    const V denominator_c = a.half_var + b.half_var;
    const V denominator_s = a.sigma * b.sigma + psi.eps;
    const V denominator_cs = denominator_c * denominator_s;
    const V numerator_cs = (denominator_s - half_eps) * absolute(cov_plus_eps);
    if constexpr (kCase == PsiCase::kNoLuminance) return {V{}, divide(numerator_cs, denominator_cs)};
    const V numerator_l = absolute(a.mu * b.mu + half_eps);
    const V denominator_l = a.half_mu2 + b.half_mu2;
    const V r = Lanes<V>::reciprocal(denominator_l * denominator_cs);
    return {numerator_l * (denominator_cs * r), numerator_cs * (denominator_l * r)};
  }
}

// |L|^alpha
template <PsiCase kCase, class V>
CKRM_INLINE V power_of_luminance(V luminance, const PsiParameters<Scalar<V>>& psi) {
  if constexpr (kCase == PsiCase::kNoLuminance) return broadcast<V>(1);
  if constexpr (kCase == PsiCase::kLinear) return luminance;
  if constexpr (kCase == PsiCase::kPower) return fitted_power(luminance, psi.fit);
  return power(luminance, psi.alpha);
}

// |L| of two slices of one number (K = 1), where C = S = 1.
template <class V>
CKRM_INLINE V luminance_of_means(const Moments<V>& a, const Moments<V>& b, Scalar<V> eps) {
  const V numerator = absolute(a.mu * b.mu + eps * Scalar<V>(0.5)), denominator = a.half_mu2 + b.half_mu2;
  if constexpr (sizeof(Scalar<V>) == sizeof(float)) return divide(numerator, denominator);  // eps is not 0
  return ratio_or_one(numerator, denominator);
}

// The derivative of g * psi: with a and b the two slices,
//   d / d mu_a = u mu_b - v mu_a,  d / d sigma_a = w sigma_b - y sigma_a,  d / d z_a = c z_b, and a <-> b.
template <class V>
struct PsiGradient {
  V u, v, w, y, c;
};

// Keeps a negative power finite in float32. |L| is this small only where its numerator cancels to the last bits.
constexpr float kSmallestBase = 0x1p-100f;

// |x|^(exponent - 1), and at x = 0 the limit from above if that is finite, else 0.
template <class V>
CKRM_INLINE V power_minus_one(V x, Scalar<V> exponent) {
  if (exponent == 1) return broadcast<V>(1);
  if (exponent == 0) return V{};
  const V clamped = sizeof(Scalar<V>) == sizeof(float) ? maximum(x, broadcast<V>(kSmallestBase)) : x;
  if (exponent > 1 && sizeof(Scalar<V>) != sizeof(float)) return positive_power(x, exponent - 1);
  const V result = positive_power(clamped, exponent - 1);
  return x == V{} ? V{} : result;
}

// |L|^(alpha - 1), the slow part of the gradient. Apart for the same reason as PsiParts.
template <PsiCase kCase, class V>
CKRM_INLINE V slope_of_luminance(V luminance, const PsiParameters<Scalar<V>>& psi) {
  if constexpr (kCase == PsiCase::kNoLuminance || kCase == PsiCase::kLinear) return broadcast<V>(1);
  if constexpr (kCase == PsiCase::kPower) {
    const V slope = fitted_power(maximum(luminance, broadcast<V>(kSmallestBase)), psi.fit);
    return luminance == V{} ? V{} : slope;
  }
  return power_minus_one(luminance, psi.alpha);
}

template <PsiCase kCase, class V>
CKRM_INLINE PsiGradient<V> psi_gradient(V g, const Factors<V>& f, V slope, const PsiParameters<Scalar<V>>& psi) {
  V of_luminance, of_contrast, of_structure;  // g dpsi / d|L|, dC, d|S|
  if constexpr (kCase == PsiCase::kGeneral) {
    const V l_power = power(f.luminance, psi.alpha), c_power = power(f.contrast, psi.beta),
            s_power = power(f.structure, psi.gamma);
    of_luminance = g * psi.alpha * slope * (c_power * s_power);
    of_contrast = g * psi.beta * power_minus_one(f.contrast, psi.beta) * (l_power * s_power);
    of_structure = g * psi.gamma * power_minus_one(f.structure, psi.gamma) * (l_power * c_power);
  } else {
    const V g_slope = g * slope;
    const V g_l = kCase == PsiCase::kNoLuminance ? g : g_slope * f.luminance;
    of_luminance = kCase == PsiCase::kNoLuminance ? V{} : psi.alpha * g_slope * (f.contrast * f.structure);
    of_contrast = g_l * f.structure;
    of_structure = g_l * f.contrast;
  }
  const V l = of_luminance * f.inverse_l, c = of_contrast * f.inverse_c, s = of_structure * f.inverse_s;
  return {apply_sign(l, f.numerator_l), l * f.luminance, c - s * f.structure, c * f.contrast,
          apply_sign(s, f.numerator_s)};
}

// The same for K = 1, where only the means matter.
template <PsiCase kCase, class V>
CKRM_INLINE PsiGradient<V> psi_gradient_of_means(V g, const Moments<V>& a, const Moments<V>& b, V luminance, V slope,
                                                 const PsiParameters<Scalar<V>>& psi) {
  PsiGradient<V> none{};
  if constexpr (kCase == PsiCase::kNoLuminance) return none;
  const V numerator = a.mu * b.mu + psi.eps * Scalar<V>(0.5);
  const V denominator = a.half_mu2 + b.half_mu2;
  const V inverse = sizeof(Scalar<V>) == sizeof(float) ? divide(broadcast<V>(1), denominator)  // eps is not 0
                                                       : inverse_or_zero(denominator);
  const V l = g * psi.alpha * slope * inverse;
  return {apply_sign(l, numerator), l * luminance, V{}, V{}, V{}};
}

// ---- index arithmetic ----------------------------------------------------------------------------------------------

struct Pair {
  int64_t i, j;
};

// Place of the pair i < j of n filters in packed order, the order of torch.pdist.
CKRM_INLINE int64_t pair_index(int64_t i, int64_t j, int64_t n) { return i * (2 * n - i - 1) / 2 + (j - i - 1); }

// The pair at a place in packed order. Exact: the square root only starts the search.
CKRM_INLINE Pair pair_of_index(int64_t index, int64_t n) {
  const double b = 2.0 * static_cast<double>(n) - 1.0;
  int64_t i = static_cast<int64_t>((b - sqrt(b * b - 8.0 * static_cast<double>(index))) * 0.5);
  i = i < 0 ? 0 : (i > n - 2 ? n - 2 : i);
  while (i > 0 && pair_index(i, i + 1, n) > index) --i;
  while (i < n - 2 && pair_index(i + 1, i + 2, n) <= index) ++i;
  return {i, i + 1 + (index - pair_index(i, i + 1, n))};
}

// The tiles that touch the upper triangle, in row order: row tile I meets column tiles J >= I.
CKRM_INLINE int64_t triangle_tiles(int64_t n) { return n * (n + 1) / 2; }

CKRM_INLINE Pair triangle_tile(int64_t index, int64_t n) {
  const Pair pair = pair_of_index(index, n + 1);
  return {pair.i, pair.j - 1};
}

// The same tiles in another order that needs no square root: the triangle folded to a rectangle of (n + 1) / 2 rows,
// whose row r holds the triangle's row r and what fits beside it from the other end.
CKRM_INLINE Pair folded_tile(int64_t index, int64_t n) {
  const int64_t width = n | 1, row = index / width, column = index % width;
  if (column < n - row) return {row, row + column};
  const int64_t other = ((n - 1) | 1) - row;
  return {other, other + column - (n - row)};
}

}  // namespace ckrm
