// Gradients of all pairs and of a x b.
#include "backward.cuh"

#include "../operators.h"
#include "gradient.h"

namespace ckrm {
namespace cuda {

template <class T>
void tile_gradient(const PreparedBank<T>& prepared_a, const PreparedBank<T>& prepared_b, const PairGradient& grad,
                   const Scalars<T>& scalars, const Tensor& out, const CurrentStream& stream) {
  const Bank<T>&a = prepared_a.bank(), &b = prepared_b.bank();
  const Tensor square = new_numbers<T>(prepared_a.data(), a.padded * b.padded);
  T* spread = static_cast<T*>(square.mutable_data_ptr());
  stream.launch(spread_gradient_kernel<T>, divide_up(a.padded * b.padded, kThreads), 1, kThreads, a, b, grad, spread);

  const Tensor of_a = new_numbers<T>(prepared_a.data(), prepared_a.data().numel());
  T* gathered = static_cast<T*>(of_a.mutable_data_ptr());
  const int64_t blocks = a.padded / kOwnedFilters<T> * a.slices;
  with_term_of<true>(scalars, a.coordinates, [&](const auto& term, auto coordinates) {
    using Term = std::decay_t<decltype(term)>;
    stream.launch(tile_gradient_kernel<coordinates.value, Term, T>, blocks,
                  parts_of_coordinates<coordinates.value>(a.coordinates), kThreads, a, b, static_cast<const T*>(spread),
                  term, gathered);
  });
  finish_gradient(prepared_a, of_a, out, stream);
}

template void tile_gradient<float>(const PreparedBank<float>&, const PreparedBank<float>&, const PairGradient&,
                                   const Scalars<float>&, const Tensor&, const CurrentStream&);
template void tile_gradient<double>(const PreparedBank<double>&, const PreparedBank<double>&, const PairGradient&,
                                    const Scalars<double>&, const Tensor&, const CurrentStream&);

namespace {

bool is_float32(const Tensor& grad) { return grad.scalar_type() == ScalarType::Float; }

}  // namespace
}  // namespace cuda

using namespace cuda;

Tensor pairwise_psi_backward(const Tensor& grad, const Tensor& weight, const std::string& name, bool is_signed,
                             const std::vector<double>& parameters) {
  const Similarity similarity(name, is_signed, parameters);
  const Weight w(weight);
  const int64_t n = w.view().filters;
  check_gradient(grad, weight, {n * (n - 1) / 2});
  check_same_device(grad, weight, "grad");
  const CurrentStream stream(weight);
  if (n < 2) return zero_gradient(weight);
  const Tensor out = empty_gradient(weight);
  const PairGradient of_pairs{grad.const_data_ptr(), is_float32(grad), true, {grad.stride(0), 0}};
  with_arithmetic(weight, similarity, true, [&]<class T>(const Scalars<T>& scalars) {
    const PreparedBank<T> prepared(w, Layout::kFiltersInRow, scalars, stream);
    tile_gradient(prepared, prepared, of_pairs, scalars, out, stream);
  });
  return out;
}

std::tuple<Tensor, Tensor> cross_psi_backward(const Tensor& grad, const Tensor& a, const Tensor& b,
                                              const std::string& name, bool is_signed,
                                              const std::vector<double>& parameters) {
  const Similarity similarity(name, is_signed, parameters);
  const Weight wa(a), wb(b);
  check_alike(wa, wb);
  check_gradient(grad, a, {wa.view().filters, wb.view().filters});
  check_same_device(grad, a, "grad");
  const CurrentStream stream(a);
  if (grad.numel() == 0) return {zero_gradient(a), zero_gradient(b)};
  const Tensor out_a = empty_gradient(a), out_b = empty_gradient(b);
  const PairGradient by_a{grad.const_data_ptr(), is_float32(grad), false, {grad.stride(0), grad.stride(1)}};
  const PairGradient by_b{grad.const_data_ptr(), is_float32(grad), false, {grad.stride(1), grad.stride(0)}};
  with_arithmetic(a, similarity, true, [&]<class T>(const Scalars<T>& scalars) {
    const PreparedBank<T> prepared_a(wa, Layout::kFiltersInRow, scalars, stream);
    const PreparedBank<T> prepared_b(wb, Layout::kFiltersInRow, scalars, stream);
    tile_gradient(prepared_a, prepared_b, by_a, scalars, out_a, stream);
    tile_gradient(prepared_b, prepared_a, by_b, scalars, out_b, stream);
  });
  return {out_a, out_b};
}

}  // namespace ckrm
