// Every kernel table of this build against a definition written out in long double, without torch: for sanitizers, for
// instruction sets under emulation, and for the 64-byte vectors on processors without AVX-512 (wide_vectors.cpp).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "cpu/kernels.h"

namespace ckrm {
#define CKRM_DECLARE(ISA)                \
  namespace ISA {                        \
  extern const Kernels<float> kFloat32;  \
  extern const Kernels<double> kFloat64; \
  }
CKRM_DECLARE(baseline)
#if defined(__x86_64__)
CKRM_DECLARE(avx2)
CKRM_DECLARE(wide)
#endif
}  // namespace ckrm

using namespace ckrm;
using Real = long double;

namespace {

int failures = 0;

void expect_close(const char* what, const char* isa, Real got, Real want, Real tolerance) {
  if (std::fabs(got - want) <= tolerance) return;
  if (++failures <= 20) std::printf("%s %s: got %.9Lg, want %.9Lg\n", isa, what, got, want);
}

struct Compared {
  SimilarityName name;
  bool is_signed;
  double parameters[4];
};

struct Problem {
  int64_t filters, slices, positions;
  Compared similarity;
  bool wide;  // as if the numbers were out of the arithmetic's range
  std::vector<double> weight;

  const double* slice(int64_t f, int64_t k) const { return weight.data() + (f * slices + k) * positions; }
};

Real power(Real x, Real exponent) { return exponent == 0 ? 1 : std::pow(std::fabs(x), exponent); }
Real ratio(Real a, Real b) { return b == 0 ? 1 : a / b; }

// |L|^alpha C^beta |S|^gamma, with the sign of S or without.
Real psi(const Problem& p, const double* x, const double* y) {
  const double* parameters = p.similarity.parameters;
  const Real n = static_cast<Real>(p.positions), eps = parameters[3];
  Real mx = 0, my = 0, vx = 0, vy = 0, cov = 0;
  for (int64_t q = 0; q < p.positions; ++q) mx += x[q] / n, my += y[q] / n;
  for (int64_t q = 0; q < p.positions; ++q) {
    vx += (x[q] - mx) * (x[q] - mx) / n;
    vy += (y[q] - my) * (y[q] - my) / n;
    cov += (x[q] - mx) * (y[q] - my) / n;
  }
  const Real s = std::sqrt(vx * vy), structure = ratio(cov + eps, s + eps);
  const Real value = power(ratio(2 * mx * my + eps, mx * mx + my * my + eps), parameters[0]) *
                     power(ratio(2 * s + eps, vx + vy + eps), parameters[1]) * power(structure, parameters[2]);
  return p.similarity.is_signed && structure < 0 ? -value : value;
}

Real cosine(const Problem& p, const double* x, const double* y) {
  Real product = 0, xx = 0, yy = 0;
  for (int64_t q = 0; q < p.positions; ++q) {
    product += Real(x[q]) * y[q];
    xx += Real(x[q]) * x[q];
    yy += Real(y[q]) * y[q];
  }
  const Real value = product / std::sqrt(xx * yy);
  return p.similarity.is_signed ? value : std::fabs(value);
}

// The similarity of two slices by its definition.
Real similarity(const Problem& p, const double* x, const double* y) {
  return p.similarity.name == SimilarityName::kPsi ? psi(p, x, y) : cosine(p, x, y);
}

Real mean_similarity(const Problem& p, int64_t i, int64_t j) {
  Real sum = 0;
  for (int64_t k = 0; k < p.slices; ++k) sum += similarity(p, p.slice(i, k), p.slice(j, k));
  return sum / static_cast<Real>(p.slices);
}

template <class T>
Scalars<T> scalars_of(const Problem& p, bool for_gradient) {
  Scalars<T> scalars{p.similarity.name, {}, {}};
  with_scalars(scalars, [&](auto& own) {
    own = own.of(p.similarity.parameters, p.similarity.is_signed, for_gradient);
    if (p.wide) own.widen();
  });
  return scalars;
}

template <class T>
T* aligned(std::vector<T>& room, int64_t count) {
  room.assign(static_cast<size_t>(count) + kAlignment / sizeof(T), std::numeric_limits<T>::quiet_NaN());
  const auto at = reinterpret_cast<uintptr_t>(room.data());
  return room.data() + ((kAlignment - at % kAlignment) % kAlignment) / sizeof(T);
}

template <class T>
struct Prepared {
  std::vector<T> data_room, poison_room;
  std::vector<double> norms, scratch_room;
  std::vector<int64_t> offsets;
  Bank<T> bank;

