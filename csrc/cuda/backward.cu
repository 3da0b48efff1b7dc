// Gradients of all pairs and of a x b.
#include "backward.cuh"

#include "../operators.h"
#include "gradient.h"

namespace ckrm {
namespace cuda {

template <class T>
void tile_gradient(const PreparedBanks<T>& a, const PreparedBanks<T>& b, const std::vector<PairGradient>& grads,
                   const Scalars<T>& scalars, const std::vector<Tensor>& out, const CurrentStream& stream) {
  using Work = GradientWork<T>;
  int64_t squares = 0;
  for (size_t i = 0; i < grads.size(); ++i) squares += a.banks()[i].padded * b.banks()[i].padded;
  const Tensor square = new_numbers<T>(a.data(), squares), of_a = new_numbers<T>(a.data(), a.data().numel());
  T *spread = static_cast<T*>(square.mutable_data_ptr()), *gathered = static_cast<T*>(of_a.mutable_data_ptr());
  std::vector<Work> works;
  for (size_t i = 0; i < grads.size(); ++i) {
    const Bank<T>&rows = a.banks()[i], &columns = b.banks()[i];
    works.push_back({rows, columns, grads[i], spread, gathered});
    spread += rows.padded * columns.padded, gathered += rows.numbers();
  }
  const int64_t spreading = share_out(
      works, &Work::first_spread, [](const Work& work) { return divide_up(work.a.padded * work.b.padded, kThreads); });
  const int64_t blocks = share_out(works, &Work::first_block,
                                   [](const Work& work) { return work.a.padded / kOwnedFilters<T> * work.a.slices; });
  int64_t parts = 1;
  for (const Work& work : works) parts = std::max(parts, parts_of_coordinates(work.a.coordinates));
  const WorkTable<Work> table(works, a.data(), stream);
  stream.launch(spread_gradient_kernel<T>, spreading, 1, kThreads, table.works());
  with_term_of<true>(scalars, works.front().a.coordinates, [&](const auto& term, auto coordinates) {
    using Term = std::decay_t<decltype(term)>;
    stream.launch(tile_gradient_kernel<coordinates.value, Term, T>, blocks, parts, kThreads, table.works(), term);
  });
  finish_gradient(a, of_a, out, stream);
}

template void tile_gradient<float>(const PreparedBanks<float>&, const PreparedBanks<float>&,
                                   const std::vector<PairGradient>&, const Scalars<float>&, const std::vector<Tensor>&,
                                   const CurrentStream&);
template void tile_gradient<double>(const PreparedBanks<double>&, const PreparedBanks<double>&,
                                    const std::vector<PairGradient>&, const Scalars<double>&,
                                    const std::vector<Tensor>&, const CurrentStream&);

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
    const PreparedBanks<T> prepared({w}, Layout::kFiltersInRow, scalars, stream);
    tile_gradient(prepared, prepared, {of_pairs}, scalars, {out}, stream);
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
    const PreparedBanks<T> prepared_a({wa}, Layout::kFiltersInRow, scalars, stream);
    const PreparedBanks<T> prepared_b({wb}, Layout::kFiltersInRow, scalars, stream);
    tile_gradient(prepared_a, prepared_b, {by_a}, scalars, {out_a}, stream);
    tile_gradient(prepared_b, prepared_a, {by_b}, scalars, {out_b}, stream);
  });
  return {out_a, out_b};
}

}  // namespace ckrm
