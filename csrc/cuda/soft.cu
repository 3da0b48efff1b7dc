// The soft share of pairs above a threshold of many banks, and its gradient in the same call.
#include "soft.cuh"

#include "../operators.h"
#include "gradient.h"
#include "tile_sums.h"

namespace ckrm {
namespace cuda {
namespace {

// The element of a contiguous tensor of the dtype of a result.
void* element_at(const Tensor& tensor, size_t at) {
  const size_t size = tensor.scalar_type() == ScalarType::Float ? sizeof(float) : sizeof(double);
  return static_cast<char*>(tensor.mutable_data_ptr()) + at * size;
}

// thresholds, values, gradients: of all banks; no gradients, where there are to be none.
template <class T>
void soft_redundancy_of_run(const Run& run, const Similarity& similarity, const Scalars<T>& for_gradient,
                            const Tensor& thresholds, T temperature, const Tensor& values,
                            const std::vector<Tensor>& gradients, const CurrentStream& stream) {
  const PreparedBanks<T> prepared(run.weights, Layout::kFiltersInRow, for_gradient, stream);
  const bool is_float32 = values.scalar_type() == ScalarType::Float, in_float32 = sizeof(T) == sizeof(float);
  std::vector<SoftWork<T>> works;
  int64_t pairs = 0;
  for (size_t i = 0; i < run.places.size(); ++i) {
    const int64_t n = prepared.banks()[i].filters, of_bank = n * (n - 1) / 2;
    works.push_back({nullptr, nullptr, of_bank, element_at(thresholds, run.places[i]),
                     element_at(values, run.places[i]), 0, divide_up(of_bank, kSoftPairs)});
    pairs += of_bank;
  }
  const int64_t blocks =
      share_out(works, &SoftWork<T>::first_block, [](const SoftWork<T>& work) { return work.blocks; });
  const Tensor psi = new_numbers<T>(prepared.data(), pairs), sums = new_numbers<T>(prepared.data(), blocks);
  T* to = static_cast<T*>(psi.mutable_data_ptr());
  std::vector<Result<T>> results;
  std::vector<PairGradient> of_pairs;
  for (SoftWork<T>& work : works) {
    work.psi = to, work.sums = static_cast<T*>(sums.mutable_data_ptr()) + work.first_block;
    to += work.pairs;
    Result<T>& result = results.emplace_back();
    result.kind = ResultKind::kPacked, result.psi = work.psi, result.is_float32 = in_float32;
    of_pairs.push_back({work.psi, in_float32, true, {1, 0}});
  }
  sum_tiles(prepared, prepared, true, similarity.scalars<T>(false), results, stream);
  const WorkTable<SoftWork<T>> table(works, psi, stream);
  const bool with_gradient = !gradients.empty();
  stream.launch(soft_kernel<T>, blocks, 1, kThreads, table.works(), temperature, is_float32, with_gradient);
  stream.launch(soft_mean_kernel<T>, table.works().count, 1, kThreads, table.works(), is_float32);
  if (!with_gradient) return;
  std::vector<Tensor> of_run;
  for (const size_t place : run.places) of_run.push_back(gradients[place]);
  tile_gradient(prepared, prepared, of_pairs, for_gradient, of_run, stream);
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
  const std::vector<Weight> weights(banks.begin(), banks.end());
  std::vector<Tensor> gradients;
  for (size_t index = 0; index < banks.size() && with_gradient; ++index) {
    gradients.push_back(new_tensor(banks[index], shape_of(banks[index]), result_type(banks[index])));
    if (weights[index].view().filters < 2) torch::stable::zero_(gradients.back());
  }
  for (const Run& run : runs_of(weights))
    with_arithmetic(banks.front(), similarity, true, [&]<class T>(const Scalars<T>& scalars) {
      soft_redundancy_of_run(run, similarity, scalars, limits, static_cast<T>(temperature), values, gradients, stream);
    });
  return {values, gradients};
}

}  // namespace ckrm
