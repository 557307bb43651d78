#include "compress/neurons.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "compress/prune.h"
#include "compress/repair_case.h"

namespace choir::compress {
namespace {

constexpr const char* kTopTwo = "linear > top_k(2) > all > chosen";

std::vector<int> without(int width, int neuron) {
  std::vector<int> kept;
  for (int f = 0; f < width; ++f)
    if (f != neuron) kept.push_back(f);
  return kept;
}

std::vector<std::vector<int>> everything(int experts, int width) {
  std::vector<int> all(static_cast<size_t>(width));
  std::iota(all.begin(), all.end(), 0);
  return std::vector<std::vector<int>>(static_cast<size_t>(experts), all);
}

// What a neuron adds stands by itself: without it the layer loses just its score.
TEST_CASE("neurons: the score of one is what the layer loses without it") {
  const RepairCase c(kTopTwo, 4);
  base::Threads threads(2);
  const std::vector<double> stream(RepairCase::kTokens, 0.25);
  const LayerInputs inputs{c.inputs(), stream};
  const NeuronScores scores = score_neurons(c.model(), 0, inputs, threads);
  for (const auto& [e, f] : {std::pair{0, 0}, std::pair{1, 7}, std::pair{3, 11}}) {
    auto kept = everything(4, 12);
    kept[static_cast<size_t>(e)] = without(12, f);
    const Model smaller = with_neurons(c.model(), 0, kept);
    CHECK(smaller.config().layers[0].width_of(e) == 11);
    CHECK(c.loss_of(smaller) ==
          doctest::Approx(scores.score[static_cast<size_t>(e)][static_cast<size_t>(f)]).epsilon(1e-5));
  }
  CHECK(scores.energy == 0.25 * RepairCase::kTokens);
  base::Threads one(1);
  CHECK(score_neurons(c.model(), 0, inputs, one).score == scores.score);
}

TEST_CASE("neurons: those that never answer go first, and nothing is lost") {
  const RepairCase c(kTopTwo, 4, 1 << 20, [](TestModel& made) {
    const tensor::Weight& w2 = made.model->tensors().blocks[0].moe.w2[2];
    for (int k = 0; k < w2.rows; ++k)
      for (const int f : {1, 4, 5, 10}) numbers_in(w2)[k * w2.cols + f] = 0;
  });
  base::Threads threads(1);
  const NeuronScores scores = score_neurons(c.model(), 0, {c.inputs(), {}}, threads);
  const auto kept = choose_neurons({&scores, 1}, {44.0 / 48, 4});
  auto expected = everything(4, 12);
  expected[2] = {0, 2, 3, 6, 7, 8, 9, 11};
  CHECK(kept[0] == expected);
  const Model smaller = with_neurons(c.model(), 0, kept[0]);
  CHECK(smaller.config().layers[0].widths == std::vector<int>{12, 12, 8, 12});
  CHECK(c.loss_of(smaller) < 1e-9);
  CHECK(model::count_parameters(c.model().config()).total - model::count_parameters(smaller.config()).total ==
        3 * 20 * 4);
}

TEST_CASE("neurons: widths keep to multiples and budgets, and every expert keeps a group") {
  base::Rng rng(2);
  std::vector<NeuronScores> layers(3);
  for (size_t l = 0; l < layers.size(); ++l) {
    layers[l].energy = std::pow(10.0, static_cast<double>(l));
    for (int e = 0; e < 4; ++e) {
      std::vector<double>& score = layers[l].score.emplace_back();
      for (int f = 0; f < 64; ++f)
        score.push_back(rng.uniform() * layers[l].energy * (e + 1.0) * static_cast<double>(l + 1));
    }
  }
  for (const double keep : {0.01, 0.3, 0.5, 0.77, 1.0}) {
    CAPTURE(keep);
    const auto kept = choose_neurons(layers, {keep, 16});
    size_t all = 0;
    for (size_t l = 0; l < 3; ++l)
      for (size_t e = 0; e < 4; ++e) {
        const auto& list = kept[l][e];
        CHECK(list.size() % 16 == 0);
        CHECK(list.size() >= 16);
        CHECK(std::ranges::is_sorted(list));
        all += list.size();
        double worst = 1e300, best_gone = 0;
        for (size_t f = 0; f < 64; ++f) {
          const double score = layers[l].score[e][f];
          if (std::ranges::binary_search(list, static_cast<int>(f)))
            worst = std::min(worst, score);
          else
            best_gone = std::max(best_gone, score);
        }
        CHECK(worst >= best_gone);
      }
    CHECK(all == std::max<size_t>(192, static_cast<size_t>(keep * 768) / 16 * 16));
  }
  // Shares of energy decide: the last layer's scores are the largest shares.
  const auto kept = choose_neurons(layers, {0.5, 16});
  CHECK(kept[2][3].size() > kept[0][0].size());
}

TEST_CASE("neurons: of all layers together, on what the full model's layers receive") {
  const TestModel made(small_config(6, 2, 2));
  const auto batches = random_batches(2, 2, 15, 31);
  base::Threads threads(2);
  const std::vector<std::vector<int>> keep{{0, 2, 3, 5}, {1, 2, 4}};
  const Model pruned = made.model->with_layers(pruned_config(made.model->config(), keep), keep);
  const NeuronLists kept = find_neurons(*made.model, pruned, batches, {0.5, 4}, threads);
  std::vector<NeuronScores> scores(2);
  layer_inputs(
      *made.model, batches,
      [&](int l, const LayerInputs& inputs) {
        scores[static_cast<size_t>(l)] = score_neurons(pruned, l, inputs, threads);
      },
      threads);
  CHECK(kept == choose_neurons(scores, {0.5, 4}));
  const Model cut = with_neurons(pruned, kept);
  size_t neurons = 0;
  for (size_t l = 0; l < 2; ++l)
    for (size_t e = 0; e < keep[l].size(); ++e) {
      CHECK(cut.config().layers[l].width_of(static_cast<int>(e)) == static_cast<int>(kept[l][e].size()));
      neurons += kept[l][e].size();
    }
  CHECK(neurons == 40);  // of 7 experts of 12, in fours
}

TEST_CASE("neurons: options out of range are refused") {
  const NeuronScores scores{{{1, 2, 3}}, 1};
  for (const NeuronOptions& options :
       {NeuronOptions{0, 1}, NeuronOptions{1.1, 1}, NeuronOptions{std::nan(""), 1}, NeuronOptions{0.5, 0}})
    CHECK_THROWS_AS(choose_neurons({&scores, 1}, options), base::Error);
}

}  // namespace
}  // namespace choir::compress
