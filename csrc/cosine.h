// The cosine of two slices as they are, without their means taken out, or its absolute value, and its gradient.
#pragma once

#include "similarity.h"

namespace ckrm {

template <class T>
struct CosineScalars {
  bool is_signed;

  static constexpr int kParameters = 0;
  static constexpr double scale = 1;
  // Of |x|^2 / K and of its inverse, so that both, and products of two, are normal numbers. On a GPU, which has no
  // second try in float64, so that both are: the smallest slices lose digits.
  static constexpr double largest_size = sizeof(T) == sizeof(double) ? 0x1p500 : kForGpu ? 0x1p126 : 0x1p60;

  static CosineScalars of(const double*, bool is_signed, bool) { return {is_signed}; }
  static bool fits_float32(const double*) { return true; }
  void widen() {}

  // The inverse of |x| / sqrt(K), 0 of a slice of zeros, or of one whose square is no normal number.
  template <class V>
  CKRM_MEMBER OwnMoments<V> own_moments(V mu, V variance) const {
    constexpr Scalar<V> kSmallest = sizeof(Scalar<V>) == sizeof(float) ? 0x1p-126 : 0x1p-1022;
    const V sum = mu * mu + variance, square = sum < kSmallest ? V{} : sum, inverse = inverse_or_zero(square);
    return {square_root(inverse), V{}, maximum(square, inverse)};
  }
};

// a.first: own_moments' inverse. kNumbers: of slices of one number, whose cosine is a sign, or 0
template <bool kNumbers, class T>
struct CosineTerm {
  Sign<T> sign;
  T covariance_start = 0;

  explicit CosineTerm(const CosineScalars<T>& scalars) : sign(scalars.is_signed) {}

  template <class V>
  using Parts = V;
  template <class V>
  using Factors = V;  // the cosine with its sign

  template <class V>
  CKRM_MEMBER V parts(const Moments<V>& a, const Moments<V>& b, V covariance) const {
    return sign.of(factors(a, b, covariance));
  }
  template <class V>
  CKRM_MEMBER V value(V cosine) const {
    return cosine;
  }
  template <class V>
  CKRM_MEMBER V factors(const Moments<V>& a, const Moments<V>& b, V covariance) const {
    return (covariance + a.mu * b.mu) * (a.first * b.first);
  }
  template <class V>
  CKRM_MEMBER TermGradient<V> gradient(V g, const Moments<V>& a, const Moments<V>& b, V cosine) const {
    if constexpr (kNumbers) {
      const V none = g * V{};  // NaN where g is
      return {none, none, none, none, none};
    }
    const V of_cosine = sign.drop(g, cosine);
    const V of_covariance = of_cosine * (a.first * b.first), of_norms = of_cosine * cosine;
    const V of_a = of_norms * a.first, of_b = of_norms * b.first;  // times numbers of at most 1
    return {of_covariance * b.mu - of_a * (a.first * a.mu), of_covariance * a.mu - of_b * (b.first * b.mu),
            -of_a * (a.first * a.sigma), -of_b * (b.first * b.sigma), of_covariance};
  }
};

}  // namespace ckrm
