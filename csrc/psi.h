// psi of two slices, |L|^alpha C^beta |S|^gamma, or with the sign of S, and its gradient.
#pragma once

#include <type_traits>

#include "power.h"
#include "similarity.h"

namespace ckrm {

// Which factors need a power: known at compile time, so that the default pays for one logarithm and no branch.
enum class PsiCase {
  kNoLuminance,  // alpha = 0, beta = gamma = 1
  kLinear,       // alpha = beta = gamma = 1
  kPower,        // any other alpha (on a CPU in float32: below kLargestFitted), beta = gamma = 1
  kGeneral,      // anything else, float64 numbers out of the shared reciprocal's range (psi_factors), float64 on a GPU
};

// The three factors share one reciprocal, but in float64's general case. It needs the product of the denominators to be
// a normal number, as it is while eps >= kSmallestEps and half_mu2, half_var <= kLargestSquare.
template <class T>
constexpr double kSmallestEps = sizeof(T) == sizeof(float) ? 0x1p-40 : 0x1p-338;
template <class T>
constexpr double kLargestSquare = sizeof(T) == sizeof(float) ? 0x1p40 : 0x1p338;

// A power of two c: psi(c x, c y; c^2 eps) = psi(x, y; eps). With eps c^2 / 2 in [2^-40, 2^-38) the product of the
// three denominators stays a normal float; float64 only needs that the inverse of eps is finite.
template <class T>
double scale_for(double eps) {
  if (sizeof(T) == sizeof(double)) return eps > 0 && eps < 0x1p-900 ? 0x1p150 : 1;
  return std::ldexp(1.0, static_cast<int>(std::ceil((-39 - std::log2(eps)) / 2)));
}

// What kernels take: the exponents, and eps for weights multiplied by `scale`.
template <class T>
struct PsiScalars {
  T alpha, beta, gamma, eps;
  bool is_signed;
  double scale;
  PowerFit fit;  // of alpha, or of alpha - 1 for the gradient; float32's kPower alone reads it
  bool wide;     // in float64: out of the shared reciprocal's range

  static constexpr int kParameters = 4;
  static constexpr double largest_size = kLargestSquare<T>;

  // parameters: alpha, beta, gamma, eps
  static PsiScalars of(const double* parameters, bool is_signed, bool for_gradient) {
    const double alpha = parameters[0], eps = parameters[3], scale = scale_for<T>(eps), scaled = eps * scale * scale;
    const bool fitted = sizeof(T) == sizeof(float);
    return {static_cast<T>(alpha),
            static_cast<T>(parameters[1]),
            static_cast<T>(parameters[2]),
            static_cast<T>(scaled),
            is_signed,
            scale,
            fitted ? fit_power(alpha - (for_gradient ? 1 : 0)) : PowerFit{},
            scaled < kSmallestEps<T>};
  }

  // For numbers out of range, in float64.
  void widen() { wide = true; }

  // Whether float32 is worth a try: below, only weights smaller than any network's would be in range. On a GPU, which
  // has no second try, weights of any network must be.
  static bool fits_float32(const double* parameters) { return parameters[3] >= (kForGpu ? 0x1p-64 : 0x1p-100); }

  // (mu^2 + eps / 2) / 2: two of them make half the denominator of L; and likewise for C. The halves drop factors of 2,
  // exactly.
  template <class V>
  CKRM_MEMBER OwnMoments<V> own_moments(V mu, V variance) const {
    const Scalar<V> half(0.5), quarter_eps = Scalar<V>(0.25) * static_cast<Scalar<V>>(eps);
    const V half_mu2 = half * mu * mu + quarter_eps, half_var = half * variance + quarter_eps;
    return {half_mu2, half_var, half_mu2 + half_var};
  }

