// Psi of tiles of pairs and of listed pairs.
// A part of kernels_impl.h, which says how it is compiled.

namespace ckrm {
namespace CKRM_ISA {

// cov + eps of two vectors of slices.
template <class T>
CKRM_INLINE Vector<T> covariance(const T* x, const T* y, int64_t coordinates, T eps) {
  constexpr int64_t L = kLanes<T>;
  Vector<T> cov = broadcast<Vector<T>>(eps);
  for (int64_t q = 0; q < coordinates; ++q) cov += load(x + q * L) * load(y + q * L);
  return cov;
}

// Adds the psi of kRows filters against kColumns vectors of filters, over at most kSliceChunk slices. x: each row's
// lane at the first slice; y: each vector of columns there. Three passes through a buffer, not one: a term's chain of
// dependent operations is long, and only short loop bodies let the processor work on many terms at once.
template <PsiCase kCase, int64_t kCoordinates, int kRows, int kColumns, class T>
CKRM_INLINE void sum_of_terms(const T* const (&x)[kRows], const T* const (&y)[kColumns], int64_t coordinates,
                              int64_t slices, const PsiScalars<T>& psi, T* sums, int64_t ld) {
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
                              const PsiScalars<T>& psi, T* sums, int64_t ld) {
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
             const PsiScalars<T>& psi, T* sums, int64_t ld) {
  for (int64_t k = k_begin; k < k_end; k += kSliceChunk) {
    const int64_t slices = k_end - k < kSliceChunk ? k_end - k : kSliceChunk;
    int64_t row = t.row_begin;
    for (; row + kTileRows <= t.row_end; row += kTileRows)
      rows_of_tile<kCase, kCoordinates, kTileRows>(a, b, t, row, k, slices, psi, sums, ld);
    for (; row < t.row_end; ++row) rows_of_tile<kCase, kCoordinates, 1>(a, b, t, row, k, slices, psi, sums, ld);
  }
}

template <PsiCase kCase, int64_t kCoordinates, class T>
void listed_psi(const Bank<T>& bank, const int64_t* pairs, int64_t count, const PsiScalars<T>& psi, T* out) {
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

}  // namespace CKRM_ISA
}  // namespace ckrm
