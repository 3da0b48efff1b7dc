// Psi of listed pairs and its gradient.
#include "listed.cuh"

#include <array>

#include "../operators.h"
#include "gradient.h"

namespace ckrm {
namespace cuda {
namespace {

Tensor contiguous_pairs(const Tensor& pairs, const Tensor& weight) {
  STD_TORCH_CHECK(pairs.dim() == 2 && pairs.size(1) == 2 && pairs.scalar_type() == ScalarType::Long,
                  "pairs must be an int64 tensor of shape (P, 2)");
  check_same_device(pairs, weight, "pairs");
  return torch::stable::contiguous(pairs);
}

// Values and indices of a stable sort, so that the order in which a filter meets its pairs is that of the list.
std::tuple<Tensor, Tensor> sorted(const Tensor& values) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 4> stack{from(values), from(std::optional<bool>(true)), from(int64_t{0}), from(false)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
}

}  // namespace
}  // namespace cuda

using namespace cuda;

Tensor psi_of_pairs(const Tensor& weight, const Tensor& pairs, const std::string& name, bool is_signed,
                    const std::vector<double>& parameters) {
  const Similarity similarity(name, is_signed, parameters);
  const Weight w(weight);
  const Tensor list = contiguous_pairs(pairs, weight);
  const CurrentStream stream(weight);
  const PairList listed{list.const_data_ptr<int64_t>(), list.size(0)};
  const Tensor out = new_tensor(weight, {listed.count}, result_type(weight));
  if (listed.count == 0) return out;
  with_arithmetic(weight, similarity, false, [&]<class T>(const Scalars<T>& scalars) {
    const PreparedBanks<T> prepared({w}, Layout::kSlicesInRow, scalars, stream);
    const Bank<T>& bank = prepared.banks().front();
    with_term_of<false>(scalars, bank.coordinates, [&](const auto& term, auto coordinates) {
      using Term = std::decay_t<decltype(term)>;
      stream.launch(listed_kernel<coordinates.value, Term, T>, divide_up(listed.count, kPairsPerBlock), 1, kThreads,
                    bank, listed, term, out.mutable_data_ptr(), result_type(weight) == ScalarType::Float);
    });
  });
  return out;
}

Tensor psi_of_pairs_backward(const Tensor& grad, const Tensor& weight, const Tensor& pairs, const std::string& name,
                             bool is_signed, const std::vector<double>& parameters) {
  const Similarity similarity(name, is_signed, parameters);
  const Weight w(weight);
  const Tensor list = contiguous_pairs(pairs, weight);
  const PairList listed{list.const_data_ptr<int64_t>(), list.size(0)};
  check_gradient(grad, weight, {listed.count});
  check_same_device(grad, weight, "grad");
  const CurrentStream stream(weight);
  if (listed.count == 0 || w.view().filters == 0) return zero_gradient(weight);
  const auto [filters, places] = sorted(torch::stable::reshape(list, {2 * listed.count}));
  const Incidence incidence{filters.const_data_ptr<int64_t>(), places.const_data_ptr<int64_t>(), 2 * listed.count};
  const PairGradient of_pairs{
      grad.const_data_ptr(), grad.scalar_type() == ScalarType::Float, false, {grad.stride(0), 0}};
  const Tensor out = empty_gradient(weight);
  with_arithmetic(weight, similarity, true, [&]<class T>(const Scalars<T>& scalars) {
    const PreparedBanks<T> prepared({w}, Layout::kSlicesInRow, scalars, stream);
    const Bank<T>& bank = prepared.banks().front();
    const Tensor of_bank = new_numbers<T>(prepared.data(), prepared.data().numel());
    T* gathered = static_cast<T*>(of_bank.mutable_data_ptr());
    with_term_of<false>(scalars, bank.coordinates, [&](const auto& term, auto coordinates) {
      using Term = std::decay_t<decltype(term)>;
      stream.launch(listed_gradient_kernel<coordinates.value, Term, T>, divide_up(bank.filters * bank.slices, kThreads),
                    parts_of_coordinates(bank.coordinates), kThreads, bank, listed, incidence, of_pairs, term,
                    gathered);
    });
    finish_gradient(prepared, of_bank, {out}, stream);
  });
  return out;
}

}  // namespace ckrm
