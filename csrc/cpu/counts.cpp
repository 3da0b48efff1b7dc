// How many pairs of each bank, or of two banks, have their Psi in each interval, without storing Omega.
#include <torch/csrc/stable/ops.h>

#include <mutex>

#include "../operators.h"
#include "tiles.h"

namespace ckrm {
namespace {

// Slices after which a tile asks whether more can change its counts.
constexpr int64_t kCountStep = 32;

// Whether the slices after the first `done` can't move any Psi of the tile across an edge: terms lie in [least, 1].
template <class T>
bool is_decided(Tiles<T>& tiles, int64_t done, int64_t slices, T least, T lowest_edge, T highest_edge) {
  const T rounding = T(1e-5) * static_cast<T>(slices), left = static_cast<T>(slices - done);
  const T below = lowest_edge * static_cast<T>(slices) - left - rounding;
  const T above = highest_edge * static_cast<T>(slices) - left * least + rounding;
  for (int64_t i = tiles.row_begin(); i < tiles.row_end(); ++i)
    for (int64_t j = tiles.column_begin(i); j < tiles.column_end(); ++j) {
      const T sum = tiles.sums(i)[j];
      if (!(sum < below || sum > above)) return false;
    }
  return true;
}

// How many of the edges lie below a value; none below NaN. Without branches, which are guessed wrong wherever Psi lie
// near an edge.
template <class T>
size_t edges_below(const std::vector<T>& edges, T value) {
  const T* first = edges.data();
  size_t left = edges.size();
  for (; left > 1; left -= left / 2) first += static_cast<size_t>(first[left / 2 - 1] < value) * (left / 2);
  return static_cast<size_t>(first - edges.data()) + static_cast<size_t>(left == 1 && *first < value);
}

// Adds the numbers of all pairs of a bank (triangular), or of those of a x b, to counts[edges + 2]. Out: the type that
// Psi is returned in, to which it is rounded first, so that counts agree with what pairwise_psi returns.
template <class Out, class T>
void count_pairs(const Bank<T>& a, const Bank<T>& b, bool triangular, const Scalars<T>& scalars, T least,
                 const std::vector<T>& edges, int64_t* counts) {
  std::mutex alone;
  parallel_tiles(a, b, triangular, [&](Tiles<T>& tiles) {
    std::vector<int64_t> counted(edges.size() + 2);
    while (tiles.take()) {
      for (int64_t k = 0; k < a.slices; k += kCountStep) {
        if (k > 0 && !edges.empty() && is_decided(tiles, k, a.slices, least, edges.front(), edges.back())) break;
        tiles.add(k, std::min(k + kCountStep, a.slices), scalars);
      }
      for (int64_t i = tiles.row_begin(); i < tiles.row_end(); ++i)
        for (int64_t j = tiles.column_begin(i); j < tiles.column_end(); ++j) {
          const T value = static_cast<T>(static_cast<Out>(mean_of(tiles.sums(i)[j], a.slices)));
          ++counted[value != value ? edges.size() + 1 : edges_below(edges, value)];
        }
    }
    const std::lock_guard<std::mutex> lock(alone);
    for (size_t at = 0; at < counted.size(); ++at) counts[at] += counted[at];
  });
}

// What with_prepared computes with two prepared banks, or with one twice.
template <class Out>
auto counting(const Tensor& edges, bool triangular, const Similarity& similarity, int64_t* counts) {
  return [=, &edges, &similarity](const auto& scalars, const auto& a, const auto& b) {
    using T = std::remove_reference_t<decltype(*a.bank().data)>;
    const Out* first = edges.const_data_ptr<Out>();
    const std::vector<T> limits(first, first + edges.numel());
    count_pairs<Out>(a.bank(), b.bank(), triangular, scalars, static_cast<T>(similarity.lowest()), limits, counts);
  };
}

// Adds the numbers of all pairs of a bank, or of those of two, to counts. edges: contiguous, of the type of a Psi
template <class... Weights>
void add_counts(const Tensor& edges, const Similarity& similarity, int64_t* counts, const Weights&... banks) {
  constexpr bool kTriangular = sizeof...(Weights) == 1;
  const auto add = [&](const auto& counted) {
    with_prepared(banks..., Layout::kFiltersInLanes, similarity, false, counted);
  };
  if (edges.scalar_type() == ScalarType::Double)
    add(counting<double>(edges, kTriangular, similarity, counts));
  else
    add(counting<float>(edges, kTriangular, similarity, counts));
}

}  // namespace

Tensor psi_counts(const std::vector<Tensor>& banks, const Tensor& edges, const std::string& name, bool is_signed,
                  const std::vector<double>& parameters) {
  check_edges(edges, banks);
  const Similarity similarity(name, is_signed, parameters);
  const Tensor sorted = torch::stable::contiguous(edges);
  const int64_t intervals = edges.numel() + 2;
  const Tensor out = torch::stable::new_zeros(edges, {static_cast<int64_t>(banks.size()), intervals}, ScalarType::Long);
  int64_t* counts = out.mutable_data_ptr<int64_t>();
  for (const Tensor& bank : banks) {
    const Weight w(bank);
    if (w.view().filters > 1) add_counts(sorted, similarity, counts, w);
    counts += intervals;
  }
  return out;
}

Tensor cross_psi_counts(const Tensor& a, const Tensor& b, const Tensor& edges, const std::string& name, bool is_signed,
                        const std::vector<double>& parameters) {
  const Weight wa(a), wb(b);
  check_alike(wa, wb);
  check_edges(edges, {a});
  const Similarity similarity(name, is_signed, parameters);
  const Tensor sorted = torch::stable::contiguous(edges);
  const Tensor out = torch::stable::new_zeros(edges, {edges.numel() + 2}, ScalarType::Long);
  if (wa.view().filters > 0 && wb.view().filters > 0)
    add_counts(sorted, similarity, out.mutable_data_ptr<int64_t>(), wa, wb);
  return out;
}

}  // namespace ckrm
