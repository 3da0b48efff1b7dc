// Gradients of tiles of pairs and of listed pairs, recomputing every term.
// A part of kernels_impl.h, which says how it is compiled.

namespace ckrm {
namespace CKRM_ISA {

// Adds to the accumulators of one side's moments.
template <class T>
CKRM_INLINE void add_moments(Vector<T> of_mu, Vector<T> of_sigma, T* of) {
  constexpr int64_t L = kLanes<T>;
  store(of, load(of) + of_mu);
  store(of + L, load(of + L) + of_sigma);
}

template <class T>
CKRM_INLINE void copy_slice(const Bank<T>& bank, int64_t k, T* slice) {
  constexpr int64_t L = kLanes<T>;
  const int64_t size = bank.rows() * L, blocks = (bank.filters + L - 1) / L;
  for (int64_t block = 0; block < blocks; ++block)
    __builtin_memcpy(slice + block * size, bank.data + (block * bank.slices + k) * size, size * sizeof(T));
}

// One slice of a tile: x of kGradientRowsAtOnce filters, in neighbouring lanes, and y of `columns` <= kColumnChunk
// vectors of filters.
template <int64_t kCoordinates, class T>
struct SlicesOfTile {
  const T *x, *y;
  int64_t columns, coordinates;

  CKRM_MEMBER int64_t n() const { return kCoordinates == kAnyCoordinates ? coordinates : kCoordinates; }
  CKRM_MEMBER int64_t gradient_size() const { return (n() + kGradientRows) * kLanes<T>; }
  CKRM_MEMBER const T* column(int64_t c) const { return y + c * (n() + kMomentRows) * kLanes<T>; }
  CKRM_MEMBER Moments<Vector<T>> row_moments(int r) const { return broadcast_moments(x + n() * kLanes<T> + r); }
  CKRM_MEMBER Moments<Vector<T>> column_moments(int64_t c) const { return load_moments(column(c) + n() * kLanes<T>); }
};

// A number for each pair of a tile.
template <class T, class V = Vector<T>>
using OfPairs = V[kGradientRowsAtOnce<T>][kColumnChunk];

// The covariances of columns [c, c + kColumns) with all rows, counted from `start`.
template <int kColumns, int64_t kCoordinates, class T>
CKRM_INLINE void covariances(const SlicesOfTile<kCoordinates, T>& tile, int64_t c, T start, OfPairs<T>& covariance) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  constexpr int kRows = kGradientRowsAtOnce<T>;
  V cov[kRows][kColumns];
  for (int r = 0; r < kRows; ++r)
    for (int i = 0; i < kColumns; ++i) cov[r][i] = broadcast<V>(start);
  for (int64_t q = 0; q < tile.n(); ++q) {
    V y[kColumns];
    for (int i = 0; i < kColumns; ++i) y[i] = load(tile.column(c + i) + q * L);
    for (int r = 0; r < kRows; ++r)
      for (int i = 0; i < kColumns; ++i) cov[r][i] += broadcast<V>(tile.x[q * L + r]) * y[i];
  }
  for (int r = 0; r < kRows; ++r)
    for (int i = 0; i < kColumns; ++i) covariance[r][c + i] = cov[r][i];
}

// Adds to the accumulators of_y of the coordinates of columns [c, c + kColumns).
template <int kColumns, int64_t kCoordinates, class T>
CKRM_INLINE void add_to_columns(const SlicesOfTile<kCoordinates, T>& tile, int64_t c, const OfPairs<T>& of_covariance,
                                T* of_y) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  constexpr int kRows = kGradientRowsAtOnce<T>;
  const int64_t size = tile.gradient_size();
  for (int64_t q = 0; q < tile.n(); ++q) {
    T* of = of_y + c * size + q * L;
    V sum[kColumns];
    for (int i = 0; i < kColumns; ++i) sum[i] = load(of + i * size);
    for (int r = 0; r < kRows; ++r)
      for (int i = 0; i < kColumns; ++i) sum[i] += of_covariance[r][c + i] * broadcast<V>(tile.x[q * L + r]);
    for (int i = 0; i < kColumns; ++i) store(of + i * size, sum[i]);
  }
}

// Adds to the accumulators of_x of the coordinates [q, q + kCount) of one row.
template <int kCount, int64_t kCoordinates, class T>
CKRM_INLINE void add_to_row(const SlicesOfTile<kCoordinates, T>& tile, int64_t q, const Vector<T>* of_covariance,
                            T* of_x) {
  constexpr int64_t L = kLanes<T>;
  Vector<T> sum[kCount];
  for (int i = 0; i < kCount; ++i) sum[i] = load(of_x + (q + i) * L);
  for (int64_t c = 0; c < tile.columns; ++c)
    for (int i = 0; i < kCount; ++i) sum[i] += of_covariance[c] * load(tile.column(c) + (q + i) * L);
  for (int i = 0; i < kCount; ++i) store(of_x + (q + i) * L, sum[i]);
}

