// The kernels' bodies, compiled once for each instruction set: CKRM_ISA names its namespace, CKRM_VECTOR_BYTES its
// width. Included after the instruction set's #pragma, so nothing else may be included here.

namespace ckrm {


namespace CKRM_ISA {
typedef float FloatVector __attribute__((vector_size(CKRM_VECTOR_BYTES)));
typedef double DoubleVector __attribute__((vector_size(CKRM_VECTOR_BYTES)));
typedef int32_t Int32Vector __attribute__((vector_size(CKRM_VECTOR_BYTES)));
typedef int64_t Int64Vector __attribute__((vector_size(CKRM_VECTOR_BYTES)));
}  // namespace CKRM_ISA

template <>
struct Lanes<CKRM_ISA::FloatVector> {
  using Scalar = float;
  using Bits = CKRM_ISA::Int32Vector;
};
template <>
struct Lanes<CKRM_ISA::DoubleVector> {
  using Scalar = double;
  using Bits = CKRM_ISA::Int64Vector;
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
constexpr int64_t kSliceChunk = 8;  // slices of a tile that stay in the first-level cache

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

// Lanes [begin, end) of p, 0 elsewhere.
template <class T>
CKRM_INLINE Vector<T> load_some(const T* p, int64_t begin, int64_t end) {
  Vector<T> v{};
  for (int64_t lane = begin; lane < end; ++lane) v[lane] = p[lane];
  return v;
}

template <class T>
CKRM_INLINE T sum_of_lanes(Vector<T> v) {
  T sum = 0;
  for (int64_t lane = 0; lane < kLanes<T>; ++lane) sum += v[lane];
  return sum;
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

template <PsiCase kCase, bool kMeansOnly, class V>
CKRM_INLINE V term(const Moments<V>& a, const Moments<V>& b, V cov_plus_eps, const PsiParameters<Scalar<V>>& psi) {
  if constexpr (kMeansOnly) return psi_term_of_means<kCase>(a, b, psi);
  else return psi_term<kCase>(a, b, cov_plus_eps, psi);
}

template <PsiCase kCase, bool kMeansOnly, class V>
CKRM_INLINE PsiGradient<V> gradient(V g, const Moments<V>& a, const Moments<V>& b, V cov_plus_eps,
                                    const PsiParameters<Scalar<V>>& psi) {
  if constexpr (kMeansOnly) return psi_gradient_of_means<kCase>(g, a, b, psi);
  else return psi_gradient<kCase>(g, a, b, cov_plus_eps, psi);
}

// ---- pack ----------------------------------------------------------------------------------------------------------

CKRM_INLINE double half_to_double(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, magnitude = bits & 0x7fff;
  if (magnitude >= 0x7c00) return reinterpret<float>(sign | 0x7f800000u | (magnitude & 0x3ff) << 13);
  // shifted as if normal, the exponent is off by 112; the product is exact for subnormal numbers too
  const float scaled = reinterpret<float>(magnitude << 13) * 0x1p112f;
  return reinterpret<float>(sign | reinterpret<uint32_t>(scaled));
}

CKRM_INLINE double element_of(const WeightView& w, int64_t at) {
  switch (w.element) {
    case Element::kFloat32: return static_cast<const float*>(w.data)[at];
    case Element::kFloat64: return static_cast<const double*>(w.data)[at];
    case Element::kFloat16: return half_to_double(static_cast<const uint16_t*>(w.data)[at]);
    default: return reinterpret<float>(static_cast<uint32_t>(static_cast<const uint16_t*>(w.data)[at]) << 16);
  }
}

// x: K rows of `lanes` doubles, scaled -> one packed vector of slices. Means and coordinates are computed in float64
// from differences to the first position, so that they are accurate where they cancel and exact zeros where a slice is
// constant.
template <class T>
double pack_slices(double* x, double* scratch, int64_t positions, double eps, T* out) {
  constexpr int64_t L = kLanes<T>;
  double* first = scratch;
  double* sum = scratch + L;
  double* var = scratch + 2 * L;
  for (int64_t l = 0; l < L; ++l) first[l] = x[l], sum[l] = 0, var[l] = 0;
  for (int64_t r = 1; r < positions; ++r) {
    const double n = static_cast<double>(r);
    const double norm = 1.0 / __builtin_sqrt(n * (n + 1.0) * static_cast<double>(positions));
    for (int64_t l = 0; l < L; ++l) {
      const double shifted = x[r * L + l] - first[l];
      const double z = (sum[l] - n * shifted) * norm;
      sum[l] += shifted;
      var[l] += z * z;
      out[(r - 1) * L + l] = static_cast<T>(z);
    }
  }
  out += (positions - 1) * L;
  double largest = 0;
  for (int64_t l = 0; l < L; ++l) {
    const double mu = first[l] + sum[l] / static_cast<double>(positions);
    const double half_mu2 = 0.5 * mu * mu + 0.25 * eps, half_var = 0.5 * var[l] + 0.25 * eps;
    out[l] = static_cast<T>(mu);
    out[L + l] = static_cast<T>(half_mu2);
    out[2 * L + l] = static_cast<T>(__builtin_sqrt(var[l]));
    out[3 * L + l] = static_cast<T>(half_var);
    largest = maximum(largest, maximum(half_mu2, half_var));
  }
  return largest;
}

// One slice's K numbers into a lane, scaled; zeros and a poisoned filter if one is not finite.
template <class T>
CKRM_INLINE void gather_slice(const WeightView& w, int64_t filter, int64_t slice, double scale, double* x, T* poison) {
  constexpr int64_t L = kLanes<T>;
  const int64_t base = filter * w.filter_stride + slice * w.slice_stride;
  double sum = 0;
  for (int64_t q = 0; q < w.positions; ++q) {
    const double value = element_of(w, base + w.offsets[q]);
    x[q * L] = value * scale;
    sum += value - value;  // NaN as soon as one is not finite
  }
  if (sum != 0) {
    *poison = static_cast<T>(__builtin_nan(""));
    for (int64_t q = 0; q < w.positions; ++q) x[q * L] = 0;
  }
}

template <class T>
CKRM_INLINE void clear_lane(int64_t positions, double* x) {
  for (int64_t q = 0; q < positions; ++q) x[q * kLanes<T>] = 0;
}

template <class T>
double pack(const WeightView& w, double scale, double eps, const Bank<T>& bank, int64_t begin, int64_t end,
            double* scratch) {
  constexpr int64_t L = kLanes<T>;
  double* x = scratch + 3 * L;
  const int64_t vector_size = bank.rows() * L;
  double largest = 0;
  if (bank.layout == Layout::kFiltersInLanes) {
    for (int64_t block = begin; block < end; ++block) {
      for (int64_t l = 0; l < L; ++l) bank.poison[block * L + l] = 0;
      for (int64_t k = 0; k < w.slices; ++k) {
        for (int64_t l = 0; l < L; ++l) {
          const int64_t filter = block * L + l;
          if (filter < w.filters) gather_slice<T>(w, filter, k, scale, x + l, bank.poison + filter);
          else clear_lane<T>(w.positions, x + l);
        }
        T* out = bank.data + (block * w.slices + k) * vector_size;
        largest = maximum(largest, pack_slices<T>(x, scratch, w.positions, eps, out));
      }
    }
    return largest;
  }
  const int64_t blocks = (w.slices + L - 1) / L;
  for (int64_t filter = begin; filter < end; ++filter) {
    bank.poison[filter] = 0;
    for (int64_t block = 0; block < blocks; ++block) {
      for (int64_t l = 0; l < L; ++l) {
        const int64_t k = block * L + l;
        if (k < w.slices) gather_slice<T>(w, filter, k, scale, x + l, bank.poison + filter);
        else clear_lane<T>(w.positions, x + l);
      }
      T* out = bank.data + (filter * blocks + block) * vector_size;
      largest = maximum(largest, pack_slices<T>(x, scratch, w.positions, eps, out));
    }
  }
  return largest;
}

// ---- all pairs, a x b ----------------------------------------------------------------------------------------------

// Adds the psi of kRows filters against kColumns vectors of filters, over a few slices. x: each row's lane at the first
// slice; y: each vector of columns there.
template <PsiCase kCase, int64_t kCoordinates, int kRows, int kColumns, class T>
CKRM_INLINE void sum_of_terms(const T* const (&x)[kRows], const T* const (&y)[kColumns], int64_t coordinates,
                              int64_t slices, const PsiParameters<T>& psi, T* sums, int64_t ld) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  const int64_t n = kCoordinates == kAnyCoordinates ? coordinates : kCoordinates;
  const int64_t step = (n + kMomentRows) * L;
  V total[kRows][kColumns] = {};
  for (int64_t k = 0; k < slices; ++k) {
    V cov[kRows][kColumns];
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kColumns; ++c) cov[r][c] = broadcast<V>(psi.eps);
    for (int64_t q = 0; q < n; ++q) {
      V xq[kRows], yq[kColumns];
      for (int r = 0; r < kRows; ++r) xq[r] = broadcast<V>(x[r][k * step + q * L]);
      for (int c = 0; c < kColumns; ++c) yq[c] = load(y[c] + k * step + q * L);
      for (int r = 0; r < kRows; ++r)
        for (int c = 0; c < kColumns; ++c) cov[r][c] += xq[r] * yq[c];
    }
    for (int r = 0; r < kRows; ++r) {
      const Moments<V> a = broadcast_moments(x[r] + k * step + n * L);
      for (int c = 0; c < kColumns; ++c) {
        const Moments<V> b = load_moments(y[c] + k * step + n * L);
        total[r][c] += term<kCase, kCoordinates == 0>(a, b, cov[r][c], psi);
      }
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kColumns; ++c) store(sums + r * ld + c * L, load(sums + r * ld + c * L) + total[r][c]);
}

template <class T>
CKRM_INLINE const T* row_lane(const Bank<T>& bank, int64_t filter, int64_t k) {
  constexpr int64_t L = kLanes<T>;
  return bank.data + ((filter / L) * bank.slices + k) * bank.rows() * L + filter % L;
}

template <PsiCase kCase, int64_t kCoordinates, int kRows, class T>
CKRM_INLINE void rows_of_tile(const Bank<T>& a, const Bank<T>& b, const Tile& t, int64_t row, int64_t k, int64_t slices,
                              const PsiParameters<T>& psi, T* sums, int64_t ld) {
  constexpr int64_t L = kLanes<T>;
  const T* x[kRows];
  for (int r = 0; r < kRows; ++r) x[r] = row_lane(a, row + r, k);
  T* out = sums + (row - t.row_begin) * ld - t.column_begin;
  int64_t column = t.column_begin;
  if (t.triangular && row + 1 > column) column = (row + 1) / L * L;
  for (; column + L < t.column_end; column += 2 * L) {
    const T* y[2] = {row_lane(b, column, k), row_lane(b, column + L, k)};
    sum_of_terms<kCase, kCoordinates>(x, y, a.coordinates, slices, psi, out + column, ld);
  }
  if (column < t.column_end) {
    const T* y[1] = {row_lane(b, column, k)};
    sum_of_terms<kCase, kCoordinates>(x, y, a.coordinates, slices, psi, out + column, ld);
  }
}

template <PsiCase kCase, int64_t kCoordinates, class T>
void tile_of(const Bank<T>& a, const Bank<T>& b, const Tile& t, int64_t k_begin, int64_t k_end,
             const PsiParameters<T>& psi, T* sums, int64_t ld) {
  for (int64_t k = k_begin; k < k_end; k += kSliceChunk) {
    const int64_t slices = k_end - k < kSliceChunk ? k_end - k : kSliceChunk;
    int64_t row = t.row_begin;
    for (; row + 1 < t.row_end; row += 2) rows_of_tile<kCase, kCoordinates, 2>(a, b, t, row, k, slices, psi, sums, ld);
    if (row < t.row_end) rows_of_tile<kCase, kCoordinates, 1>(a, b, t, row, k, slices, psi, sums, ld);
  }
}

// ---- a list of pairs -----------------------------------------------------------------------------------------------

template <PsiCase kCase, int64_t kCoordinates, class T>
void pairs_of(const Bank<T>& bank, const int64_t* pairs, int64_t count, const PsiParameters<T>& psi, T* out) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  const int64_t step = bank.rows() * L, blocks = (bank.slices + L - 1) / L, last = bank.slices - (blocks - 1) * L;
  for (int64_t p = 0; p < count; ++p) {
    const int64_t i = pairs[2 * p], j = pairs[2 * p + 1];
    const T *x = bank.data + i * blocks * step, *y = bank.data + j * blocks * step;
    V sum{}, psi_k{};
    for (int64_t block = 0; block < blocks; ++block, x += step, y += step) {
      V cov = broadcast<V>(psi.eps);
      for (int64_t q = 0; q < bank.coordinates; ++q) cov += load(x + q * L) * load(y + q * L);
      const int64_t n = bank.coordinates * L;
      psi_k = term<kCase, kCoordinates == 0>(load_moments(x + n), load_moments(y + n), cov, psi);
      if (block + 1 < blocks) sum += psi_k;
    }
    for (int64_t lane = 0; lane < last; ++lane) sum[lane] += psi_k[lane];
    out[p] = sum_of_lanes<T>(sum) / static_cast<T>(bank.slices) + bank.poison[i] + bank.poison[j];
  }
}

// ---- gradients -----------------------------------------------------------------------------------------------------

// Adds a pair's gradient to one side's accumulators, given the other side's mu, sigma and coordinates.
template <class V, class T, class Side>
CKRM_INLINE void add_to_side(const PsiGradient<V>& d, V mu, V sigma, int64_t n, T* of, const Side& coordinate) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t q = 0; q < n; ++q) store(of + q * L, load(of + q * L) + d.c * coordinate(q));
  of += n * L;
  store(of, load(of) + d.u * mu);
  store(of + L, load(of + L) + d.v);
  store(of + 2 * L, load(of + 2 * L) + d.w * sigma);
  store(of + 3 * L, load(of + 3 * L) + d.y);
}