  Prepared(const Kernels<T>& kernels, const Problem& p, const Scalars<T>& scalars, Layout layout) {
    const int64_t lanes = kernels.lanes, filter_blocks = (p.filters + lanes - 1) / lanes;
    const int64_t slice_blocks = (p.slices + lanes - 1) / lanes;
    const bool by_filter = layout == Layout::kFiltersInLanes;
    const int64_t vectors = by_filter ? filter_blocks * p.slices : p.filters * slice_blocks;
    for (int64_t r = 1; r < p.positions; ++r)
      norms.push_back(1 / std::sqrt(static_cast<double>(r * (r + 1) * p.positions)));
    for (int64_t q = 0; q < p.positions; ++q) offsets.push_back(q);
    bank = {aligned(data_room, vectors * (p.positions - 1 + kMomentRows) * lanes),
            aligned(poison_room, filter_blocks * lanes),
            norms.data(),
            p.filters,
            p.slices,
            p.positions - 1,
            layout};
    const WeightView view{p.weight.data(),
                          Element::kFloat64,
                          p.filters,
                          p.slices,
                          p.slices * p.positions,
                          p.positions,
                          offsets.data(),
                          p.positions,
                          static_cast<int64_t>(p.weight.size())};
    kernels.prepare(view, scalars, bank, 0, by_filter ? filter_blocks : p.filters,
                    aligned(scratch_room, p.positions * lanes));
  }
};

// d (sum of g similarity) / d weight by central differences of the definition, at one position.
template <class Sum>
Real difference(Problem p, int64_t filter, int64_t slice, int64_t position, const Sum& sum) {
  double& at = p.weight[static_cast<size_t>((filter * p.slices + slice) * p.positions + position)];
  const double centre = at, step = 0x1p-26;
  at = centre + step;
  const Real high = sum(p);
  at = centre - step;
  return (high - sum(p)) / (2 * step);
}

template <class T>
void check(const Kernels<T>& kernels, const Problem& p) {
  const Real tolerance = sizeof(T) == 4 ? 3e-6L : 1e-12L, slope_tolerance = sizeof(T) == 4 ? 2e-4L : 1e-6L;
  const int64_t lanes = kernels.lanes, n = p.filters;
  const Scalars<T> of_values = scalars_of<T>(p, false), of_gradient = scalars_of<T>(p, true);
  const double scale = with_scalars(of_values, [](const auto& own) { return own.scale; });

  const Prepared<T> prepared(kernels, p, of_values, Layout::kFiltersInLanes);
  const int64_t columns = (n + lanes - 1) / lanes * lanes;
  std::vector<T> room;
  T* sums = aligned(room, n * columns);
  for (const bool triangular : {true, false}) {
    for (int64_t at = 0; at < n * columns; ++at) sums[at] = 0;
    kernels.tile(prepared.bank, prepared.bank, {0, n, 0, n, triangular}, 0, p.slices, of_values, sums, columns);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = triangular ? i + 1 : 0; j < n; ++j)
        expect_close("tile", kernels.name, sums[i * columns + j] / static_cast<T>(p.slices), mean_similarity(p, i, j),
                     tolerance);
  }

