// The scalar functions of csrc/lanes.h, power.h, fitted_power.h and index.h as Python sees them, on arrays, for the
// property tests.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "fitted_power.h"
#include "index.h"
#include "lanes.h"
#include "power.h"

namespace py = pybind11;

namespace {

template <class T>
void bind_arithmetic(py::module_& parent, const char* name) {
  py::module_ m = parent.def_submodule(name);
  m.def("positive_power", py::vectorize([](T x, T exponent) { return ckrm::positive_power(x, exponent); }));
  m.def("power", py::vectorize([](T x, T exponent) { return ckrm::power(x, exponent); }));
  m.def("unit_power", py::vectorize([](T x, T exponent) { return ckrm::unit_power(x, exponent); }));
  m.def("ratio_or_one", py::vectorize([](T x, T y) { return ckrm::ratio_or_one(x, y); }));
  m.def("inverse_or_zero", py::vectorize([](T x) { return ckrm::inverse_or_zero(x); }));
  m.def("absolute", py::vectorize([](T x) { return ckrm::absolute(x); }));
  m.def("maximum", py::vectorize([](T x, T y) { return ckrm::maximum(x, y); }));
  m.def("apply_sign", py::vectorize([](T x, T sign) { return ckrm::apply_sign(x, sign); }));
}

// A power of x for an exponent that is known before the loop over x.
template <class Power>
void bind_fit(py::module_& m, const char* name, const Power& power) {
  m.def(name, [power](const py::array_t<float>& x, double exponent) {
    const ckrm::PowerFit fit = ckrm::fit_power(exponent);
    return py::vectorize([power, fit](float value) { return power(value, fit); })(x);
  });
}

// As vectors with tables of 2^kBits do.
template <bool kIsSlope, int kBits>
float power_by(float x, const ckrm::PowerFit& fit, const ckrm::PowerTables<kBits>& tables) {
  using Tables = ckrm::PowerTables<kBits>;
  return ckrm::table_power<kIsSlope ? Tables::kSlopeDegree : Tables::kDegree>(x, tables, fit.at_zero);
}

py::tuple as_tuple(const ckrm::Pair& pair) { return py::make_tuple(pair.i, pair.j); }

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  bind_arithmetic<float>(m, "float32");
  bind_arithmetic<double>(m, "float64");
  m.def("fast_log2", py::vectorize([](float x) { return ckrm::fast_log2(x); }));
  m.def("fast_exp2", py::vectorize([](float y) { return ckrm::fast_exp2(y); }));
  bind_fit(m, "polynomial_power", [](float x, const ckrm::PowerFit& fit) { return ckrm::polynomial_power(x, fit); });
  bind_fit(m, "power_of_8", [](float x, const ckrm::PowerFit& fit) { return power_by<false>(x, fit, fit.eight); });
  bind_fit(m, "power_of_16", [](float x, const ckrm::PowerFit& fit) { return power_by<false>(x, fit, fit.sixteen); });
  bind_fit(m, "slope_of_8", [](float x, const ckrm::PowerFit& fit) { return power_by<true>(x, fit, fit.eight); });
  bind_fit(m, "slope_of_16", [](float x, const ckrm::PowerFit& fit) { return power_by<true>(x, fit, fit.sixteen); });
  m.def("accurate_power", py::vectorize([](double x, double exponent) { return ckrm::accurate_power(x, exponent); }));
  m.def("normal_power", py::vectorize([](double x, double exponent) { return ckrm::normal_power(x, exponent); }));
  m.def("power_of_fraction",
        py::vectorize([](double x, double exponent) { return ckrm::power_of_fraction(x, exponent); }));
  m.def("pair_index", [](int64_t i, int64_t j, int64_t n) { return ckrm::pair_index(i, j, n); });
  m.def("pair_of_index", [](int64_t index, int64_t n) { return as_tuple(ckrm::pair_of_index(index, n)); });
  m.def("triangle_tiles", [](int64_t n) { return ckrm::triangle_tiles(n); });
  m.def("triangle_tile", [](int64_t index, int64_t n) { return as_tuple(ckrm::triangle_tile(index, n)); });
  m.def("folded_tile", [](int64_t index, int64_t n) { return as_tuple(ckrm::folded_tile(index, n)); });
}