template <class T>
CKRM_INLINE void copy_slice(const Bank<T>& bank, int64_t k, T* slice) {
  constexpr int64_t L = kLanes<T>;
  const int64_t size = bank.rows() * L, blocks = (bank.filters + L - 1) / L;
  for (int64_t block = 0; block < blocks; ++block)
    __builtin_memcpy(slice + block * size, bank.data + (block * bank.slices + k) * size, size * sizeof(T));
}

template <PsiCase kCase, int64_t kCoordinates, class T>
void slice_gradient_of(const Bank<T>& a, const Bank<T>& b, int64_t k, const PairGradient<T>& grad,
                       const PsiParameters<T>& psi, const SliceScratch<T>& scratch) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  const int64_t n = kCoordinates == kAnyCoordinates ? a.coordinates : kCoordinates, size = (n + kMomentRows) * L;
  copy_slice(a, k, scratch.slice_a);
  if (scratch.slice_b != scratch.slice_a) copy_slice(b, k, scratch.slice_b);
  T* row_sums = scratch.of_row;
  for (int64_t i = 0; i < a.filters; ++i) {
    const T* g_row = grad.packed ? grad.grad + pair_index(i, i + 1, b.filters) - (i + 1) : grad.grad + i * b.filters;
    const T* x = scratch.slice_a + (i / L) * size + i % L;
    const Moments<V> moments_a = broadcast_moments(x + n * L);
    const V poison = broadcast<V>(a.poison[i]);
    for (int64_t q = 0; q < n + kMomentRows; ++q) store(row_sums + q * L, V{});
    const int64_t first = grad.packed ? i + 1 : 0;
    for (int64_t column = first / L * L; column < b.filters; column += L) {
      const bool whole = column >= first && column + L <= b.filters;
      const V g_ij = whole ? load_unaligned(g_row + column)
                           : load_some(g_row + column, first > column ? first - column : 0,
                                       b.filters - column < L ? b.filters - column : L);
      const V g = g_ij + (poison + load(b.poison + column));
      const T* y = scratch.slice_b + (column / L) * size;
      V cov = broadcast<V>(psi.eps);
      for (int64_t q = 0; q < n; ++q) cov += broadcast<V>(x[q * L]) * load(y + q * L);
      const Moments<V> moments_b = load_moments(y + n * L);
      const PsiGradient<V> d = gradient<kCase, kCoordinates == 0>(g, moments_a, moments_b, cov, psi);
      add_to_side(d, moments_b.mu, moments_b.sigma, n, row_sums, [&](int64_t q) { return load(y + q * L); });
      add_to_side(d, moments_a.mu, moments_a.sigma, n, scratch.of_b + (column / L) * size,
                  [&](int64_t q) { return broadcast<V>(x[q * L]); });
    }
    T* of_i = scratch.of_a + (i / L) * size + i % L;
    for (int64_t q = 0; q < n + kMomentRows; ++q) of_i[q * L] += sum_of_lanes<T>(load(row_sums + q * L));
  }
}

