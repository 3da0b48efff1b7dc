// The sums of terms, for tiles of pairs and for listed pairs.
// A part of kernels_impl.h, which says how it is compiled.

namespace ckrm {
namespace CKRM_ISA {

// The covariance of two vectors of slices, counted from `start`.
template <class T>
CKRM_INLINE Vector<T> covariance(const T* x, const T* y, int64_t coordinates, T start) {
  constexpr int64_t L = kLanes<T>;
  Vector<T> cov = broadcast<Vector<T>>(start);
  for (int64_t q = 0; q < coordinates; ++q) cov += load(x + q * L) * load(y + q * L);
  return cov;
}

// The covariances of kRows filters' slices with kColumns vectors of them, in registers.
template <int64_t kCoordinates, int kRows, int kColumns, class T>
CKRM_INLINE void covariances(const T* const (&x)[kRows], const T* const (&y)[kColumns], int64_t coordinates,
                             int64_t offset, T start, Vector<T> (&out)[kRows][kColumns]) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  const int64_t n = kCoordinates == kAnyCoordinates ? coordinates : kCoordinates;
  V cov[kRows][kColumns];
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kColumns; ++c) cov[r][c] = broadcast<V>(start);
  for (int64_t q = 0; q < n; ++q) {
    V xq[kRows], yq[kColumns];
    for (int r = 0; r < kRows; ++r) xq[r] = broadcast<V>(x[r][offset + q * L]);
    for (int c = 0; c < kColumns; ++c) yq[c] = load(y[c] + offset + q * L);
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kColumns; ++c) cov[r][c] += xq[r] * yq[c];
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kColumns; ++c) out[r][c] = cov[r][c];
}

// Adds the terms of kRows filters against kColumns vectors of filters, over some slices. x: each row's lane at the
// first slice; y: each vector of columns there.
template <int64_t kCoordinates, int kRows, int kColumns, class T, class Term>
CKRM_INLINE void sum_of_terms(const T* const (&x)[kRows], const T* const (&y)[kColumns], int64_t coordinates,
                              int64_t slices, const Term& term, T* sums, int64_t ld) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  constexpr int kAtOnce = kRows < kTermRows ? kRows : kTermRows;
  const int64_t n = kCoordinates == kAnyCoordinates ? coordinates : kCoordinates;
  const int64_t step = (n + kMomentRows) * L;
  V total[kRows][kColumns] = {};
  for (int64_t k = 0; k < slices; ++k) {
    const int64_t moments = k * step + n * L;
    V cov[kRows][kColumns];
    covariances<kCoordinates>(x, y, n, k * step, term.covariance_start, cov);
    for (int first = 0; first < kRows; first += kAtOnce) {
      typename Term::template Parts<V> parts[kAtOnce][kColumns];
      for (int c = 0; c < kColumns; ++c) {
        const Moments<V> b = load_moments(y[c] + moments);
        for (int r = 0; r < kAtOnce; ++r)
          parts[r][c] = term.parts(broadcast_moments(x[first + r] + moments), b, cov[first + r][c]);
      }
      for (int c = 0; c < kColumns; ++c)
        for (int r = 0; r < kAtOnce; ++r) total[first + r][c] += term.value(parts[r][c]);
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

template <int64_t kCoordinates, int kRows, class T, class Term>
CKRM_INLINE void rows_of_tile(const Bank<T>& a, const Bank<T>& b, const Tile& t, int64_t row, int64_t k, int64_t slices,
                              const Term& term, T* sums, int64_t ld) {
  constexpr int64_t L = kLanes<T>;
  const T* x[kRows];
  for (int r = 0; r < kRows; ++r) x[r] = row_lane(a, row + r, k);
  T* out = sums + (row - t.row_begin) * ld - t.column_begin;
  int64_t column = t.column_begin;
  if (t.triangular && row + 1 > column) column = (row + 1) / L * L;
  for (; column + L < t.column_end; column += 2 * L) {
    const T* y[2] = {row_lane(b, column, k), row_lane(b, column + L, k)};
    sum_of_terms<kCoordinates>(x, y, a.coordinates, slices, term, out + column, ld);
  }
  if (column < t.column_end) {
    const T* y[1] = {row_lane(b, column, k)};
    sum_of_terms<kCoordinates>(x, y, a.coordinates, slices, term, out + column, ld);
  }
}

template <int64_t kCoordinates, class T, class Term>
void tile_of(const Bank<T>& a, const Bank<T>& b, const Tile& t, int64_t k_begin, int64_t k_end, const Term& term,
             T* sums, int64_t ld) {
  constexpr int kMost = kCoordinates == kAnyCoordinates ? kLongRows : kTermRows;
  for (int64_t k = k_begin; k < k_end; k += kSliceChunk) {
    const int64_t slices = k_end - k < kSliceChunk ? k_end - k : kSliceChunk;
    int64_t row = t.row_begin;
    for (; row + kMost <= t.row_end; row += kMost)
      rows_of_tile<kCoordinates, kMost>(a, b, t, row, k, slices, term, sums, ld);
    if constexpr (kMost > kTermRows)
      for (; row + kTermRows <= t.row_end; row += kTermRows)
        rows_of_tile<kCoordinates, kTermRows>(a, b, t, row, k, slices, term, sums, ld);
    for (; row < t.row_end; ++row) rows_of_tile<kCoordinates, 1>(a, b, t, row, k, slices, term, sums, ld);
  }
}

template <class T, class Term>
void listed_of(const Bank<T>& bank, const int64_t* pairs, int64_t count, const Term& term, T* out) {
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
      const V value = term.value(term.parts(a, b, covariance(x, y, n, term.covariance_start)));
      sum += block + 1 < blocks ? value : value * inside;
    }
    out[p] = sum_of_lanes<T>(sum) / static_cast<T>(bank.slices) + bank.poison[i] + bank.poison[j];
  }
}

}  // namespace CKRM_ISA
}  // namespace ckrm
