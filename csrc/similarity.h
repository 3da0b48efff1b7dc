// What kernels know of a similarity of slices.
//
// A similarity is a header of its own, in two parts. Its *scalars*, for a dtype T of the arithmetic, are what the host
// makes of an operator's parameters: see PsiScalars. Its *terms* hold them for a kernel, each for what is known when it
// is compiled, among it whether slices are single numbers (K = 1), which have no covariance. V is T or a vector of it:
//
//   T covariance_start                     what the sum that is a pair's covariance begins with
//   Parts<V> parts(a, b, covariance)       two slices, all but the slow last step, that a loop can so take for many
//   V value(parts)                         their similarity
//   Factors<V> factors(a, b, covariance)   what the gradient needs
//   TermGradient<V> gradient(g, a, b, factors)
//
// The similarity is the same with its slices in either order.
//
// A third similarity: its header, and its lines in similarities.h.
#pragma once

#include "lanes.h"

namespace ckrm {

// What a pair needs to know of a slice beside its coordinates: its mean, its standard deviation, and two numbers that
// the similarity makes of them (own_moments of its scalars). Of slices of one number a GPU has mu and first alone.
template <class V>
struct Moments {
  V mu, first, sigma, second;
};

template <class V>
struct OwnMoments {
  V first, second;
  V size;  // the arithmetic's range holds the slice if this is at most the scalars' largest_size
};

// What g times a term gives to each side's mean and standard deviation, and to the covariance: its gradient there, as
// if a slice's standard deviation and coordinates were independent.
template <class V>
struct TermGradient {
  V of_mu_a, of_mu_b, of_sigma_a, of_sigma_b, of_covariance;
};

}  // namespace ckrm
