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
  CKRM_INLINE CKRM_ISA::FloatVector reciprocal(CKRM_ISA::FloatVector x) {
#if defined(__x86_64__) && CKRM_VECTOR_BYTES == 32
    // The estimate has 12 bits and Newton's step doubles them: a division would hold up the multipliers for longer.
    const CKRM_ISA::FloatVector estimate = __builtin_ia32_rcpps256(x);
    return estimate * (2.0f - x * estimate);
#else
    return 1.0f / x;
#endif
  }
};
template <>
struct Lanes<CKRM_ISA::DoubleVector> {
  using Scalar = double;
  using Bits = CKRM_ISA::Int64Vector;
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
constexpr int kTileRows = 4;         // filters and vectors of filters whose covariances stay in registers
constexpr int64_t kSliceChunk = 8;   // slices of a tile that stay in the first-level cache
constexpr int64_t kColumnChunk = 8;  // vectors of filters that a row's gradient visits at once

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

// cov + eps of two vectors of slices.
template <class T>
CKRM_INLINE Vector<T> covariance(const T* x, const T* y, int64_t coordinates, T eps) {
  constexpr int64_t L = kLanes<T>;
  Vector<T> cov = broadcast<Vector<T>>(eps);
  for (int64_t q = 0; q < coordinates; ++q) cov += load(x + q * L) * load(y + q * L);
  return cov;
}

// ---- pack ----------------------------------------------------------------------------------------------------------

CKRM_INLINE double half_to_double(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, magnitude = bits & 0x7fff;
  if (magnitude >= 0x7c00) return reinterpret<float>(sign | 0x7f800000u | (magnitude & 0x3ff) << 13);
  // shifted as if normal, the exponent is off by 112; the product is exact for subnormal numbers too
  const float scaled = reinterpret<float>(magnitude << 13) * 0x1p112f;
  return reinterpret<float>(sign | reinterpret<uint32_t>(scaled));
}

CKRM_INLINE double element_at(const float* data, int64_t at) { return data[at]; }
CKRM_INLINE double element_at(const double* data, int64_t at) { return data[at]; }
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};
CKRM_INLINE double element_at(const Float16* data, int64_t at) { return half_to_double(data[at].bits); }
CKRM_INLINE double element_at(const BFloat16* data, int64_t at) {
  return reinterpret<float>(static_cast<uint32_t>(data[at].bits) << 16);
}

// A vector of T as vectors of double, and the part of it that converts to one of them.
template <class T>
constexpr int64_t kDoubles = sizeof(double) / sizeof(T);
typedef float FloatPart __attribute__((vector_size(CKRM_VECTOR_BYTES / 2)));

CKRM_INLINE void store_converted(float* p, DoubleVector v) {
  const FloatPart part = __builtin_convertvector(v, FloatPart);
  __builtin_memcpy(p, &part, sizeof(part));
}
CKRM_INLINE void store_converted(double* p, DoubleVector v) { store(p, v); }

CKRM_INLINE DoubleVector square_root(DoubleVector v) {
  for (int64_t lane = 0; lane < kLanes<double>; ++lane) v[lane] = __builtin_sqrt(v[lane]);
  return v;
}

