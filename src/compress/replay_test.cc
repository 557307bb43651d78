#include "compress/replay.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "compress/observe.h"
#include "compress/test_model.h"

namespace choir::compress {
namespace {

using tensor::Buffer;

constexpr int kTokens = 90, kWidth = 20;

struct Rule {
  const char* router;
  int experts, top_k, least;  // how few may be left
};

// One of each row of the table of rules in docs/compress.md.
constexpr Rule kRules[] = {
    {"linear > top_k(2) > all > chosen", 8, 2, 2},
    {"linear > top_k(4) > all > softmax(renorm, scale=1.5)", 16, 4, 4},
    {"linear(sigmoid) > top_k(3) > all > sigmoid_norm(2.5) + bias(0.001)", 12, 3, 3},
    {"linear(sqrt_softplus) > top_k(3) > all > sqrt_softplus_norm(1.5) + bias(0.001)", 12, 3, 3},
    {"linear > top_k(3) > all > sigmoid", 12, 3, 3},
    {"linear > top_k(3) > all > softmax(scale=4)", 12, 3, 3},
    {"linear(sigmoid) > groups(4, 2, 3, by=top2) > all > sigmoid_norm(2.5) + bias(0.001)", 16, 3, 8},
    {"linear > groups(4, 2, 3) > all > softmax(scale=2)", 16, 3, 8},
};

// A layer with its inputs in two batches.
struct Case {
  TestModel made;
  Rule rule;
  Buffer<float> x, middle, z;
  LayerRecord record;

  explicit Case(const Rule& r, int ranks = 1 << 20)
      : made(config_of(r)), rule(r), x(kTokens * kWidth), middle(x.size()), z(x.size()) {
    base::Rng rng(3);
    for (const Buffer<float>* buffer : {&x, &middle})
      for (float& v : buffer->span()) v = rng.normal();
    base::Threads threads(2);
    LayerObserver observer({made.model->router(0), made.model->tensors().blocks[0].moe}, ranks, record, threads);
    for (const auto& [first, count] : {std::pair{0, 40}, std::pair{40, 10}, std::pair{50, 40}}) {
      const auto rows = [&](const Buffer<float>& b) { return b.matrix(kTokens, kWidth).slice_rows(first, count); };
      observer.add(rows(x), rows(middle), rows(z));
      if (first != 0) observer.end_batch();  // the first batch comes in two pieces
    }
    observer.finish();
  }

  static model::Config config_of(const Rule& rule) {
    model::Config config = small_config(rule.experts, rule.top_k, 1);
    config.layers[0].router = rule.router;
    return config;
  }

  // The layer run again with some experts alone.
  double run_again(const std::vector<int>& kept, std::span<const double> weight) const {
    model::Config config = made.model->config();
    config.layers[0].experts = static_cast<int>(kept.size());
    const Model smaller = made.model->with_layers(config, {kept});
    base::Threads threads(1);
    moe::MoeActivations activations;
    Buffer<float> other(x.size());
    moe::MoeStep step;
    step.tokens.x = x.matrix(kTokens, kWidth);
    step.output = other.matrix(kTokens, kWidth);
    moe::moe_forward(smaller.router(0), smaller.tensors().blocks[0].moe, step, activations, threads);
    double sum = 0;
    for (int t = 0; t < kTokens; ++t)
      for (int d = 0; d < kWidth; ++d) {
        const double error = static_cast<double>(z.matrix(kTokens, kWidth)[t][d]) - step.output[t][d];
        sum += (weight.empty() ? 1 : weight[static_cast<size_t>(t)]) * error * error;
      }
    return sum;
  }