template <PsiCase kCase, int64_t kCoordinates, class T>
void pairs_gradient_of(const Bank<T>& bank, int64_t k_block, const int64_t* pairs, int64_t count, const T* grad,
                       const PsiParameters<T>& psi, T* of_bank) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  const int64_t n = bank.coordinates, step = bank.rows() * L, blocks = (bank.slices + L - 1) / L;
  const int64_t left = bank.slices - k_block * L;
  V inside{};
  for (int64_t lane = 0; lane < L && lane < left; ++lane) inside[lane] = 1;
  for (int64_t p = 0; p < count; ++p) {
    const int64_t i = pairs[2 * p], j = pairs[2 * p + 1];
    const T *x = bank.data + (i * blocks + k_block) * step, *y = bank.data + (j * blocks + k_block) * step;
    V cov = broadcast<V>(psi.eps);
    for (int64_t q = 0; q < n; ++q) cov += load(x + q * L) * load(y + q * L);
    const Moments<V> a = load_moments(x + n * L), b = load_moments(y + n * L);
    const T g = grad[p] + bank.poison[i] + bank.poison[j];
    const PsiGradient<V> d = gradient<kCase, kCoordinates == 0>(inside * g, a, b, cov, psi);
    add_to_side(d, b.mu, b.sigma, n, of_bank + i * step, [&](int64_t q) { return load(y + q * L); });
    add_to_side(d, a.mu, a.sigma, n, of_bank + j * step, [&](int64_t q) { return load(x + q * L); });
  }
}