// Adds what a tile gives to of_x and of_y, of rows and columns. In passes through buffers, not one: a term's chain of
// dependent operations is long, and only short loop bodies let the processor work on many terms at once; and the
// products with coordinates stay in registers. g: the gradient of Psi, rows g_step apart.
template <int64_t kCoordinates, class T, class Term>
CKRM_INLINE void add_gradients(const SlicesOfTile<kCoordinates, T>& tile, const T* g, int64_t g_step, const Term& term,
                               T* of_x, T* of_y) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  constexpr int kRows = kGradientRowsAtOnce<T>;
  const int64_t n = tile.n(), size = tile.gradient_size(), even = tile.columns / 2 * 2;
  OfPairs<T> covariance, of_covariance;
  OfPairs<T, typename Term::template Factors<V>> factors;
  for (int64_t c = 0; c < even; c += 2) covariances<2>(tile, c, term.covariance_start, covariance);
  if (even < tile.columns) covariances<1>(tile, even, term.covariance_start, covariance);
  for (int r = 0; r < kRows; ++r) {
    const Moments<V> a = tile.row_moments(r);
    for (int64_t c = 0; c < tile.columns; ++c)
      factors[r][c] = term.factors(a, tile.column_moments(c), covariance[r][c]);
  }
  for (int r = 0; r < kRows; ++r) {
    const Moments<V> a = tile.row_moments(r);
    V of_mu{}, of_sigma{};
    for (int64_t c = 0; c < tile.columns; ++c) {
      const TermGradient<V> d =
          term.gradient(load(g + r * g_step + c * L), a, tile.column_moments(c), factors[r][c]);
      of_covariance[r][c] = d.of_covariance;
      of_mu += d.of_mu_a;
      of_sigma += d.of_sigma_a;
      add_moments(d.of_mu_b, d.of_sigma_b, of_y + c * size + n * L);
    }
    add_moments(of_mu, of_sigma, of_x + r * size + n * L);
  }
  for (int64_t c = 0; c < even; c += 2) add_to_columns<2>(tile, c, of_covariance, of_y);
  if (even < tile.columns) add_to_columns<1>(tile, even, of_covariance, of_y);
  for (int r = 0; r < kRows; ++r) {
    int64_t q = 0;
    for (; q + 8 <= n; q += 8) add_to_row<8>(tile, q, of_covariance[r], of_x + r * size);
    for (; q < n; ++q) add_to_row<1>(tile, q, of_covariance[r], of_x + r * size);
  }
}

// Vectors of filters of a from `part` on, `parts` apart.
template <int64_t kCoordinates, class T, class Term>
void slice_gradient_of(const Bank<T>& a, const Bank<T>& b, int64_t k, const PairGradient<T>& grad, const Term& term,
                       int64_t part, int64_t parts, const SliceScratch<T>& scratch) {
  constexpr int64_t L = kLanes<T>;
  const int64_t size = a.rows() * L, rows = a.gradient_rows(), gradient_size = rows * L;
  copy_slice(a, k, scratch.slice_a);
  if (scratch.slice_b != scratch.slice_a) copy_slice(b, k, scratch.slice_b);
  for (int64_t block = part; block * L < a.filters; block += parts) {
    // each filter's sums, still apart by the lanes of b
    for (int64_t row = 0; row < L * rows; ++row) store(scratch.of_rows + row * L, Vector<T>{});
    for (int64_t lane = 0; lane < L && block * L + lane < a.filters; lane += kGradientRowsAtOnce<T>) {
      const int64_t i = block * L + lane;
      for (int64_t begin = grad.packed ? block : 0; begin < grad.blocks; begin += kColumnChunk) {
        const int64_t left = grad.blocks - begin;
        const SlicesOfTile<kCoordinates, T> tile{scratch.slice_a + block * size + lane, scratch.slice_b + begin * size,
                                                 left < kColumnChunk ? left : kColumnChunk, a.coordinates};
        add_gradients(tile, grad.row(i) + begin * L, grad.width(i), term, scratch.of_rows + lane * gradient_size,
                      scratch.of_b + begin * gradient_size);
      }
    }
    T* of = scratch.of_a + block * gradient_size;
    for (int64_t row = 0; row < rows; ++row)
      store(of + row * L, load(of + row * L) + sums_of_lanes<L>(scratch.of_rows + row * L, gradient_size));
  }
}

template <class T, class Term>
void listed_gradient_of(const Bank<T>& bank, int64_t k_block, const int64_t* pairs, int64_t count, const T* grad,
                        const Term& term, T* of_bank) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  const int64_t n = bank.coordinates, step = bank.rows() * L, gradient_step = bank.gradient_rows() * L;
  const int64_t blocks = (bank.slices + L - 1) / L, left = bank.slices - k_block * L;
  V inside{};
  for (int64_t lane = 0; lane < L && lane < left; ++lane) inside[lane] = 1;
  for (int64_t p = 0; p < count; ++p) {
    const int64_t i = pairs[2 * p], j = pairs[2 * p + 1];
    const T *x = bank.data + (i * blocks + k_block) * step, *y = bank.data + (j * blocks + k_block) * step;
    const V g = inside * (grad[p] + bank.poison[i] + bank.poison[j]);
    const Moments<V> a = load_moments(x + n * L), b = load_moments(y + n * L);
    const auto factors = term.factors(a, b, covariance(x, y, n, term.covariance_start));
    const TermGradient<V> d = term.gradient(g, a, b, factors);
    T *of_i = of_bank + i * gradient_step, *of_j = of_bank + j * gradient_step;
    for (int64_t q = 0; q < n; ++q) {
      store(of_i + q * L, load(of_i + q * L) + d.of_covariance * load(y + q * L));
      store(of_j + q * L, load(of_j + q * L) + d.of_covariance * load(x + q * L));
    }
    add_moments(d.of_mu_a, d.of_sigma_a, of_i + n * L);
    add_moments(d.of_mu_b, d.of_sigma_b, of_j + n * L);
  }
}

// From coordinates back to positions: dx = H^T dz + dmu / K, with dz += dsigma z / sigma (0 where sigma is 0).
template <class T>
void finish_gradient(const T* slice, const T* of, const double* norms, int64_t coordinates, double scale,
                     T* positions) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  const int64_t n = coordinates * L;
  const V sigma = load(slice + n + 2 * L), of_mu = load(of + n), of_sigma = load(of + n + L);
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

}  // namespace CKRM_ISA
}  // namespace ckrm
