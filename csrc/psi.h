// One term: psi of two slices, and its gradient.
#pragma once

#include "lanes.h"
#include "power.h"

namespace ckrm {

// Which factors need a power: known at compile time, so that the default pays for one logarithm and no branch.
enum class PsiCase {
  kNoLuminance,  // alpha = 0, beta = gamma = 1
  kLinear,       // alpha = beta = gamma = 1
  kPower,        // any other alpha (on a CPU in float32: below kLargestFitted), beta = gamma = 1
  kGeneral,      // anything else, and float64 numbers out of the shared reciprocal's range (psi_factors)
};

template <class T>
struct PsiScalars {
  T alpha, beta, gamma, eps;
  PowerFit fit;       // of alpha forward, of alpha - 1 backward; float32's kPower alone reads it
  bool wide = false;  // in float64: out of the shared reciprocal's range
};

template <class T>
CKRM_INLINE PsiCase case_of(const PsiScalars<T>& psi) {
  if (psi.wide || psi.beta != 1 || psi.gamma != 1) return PsiCase::kGeneral;
  if (psi.alpha == 0) return PsiCase::kNoLuminance;
  if (psi.alpha == 1) return PsiCase::kLinear;
  return sizeof(T) == sizeof(double) || psi.alpha < kLargestFitted ? PsiCase::kPower : PsiCase::kGeneral;
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

// The three factors share one reciprocal, but in float64's general case. It needs the product of the denominators to be
// a normal number, as it is while eps >= kSmallestEps and half_mu2, half_var <= kLargestSquare.
template <class T>
constexpr double kSmallestEps = sizeof(T) == sizeof(float) ? 0x1p-40 : 0x1p-338;
template <class T>
constexpr double kLargestSquare = sizeof(T) == sizeof(float) ? 0x1p40 : 0x1p338;
template <PsiCase kCase, class V>
constexpr bool kSharesReciprocal = sizeof(Scalar<V>) == sizeof(float) || kCase != PsiCase::kGeneral;

template <PsiCase kCase, class V>
CKRM_INLINE Factors<V> psi_factors(const Moments<V>& a, const Moments<V>& b, V cov_plus_eps, Scalar<V> eps) {
  Factors<V> f;
  const Scalar<V> half_eps = eps * Scalar<V>(0.5);
  f.numerator_l = a.mu * b.mu + half_eps;
  f.numerator_s = cov_plus_eps;
  const V denominator_l = a.half_mu2 + b.half_mu2;
  const V denominator_c = a.half_var + b.half_var;
  const V denominator_s = a.sigma * b.sigma + eps;
  const V numerator_c = denominator_s - half_eps;
  if constexpr (kSharesReciprocal<kCase, V>) {
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
                                  const PsiScalars<Scalar<V>>& psi) {
  if constexpr (kCase == PsiCase::kGeneral) {
    const Factors<V> f = psi_factors<kCase>(a, b, cov_plus_eps, psi.eps);
    return {f.luminance, power(f.contrast, psi.beta) * power(f.structure, psi.gamma)};
  } else {
    const Scalar<V> half_eps = psi.eps * Scalar<V>(0.5);
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

// |L|^exponent in the case kPower; fit: of the exponent.
template <class V>
CKRM_INLINE V fixed_power(V luminance, Scalar<V> exponent, const PowerFit& fit) {
  if constexpr (sizeof(Scalar<V>) == sizeof(float)) {
    return fitted_power(luminance, fit);
  } else {
    // |L| is 0 or in [2^-800, 2]: in the shared reciprocal's range cancellation leaves no smaller number
    if (-1 <= exponent && exponent <= 1) return normal_power(luminance, exponent);
    return accurate_power(luminance, exponent);
  }
}

// |L|^alpha
template <PsiCase kCase, class V>
CKRM_INLINE V power_of_luminance(V luminance, const PsiScalars<Scalar<V>>& psi) {
  if constexpr (kCase == PsiCase::kNoLuminance) return broadcast<V>(1);
  if constexpr (kCase == PsiCase::kLinear) return luminance;
  if constexpr (kCase == PsiCase::kPower) return fixed_power(luminance, psi.alpha, psi.fit);
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
  if constexpr (sizeof(Scalar<V>) != sizeof(float)) return positive_power(x, exponent - 1);
  const V result = positive_power(maximum(x, broadcast<V>(kSmallestBase)), exponent - 1);
  return x == V{} ? V{} : result;
}

// |L|^(alpha - 1), the slow part of the gradient. Apart for the same reason as PsiParts.
template <PsiCase kCase, class V>
CKRM_INLINE V slope_of_luminance(V luminance, const PsiScalars<Scalar<V>>& psi) {
  if constexpr (kCase == PsiCase::kNoLuminance || kCase == PsiCase::kLinear) return broadcast<V>(1);
  if constexpr (kCase == PsiCase::kPower) {
    const V base = sizeof(Scalar<V>) == sizeof(float) ? maximum(luminance, broadcast<V>(kSmallestBase)) : luminance;
    const V slope = fixed_power(base, psi.alpha - 1, psi.fit);
    return luminance == V{} ? V{} : slope;
  }
  return power_minus_one(luminance, psi.alpha);
}

template <PsiCase kCase, class V>
CKRM_INLINE PsiGradient<V> psi_gradient(V g, const Factors<V>& f, V slope, const PsiScalars<Scalar<V>>& psi) {
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
                                                 const PsiScalars<Scalar<V>>& psi) {
  PsiGradient<V> none{};
  if constexpr (kCase == PsiCase::kNoLuminance) return none;
  const V numerator = a.mu * b.mu + psi.eps * Scalar<V>(0.5);
  const V denominator = a.half_mu2 + b.half_mu2;
  const V inverse = sizeof(Scalar<V>) == sizeof(float) ? divide(broadcast<V>(1), denominator)  // eps is not 0
                                                       : inverse_or_zero(denominator);
  const V l = g * psi.alpha * slope * inverse;
  return {apply_sign(l, numerator), l * luminance, V{}, V{}, V{}};
}

}  // namespace ckrm