// K rows of lanes of doubles -> one packed vector of slices; returns half_mu2 + half_var by lane in `size`. Means and
// coordinates are computed in float64 from differences to the first position, so that they are accurate where they
// cancel and exact zeros where a slice is constant.
template <class T>
CKRM_INLINE void pack_slices(const double* x, const double* norms, int64_t positions, double eps, T* out,
                             double* size) {
  constexpr int64_t L = kLanes<T>, D = kLanes<double>;
  DoubleVector first[kDoubles<T>], sum[kDoubles<T>] = {}, var[kDoubles<T>] = {};
  for (int64_t part = 0; part < kDoubles<T>; ++part) first[part] = load(x + part * D);
  for (int64_t r = 1; r < positions; ++r) {
    const double n = static_cast<double>(r), norm = norms[r - 1];
    for (int64_t part = 0; part < kDoubles<T>; ++part) {
      const DoubleVector shifted = load(x + r * L + part * D) - first[part];
      const DoubleVector z = (sum[part] - n * shifted) * norm;
      sum[part] += shifted;
      var[part] += z * z;
      store_converted(out + (r - 1) * L + part * D, z);
    }
  }
  out += (positions - 1) * L;
  for (int64_t part = 0; part < kDoubles<T>; ++part) {
    const DoubleVector mu = first[part] + sum[part] / static_cast<double>(positions);
    const DoubleVector half_mu2 = 0.5 * mu * mu + 0.25 * eps, half_var = 0.5 * var[part] + 0.25 * eps;
    store_converted(out + part * D, mu);
    store_converted(out + L + part * D, half_mu2);
    store_converted(out + 2 * L + part * D, square_root(var[part]));
    store_converted(out + 3 * L + part * D, half_var);
    store(size + part * D, half_mu2 + half_var);
  }
}

// Slices [k, k + lanes) of one filter, or slice k of filters [filter, filter + lanes): where the next lane is.
struct LaneStep {
  int64_t filters, slices;
};

// One packed vector. Lanes outside the weight become zero slices; so does a slice that is not finite, and its filter
// is poisoned. Returns the largest half_mu2 + half_var.
template <class T, class From>
CKRM_INLINE double pack_vector(const WeightView& w, const double* norms, int64_t filter, int64_t k, LaneStep step,
                               double scale, double eps, T* out, T* poison, double* x) {
  constexpr int64_t L = kLanes<T>;
  const From* data = static_cast<const From*>(w.data);
  for (int64_t l = 0; l < L; ++l) {
    const int64_t f = filter + l * step.filters, s = k + l * step.slices;
    const bool inside = f < w.filters && s < w.slices;
    const int64_t base = inside ? f * w.filter_stride + s * w.slice_stride : 0;
    for (int64_t q = 0; q < w.positions; ++q)
      x[q * L + l] = inside ? element_at(data, base + w.offsets[q]) * scale : 0;
  }
  alignas(kAlignment) double size[L];
  pack_slices<T>(x, norms, w.positions, eps, out, size);
  double largest = 0, finite = 0;
  for (int64_t l = 0; l < L; ++l) finite += size[l] - size[l], largest = maximum(largest, size[l]);
  if (finite == 0) return largest;
  largest = 0;
  for (int64_t l = 0; l < L; ++l) {
    if (size[l] - size[l] == 0) continue;
    poison[l * step.filters] = static_cast<T>(__builtin_nan(""));
    for (int64_t q = 0; q < w.positions; ++q) x[q * L + l] = 0;
  }
  pack_slices<T>(x, norms, w.positions, eps, out, size);
  for (int64_t l = 0; l < L; ++l) largest = maximum(largest, size[l]);
  return largest;
}

template <class T, class From>
double pack_from(const WeightView& w, double scale, double eps, const Bank<T>& bank, int64_t begin, int64_t end,
                 double* x) {
  constexpr int64_t L = kLanes<T>;
  const int64_t vector_size = bank.rows() * L, blocks = (w.slices + L - 1) / L;
  double largest = 0;
  for (int64_t unit = begin; unit < end; ++unit) {
    if (bank.layout == Layout::kFiltersInLanes) {
      store(bank.poison + unit * L, Vector<T>{});
      for (int64_t k = 0; k < w.slices; ++k)
        largest = maximum(largest, pack_vector<T, From>(w, bank.norms, unit * L, k, {1, 0}, scale, eps,
                                                        bank.data + (unit * w.slices + k) * vector_size,
                                                        bank.poison + unit * L, x));
    } else {
      bank.poison[unit] = 0;
      for (int64_t block = 0; block < blocks; ++block)
        largest = maximum(largest, pack_vector<T, From>(w, bank.norms, unit, block * L, {0, 1}, scale, eps,
                                                        bank.data + (unit * blocks + block) * vector_size,
                                                        bank.poison + unit, x));
    }
  }
  return largest;
}

