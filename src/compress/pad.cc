#include "compress/pad.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "compress/choose.h"

namespace choir::compress {
namespace {

// What is added to a choice that must not happen: far below any key, and a number that the format has.
float never(tensor::DType type) { return type == tensor::DType::kF16 ? -6e4f : -1e30f; }

// The lowest dropped ones, as many of each group.
std::vector<int> put_back(const std::vector<int>& keep, int experts, int groups, int count) {
  const int size = experts / groups;
  std::vector<int> added, room(static_cast<size_t>(groups), count / groups);
  for (const int e : keep) --room[static_cast<size_t>(e / size)];
  for (const int e : others(keep, experts))
    if (room[static_cast<size_t>(e / size)]-- > 0) added.push_back(e);
  return added;
}

// Rows of `kept` and of `full`, in the order of the experts' numbers: place[i] is a row of kept, or -1 - a row of full.
template <class Row>
std::vector<float> mixed_rows(const std::vector<int>& place, const Row& kept, const Row& full) {
  std::vector<float> rows;
  for (const int at : place) {
    const std::vector<float> row = at >= 0 ? kept(at) : full(-1 - at);
    rows.insert(rows.end(), row.begin(), row.end());
  }
  return rows;
}

auto rows_of(const tensor::Weight& weight, int width) {
  return [numbers = numbers_of(weight), width](int row) {
    const auto first = numbers.begin() + static_cast<std::ptrdiff_t>(row) * width;
    return std::vector<float>(first, first + width);
  };
}

// A tensor with a row, or a number, of each expert.
tensor::Weight padded_rows(Mixture& mixture, const std::vector<int>& place, const tensor::Weight& kept,
                           const tensor::Weight& full, bool by_row) {
  const int width = by_row ? kept.cols : 1, count = static_cast<int>(place.size());
  const auto rows = mixed_rows(place, rows_of(kept, width), rows_of(full, width));
  return mixture.made(kept.type, {rows.data(), by_row ? count : 1, by_row ? width : count});
}

// The tensor that can say "never", if there is one: the selection bias, or the gate's.
template <class Moe>
auto* bias_of(Moe& moe) {
  return moe.state.data ? &moe.state : moe.gate.size() > 1 ? &moe.gate[1] : nullptr;
}

Mixture padded_mixture(const Model& full, const Model& pruned, int l, const std::vector<int>& keep,
                       const std::vector<int>& added) {
  Mixture mixture(pruned, l);
  auto& tensors = mixture.tensors;
  const auto& given = full.tensors().blocks[static_cast<size_t>(l)].moe;
  const model::LayerConfig& whole = full.config().layers[static_cast<size_t>(l)];
  std::vector<int> all, place;
  std::ranges::merge(keep, added, std::back_inserter(all));
  moe::ExpertTensors<tensor::Weight> experts;
  mixture.config.kept.clear();
  mixture.config.widths.clear();
  for (const int e : all) {
    const auto at = std::ranges::find(keep, e);
    place.push_back(at == keep.end() ? -1 - e : static_cast<int>(at - keep.begin()));
    if (at == keep.end())
      experts.add(given, static_cast<size_t>(e));
    else
      experts.add(tensors, static_cast<size_t>(at - keep.begin()));
    mixture.config.kept.push_back(whole.kept.empty() ? e : whole.kept[static_cast<size_t>(e)]);
    mixture.config.widths.push_back(experts.w1.back().rows);
  }
  static_cast<moe::ExpertTensors<tensor::Weight>&>(tensors) = std::move(experts);
  const auto [least, most] = std::ranges::minmax(mixture.config.widths);
  mixture.config.expert_width = most;
  if (least == most) mixture.config.widths.clear();
  mixture.config.experts = static_cast<int>(all.size());
  for (size_t g = 0; g < tensors.gate.size(); ++g)  // behind the gate's rows its bias
    tensors.gate[g] = padded_rows(mixture, place, tensors.gate[g], given.gate[g], g == 0);
  if (tensors.state.data) tensors.state = padded_rows(mixture, place, tensors.state, given.state, false);
  tensor::Weight& bias = *bias_of(tensors);
  std::vector<float> numbers = numbers_of(bias);
  for (size_t i = 0; i < place.size(); ++i)
    if (place[i] < 0) numbers[i] = never(bias.type);
  bias = mixture.renewed(bias, numbers);
  return mixture;
}

}  // namespace

void check_paddable(const Model& model) {
  for (int l = 0; l < model.config().depth(); ++l)
    if (!model.config().layers[static_cast<size_t>(l)].dense() &&
        !bias_of(model.tensors().blocks[static_cast<size_t>(l)].moe))
      base::usage_error(
          "the router has no bias, so that no expert of it is never chosen: " + model.router(l).expression(),
          "--pad: layer " + std::to_string(l), "keep as many experts in every layer: --keep N or --uniform");
}

Padded padded(const Model& full, const Model& pruned, const std::vector<std::vector<int>>& keep) {
  check_paddable(full);
  size_t most = 0;
  for (const std::vector<int>& list : keep) most = std::max(most, list.size());
  Padded result{pruned, {}};
  for (int l = 0; l < full.config().depth(); ++l) {
    if (full.config().layers[static_cast<size_t>(l)].dense()) {
      result.experts.emplace_back();
      continue;
    }
    const std::vector<int>& list = keep[static_cast<size_t>(l)];
    const int experts = full.config().layers[static_cast<size_t>(l)].experts,
              groups = full.router(l).subset_rule()->groups;
    if (experts < static_cast<int>(most) || most % static_cast<size_t>(groups) != 0)
      base::usage_error("a layer of " + std::to_string(experts) + " experts cannot have " + std::to_string(most),
                        "--pad: layer " + std::to_string(l), "keep fewer in the others");
    result.experts.push_back(put_back(list, experts, groups, static_cast<int>(most)));
    if (result.experts.back().empty()) continue;
    result.model = padded_mixture(full, pruned, l, list, result.experts.back()).in(result.model, l);
  }
  return result;
}

}  // namespace choir::compress
