// The soft share of pairs above a threshold of many banks, and its gradient in the same call. The banks follow one
// another on the stream: the host waits for none.
#include "soft.cuh"

#include "../operators.h"
#include "gradient.h"
#include "tile_sums.h"

namespace ckrm {
namespace cuda {
namespace {

// The element of a contiguous tensor of the dtype of a result.
void* element_at(const Tensor& tensor, int64_t at) {
  const int64_t size = tensor.scalar_type() == ScalarType::Float ? sizeof(float) : sizeof(double);
  return static_cast<char*>(tensor.mutable_data_ptr()) + at * size;
}

// soft: but psi and sums. gradient: of the bank's shape, or null.
template <class T>
void soft_redundancy_of_bank(const Weight& bank, const Similarity& similarity, const Scalars<T>& for_gradient,
                             SoftPairs<T> soft, const Tensor* gradient, const CurrentStream& stream) {
  const PreparedBank<T> prepared(bank, Layout::kFiltersInRow, for_gradient, stream);
  const Tensor psi = new_numbers<T>(prepared.data(), soft.pairs);
  Result<T> result{};
  result.kind = ResultKind::kPacked;
  result.psi = psi.mutable_data_ptr();
  result.is_float32 = sizeof(T) == sizeof(float);
  sum_tiles(prepared, prepared, true, similarity.scalars<T>(false), result, stream);

  const int64_t blocks = divide_up(soft.pairs, kSoftPairs);
  const Tensor sums = new_numbers<T>(prepared.data(), blocks);
  soft.psi = static_cast<T*>(psi.mutable_data_ptr());
  soft.sums = static_cast<T*>(sums.mutable_data_ptr());
  soft.with_gradient = gradient != nullptr;
  stream.launch(soft_kernel<T>, blocks, 1, kThreads, soft);
  stream.launch(soft_mean_kernel<T>, 1, 1, kThreads, soft, blocks);
  if (gradient == nullptr) return;
  const PairGradient of_pairs{soft.psi, sizeof(T) == sizeof(float), true, {1, 0}};
  tile_gradient(prepared, prepared, of_pairs, for_gradient, *gradient, stream);
}

}  // namespace
}  // namespace cuda

using namespace cuda;

std::tuple<Tensor, std::vector<Tensor>> soft_redundancy(const std::vector<Tensor>& banks, const Tensor& thresholds,
                                                        double temperature, bool with_gradient, const std::string& name,
                                                        bool is_signed, const std::vector<double>& parameters) {
  const Similarity similarity(name, is_signed, parameters);
  check_soft(thresholds, banks, temperature);
  for (const Tensor& bank : banks)
    STD_TORCH_CHECK(bank.device() == thresholds.device(), "banks and thresholds must be on one device");
  const CurrentStream stream(thresholds);
  const Tensor limits = torch::stable::contiguous(thresholds);
  const Tensor values = torch::stable::new_zeros(thresholds, shape_of(thresholds));
  std::vector<Tensor> gradients;
  for (size_t index = 0; index < banks.size(); ++index) {
    const Weight bank(banks[index]);
    const int64_t n = bank.view().filters;
    if (with_gradient) gradients.push_back(new_tensor(banks[index], shape_of(banks[index]), result_type(banks[index])));
    if (n < 2) {
      if (with_gradient) torch::stable::zero_(gradients.back());
      continue;
    }
    with_arithmetic(banks[index], similarity, true, [&]<class T>(const Scalars<T>& scalars) {
      SoftPairs<T> soft{};
      soft.pairs = n * (n - 1) / 2;
      soft.threshold = element_at(limits, static_cast<int64_t>(index));
      soft.mean = element_at(values, static_cast<int64_t>(index));
      soft.is_float32 = limits.scalar_type() == ScalarType::Float;
      soft.temperature = static_cast<T>(temperature);
      soft_redundancy_of_bank(bank, similarity, scalars, soft, with_gradient ? &gradients.back() : nullptr, stream);
    });
  }
  return {values, gradients};
}

}  // namespace ckrm