template <class T>
double pack(const WeightView& w, double scale, double eps, const Bank<T>& bank, int64_t begin, int64_t end,
            double* scratch) {
  switch (w.element) {
    case Element::kFloat32: return pack_from<T, float>(w, scale, eps, bank, begin, end, scratch);
    case Element::kFloat64: return pack_from<T, double>(w, scale, eps, bank, begin, end, scratch);
    case Element::kFloat16: return pack_from<T, Float16>(w, scale, eps, bank, begin, end, scratch);
    default: return pack_from<T, BFloat16>(w, scale, eps, bank, begin, end, scratch);
  }
}

// ---- all pairs, a x b ----------------------------------------------------------------------------------------------

// Adds the psi of kRows filters against kColumns vectors of filters, over at most kSliceChunk slices. x: each row's lane
// at the first slice; y: each vector of columns there.
// Three passes through a buffer, not one: a term's chain of dependent operations is long, and only short loop bodies
// let the processor work on many terms at once.
template <PsiCase kCase, int64_t kCoordinates, int kRows, int kColumns, class T>
CKRM_INLINE void sum_of_terms(const T* const (&x)[kRows], const T* const (&y)[kColumns], int64_t coordinates,
                              int64_t slices, const PsiParameters<T>& psi, T* sums, int64_t ld) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  const int64_t n = kCoordinates == kAnyCoordinates ? coordinates : kCoordinates;
  const int64_t step = (n + kMomentRows) * L;
  V luminance[kRows][kColumns][kSliceChunk], rest[kRows][kColumns][kSliceChunk];
  for (int64_t k = 0; k < slices && n > 0; ++k) {
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
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kColumns; ++c) rest[r][c][k] = cov[r][c];
  }
  for (int64_t k = 0; k < slices; ++k)
    for (int r = 0; r < kRows; ++r) {
      const Moments<V> a = broadcast_moments(x[r] + k * step + n * L);
      for (int c = 0; c < kColumns; ++c) {
        const Moments<V> b = load_moments(y[c] + k * step + n * L);
        if constexpr (kCoordinates == 0) {
          luminance[r][c][k] = luminance_of_means(a, b, psi.eps);
        } else {
          const PsiParts<V> parts = psi_parts<kCase>(a, b, rest[r][c][k], psi);
          luminance[r][c][k] = parts.luminance;
          rest[r][c][k] = parts.rest;
        }
      }
    }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kColumns; ++c) {
      V total = load(sums + r * ld + c * L);
      V chunk{};
      for (int64_t k = 0; k < slices; ++k) {
        const V power = power_of_luminance<kCase>(luminance[r][c][k], psi);
        chunk += kCoordinates == 0 ? power : power * rest[r][c][k];
      }
      store(sums + r * ld + c * L, total + chunk);
    }
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
    for (; row + kTileRows <= t.row_end; row += kTileRows)
      rows_of_tile<kCase, kCoordinates, kTileRows>(a, b, t, row, k, slices, psi, sums, ld);
    for (; row < t.row_end; ++row) rows_of_tile<kCase, kCoordinates, 1>(a, b, t, row, k, slices, psi, sums, ld);
  }
}

// ---- a list of pairs -----------------------------------------------------------------------------------------------