// From coordinates back to positions: dx = H^T dz + dmu / K, with dz += dsigma z / sigma (0 where sigma is 0).
template <class T>
void finish_gradient(const T* slice, const T* of, int64_t coordinates, double scale, T* positions) {
  constexpr int64_t L = kLanes<T>;
  const int64_t count = coordinates + 1;
  const double k = static_cast<double>(count);
  for (int64_t l = 0; l < L; ++l) {
    const T *s = slice + coordinates * L + l, *g = of + coordinates * L + l;
    const double mu = s[0], sigma = s[2 * L];
    const double of_mu = g[0] - mu * g[L], of_sigma = g[2 * L] - sigma * g[3 * L];
    const double along = sigma > 0 ? of_sigma / sigma : 0;
    double suffix = of_mu / k;
    T* out = positions + l * count;
    for (int64_t r = coordinates; r >= 1; --r) {
      const double norm = 1.0 / __builtin_sqrt(static_cast<double>(r) * static_cast<double>(r + 1) * k);
      const double of_z = (of[(r - 1) * L + l] + along * slice[(r - 1) * L + l]) * norm;
      out[r] = static_cast<T>((suffix - static_cast<double>(r) * of_z) * scale);
      suffix += of_z;
    }
    out[0] = static_cast<T>(suffix * scale);
  }
}

