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
void sum_tiles(const PreparedBanks<T>& a, const PreparedBanks<T>& b, bool triangular, const Scalars<T>& scalars,
               const std::vector<Result<T>>& results, const CurrentStream& stream) {
  using Work = TileWork<T>;
  std::vector<Work> works;
  for (size_t i = 0; i < results.size(); ++i) {
    const Bank<T>&rows = a.banks()[i], &columns = b.banks()[i];
    works.push_back({rows, columns, plan_tiles(rows, columns, triangular), results[i]});
  }
  const auto blocks_of = [](const Work& work) { return work.plan.tiles * work.plan.splits; };
  const auto combined_of = [](const Work& work) { return work.plan.splits > 1 ? work.plan.tiles : 0; };
  const auto parts_of = [&](const Work& work) { return work.plan.splits > 1 ? blocks_of(work) : 0; };
  const int64_t blocks = share_out(works, &Work::first_block, blocks_of);
  const int64_t combined = share_out(works, &Work::first_combined, combined_of);
  const Tensor partial = new_numbers<T>(a.data(), share_out(works, &Work::first_part, parts_of) * kTilePairs<T>);
  for (Work& work : works)
    if (work.plan.splits > 1)
      work.result.partial = static_cast<T*>(partial.mutable_data_ptr()) + work.first_part * kTilePairs<T>;
  const WorkTable<Work> table(works, a.data(), stream);
  with_term_of<true>(scalars, works.front().a.coordinates, [&](const auto& term, auto coordinates) {
    using Term = std::decay_t<decltype(term)>;
    stream.launch(tile_kernel<coordinates.value, Term, T>, blocks, 1, kThreads, table.works(), term);
  });
  if (combined > 0) stream.launch(combine_kernel<T>, combined, kTilePairs<T> / kThreads, kThreads, table.works());
}

template void sum_tiles<float>(const PreparedBanks<float>&, const PreparedBanks<float>&, bool, const Scalars<float>&,
                               const std::vector<Result<float>>&, const CurrentStream&);
template void sum_tiles<double>(const PreparedBanks<double>&, const PreparedBanks<double>&, bool,
                                const Scalars<double>&, const std::vector<Result<double>>&, const CurrentStream&);

namespace {

template <class T>
Result<T> result_to(const Tensor& out, ResultKind kind) {
  Result<T> result{};
  result.kind = kind;
  result.psi = out.mutable_data_ptr();
  result.is_float32 = out.scalar_type() == ScalarType::Float;
  return result;
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
    const PreparedBanks<T> prepared({w}, Layout::kFiltersInRow, scalars, stream);
    sum_tiles(prepared, prepared, true, scalars, {result_to<T>(out, ResultKind::kPacked)}, stream);
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
    const PreparedBanks<T> prepared_a({wa}, Layout::kFiltersInRow, scalars, stream);
    const PreparedBanks<T> prepared_b({wb}, Layout::kFiltersInRow, scalars, stream);
    sum_tiles(prepared_a, prepared_b, false, scalars, {result_to<T>(out, ResultKind::kRectangle)}, stream);
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
  for (const Run& run : runs_of({banks.begin(), banks.end()}))
    with_arithmetic(banks.front(), similarity, false, [&]<class T>(const Scalars<T>& scalars) {
      const PreparedBanks<T> prepared(run.weights, Layout::kFiltersInRow, scalars, stream);
      std::vector<Result<T>> results;
      for (const size_t place : run.places) {
        Result<T>& result = results.emplace_back();
        result.kind = ResultKind::kCounts;
        result.is_float32 = edges.scalar_type() == ScalarType::Float;
        result.counts = static_cast<unsigned long long*>(out.mutable_data_ptr()) + place * intervals;
        result.edges = sorted.const_data_ptr();
        result.edge_count = edges.size(0);
      }
      sum_tiles(prepared, prepared, true, scalars, results, stream);
    });
  return out;
}

}  // namespace ckrm