template <PsiCase kCase, int64_t kCoordinates, class T>
void pairs_of(const Bank<T>& bank, const int64_t* pairs, int64_t count, const PsiParameters<T>& psi, T* out) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  const int64_t n = bank.coordinates, step = bank.rows() * L, blocks = (bank.slices + L - 1) / L;
  V inside{};
  for (int64_t lane = 0; lane < bank.slices - (blocks - 1) * L; ++lane) inside[lane] = 1;
  for (int64_t p = 0; p < count; ++p) {
    const int64_t i = pairs[2 * p], j = pairs[2 * p + 1];
    const T *x = bank.data + i * blocks * step, *y = bank.data + j * blocks * step;
    V sum{};
    for (int64_t block = 0; block < blocks; ++block, x += step, y += step) {
      const Moments<V> a = load_moments(x + n * L), b = load_moments(y + n * L);
      V term;
      if constexpr (kCoordinates == 0) {
        term = power_of_luminance<kCase>(luminance_of_means(a, b, psi.eps), psi);
      } else {
        const PsiParts<V> parts = psi_parts<kCase>(a, b, covariance(x, y, n, psi.eps), psi);
        term = power_of_luminance<kCase>(parts.luminance, psi) * parts.rest;
      }
      sum += block + 1 < blocks ? term : term * inside;
    }
    out[p] = sum_of_lanes<T>(sum) / static_cast<T>(bank.slices) + bank.poison[i] + bank.poison[j];
  }
}

// ---- gradients -----------------------------------------------------------------------------------------------------

// Adds a pair's gradient to the moments' accumulators of one side, given mu and sigma of the other.
template <class V, class T>
CKRM_INLINE void add_moments(const PsiGradient<V>& d, V mu, V sigma, T* of) {
  constexpr int64_t L = kLanes<T>;
  store(of, load(of) + d.u * mu);
  store(of + L, load(of + L) + d.v);
  store(of + 2 * L, load(of + 2 * L) + d.w * sigma);
  store(of + 3 * L, load(of + 3 * L) + d.y);
}

// The gradient of the Psi of filter i of a with filters [column, column + lanes) of b: 0 where they are no pair, NaN
// where one is not finite.
template <class T>
CKRM_INLINE Vector<T> gradient_of_pairs(const Bank<T>& a, const Bank<T>& b, const PairGradient<T>& grad, int64_t i,
                                        int64_t column) {
  constexpr int64_t L = kLanes<T>;
  const int64_t first = grad.packed ? i + 1 : 0;
  const T* row = grad.grad + (grad.packed ? pair_index(i, i + 1, b.filters) - (i + 1) : i * b.filters) + column;
  Vector<T> g{};
  if (column >= first && column + L <= b.filters) {
    g = load_unaligned(row);
  } else {
    for (int64_t lane = 0; lane < L; ++lane)
      if (column + lane >= first && column + lane < b.filters) g[lane] = row[lane];
  }
  return g + (a.poison[i] + load(b.poison + column));
}

template <class T>
CKRM_INLINE void copy_slice(const Bank<T>& bank, int64_t k, T* slice) {
  constexpr int64_t L = kLanes<T>;
  const int64_t size = bank.rows() * L, blocks = (bank.filters + L - 1) / L;
  for (int64_t block = 0; block < blocks; ++block)
    __builtin_memcpy(slice + block * size, bank.data + (block * bank.slices + k) * size, size * sizeof(T));
}

