// From a weight to a prepared filter bank.
// A part of kernels_impl.h, which says how it is compiled.

namespace ckrm {
namespace CKRM_ISA {

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

// K rows of lanes of doubles -> one prepared vector of slices; OwnMoments' size by lane in `size`. Means and
// coordinates are computed in float64 from differences to the first position, so that they are accurate where they
// cancel and exact zeros where a slice is constant.
template <class T, class OwnScalars>
CKRM_INLINE void pack_slices(const double* x, const double* norms, int64_t positions, const OwnScalars& scalars, T* out,
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
    const OwnMoments<DoubleVector> own = scalars.own_moments(mu, var[part]);
    store_converted(out + part * D, mu);
    store_converted(out + L + part * D, own.first);
    store_converted(out + 2 * L + part * D, square_root(var[part]));
    store_converted(out + 3 * L + part * D, own.second);
    store(size + part * D, own.size);
  }
}

// Slices [k, k + lanes) of one filter, or slice k of filters [filter, filter + lanes): where the next lane is.
struct LaneStep {
  int64_t filters, slices;
};

// One prepared vector. Lanes outside the weight become zero slices; so does a slice that is not finite, and its filter
// is poisoned. Returns the largest size.
template <class From, class T, class OwnScalars>
CKRM_INLINE double pack_vector(const WeightView& w, const double* norms, int64_t filter, int64_t k, LaneStep step,
                               const OwnScalars& scalars, T* out, T* poison, double* x) {
  constexpr int64_t L = kLanes<T>;
  const From* data = static_cast<const From*>(w.data);
  for (int64_t l = 0; l < L; ++l) {
    const int64_t f = filter + l * step.filters, s = k + l * step.slices;
    const bool inside = f < w.filters && s < w.slices;
    const int64_t base = inside ? f * w.filter_stride + s * w.slice_stride : 0;
    for (int64_t q = 0; q < w.positions; ++q)
      x[q * L + l] = inside ? element_at(data, base + w.offsets[q]) * scalars.scale : 0;
  }
  alignas(kAlignment) double size[L];
  pack_slices(x, norms, w.positions, scalars, out, size);
  double largest = 0, finite = 0;
  for (int64_t l = 0; l < L; ++l) finite += size[l] - size[l], largest = maximum(largest, size[l]);
  if (finite == 0) return largest;
  largest = 0;
  for (int64_t l = 0; l < L; ++l) {
    if (size[l] - size[l] == 0) continue;
    poison[l * step.filters] = static_cast<T>(__builtin_nan(""));
    for (int64_t q = 0; q < w.positions; ++q) x[q * L + l] = 0;
  }
  pack_slices(x, norms, w.positions, scalars, out, size);
  for (int64_t l = 0; l < L; ++l) largest = maximum(largest, size[l]);
  return largest;
}

template <class From, class T, class OwnScalars>
double pack_from(const WeightView& w, const OwnScalars& scalars, const Bank<T>& bank, int64_t begin, int64_t end,
                 double* x) {
  constexpr int64_t L = kLanes<T>;
  const int64_t vector_size = bank.rows() * L, blocks = (w.slices + L - 1) / L;
  double largest = 0;
  for (int64_t unit = begin; unit < end; ++unit) {
    if (bank.layout == Layout::kFiltersInLanes) {
      store(bank.poison + unit * L, Vector<T>{});
      for (int64_t k = 0; k < w.slices; ++k)
        largest = maximum(
            largest, pack_vector<From>(w, bank.norms, unit * L, k, {1, 0}, scalars,
                                       bank.data + (unit * w.slices + k) * vector_size, bank.poison + unit * L, x));
    } else {
      bank.poison[unit] = 0;
      for (int64_t block = 0; block < blocks; ++block)
        largest = maximum(largest,
                          pack_vector<From>(w, bank.norms, unit, block * L, {0, 1}, scalars,
                                            bank.data + (unit * blocks + block) * vector_size, bank.poison + unit, x));
    }
  }
  return largest;
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