// ---- choosing the compile-time case --------------------------------------------------------------------------------

template <class T>
CKRM_INLINE PsiCase case_of(const PsiParameters<T>& psi) {
  if (psi.beta != 1 || psi.gamma != 1) return PsiCase::kGeneral;
  return psi.alpha == 0 ? PsiCase::kNoLuminance : psi.alpha == 1 ? PsiCase::kLinear : PsiCase::kPower;
}

// float64 takes its powers one lane at a time anyway: one case serves it.
#define CKRM_BY_CASE(KERNEL, COORDINATES, ...)                                                          \
  if constexpr (sizeof(T) == sizeof(double)) return KERNEL<PsiCase::kGeneral, COORDINATES>(__VA_ARGS__); \
  else switch (case_of(psi)) {                                                                          \
      case PsiCase::kNoLuminance: return KERNEL<PsiCase::kNoLuminance, COORDINATES>(__VA_ARGS__);       \
      case PsiCase::kLinear: return KERNEL<PsiCase::kLinear, COORDINATES>(__VA_ARGS__);                 \
      case PsiCase::kPower: return KERNEL<PsiCase::kPower, COORDINATES>(__VA_ARGS__);                   \
      default: return KERNEL<PsiCase::kGeneral, COORDINATES>(__VA_ARGS__);                              \
    }