// Two filters' slices x against `columns` <= kColumnChunk vectors of filters' slices y, given the gradient of their Psi.
// In passes, as sum_of_terms.
template <PsiCase kCase, int64_t kCoordinates, class T>
CKRM_INLINE void add_gradients(const T* const (&x)[2], const T* y, int64_t columns, int64_t coordinates,
                               const Vector<T> (&g)[2][kColumnChunk], const PsiParameters<T>& psi,
                               T* const (&of_x)[2], T* of_y) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  const int64_t n = kCoordinates == kAnyCoordinates ? coordinates : kCoordinates, size = (n + kMomentRows) * L;
  const Moments<V> a[2] = {broadcast_moments(x[0] + n * L), broadcast_moments(x[1] + n * L)};
  Factors<V> factors[2][kColumnChunk];
  V luminance[2][kColumnChunk];
  PsiGradient<V> d[2][kColumnChunk];
  for (int64_t c = 0; c < columns && n > 0; ++c) {
    V cov[2] = {broadcast<V>(psi.eps), broadcast<V>(psi.eps)};
    for (int64_t q = 0; q < n; ++q) {
      const V y_q = load(y + c * size + q * L);
      for (int r = 0; r < 2; ++r) cov[r] += broadcast<V>(x[r][q * L]) * y_q;
    }
    for (int r = 0; r < 2; ++r) factors[r][c].numerator_s = cov[r];
  }
  for (int r = 0; r < 2; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const Moments<V> b = load_moments(y + c * size + n * L);
      if constexpr (kCoordinates == 0) {
        luminance[r][c] = luminance_of_means(a[r], b, psi.eps);
      } else {
        factors[r][c] = psi_factors(a[r], b, factors[r][c].numerator_s, psi.eps);
        luminance[r][c] = factors[r][c].luminance;
      }
    }
  for (int r = 0; r < 2; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const V slope = slope_of_luminance<kCase>(luminance[r][c], psi);
      if constexpr (kCoordinates == 0)
        d[r][c] = psi_gradient_of_means<kCase>(g[r][c], a[r], load_moments(y + c * size), luminance[r][c], slope, psi);
      else d[r][c] = psi_gradient<kCase>(g[r][c], factors[r][c], slope, psi);
    }
  for (int64_t c = 0; c < columns; ++c) {
    T* of = of_y + c * size;
    for (int64_t q = 0; q < n; ++q)
      store(of + q * L, load(of + q * L) + d[0][c].c * broadcast<V>(x[0][q * L]) + d[1][c].c * broadcast<V>(x[1][q * L]));
    add_moments(d[0][c], a[0].mu, a[0].sigma, of + n * L);
    add_moments(d[1][c], a[1].mu, a[1].sigma, of + n * L);
  }
  for (int r = 0; r < 2; ++r) {
    for (int64_t q = 0; q < n; ++q) {
      V sum = load(of_x[r] + q * L);
      for (int64_t c = 0; c < columns; ++c) sum += d[r][c].c * load(y + c * size + q * L);
      store(of_x[r] + q * L, sum);
    }
    V of[kMomentRows];
    for (int64_t row = 0; row < kMomentRows; ++row) of[row] = load(of_x[r] + (n + row) * L);
    for (int64_t c = 0; c < columns; ++c) {
      const Moments<V> b = load_moments(y + c * size + n * L);
      of[0] += d[r][c].u * b.mu;
      of[1] += d[r][c].v;
      of[2] += d[r][c].w * b.sigma;
      of[3] += d[r][c].y;
    }
    for (int64_t row = 0; row < kMomentRows; ++row) store(of_x[r] + (n + row) * L, of[row]);
  }
}