  CKRM_MEMBER PsiCase psi_case() const {
    if (wide || beta != 1 || gamma != 1) return PsiCase::kGeneral;
    if (alpha == 0) return PsiCase::kNoLuminance;
    if (alpha == 1) return PsiCase::kLinear;
    return kForGpu || sizeof(T) == sizeof(double) || alpha < kLargestFitted ? PsiCase::kPower : PsiCase::kGeneral;
  }
};

// L, C, S (magnitudes) and what the gradient needs of them.
template <class V>
struct PsiFactors {
  V numerator_l, numerator_s;         // signed: mu mu + eps / 2, cov + eps
  V inverse_l, inverse_c, inverse_s;  // of half the denominators of L and C and of the denominator of S
  V luminance, contrast, structure;
};

// What the gradient needs for beta = gamma = 1, where it is |L|^(alpha - 1) times products: L with its sign, and the
// factors of those products that both sides have.
template <class V>
struct PsiProducts {
  V luminance;
  V of_luminance;       // alpha C |S| over half the denominator of L
  V of_deviations;      // |L| |S| over the denominators of C and S
  V of_other, of_own;   // of that, what the other side's sigma and a side's own are multiplied by
  V of_covariance;
};

template <PsiCase kCase, class V>
constexpr bool kSharesReciprocal = sizeof(Scalar<V>) == sizeof(float) || kCase != PsiCase::kGeneral;

// a.first, a.second: half_mu2 and half_var of own_moments
template <PsiCase kCase, class V>
CKRM_INLINE PsiFactors<V> psi_factors(const Moments<V>& a, const Moments<V>& b, V cov_plus_eps, Scalar<V> eps) {
  PsiFactors<V> f;
  const Scalar<V> half_eps = eps * Scalar<V>(0.5);
  f.numerator_l = a.mu * b.mu + half_eps;
  f.numerator_s = cov_plus_eps;
  const V denominator_l = a.first + b.first;
  const V denominator_c = a.second + b.second;
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

// |L|^(alpha - 1), the slow part of the gradient; 0 where |L| is.
template <PsiCase kCase, class V>
CKRM_INLINE V slope_of_luminance(V luminance, const PsiScalars<Scalar<V>>& psi) {
  if constexpr (kCase == PsiCase::kNoLuminance || kCase == PsiCase::kLinear) return broadcast<V>(1);
  if constexpr (kCase == PsiCase::kPower) {
    const V slope = fixed_power(luminance, psi.alpha - 1, psi.fit);
#if defined(CKRM_ON_GPU)
    if constexpr (sizeof(Scalar<V>) == sizeof(float)) return luminance <= kSmallestBase ? 0 : slope;  // not infinite
#endif
    return slope;
  }
  return power_minus_one(luminance, psi.alpha);
}

// Of slices of more than one number.
template <PsiCase kCase, class T>
struct PsiTerm {
  PsiScalars<T> psi;
  Sign<T> sign;
  T covariance_start;  // the eps of S's numerator

  explicit PsiTerm(const PsiScalars<T>& scalars)
      : psi(scalars), sign(scalars.is_signed), covariance_start(scalars.eps) {}

  template <class V>
  using Factors = std::conditional_t<kCase == PsiCase::kGeneral, PsiFactors<V>, PsiProducts<V>>;

  // psi = |luminance|^alpha rest
  template <class V>
  struct Parts {
    V luminance, rest;
  };

  template <class V>
  CKRM_MEMBER Parts<V> parts(const Moments<V>& a, const Moments<V>& b, V covariance) const {
    if constexpr (kCase == PsiCase::kGeneral) {
      const PsiFactors<V> f = psi_factors<kCase>(a, b, covariance, psi.eps);
      return {f.luminance, power(f.contrast, psi.beta) * sign.carry(power(f.structure, psi.gamma), covariance)};
    } else {
      const V denominator_c = a.second + b.second;
      const V denominator_s = a.sigma * b.sigma + psi.eps;
      const V denominator_cs = denominator_c * denominator_s;
      const V numerator_cs = (denominator_s - psi.eps * T(0.5)) * sign.of(covariance);
      if constexpr (kCase == PsiCase::kNoLuminance) return {V{}, divide(numerator_cs, denominator_cs)};
      const V numerator_l = absolute(a.mu * b.mu + psi.eps * T(0.5));
      const V denominator_l = a.first + b.first;
      const V r = Lanes<V>::reciprocal(denominator_l * denominator_cs);
      return {numerator_l * (denominator_cs * r), numerator_cs * (denominator_l * r)};
    }
  }

  template <class V>
  CKRM_MEMBER V value(const Parts<V>& parts) const {
    return power_of_luminance<kCase>(parts.luminance, psi) * parts.rest;
  }

  template <class V>
  CKRM_MEMBER Factors<V> factors(const Moments<V>& a, const Moments<V>& b, V covariance) const {
    if constexpr (kCase == PsiCase::kGeneral) {
      return psi_factors<kCase>(a, b, covariance, psi.eps);
    } else {
      const T half_eps = psi.eps * T(0.5);
      const V denominator_c = a.second + b.second;
      const V denominator_s = a.sigma * b.sigma + psi.eps;
      const V denominator_cs = denominator_c * denominator_s;
      const V numerator_c = denominator_s - half_eps, numerator_s = sign.of(covariance);
      PsiProducts<V> f;
      V inverse_cs, size = broadcast<V>(1);
      if constexpr (kCase == PsiCase::kNoLuminance) {
        inverse_cs = Lanes<V>::reciprocal(denominator_cs);
        f.luminance = f.of_luminance = V{};
      } else {
        const V denominator_l = a.first + b.first;
        const V r = Lanes<V>::reciprocal(denominator_l * denominator_cs);
        const V inverse_l = denominator_cs * r;
        inverse_cs = denominator_l * r;
        f.luminance = (a.mu * b.mu + half_eps) * inverse_l;
        size = absolute(f.luminance);
        f.of_luminance = apply_sign(psi.alpha * inverse_l * (numerator_c * (numerator_s * inverse_cs)), f.luminance);
      }
      f.of_deviations = size * (numerator_s * inverse_cs) * inverse_cs;
      // the other's is the difference of two products: what is left of it, without the cancellation
      f.of_other = half_eps * denominator_c;
      f.of_own = numerator_c * denominator_s;
      f.of_covariance = sign.drop(size * (numerator_c * inverse_cs), covariance);
      return f;
    }
  }

  template <class V>
  CKRM_MEMBER TermGradient<V> gradient(V g, const Moments<V>& a, const Moments<V>& b, const Factors<V>& f) const {
    const V slope = slope_of_luminance<kCase>(absolute(f.luminance), psi);
    if constexpr (kCase == PsiCase::kGeneral) {
      g = sign.carry(g, f.numerator_s);
      const V l_power = power(f.luminance, psi.alpha), c_power = power(f.contrast, psi.beta),
              s_power = power(f.structure, psi.gamma);
      // g dpsi / d|L|, dC, d|S|, over their denominators
      const V l = g * psi.alpha * slope * (c_power * s_power) * f.inverse_l;
      const V c = g * psi.beta * power_minus_one(f.contrast, psi.beta) * (l_power * s_power) * f.inverse_c;
      const V s = g * psi.gamma * power_minus_one(f.structure, psi.gamma) * (l_power * c_power) * f.inverse_s;
      const V u = apply_sign(l, f.numerator_l), v = l * f.luminance, w = c - s * f.structure, y = c * f.contrast;
      return {u * b.mu - v * a.mu, u * a.mu - v * b.mu, w * b.sigma - y * a.sigma, w * a.sigma - y * b.sigma,
              apply_sign(s, f.numerator_s)};
    } else {
      const V g_slope = g * slope, u = g_slope * f.of_luminance, w = g_slope * f.of_deviations;
      return {u * (b.mu - f.luminance * a.mu), u * (a.mu - f.luminance * b.mu),
              w * (f.of_other * b.sigma - f.of_own * a.sigma), w * (f.of_other * a.sigma - f.of_own * b.sigma),
              g_slope * f.of_covariance};
    }
  }
};

// Of slices of one number, where C = S = 1.
template <PsiCase kCase, class T>
struct PsiTermOfNumbers {
  PsiScalars<T> psi;
  T covariance_start = 0;

  explicit PsiTermOfNumbers(const PsiScalars<T>& scalars) : psi(scalars) {}

  template <class V>
  using Parts = V;  // |L|

  template <class V>
  struct Factors {
    V numerator, inverse, luminance;  // |L|, its numerator with its sign, and the inverse of half its denominator
  };

  template <class V>
  CKRM_MEMBER V parts(const Moments<V>& a, const Moments<V>& b, V) const {
    const V numerator = absolute(a.mu * b.mu + psi.eps * T(0.5)), denominator = a.first + b.first;
    if constexpr (sizeof(T) == sizeof(float)) return divide(numerator, denominator);  // eps is not 0
    return ratio_or_one(numerator, denominator);
  }

  template <class V>
  CKRM_MEMBER V value(V luminance) const {
    return power_of_luminance<kCase>(luminance, psi);
  }

  template <class V>
  CKRM_MEMBER Factors<V> factors(const Moments<V>& a, const Moments<V>& b, V covariance) const {
    const V denominator = a.first + b.first, one = broadcast<V>(1);
    const V inverse = sizeof(T) == sizeof(float) ? divide(one, denominator) : inverse_or_zero(denominator);
    return {a.mu * b.mu + psi.eps * T(0.5), inverse, parts(a, b, covariance)};
  }

  template <class V>
  CKRM_MEMBER TermGradient<V> gradient(V g, const Moments<V>& a, const Moments<V>& b, const Factors<V>& f) const {
    if constexpr (kCase == PsiCase::kNoLuminance) return TermGradient<V>{};
    const V l = g * psi.alpha * slope_of_luminance<kCase>(f.luminance, psi) * f.inverse;
    const V u = apply_sign(l, f.numerator), v = l * f.luminance;
    return {u * b.mu - v * a.mu, u * a.mu - v * b.mu, V{}, V{}, V{}};
  }
};

// Calls compute(term) with the term for these scalars.
template <template <PsiCase, class> class Term, class T, class Compute>
CKRM_HOST_INLINE void with_psi_term(const PsiScalars<T>& psi, const Compute& compute) {
  if constexpr (kForGpu && sizeof(T) == sizeof(double)) {
    return compute(Term<PsiCase::kGeneral, T>(psi));
  } else {
    switch (psi.psi_case()) {
      case PsiCase::kNoLuminance:
        return compute(Term<PsiCase::kNoLuminance, T>(psi));
      case PsiCase::kLinear:
        return compute(Term<PsiCase::kLinear, T>(psi));
      case PsiCase::kPower:
        return compute(Term<PsiCase::kPower, T>(psi));
      default:
        return compute(Term<PsiCase::kGeneral, T>(psi));
    }
  }
}

}  // namespace ckrm