  std::vector<int64_t> list;
  std::vector<T> grad, values;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = i + 1; j < n; ++j)
      list.insert(list.end(), {i, j}), grad.push_back(static_cast<T>((i + 2 * j) % 5) - 2);
  const int64_t pairs = static_cast<int64_t>(grad.size());
  const Prepared<T> by_slice(kernels, p, of_values, Layout::kSlicesInLanes);
  values.resize(grad.size());
  kernels.listed(by_slice.bank, list.data(), pairs, of_values, values.data());
  for (int64_t at = 0; at < pairs; ++at)
    expect_close("pairs", kernels.name, values[static_cast<size_t>(at)],
                 mean_similarity(p, list[static_cast<size_t>(2 * at)], list[static_cast<size_t>(2 * at + 1)]),
                 tolerance);

  const auto weighted = [&](int64_t filter, int64_t k) {
    return [&, filter, k](const Problem& moved) {
      Real sum = 0;
      for (int64_t at = 0; at < pairs; ++at) {
        const int64_t i = list[static_cast<size_t>(2 * at)], j = list[static_cast<size_t>(2 * at + 1)];
        if (i == filter || j == filter)
          sum += grad[static_cast<size_t>(at)] * similarity(moved, moved.slice(i, k), moved.slice(j, k));
      }
      return sum;
    };
  };
  const int64_t row = prepared.bank.rows() * lanes, of_row = prepared.bank.gradient_rows() * lanes;
  const int64_t blocks = columns / lanes, of_size = blocks * of_row;
  std::vector<T> slice_room, of_slice_room, of_rows_room, of_bank_room, out_room, lane_room;
  T *slice = aligned(slice_room, blocks * row), *of_slice = aligned(of_slice_room, 2 * of_size);
  T *of_rows = aligned(of_rows_room, lanes * of_row), *of_bank = aligned(of_bank_room, n * of_row);
  T *out = aligned(out_room, p.positions * lanes), *lane_grad = aligned(lane_room, columns * columns);
  std::fill_n(lane_grad, columns * columns, T(0));
  const PairGradient<T> pair_gradient{lane_grad, true, lanes, blocks};
  for (int64_t at = 0; at < pairs; ++at)
    pair_gradient.row(list[static_cast<size_t>(2 * at)])[list[static_cast<size_t>(2 * at + 1)]] =
        grad[static_cast<size_t>(at)];
  for (int64_t k = 0; k < p.slices; k += 3) {
    // in two parts, of which the second may be empty
    std::fill_n(of_slice, 2 * of_size, T(0));
    for (int64_t part = 0; part < 2; ++part) {
      T* of_part = of_slice + part * of_size;
      kernels.tile_gradient(prepared.bank, prepared.bank, k, pair_gradient, of_gradient, part, 2,
                            {slice, slice, of_part, of_part, of_rows});
    }
    for (int64_t at = 0; at < of_size; ++at) of_slice[at] += of_slice[of_size + at];
    std::fill_n(of_bank, n * of_row, T(0));
    kernels.listed_gradient(by_slice.bank, k / lanes, list.data(), pairs, grad.data(), of_gradient, of_bank);
    for (int64_t filter = 0; filter < n; filter += 2) {
      const int64_t slice_blocks = (p.slices + lanes - 1) / lanes, q = (filter + k) % p.positions;
      const Real want = difference(p, filter, k, q, weighted(filter, k));
      const Real allowed = slope_tolerance * (1 + std::fabs(want));
      kernels.finish_gradient(slice + filter / lanes * row, of_slice + filter / lanes * of_row, prepared.bank.norms,
                              p.positions - 1, scale, out);
      expect_close("slice gradient", kernels.name, out[q * lanes + filter % lanes], want, allowed);
      kernels.finish_gradient(by_slice.bank.data + (filter * slice_blocks + k / lanes) * row, of_bank + filter * of_row,
                              prepared.bank.norms, p.positions - 1, scale, out);
      expect_close("pairs gradient", kernels.name, out[q * lanes + k % lanes], want, allowed);
    }
  }
}

template <class T>
void check_all(const Kernels<T>& kernels) {
  std::mt19937 random(7);
  std::normal_distribution<double> normal(0.3, 0.5);
  constexpr SimilarityName kPsi = SimilarityName::kPsi, kCosine = SimilarityName::kCosine;
  const Compared similarities[] = {
      {kPsi, false, {0.1, 1, 1, 1e-3}},
      {kPsi, false, {0, 1, 1, 1e-3}},
      {kPsi, false, {1, 1, 1, 1e-3}},
      {kPsi, false, {2, 0, 1, 1e-3}},
      {kPsi, false, {0.5, 2, 1.5, 1e-3}},
      {kPsi, true, {0.1, 1, 1, 1e-3}},
      {kPsi, true, {0, 1, 1, 1e-3}},
      {kPsi, true, {0.5, 2, 1.5, 1e-3}},
      {kCosine, false, {}},
      {kCosine, true, {}},
  };
  for (const Compared& similarity : similarities)
    for (const int64_t positions : {1, 2, 9, 25})
      for (const int64_t filters : {2, 5, 19, 40}) {
        Problem p{filters, filters % 7 + 9, positions, similarity, false, {}};
        for (int64_t at = 0; at < p.filters * p.slices * p.positions; ++at) p.weight.push_back(normal(random));
        check(kernels, p);
        p.wide = sizeof(T) == sizeof(double);
        if (p.wide) check(kernels, p);
      }
  std::printf("%s: %d lanes of %d bytes checked\n", kernels.name, static_cast<int>(kernels.lanes),
              static_cast<int>(sizeof(T)));
}

}  // namespace

int main() {
  check_all(baseline::kFloat32);
  check_all(baseline::kFloat64);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    check_all(avx2::kFloat32);
    check_all(avx2::kFloat64);
    check_all(wide::kFloat32);
    check_all(wide::kFloat64);
  }
#endif
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
