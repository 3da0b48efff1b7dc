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

// Two filters' slices x against `columns` <= kColumnChunk vectors of filters' slices y, given the gradient of their
// Psi. In passes, as sum_of_terms.
template <int64_t kCoordinates, class T, class Term>
CKRM_INLINE void add_gradients(const T* const (&x)[2], const T* y, int64_t columns, int64_t coordinates,
                               const Vector<T> (&g)[2][kColumnChunk], const Term& term, T* const (&of_x)[2], T* of_y) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  const int64_t n = kCoordinates == kAnyCoordinates ? coordinates : kCoordinates;
  const int64_t size = (n + kMomentRows) * L, gradient_size = (n + kGradientRows) * L;
  const Moments<V> a[2] = {broadcast_moments(x[0] + n * L), broadcast_moments(x[1] + n * L)};
  V covariance[2][kColumnChunk];
  typename Term::template Factors<V> factors[2][kColumnChunk];
  TermGradient<V> d[2][kColumnChunk];
  for (int64_t c = 0; c < columns; ++c) {
    V cov[2] = {broadcast<V>(term.covariance_start), broadcast<V>(term.covariance_start)};
    for (int64_t q = 0; q < n; ++q) {
      const V y_q = load(y + c * size + q * L);
      for (int r = 0; r < 2; ++r) cov[r] += broadcast<V>(x[r][q * L]) * y_q;
    }
    for (int r = 0; r < 2; ++r) covariance[r][c] = cov[r];
  }
  for (int r = 0; r < 2; ++r)
    for (int64_t c = 0; c < columns; ++c)
      factors[r][c] = term.factors(a[r], load_moments(y + c * size + n * L), covariance[r][c]);
  for (int r = 0; r < 2; ++r)
    for (int64_t c = 0; c < columns; ++c)
      d[r][c] = term.gradient(g[r][c], a[r], load_moments(y + c * size + n * L), factors[r][c]);
  for (int64_t c = 0; c < columns; ++c) {
    T* of = of_y + c * gradient_size;
    for (int64_t q = 0; q < n; ++q)
      store(of + q * L, load(of + q * L) + d[0][c].of_covariance * broadcast<V>(x[0][q * L]) +
                            d[1][c].of_covariance * broadcast<V>(x[1][q * L]));
    add_moments(d[0][c].of_mu_b + d[1][c].of_mu_b, d[0][c].of_sigma_b + d[1][c].of_sigma_b, of + n * L);
  }
  for (int r = 0; r < 2; ++r) {
    for (int64_t q = 0; q < n; ++q) {
      V sum = load(of_x[r] + q * L);
      for (int64_t c = 0; c < columns; ++c) sum += d[r][c].of_covariance * load(y + c * size + q * L);
      store(of_x[r] + q * L, sum);
    }
    V of_mu{}, of_sigma{};
    for (int64_t c = 0; c < columns; ++c) of_mu += d[r][c].of_mu_a, of_sigma += d[r][c].of_sigma_a;
    add_moments(of_mu, of_sigma, of_x[r] + n * L);
  }
}

template <int64_t kCoordinates, class T, class Term>
void slice_gradient_of(const Bank<T>& a, const Bank<T>& b, int64_t k, const PairGradient<T>& grad, const Term& term,
                       const SliceScratch<T>& scratch) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  const int64_t size = a.rows() * L, gradient_size = a.gradient_rows() * L;
  copy_slice(a, k, scratch.slice_a);
  if (scratch.slice_b != scratch.slice_a) copy_slice(b, k, scratch.slice_b);
  T* const of_rows[2] = {scratch.of_row, scratch.of_row + gradient_size};
  for (int64_t i = 0; i < a.filters; i += 2) {
    const T* x[2];
    for (int r = 0; r < 2; ++r) {
      // an odd last filter stands twice, the second time with a gradient of 0
      const int64_t filter = i + r < a.filters ? i + r : i;
      x[r] = scratch.slice_a + (filter / L) * size + filter % L;
      for (int64_t row = 0; row < a.gradient_rows(); ++row) store(of_rows[r] + row * L, V{});
    }
    for (int64_t begin = grad.packed ? (i + 1) / L * L : 0; begin < b.filters; begin += kColumnChunk * L) {
      V g[2][kColumnChunk] = {};
      const int64_t left = (b.filters - begin + L - 1) / L, columns = left < kColumnChunk ? left : kColumnChunk;
      for (int r = 0; r < 2 && i + r < a.filters; ++r)
        for (int64_t c = 0; c < columns; ++c) g[r][c] = gradient_of_pairs(a, b, grad, i + r, begin + c * L);
      add_gradients<kCoordinates>(x, scratch.slice_b + (begin / L) * size, columns, a.coordinates, g, term, of_rows,
                                  scratch.of_b + (begin / L) * gradient_size);
    }
    for (int r = 0; r < 2 && i + r < a.filters; ++r) {
      T* of_i = scratch.of_a + ((i + r) / L) * gradient_size + (i + r) % L;
      for (int64_t row = 0; row < a.gradient_rows(); ++row)
        of_i[row * L] += sum_of_lanes<T>(load(of_rows[r] + row * L));
    }
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