template <PsiCase kCase, int64_t kCoordinates, class T>
void slice_gradient_of(const Bank<T>& a, const Bank<T>& b, int64_t k, const PairGradient<T>& grad,
                       const PsiParameters<T>& psi, const SliceScratch<T>& scratch) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  const int64_t size = a.rows() * L;
  copy_slice(a, k, scratch.slice_a);
  if (scratch.slice_b != scratch.slice_a) copy_slice(b, k, scratch.slice_b);
  T* const of_rows[2] = {scratch.of_row, scratch.of_row + size};
  for (int64_t i = 0; i < a.filters; i += 2) {
    const T* x[2];
    for (int r = 0; r < 2; ++r) {
      // an odd last filter stands twice, the second time with a gradient of 0
      const int64_t filter = i + r < a.filters ? i + r : i;
      x[r] = scratch.slice_a + (filter / L) * size + filter % L;
      for (int64_t row = 0; row < a.rows(); ++row) store(of_rows[r] + row * L, V{});
    }
    for (int64_t begin = grad.packed ? (i + 1) / L * L : 0; begin < b.filters; begin += kColumnChunk * L) {
      V g[2][kColumnChunk] = {};
      const int64_t left = (b.filters - begin + L - 1) / L, columns = left < kColumnChunk ? left : kColumnChunk;
      for (int r = 0; r < 2 && i + r < a.filters; ++r)
        for (int64_t c = 0; c < columns; ++c) g[r][c] = gradient_of_pairs(a, b, grad, i + r, begin + c * L);
      add_gradients<kCase, kCoordinates>(x, scratch.slice_b + (begin / L) * size, columns, a.coordinates, g, psi,
                                         of_rows, scratch.of_b + (begin / L) * size);
    }
    for (int r = 0; r < 2 && i + r < a.filters; ++r) {
      T* of_i = scratch.of_a + ((i + r) / L) * size + (i + r) % L;
      for (int64_t row = 0; row < a.rows(); ++row) of_i[row * L] += sum_of_lanes<T>(load(of_rows[r] + row * L));
    }
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
    const V g = inside * (grad[p] + bank.poison[i] + bank.poison[j]);
    const Moments<V> a = load_moments(x + n * L), b = load_moments(y + n * L);
    PsiGradient<V> d;
    if constexpr (kCoordinates == 0) {
      const V luminance = luminance_of_means(a, b, psi.eps);
      d = psi_gradient_of_means<kCase>(g, a, b, luminance, slope_of_luminance<kCase>(luminance, psi), psi);
    } else {
      const Factors<V> factors = psi_factors(a, b, covariance(x, y, n, psi.eps), psi.eps);
      d = psi_gradient<kCase>(g, factors, slope_of_luminance<kCase>(factors.luminance, psi), psi);
    }
    T *of_i = of_bank + i * step, *of_j = of_bank + j * step;
    for (int64_t q = 0; q < n; ++q) {
      store(of_i + q * L, load(of_i + q * L) + d.c * load(y + q * L));
      store(of_j + q * L, load(of_j + q * L) + d.c * load(x + q * L));
    }
    add_moments(d, b.mu, b.sigma, of_i + n * L);
    add_moments(d, a.mu, a.sigma, of_j + n * L);
  }
}

// From coordinates back to positions: dx = H^T dz + dmu / K, with dz += dsigma z / sigma (0 where sigma is 0).
template <class T>
void finish_gradient(const T* slice, const T* of, const double* norms, int64_t coordinates, double scale,
                     T* positions) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  const int64_t n = coordinates * L;
  const V mu = load(slice + n), sigma = load(slice + n + 2 * L);
  const V of_mu = load(of + n) - mu * load(of + n + L), of_sigma = load(of + n + 2 * L) - sigma * load(of + n + 3 * L);
  const V along = of_sigma * inverse_or_zero(sigma);
  const T times = static_cast<T>(scale);
  V suffix = of_mu * static_cast<T>(1.0 / static_cast<double>(coordinates + 1));
  for (int64_t r = coordinates; r >= 1; --r) {
    const V of_z = (load(of + (r - 1) * L) + along * load(slice + (r - 1) * L)) * static_cast<T>(norms[r - 1]);
    store(positions + r * L, (suffix - static_cast<T>(r) * of_z) * times);
    suffix += of_z;
  }
  store(positions, suffix * times);
}

// ---- choosing the compile-time case --------------------------------------------------------------------------------

template <class T>
CKRM_INLINE PsiCase case_of(const PsiParameters<T>& psi) {
  if (psi.beta != 1 || psi.gamma != 1) return PsiCase::kGeneral;
  if (psi.alpha == 0) return PsiCase::kNoLuminance;
  if (psi.alpha == 1) return PsiCase::kLinear;
  return psi.alpha < kLargestFitted ? PsiCase::kPower : PsiCase::kGeneral;
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
