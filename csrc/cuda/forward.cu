// Psi of all pairs, of a x b, and counts without storing Omega.
#include "forward.cuh"

#include <algorithm>

#include "../operators.h"
#include "tile_sums.h"

namespace ckrm {
namespace cuda {
namespace {

// Blocks that fill a large GPU twice. A constant, so that results do not depend on the device.
constexpr int64_t kWantedBlocks = 528;
constexpr int64_t kFewestSlices = 8;  // of a split

template <class T>
TilePlan plan_tiles(const Bank<T>& a, const Bank<T>& b, bool triangular) {
  TilePlan plan;
  plan.triangular = triangular;
  plan.row_tiles = divide_up(a.filters, kTile<T>), plan.column_tiles = divide_up(b.filters, kTile<T>);
  plan.tiles = triangular ? triangle_tiles(plan.row_tiles) : plan.row_tiles * plan.column_tiles;
  const int64_t wanted = std::max<int64_t>(1, kWantedBlocks / plan.tiles);
  // also so that a block counts its slices in 31 bits
  plan.slices_per_split =
      std::min<int64_t>(std::max(divide_up(a.slices, wanted), std::min(kFewestSlices, a.slices)), INT32_MAX / 2);
  plan.splits = divide_up(a.slices, plan.slices_per_split);
  return plan;
}

}  // namespace

template <class T>
void sum_tiles(const PreparedBank<T>& prepared_a, const PreparedBank<T>& prepared_b, bool triangular,
               const Scalars<T>& scalars, Result<T> result, const CurrentStream& stream) {
  const Bank<T>&a = prepared_a.bank(), &b = prepared_b.bank();
  const TilePlan plan = plan_tiles(a, b, triangular);
  Tensor partial;
  if (plan.splits > 1) {
    partial = new_numbers<T>(prepared_a.data(), plan.splits * plan.tiles * kTilePairs<T>);
    result.partial = static_cast<T*>(partial.mutable_data_ptr());
  }
  with_term_of<true>(scalars, a.coordinates, [&](const auto& term, auto coordinates) {
    using Term = std::decay_t<decltype(term)>;
    stream.launch(tile_kernel<coordinates.value, Term, T>, plan.tiles, plan.splits, kThreads, a, b, plan, term, result);
  });
  if (plan.splits > 1)
    stream.launch(combine_kernel<T>, plan.tiles, kTilePairs<T> / kThreads, kThreads, a, b, plan, result);
}

template void sum_tiles<float>(const PreparedBank<float>&, const PreparedBank<float>&, bool, const Scalars<float>&,
                               Result<float>, const CurrentStream&);
template void sum_tiles<double>(const PreparedBank<double>&, const PreparedBank<double>&, bool, const Scalars<double>&,
                                Result<double>, const CurrentStream&);

namespace {

template <class T>
Result<T> result_to(const Tensor& out, ResultKind kind, bool is_float32) {
  Result<T> result{};
  result.kind = kind;
  result.psi = out.mutable_data_ptr();
  result.is_float32 = is_float32;
  return result;
}

// Adds the numbers of all pairs of a bank to counts[edges + 2]. edges: contiguous.
void count_pairs(const Weight& bank, const Tensor& edges, const Similarity& similarity, unsigned long long* counts,
                 const CurrentStream& stream) {
  if (bank.view().filters < 2) return;
  with_arithmetic(bank.tensor(), similarity, false, [&]<class T>(const Scalars<T>& scalars) {
    const PreparedBank<T> prepared(bank, Layout::kFiltersInRow, scalars, stream);
    Result<T> result{};
    result.kind = ResultKind::kCounts;
    result.is_float32 = result_type(bank.tensor()) == ScalarType::Float;
    result.counts = counts;
    result.edges = edges.const_data_ptr();
    result.edge_count = edges.size(0);
    sum_tiles(prepared, prepared, true, scalars, result, stream);
  });
}

}  // namespace
}  // namespace cuda

using namespace cuda;

Tensor pairwise_psi(const Tensor& weight, const std::string& name, bool is_signed,
                    const std::vector<double>& parameters) {
  const Similarity similarity(name, is_signed, parameters);
  const Weight w(weight);
  const int64_t n = w.view().filters;
  const Tensor out = new_tensor(weight, {n * (n - 1) / 2}, result_type(weight));
  if (n < 2) return out;
  const CurrentStream stream(weight);
  with_arithmetic(weight, similarity, false, [&]<class T>(const Scalars<T>& scalars) {
    const PreparedBank<T> prepared(w, Layout::kFiltersInRow, scalars, stream);
    const Result<T> result = result_to<T>(out, ResultKind::kPacked, result_type(weight) == ScalarType::Float);
    sum_tiles(prepared, prepared, true, scalars, result, stream);
  });
  return out;
}

Tensor cross_psi(const Tensor& a, const Tensor& b, const std::string& name, bool is_signed,
                 const std::vector<double>& parameters) {
  const Similarity similarity(name, is_signed, parameters);
  const Weight wa(a), wb(b);
  check_alike(wa, wb);
  const Tensor out = new_tensor(a, {wa.view().filters, wb.view().filters}, result_type(a));
  if (out.numel() == 0) return out;
  const CurrentStream stream(a);
  with_arithmetic(a, similarity, false, [&]<class T>(const Scalars<T>& scalars) {
    const PreparedBank<T> prepared_a(wa, Layout::kFiltersInRow, scalars, stream);
    const PreparedBank<T> prepared_b(wb, Layout::kFiltersInRow, scalars, stream);
    const Result<T> result = result_to<T>(out, ResultKind::kRectangle, result_type(a) == ScalarType::Float);
    sum_tiles(prepared_a, prepared_b, false, scalars, result, stream);
  });
  return out;
}

Tensor psi_counts(const std::vector<Tensor>& banks, const Tensor& edges, const std::string& name, bool is_signed,
                  const std::vector<double>& parameters) {
  const Similarity similarity(name, is_signed, parameters);
  check_edges(edges, banks);
  for (const Tensor& bank : banks)
    STD_TORCH_CHECK(bank.device() == edges.device(), "banks and edges must be on one device");
  const CurrentStream stream(edges);
  const Tensor sorted = torch::stable::contiguous(edges);
  const int64_t intervals = edges.size(0) + 2;
  const Tensor out = torch::stable::new_zeros(edges, {static_cast<int64_t>(banks.size()), intervals}, ScalarType::Long);
  unsigned long long* counts = static_cast<unsigned long long*>(out.mutable_data_ptr());
  for (const Tensor& bank : banks) {
    count_pairs(Weight(bank), sorted, similarity, counts, stream);
    counts += intervals;
  }
  return out;
}

}  // namespace ckrm