template <class T>
void tile(const Bank<T>& a, const Bank<T>& b, const Tile& t, int64_t k_begin, int64_t k_end,
          const PsiParameters<T>& psi, T* sums, int64_t ld) {
  if (a.coordinates == 0) { CKRM_BY_CASE(tile_of, 0, a, b, t, k_begin, k_end, psi, sums, ld) }
  if (a.coordinates == 8) { CKRM_BY_CASE(tile_of, 8, a, b, t, k_begin, k_end, psi, sums, ld) }
  CKRM_BY_CASE(tile_of, kAnyCoordinates, a, b, t, k_begin, k_end, psi, sums, ld)
}

template <class T>
void slice_gradient(const Bank<T>& a, const Bank<T>& b, int64_t k, const PairGradient<T>& grad,
                    const PsiParameters<T>& psi, const SliceScratch<T>& scratch) {
  if (a.coordinates == 0) { CKRM_BY_CASE(slice_gradient_of, 0, a, b, k, grad, psi, scratch) }
  if (a.coordinates == 8) { CKRM_BY_CASE(slice_gradient_of, 8, a, b, k, grad, psi, scratch) }
  CKRM_BY_CASE(slice_gradient_of, kAnyCoordinates, a, b, k, grad, psi, scratch)
}

template <class T>
void pairs(const Bank<T>& bank, const int64_t* list, int64_t count, const PsiParameters<T>& psi, T* out) {
  if (bank.coordinates == 0) { CKRM_BY_CASE(pairs_of, 0, bank, list, count, psi, out) }
  CKRM_BY_CASE(pairs_of, kAnyCoordinates, bank, list, count, psi, out)
}

template <class T>
void pairs_gradient(const Bank<T>& bank, int64_t k_block, const int64_t* list, int64_t count, const T* grad,
                    const PsiParameters<T>& psi, T* of_bank) {
  if (bank.coordinates == 0) { CKRM_BY_CASE(pairs_gradient_of, 0, bank, k_block, list, count, grad, psi, of_bank) }
  CKRM_BY_CASE(pairs_gradient_of, kAnyCoordinates, bank, k_block, list, count, grad, psi, of_bank)
}

#undef CKRM_BY_CASE

extern const Kernels<float> kFloat32 = {CKRM_ISA_NAME, kLanes<float>, pack, tile, slice_gradient, pairs, pairs_gradient, finish_gradient};
extern const Kernels<double> kFloat64 = {CKRM_ISA_NAME, kLanes<double>, pack, tile, slice_gradient, pairs, pairs_gradient, finish_gradient};

}  // namespace CKRM_ISA
}  // namespace ckrm