  // Sets that the rule can live with: of each group as many.
  std::vector<int> some_experts(base::Rng& rng, int count) const {
    const int groups = record.rule.groups, size = rule.experts / groups;
    std::vector<int> kept;
    for (int g = 0; g < groups; ++g)
      for (const int e : choose_random(rng, size, count / groups)) kept.push_back(g * size + e);
    return kept;
  }
};

std::vector<int> without(std::vector<int> set, int e) {
  std::erase(set, e);
  return set;
}

std::vector<int> with(std::vector<int> set, int e) {
  set.push_back(e);
  std::ranges::sort(set);
  return set;
}

TEST_CASE("replay: the loss of a kept set is that of the layer run again, by every rule") {
  for (const Rule& rule : kRules) {
    CAPTURE(rule.router);
    const Case c(rule);
    base::Threads threads(2);
    base::Rng rng(11);
    std::vector<double> weight;
    for (int t = 0; t < kTokens; ++t) weight.push_back(0.5 + t % 3);
    Replay replay(c.record, weight, threads);
    CHECK(replay.loss() < 1e-9);
    for (int round = 0; round < 6; ++round) {
      const int count = rule.least + round % 2 * c.record.rule.groups;
      const std::vector<int> kept = c.some_experts(rng, count);
      replay.keep(kept);
      CHECK(replay.loss() == doctest::Approx(c.run_again(kept, weight)).epsilon(1e-6));
      CHECK(replay.short_of() == 0);
    }
  }
}

TEST_CASE("replay: what a removal, an addition and a swap would change is what they do change") {
  for (const Rule& rule : kRules) {
    CAPTURE(rule.router);
    const Case c(rule);
    base::Threads threads(2);
    base::Rng rng(5);
    Replay replay(c.record, {}, threads), fresh(c.record, {}, threads);
    std::vector<int> kept = c.some_experts(rng, rule.least + c.record.rule.groups);
    replay.keep(kept);
    const double loss = replay.loss();
    const auto removed = replay.removals(), added = replay.additions(), swapped = replay.swaps();
    const auto n = static_cast<size_t>(rule.experts);
    const auto expect = [&](double change, const std::vector<int>& set) {
      fresh.keep(set);
      CHECK(loss + change == doctest::Approx(fresh.loss()).epsilon(1e-9));
    };
    for (int e = 0; e < rule.experts; ++e) {
      const bool there = std::ranges::binary_search(kept, e);
      CHECK((there ? added : removed)[static_cast<size_t>(e)] == 0);
      if (there)
        expect(removed[static_cast<size_t>(e)], without(kept, e));
      else
        expect(added[static_cast<size_t>(e)], with(kept, e));
      for (int i = 0; there && i < rule.experts; ++i)
        if (!std::ranges::binary_search(kept, i))
          expect(swapped[static_cast<size_t>(e) * n + static_cast<size_t>(i)], with(without(kept, e), i));
    }
  }
}

TEST_CASE("replay: after a thousand moves the state is that of a fresh start") {
  for (const Rule& rule : kRules) {
    CAPTURE(rule.router);
    const Case c(rule);
    base::Threads threads(1);
    base::Rng rng(8);
    Replay replay(c.record, {}, threads), fresh(c.record, {}, threads);
    for (int move = 0; move < 1000; ++move) {
      const int e = static_cast<int>(rng.below(static_cast<uint64_t>(rule.experts)));
      const auto there = std::ranges::count(replay.kept(), 1);
      if (!replay.kept()[static_cast<size_t>(e)])
        replay.add(e);
      else if (there > rule.least)
        replay.remove(e);
    }
    std::vector<int> kept;
    for (int e = 0; e < rule.experts; ++e)
      if (replay.kept()[static_cast<size_t>(e)]) kept.push_back(e);
    fresh.keep(kept);
    CHECK(replay.loss() == fresh.loss());
    CHECK(replay.removals() == fresh.removals());
  }
}

TEST_CASE("replay: with too few ranks the tokens that go short are counted, and the rest is exact") {
  const Rule rule = kRules[1];
  const Case whole(rule), cut(rule, 6);
  base::Threads threads(1);
  Replay all(whole.record, {}, threads), few(cut.record, {}, threads);
  std::vector<int> kept;
  for (int e = 0; e < 8; ++e) kept.push_back(2 * e);
  all.keep(kept);
  few.keep(kept);
  int64_t expected = 0;
  for (int t = 0; t < kTokens; ++t) {
    int survivors = 0;
    for (const int e : cut.record.ranking(t)) survivors += e % 2 == 0;
    expected += survivors < rule.top_k;
  }
  CHECK(all.short_of() == 0);
  CHECK(few.short_of() == expected);
  CHECK(expected > 0);
  CHECK(expected < kTokens);
}

TEST_CASE("replay: threads change no bit") {
  const Case c(kRules[1]);
  base::Threads one(1), three(3);
  Replay a(c.record, {}, one), b(c.record, {}, three);
  for (const int e : {3, 9, 11}) {
    a.remove(e);
    b.remove(e);
  }
  CHECK(a.loss() == b.loss());
  CHECK(a.swaps() == b.swaps());
  CHECK(a.batched_norms() == b.batched_norms());
}

}  // namespace
}  // namespace choir::compress
