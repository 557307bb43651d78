#include "compress/neurons.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace choir::compress {
namespace {

using tensor::Weight;

// |w_down|^2 of each neuron.
std::vector<double> down_squares(const Weight& w2) {
  const std::vector<float> numbers = numbers_of(w2);
  std::vector<double> squares(static_cast<size_t>(w2.cols));
  for (size_t i = 0; i < numbers.size(); ++i)
    squares[i % squares.size()] += static_cast<double>(numbers[i]) * numbers[i];
  return squares;
}

struct Group {
  double worth;  // of a neuron
  size_t layer, expert;
  int size;
};

// The groups of all but the first, which stays anyway, and how many neurons there are.
struct Groups {
  std::vector<Group> rest;
  int64_t neurons = 0, kept = 0;
};

std::vector<int> by_score(const std::vector<double>& score) {
  std::vector<int> order(score.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order,
                           [&](int a, int b) { return score[static_cast<size_t>(a)] > score[static_cast<size_t>(b)]; });
  return order;
}

void add_groups(const NeuronScores& layer, size_t l, int multiple, Groups& groups) {
  for (size_t e = 0; e < layer.score.size(); ++e) {
    const std::vector<int> order = by_score(layer.score[e]);
    const auto width = static_cast<int>(order.size());
    groups.neurons += width;
    groups.kept += std::min(width, multiple);
    for (int first = multiple; first < width; first += multiple) {
      Group group{0, l, e, std::min(multiple, width - first)};
      for (int i = first; i < first + group.size; ++i)
        group.worth += layer.score[e][static_cast<size_t>(order[static_cast<size_t>(i)])];
      group.worth /= group.size * std::max(layer.energy, 1e-300);
      groups.rest.push_back(group);
    }
  }
}

// width[l][e] grows by the groups that fit. Groups of an expert come in order, for each is worth less than the last.
void take_groups(Groups& groups, double keep, std::vector<std::vector<int>>& width) {
  std::ranges::stable_sort(groups.rest, [](const Group& a, const Group& b) { return a.worth > b.worth; });
  const auto budget = static_cast<int64_t>(std::floor(keep * static_cast<double>(groups.neurons)));
  for (const Group& group : groups.rest) {
    if (groups.kept + group.size > budget) break;
    groups.kept += group.size;
    width[group.layer][group.expert] += group.size;
  }
}

void check_options(const NeuronOptions& options) {
  if (!(options.keep > 0 && options.keep <= 1) || options.multiple < 1)
    base::usage_error(fmt::format("keep {} in multiples of {}", options.keep, options.multiple), "neurons",
                      "a share above 0 and up to 1, in multiples from 1");
}

// Some rows or some columns.
Weight rows_of(Mixture& mixture, const Weight& weight, const std::vector<int>& kept) {
  std::vector<float> some;
  const std::vector<float> all = numbers_of(weight);
  for (const int f : kept) {
    const auto row = all.begin() + static_cast<ptrdiff_t>(f) * weight.cols;
    some.insert(some.end(), row, row + weight.cols);
  }
  return mixture.made(weight.type, {some.data(), static_cast<int>(kept.size()), weight.cols});
}

Weight columns_of(Mixture& mixture, const Weight& weight, const std::vector<int>& kept) {
  std::vector<float> some;
  const std::vector<float> all = numbers_of(weight);
  for (int r = 0; r < weight.rows; ++r)
    for (const int f : kept)
      some.push_back(all[static_cast<size_t>(r) * static_cast<size_t>(weight.cols) + static_cast<size_t>(f)]);
  return mixture.made(weight.type, {some.data(), weight.rows, static_cast<int>(kept.size())});
}

}  // namespace

