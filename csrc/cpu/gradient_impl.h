// Gradients of tiles of pairs and of listed pairs, recomputing every term.
// A part of kernels_impl.h, which says how it is compiled.

namespace ckrm {
namespace CKRM_ISA {

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

// Two filters' slices x against `columns` <= kColumnChunk vectors of filters' slices y, given the gradient of their
// Psi. In passes, as sum_of_terms.
template <PsiCase kCase, int64_t kCoordinates, class T>
CKRM_INLINE void add_gradients(const T* const (&x)[2], const T* y, int64_t columns, int64_t coordinates,
                               const Vector<T> (&g)[2][kColumnChunk], const PsiScalars<T>& psi, T* const (&of_x)[2],
                               T* of_y) {
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
        factors[r][c] = psi_factors<kCase>(a[r], b, factors[r][c].numerator_s, psi.eps);
        luminance[r][c] = factors[r][c].luminance;
      }
    }
  for (int r = 0; r < 2; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const V slope = slope_of_luminance<kCase>(luminance[r][c], psi);
      if constexpr (kCoordinates == 0)
        d[r][c] = psi_gradient_of_means<kCase>(g[r][c], a[r], load_moments(y + c * size), luminance[r][c], slope, psi);
      else
        d[r][c] = psi_gradient<kCase>(g[r][c], factors[r][c], slope, psi);
    }
  for (int64_t c = 0; c < columns; ++c) {
    T* of = of_y + c * size;
    for (int64_t q = 0; q < n; ++q)
      store(of + q * L,
            load(of + q * L) + d[0][c].c * broadcast<V>(x[0][q * L]) + d[1][c].c * broadcast<V>(x[1][q * L]));
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
                       const PsiScalars<T>& psi, const SliceScratch<T>& scratch) {
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
void listed_gradient_of(const Bank<T>& bank, int64_t k_block, const int64_t* pairs, int64_t count, const T* grad,
                        const PsiScalars<T>& psi, T* of_bank) {
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
      const Factors<V> factors = psi_factors<kCase>(a, b, covariance(x, y, n, psi.eps), psi.eps);
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

}  // namespace CKRM_ISA
}  // namespace ckrm
