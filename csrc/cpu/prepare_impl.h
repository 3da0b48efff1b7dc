// From a weight to a prepared filter bank.
// A part of kernels_impl.h, which says how it is compiled.

namespace ckrm {
namespace CKRM_ISA {

CKRM_INLINE float half_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, magnitude = bits & 0x7fff;
  if (magnitude >= 0x7c00) return reinterpret<float>(sign | 0x7f800000u | (magnitude & 0x3ff) << 13);
  // shifted as if normal, the exponent is off by 112; the product is exact for subnormal numbers too
  const float scaled = reinterpret<float>(magnitude << 13) * 0x1p112f;
  return reinterpret<float>(sign | reinterpret<uint32_t>(scaled));
}

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// An element as a number that can be calculated with, exactly.
CKRM_INLINE float number(float element) { return element; }
CKRM_INLINE double number(double element) { return element; }
CKRM_INLINE float number(Float16 element) { return half_to_float(element.bits); }
CKRM_INLINE float number(BFloat16 element) { return reinterpret<float>(static_cast<uint32_t>(element.bits) << 16); }
template <class Element>
using NumberOf = decltype(number(Element{}));

// The first or the last half of the lanes of a and b, by turns.
template <int64_t kBegin, class V, size_t... kLane>
CKRM_INLINE V interleave(V a, V b, std::index_sequence<kLane...>) {
  return V{(kLane % 2 == 0 ? a[kBegin + kLane / 2] : b[kBegin + kLane / 2])...};
}

// Element j of rows[i] becomes element i of rows[j]. A round moves one bit of every place from the rows to the lanes.
template <class T>
CKRM_INLINE void transpose(Vector<T> (&rows)[kLanes<T>]) {
  constexpr int64_t L = kLanes<T>, kHalf = L / 2;
  constexpr std::make_index_sequence<L> kAll;
  for (int64_t round = 1; round < L; round *= 2) {
    Vector<T> next[L];
    for (int64_t i = 0; i < kHalf; ++i) {
      next[2 * i] = interleave<0>(rows[i], rows[i + kHalf], kAll);
      next[2 * i + 1] = interleave<kHalf>(rows[i], rows[i + kHalf], kAll);
    }
    for (int64_t i = 0; i < L; ++i) rows[i] = next[i];
  }
}

// The slices of one prepared vector: `count` of them, `stride` elements apart.
struct SlicesInLanes {
  int64_t begin, stride, count;
};

// x[q * lanes + lane], the number at position q of each lane's slice; lanes past the last slice hold zeros.
template <class T, class Element>
CKRM_INLINE void read_slices(const WeightView& w, const SlicesInLanes& s, NumberOf<Element>* x) {
  constexpr int64_t L = kLanes<T>;
  const Element* data = static_cast<const Element*>(w.data) + s.begin;
  int64_t q = 0;
  if constexpr (std::is_same_v<Element, T>) {
    const int64_t readable = w.readable - s.begin - (s.count - 1) * s.stride;  // of the last slice on
    for (; w.positions - q >= L / 2 && readable - q >= L; q += L) {
      Vector<T> rows[L];
      for (int64_t l = 0; l < L; ++l) rows[l] = l < s.count ? load_unaligned(data + l * s.stride + q) : Vector<T>{};
      transpose<T>(rows);
      for (int64_t r = 0; r < L; ++r)
        if (q + r < w.positions) store(x + (q + r) * L, rows[r]);
    }
  }
  for (int64_t l = 0; l < L; ++l)
    for (int64_t p = q; p < w.positions; ++p)
      x[p * L + l] = l < s.count ? number(data[l * s.stride + w.offsets[p]]) : 0;
}

// A vector of T as vectors of double, and the part of it that converts to one of them.
template <class T>
constexpr int64_t kDoubles = sizeof(double) / sizeof(T);
typedef float FloatPart __attribute__((vector_size(CKRM_VECTOR_BYTES / 2)));

CKRM_INLINE DoubleVector load_doubles(const float* p) {
  FloatPart part;
  __builtin_memcpy(&part, p, sizeof(part));
  return __builtin_convertvector(part, DoubleVector);
}
CKRM_INLINE DoubleVector load_doubles(const double* p) { return load(p); }

CKRM_INLINE void store_converted(float* p, DoubleVector v) {
  const FloatPart part = __builtin_convertvector(v, FloatPart);
  __builtin_memcpy(p, &part, sizeof(part));
}
CKRM_INLINE void store_converted(double* p, DoubleVector v) { store(p, v); }

// K rows of lanes of numbers -> one prepared vector of slices; OwnMoments' size by lane in `size`. Means and
// coordinates are computed in float64 from differences to the first position, so that they are accurate where they
// cancel and exact zeros where a slice is constant.
template <class T, class Number, class OwnScalars>
CKRM_INLINE void pack_slices(const Number* x, const double* norms, int64_t positions, const OwnScalars& scalars, T* out,
                             DoubleVector (&size)[kDoubles<T>]) {
  constexpr int64_t L = kLanes<T>, D = kLanes<double>;
  const double scale = scalars.scale;
  DoubleVector first[kDoubles<T>], sum[kDoubles<T>] = {}, var[kDoubles<T>] = {};
  for (int64_t part = 0; part < kDoubles<T>; ++part) first[part] = load_doubles(x + part * D) * scale;
  for (int64_t r = 1; r < positions; ++r) {
    const double n = static_cast<double>(r), norm = norms[r - 1];
    for (int64_t part = 0; part < kDoubles<T>; ++part) {
      const DoubleVector shifted = load_doubles(x + r * L + part * D) * scale - first[part];
      const DoubleVector z = (sum[part] - n * shifted) * norm;
      sum[part] += shifted;
      var[part] += z * z;
      store_converted(out + (r - 1) * L + part * D, z);
    }
  }
  out += (positions - 1) * L;
  for (int64_t part = 0; part < kDoubles<T>; ++part) {
    const DoubleVector mu = first[part] + sum[part] / static_cast<double>(positions);
    const OwnMoments<DoubleVector> own = scalars.own_moments(mu, var[part]);
    store_converted(out + part * D, mu);
    store_converted(out + L + part * D, own.first);
    store_converted(out + 2 * L + part * D, square_root(var[part]));
    store_converted(out + 3 * L + part * D, own.second);
    size[part] = own.size;
  }
}

// One prepared vector, and by lane the larger of `largest` and its sizes. A slice that is not finite becomes a zero
// slice, and its filter is poisoned: the lanes' are `poison_stride` apart.
template <class Element, class T, class OwnScalars>
CKRM_INLINE void pack_vector(const WeightView& w, const double* norms, const SlicesInLanes& slices,
                             const OwnScalars& scalars, T* out, T* poison, int64_t poison_stride, NumberOf<Element>* x,
                             DoubleVector& largest) {
  constexpr int64_t L = kLanes<T>, D = kLanes<double>;
  read_slices<T, Element>(w, slices, x);
  DoubleVector size[kDoubles<T>], not_finite = {};
  pack_slices(x, norms, w.positions, scalars, out, size);
  for (int64_t part = 0; part < kDoubles<T>; ++part) not_finite += size[part] - size[part];
  if (sum_of_lanes<double>(not_finite) != 0) {
    for (int64_t l = 0; l < L; ++l) {
      const double of_lane = size[l / D][l % D];
      if (of_lane - of_lane == 0) continue;
      poison[l * poison_stride] = static_cast<T>(__builtin_nan(""));
      for (int64_t q = 0; q < w.positions; ++q) x[q * L + l] = 0;
    }
    pack_slices(x, norms, w.positions, scalars, out, size);
  }
  for (int64_t part = 0; part < kDoubles<T>; ++part) largest = maximum(size[part], largest);
}

template <class Element, class T, class OwnScalars>
double pack_from(const WeightView& w, const OwnScalars& scalars, const Bank<T>& bank, int64_t begin, int64_t end,
                 double* scratch) {
  constexpr int64_t L = kLanes<T>;
  const int64_t vector_size = bank.rows() * L, blocks = (w.slices + L - 1) / L;
  NumberOf<Element>* x = reinterpret_cast<NumberOf<Element>*>(scratch);
  DoubleVector largest{};
  for (int64_t unit = begin; unit < end; ++unit) {
    if (bank.layout == Layout::kFiltersInLanes) {
      const int64_t filter = unit * L, count = w.filters - filter < L ? w.filters - filter : L;
      store(bank.poison + filter, Vector<T>{});
      for (int64_t k = 0; k < w.slices; ++k)
        pack_vector<Element>(w, bank.norms, {filter * w.filter_stride + k * w.slice_stride, w.filter_stride, count},
                             scalars, bank.data + (unit * w.slices + k) * vector_size, bank.poison + filter, 1, x,
                             largest);
    } else {
      bank.poison[unit] = 0;
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t k = block * L, count = w.slices - k < L ? w.slices - k : L;
        pack_vector<Element>(w, bank.norms, {unit * w.filter_stride + k * w.slice_stride, w.slice_stride, count},
                             scalars, bank.data + (unit * blocks + block) * vector_size, bank.poison + unit, 0, x,
                             largest);
      }
    }
  }
  double result = 0;
  for (int64_t lane = 0; lane < kLanes<double>; ++lane) result = maximum(result, largest[lane]);
  return result;
}

template <class T>
double prepare(const WeightView& w, const Scalars<T>& scalars, const Bank<T>& bank, int64_t begin, int64_t end,
               double* scratch) {
  return with_scalars(scalars, [&](const auto& own) {
    switch (w.element) {
      case Element::kFloat32:
        return pack_from<float>(w, own, bank, begin, end, scratch);
      case Element::kFloat64:
        return pack_from<double>(w, own, bank, begin, end, scratch);
      case Element::kFloat16:
        return pack_from<Float16>(w, own, bank, begin, end, scratch);
      default:
        return pack_from<BFloat16>(w, own, bank, begin, end, scratch);
    }
  });
}

}  // namespace CKRM_ISA
}  // namespace ckrm