NeuronScores score_neurons(const Model& model, int l, const LayerInputs& inputs, Threads& threads) {
  constexpr int kChunk = 512;  // tokens
  const auto& tensors = model.tensors().blocks[static_cast<size_t>(l)].moe;
  const Matrix<const float> x = inputs.x;
  NeuronScores scores;
  for (const double square : inputs.stream) scores.energy += square;
  size_t widest = 0;
  for (const Weight& w1 : tensors.w1)
    widest = std::max(widest, scores.score.emplace_back(static_cast<size_t>(w1.rows)).size());
  moe::MoeActivations activations;
  const tensor::Buffer<float> z(static_cast<size_t>(kChunk) * static_cast<size_t>(x.cols));
  for (int first = 0; first < x.rows; first += kChunk) {
    const int count = std::min(kChunk, x.rows - first);
    moe::MoeStep step;
    step.tokens.x = x.slice_rows(first, count);
    step.output = z.matrix(count, x.cols);
    moe::moe_forward(model.router(l), tensors, step, activations, threads);
    const moe::Plan& plan = activations.routing.plan;
    threads.for_each(static_cast<int>(scores.score.size()), [&](int e) {
      std::vector<double>& own = scores.score[static_cast<size_t>(e)];
      for (auto i = static_cast<size_t>(plan.offset[e]); i < static_cast<size_t>(plan.offset[e + 1]); ++i) {
        const float* h = activations.hidden.data() + i * widest;
        for (size_t f = 0; f < own.size(); ++f) {
          const double v = static_cast<double>(plan.weight[i]) * h[f];
          own[f] += v * v;
        }
      }
    });
  }
  for (size_t e = 0; e < scores.score.size(); ++e) {
    const std::vector<double> squares = down_squares(tensors.w2[e]);
    for (size_t f = 0; f < squares.size(); ++f) scores.score[e][f] *= squares[f];
  }
  return scores;
}

NeuronLists choose_neurons(std::span<const NeuronScores> layers, const NeuronOptions& options) {
  check_options(options);
  std::vector<std::vector<int>> width;
  for (const NeuronScores& layer : layers) {
    std::vector<int>& least = width.emplace_back();
    for (const auto& score : layer.score) least.push_back(std::min(static_cast<int>(score.size()), options.multiple));
  }
  Groups groups;
  for (size_t l = 0; l < layers.size(); ++l) add_groups(layers[l], l, options.multiple, groups);
  take_groups(groups, options.keep, width);
  NeuronLists kept(layers.size());
  for (size_t l = 0; l < layers.size(); ++l)
    for (size_t e = 0; e < width[l].size(); ++e) {
      std::vector<int> order = by_score(layers[l].score[e]);
      order.resize(static_cast<size_t>(width[l][e]));
      std::ranges::sort(order);
      kept[l].push_back(order);
    }
  return kept;
}

NeuronLists find_neurons(const Model& full, const Model& pruned, std::span<const CalibrationBatch> batches,
                         const NeuronOptions& options, Threads& threads, const Progress& progress) {
  check_options(options);
  std::vector<NeuronScores> scores;
  layer_inputs(
      full.with_admission("all"), batches,
      [&](int l, const LayerInputs& inputs) {
        const bool dense = pruned.config().layers[static_cast<size_t>(l)].dense();
        scores.push_back(dense ? NeuronScores{} : score_neurons(pruned, l, inputs, threads));
      },
      threads, progress);
  return choose_neurons(scores, options);
}

Model with_neurons(const Model& model, int l, std::span<const std::vector<int>> kept) {
  Mixture mixture(model, l);
  auto& moe = mixture.tensors;
  CHOIR_CHECK(kept.size() == moe.w1.size(), "neurons of each expert");
  mixture.config.widths.clear();
  for (size_t e = 0; e < kept.size(); ++e) {
    mixture.config.widths.push_back(static_cast<int>(kept[e].size()));
    if (static_cast<int>(kept[e].size()) == moe.w1[e].rows) continue;
    moe.w1[e] = rows_of(mixture, moe.w1[e], kept[e]);
    moe.w3[e] = rows_of(mixture, moe.w3[e], kept[e]);
    moe.w2[e] = columns_of(mixture, moe.w2[e], kept[e]);
    if (moe.b1.empty()) continue;
    moe.b1[e] = columns_of(mixture, moe.b1[e], kept[e]);
    moe.b3[e] = columns_of(mixture, moe.b3[e], kept[e]);
  }
  const auto [least, most] = std::ranges::minmax(mixture.config.widths);
  mixture.config.expert_width = most;
  if (least == most) mixture.config.widths.clear();
  return mixture.in(model, l);
}

Model with_neurons(Model model, std::span<const std::vector<std::vector<int>>> kept) {
  for (size_t l = 0; l < kept.size(); ++l)
    if (!kept[l].empty()) model = with_neurons(model, static_cast<int>(l), kept[l]);
  return model;
}

}  // namespace choir::compress
