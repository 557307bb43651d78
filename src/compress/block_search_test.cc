#include "compress/block_search.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "compress/choose.h"
#include "compress/test_model.h"

namespace choir::compress {
namespace {

using Sets = std::vector<std::vector<int>>;

// The residual stream after the first `layers` layers of a model that keeps these experts, batch after batch.
std::vector<Row> stream_after(const Model& model, const Sets& keep, int layers,
                              const std::vector<CalibrationBatch>& batches, base::Threads& threads) {
  model::Config config = model.config();
  for (size_t l = 0; l < keep.size(); ++l) config.layers[l].experts = static_cast<int>(keep[l].size());
  const Model smaller = model.with_layers(config, keep);
  std::vector<Row> rows;
  for (const CalibrationBatch& batch : batches) {
    const auto sequences = sequences_of(batch);
    const model::ForwardPass pass(smaller, {batch.ids, sequences}, threads);
    const int d = config.width;
    const tensor::Buffer<float> h(batch.ids.size() * static_cast<size_t>(d)), middle(h.size());
    model::BlockActivations activations;
    pass.embed(h.matrix(pass.rows(), d));
    for (int l = 0; l < layers; ++l) {
      pass.attend(l, h.matrix(pass.rows(), d), nullptr, activations, middle.matrix(pass.rows(), d));
      pass.mix(l, middle.matrix(pass.rows(), d), {}, activations, h.matrix(pass.rows(), d));
    }
    for (Row& row : as_rows(h.matrix(pass.rows(), d))) rows.push_back(std::move(row));
  }
  return rows;
}

double square(const Row& row) {
  double sum = 0;
  for (const double v : row) sum += v * v;
  return sum;
}

// By the stream's squares, with the floor of a hundredth of the (upper) median.
std::vector<double> weights_of(const std::vector<Row>& rows) {
  std::vector<double> norm, sorted;
  for (const Row& row : rows) norm.push_back(square(row));
  sorted = norm;
  std::ranges::sort(sorted);
  for (double& v : norm) v = 1 / std::max(v, 0.01 * sorted[sorted.size() / 2]);
  return norm;
}

double distance(const std::vector<Row>& a, const std::vector<Row>& b, const std::vector<double>& weight) {
  double sum = 0;
  for (size_t t = 0; t < a.size(); ++t) {
    Row apart = a[t];
    for (size_t d = 0; d < apart.size(); ++d) apart[d] -= b[t][d];
    sum += (weight.empty() ? 1 : weight[t]) * square(apart);
  }
  return sum;
}

struct Case {
  TestModel made{small_config(6, 2, 5)};
  std::vector<CalibrationBatch> batches = random_batches(2, 2, 12, 31);
  std::vector<std::vector<ScoredSet>> candidates;
  base::Threads threads{2};

  Case() {
    base::Rng rng(3);
    for (int l = 0; l < 5; ++l) {
      std::vector<ScoredSet>& sets = candidates.emplace_back();
      for (int i = 0; i < (l == 3 ? 1 : 3); ++i) sets.push_back({choose_random(rng, 6, 3 + l % 2), 0});
    }
  }
  Sets everything() const { return Sets(5, {0, 1, 2, 3, 4, 5}); }
};

TEST_CASE("blocks: the best of all combinations by whole forwards, each block on what the full model gives it") {
  Case c;
  for (const Objective objective : {Objective::kPublished, Objective::kStream}) {
    const auto choices = choose_in_blocks(*c.made.model, c.batches, c.candidates, {3, objective}, c.threads);
    REQUIRE(choices.size() == 2);
    CHECK(choices[1].layers == 2);
    int first = 0;
    for (const BlockChoice& choice : choices) {
      CHECK(choice.first == first);
      const int end = first + choice.layers;
      const auto full = stream_after(*c.made.model, c.everything(), end, c.batches, c.threads);
      const auto weight = objective == Objective::kPublished ? std::vector<double>{} : weights_of(full);
      std::vector<size_t> now(static_cast<size_t>(choice.layers), 0);
      double least = HUGE_VAL, greedy = 0;
      int tried = 0;
      Sets best;
      for (bool more = true; more;) {
        Sets keep = c.everything(), kept;
        for (size_t i = 0; i < now.size(); ++i)
          kept.push_back(keep[static_cast<size_t>(first) + i] =
                             c.candidates[static_cast<size_t>(first) + i][now[i]].kept);
        const double loss = distance(full, stream_after(*c.made.model, keep, end, c.batches, c.threads), weight);
        if (tried++ == 0) greedy = loss;
        if (loss < least) {
          least = loss;
          best = kept;
        }
        size_t i = now.size();
        while (i > 0 && ++now[i - 1] == c.candidates[static_cast<size_t>(first) + i - 1].size()) now[--i] = 0;
        more = i > 0;
      }
      CHECK(choice.tried == tried);
      CHECK(choice.keep == best);
      CHECK(choice.loss == doctest::Approx(least).epsilon(1e-5));
      CHECK(choice.greedy == doctest::Approx(greedy).epsilon(1e-5));
      CHECK(choice.loss <= choice.greedy);
      first = end;
    }
  }
}

TEST_CASE("blocks: threads and batches beside it change no bit; a first candidate that keeps all loses nothing") {
  Case c;
  base::Threads one(1);
  const auto a = choose_in_blocks(*c.made.model, c.batches, c.candidates, {2}, c.threads);
  const auto b = choose_in_blocks(*c.made.model, c.batches, c.candidates, {2}, one);
  for (size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i].keep == b[i].keep);
    CHECK(a[i].loss == b[i].loss);
  }
  for (auto& layer : c.candidates) layer.insert(layer.begin(), {{0, 1, 2, 3, 4, 5}, 0});
  for (const BlockChoice& choice : choose_in_blocks(*c.made.model, c.batches, c.candidates, {2}, one)) {
    CHECK(choice.loss == 0);
    CHECK(choice.keep == Sets(static_cast<size_t>(choice.layers), {0, 1, 2, 3, 4, 5}));
  }
  CHECK_THROWS_AS(choose_in_blocks(*c.made.model, c.batches, c.candidates, {0}, one), base::Error);
}

TEST_CASE("blocks: a loss that is not a number is refused") {
  Case c;
  const auto& moe = c.made.model->tensors().blocks[1].moe;
  const_cast<float*>(static_cast<const float*>(moe.w2[0].data))[0] = NAN;
  CHECK_THROWS_WITH_AS(choose_in_blocks(*c.made.model, c.batches, c.candidates, {2}, c.threads),
                       doctest::Contains("layer 0"), base::Error);
}

}  // namespace
}  // namespace choir::compress
