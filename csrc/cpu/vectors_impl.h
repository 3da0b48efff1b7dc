// Vectors of lanes, by the GCC / Clang vector extension.
// A part of kernels_impl.h, which says how it is compiled.

namespace ckrm {

namespace CKRM_ISA {
typedef float FloatVector __attribute__((vector_size(CKRM_VECTOR_BYTES)));
typedef double DoubleVector __attribute__((vector_size(CKRM_VECTOR_BYTES)));
typedef int32_t Int32Vector __attribute__((vector_size(CKRM_VECTOR_BYTES)));
typedef int64_t Int64Vector __attribute__((vector_size(CKRM_VECTOR_BYTES)));
}  // namespace CKRM_ISA

template <>
struct Lanes<CKRM_ISA::FloatVector> {
  using V = CKRM_ISA::FloatVector;
  using Scalar = float;
  using Bits = CKRM_ISA::Int32Vector;

  // An estimate has 12 bits (14 in AVX-512) and Newton's step doubles them: a division would hold up the multipliers
  // for longer. A lookup is a permutation of a vector.
#if defined(CKRM_AVX512)
  static constexpr bool kEstimates = true;
  static constexpr int kTableBits = 4;
  static constexpr __mmask16 kAll = 0xffff;  // of the lanes: GCC 12 warns of the forms without
  CKRM_INLINE V estimate(V x) { return reinterpret<V>(_mm512_maskz_rcp14_ps(kAll, reinterpret<__m512>(x))); }
  CKRM_INLINE V lookup(const float (&table)[16], Bits index) {
    return reinterpret<V>(_mm512_maskz_permutexvar_ps(kAll, reinterpret<__m512i>(index), _mm512_load_ps(table)));
  }
#elif defined(CKRM_AVX2)
  static constexpr bool kEstimates = true;
  static constexpr int kTableBits = 3;
  CKRM_INLINE V estimate(V x) { return reinterpret<V>(_mm256_rcp_ps(reinterpret<__m256>(x))); }
  CKRM_INLINE V lookup(const float (&table)[8], Bits index) {
    return reinterpret<V>(_mm256_permutevar8x32_ps(_mm256_load_ps(table), reinterpret<__m256i>(index)));
  }
#else
  static constexpr bool kEstimates = false;
  static constexpr int kTableBits = 0;
#endif

#if defined(CKRM_AVX512) || defined(CKRM_AVX2)
  CKRM_INLINE V reciprocal(V x) {
    const V inverse = estimate(x);
    return inverse * (2.0f - x * inverse);
  }
  CKRM_INLINE V divide(V numerator, V denominator) {
    const V inverse = estimate(denominator);
    return numerator * inverse * (2.0f - denominator * inverse);
  }
#else
  CKRM_INLINE V reciprocal(V x) { return 1.0f / x; }
#endif
};
template <>
struct Lanes<CKRM_ISA::DoubleVector> {
  using Scalar = double;
  using Bits = CKRM_ISA::Int64Vector;
  static constexpr bool kEstimates = false;
  CKRM_INLINE CKRM_ISA::DoubleVector reciprocal(CKRM_ISA::DoubleVector x) { return 1.0 / x; }
};

namespace CKRM_ISA {

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using Type = FloatVector;
};
template <>
struct VectorOf<double> {
  using Type = DoubleVector;
};
template <class T>
using Vector = typename VectorOf<T>::Type;
template <class T>
constexpr int64_t kLanes = CKRM_VECTOR_BYTES / sizeof(T);

constexpr int64_t kAnyCoordinates = -1;
// Filters that meet two vectors of filters at once: with 4, all that their terms need stays in registers. Of long
// slices most of the time goes into covariances, and 16 of them hide the multipliers' latency where there are 32
// registers.
constexpr int kTermRows = 4, kLongRows = CKRM_VECTOR_BYTES == 64 ? 8 : 4;
constexpr int64_t kSliceChunk = 32;  // slices that are summed before the tile's next rows
constexpr int64_t kColumnChunk = 4;  // vectors of filters, and
template <class T>
constexpr int kGradientRowsAtOnce = kLanes<T> < 8 ? kLanes<T> : 8;  // filters, of a tile of the gradient

template <class T>
CKRM_INLINE Vector<T> load(const T* p) {
  return *reinterpret_cast<const Vector<T>*>(p);
}

template <class T>
CKRM_INLINE Vector<T> load_unaligned(const T* p) {
  Vector<T> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <class T>
CKRM_INLINE void store(T* p, Vector<T> v) {
  *reinterpret_cast<Vector<T>*>(p) = v;
}

template <class T>
CKRM_INLINE T sum_of_lanes(Vector<T> v) {
  T sum = 0;
  for (int64_t lane = 0; lane < kLanes<T>; ++lane) sum += v[lane];
  return sum;
}

// Lane l: the sum of lanes l and l ^ kStep, of a where l has not the bit kStep, of b where it has.
template <int kStep, class V, int... l>
CKRM_INLINE V sums_of_pairs(V a, V b, std::integer_sequence<int, l...>) {
  constexpr int L = sizeof...(l);
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (l & kStep ? L : 0) + (l & ~kStep)...) +
         __builtin_shufflevector(a, b, (l & kStep ? L : 0) + (l | kStep)...);
#else
  return __builtin_shuffle(a, b, Bits<V>{(l & kStep ? L : 0) + (l & ~kStep)...}) +
         __builtin_shuffle(a, b, Bits<V>{(l & kStep ? L : 0) + (l | kStep)...});
#endif
}

// Lane l: the sum of the lanes of vector l of kVectors, step apart.
template <int kVectors, class T>
CKRM_INLINE Vector<T> sums_of_lanes(const T* vectors, int64_t step) {
  if constexpr (kVectors == 1) {
    return load(vectors);
  } else {
    constexpr int kHalf = kVectors / 2;
    return sums_of_pairs<kHalf>(sums_of_lanes<kHalf>(vectors, step), sums_of_lanes<kHalf>(vectors + kHalf * step, step),
                                std::make_integer_sequence<int, kLanes<T>>{});
  }
}

// The moments of a vector of lanes, and those of one lane for every lane.
template <class T>
CKRM_INLINE Moments<Vector<T>> load_moments(const T* p) {
  constexpr int64_t L = kLanes<T>;
  return {load(p), load(p + L), load(p + 2 * L), load(p + 3 * L)};
}

template <class T>
CKRM_INLINE Moments<Vector<T>> broadcast_moments(const T* p) {
  constexpr int64_t L = kLanes<T>;
  using V = Vector<T>;
  return {broadcast<V>(p[0]), broadcast<V>(p[L]), broadcast<V>(p[2 * L]), broadcast<V>(p[3 * L])};
}

}  // namespace CKRM_ISA
}  // namespace ckrm
