#include "compress/merge.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

#include "compress/repair_case.h"

namespace choir::compress {
namespace {

TEST_CASE("pairing: no permutation is more alike") {
  base::Rng rng(4);
  for (int n = 1; n <= 7; ++n)
    for (int round = 0; round < 20; ++round) {
      std::vector<double> likeness;
      for (int i = 0; i < n * n; ++i)
        likeness.push_back(round % 2 ? static_cast<double>(rng.normal()) : static_cast<double>(rng.below(3)));
      const auto value = [&](const std::vector<int>& pair) {
        double sum = 0;
        for (int i = 0; i < n; ++i) sum += likeness[static_cast<size_t>(i * n + pair[static_cast<size_t>(i)])];
        return sum;
      };
      std::vector<int> order(static_cast<size_t>(n));
      std::iota(order.begin(), order.end(), 0);
      const std::vector<int> got = pair_neurons(likeness, n);
      CHECK(std::ranges::is_permutation(got, order));
      double best = value(order);
      while (std::next_permutation(order.begin(), order.end())) best = std::max(best, value(order));
      CHECK(value(got) == doctest::Approx(best));
    }
}

TEST_CASE("pairing: wide experts are paired greedily, and a permutation is found") {
  const int n = kWidestExact + 3;
  std::vector<double> likeness(static_cast<size_t>(n) * static_cast<size_t>(n), 0.1);
  for (int i = 0; i < n; ++i)
    likeness[static_cast<size_t>(i) * static_cast<size_t>(n) + static_cast<size_t>((i + 5) % n)] = 1;
  const std::vector<int> got = pair_neurons(likeness, n);
  for (int i = 0; i < n; ++i) CHECK(got[static_cast<size_t>(i)] == (i + 5) % n);
}

TEST_CASE("merge: products of two experts, by plain loops over a token's experts") {
  const RepairCase c("linear > top_k(2) > all > chosen", 5);
  const auto& moe = c.model().tensors().blocks[0].moe;
  std::vector<double> cross(25), square(25), own(25);
  for (const Row& x : as_rows(c.inputs())) {
    const Row logits = plain_product(moe.gate[0], x);
    std::vector<int> order{0, 1, 2, 3, 4};
    std::ranges::sort(order, std::greater(), [&](int e) { return logits[static_cast<size_t>(e)]; });
    const double first = std::exp(logits[static_cast<size_t>(order[0])]),
                 second = std::exp(logits[static_cast<size_t>(order[1])]);
    for (int s = 0; s < 2; ++s) {
      const double gain = (s ? second : first) / (first + second);
      const Row f = plain_expert(moe, order[static_cast<size_t>(s)], x);
      for (int i = 0; i < 5; ++i) {
        const Row other = plain_expert(moe, i, x);
        const auto at = static_cast<size_t>(order[static_cast<size_t>(s)] * 5 + i);
        cross[at] += gain * gain * std::inner_product(f.begin(), f.end(), other.begin(), 0.0);
        square[at] += gain * gain * std::inner_product(other.begin(), other.end(), other.begin(), 0.0);
        own[at] += gain * gain * std::inner_product(f.begin(), f.end(), f.begin(), 0.0);
      }
    }
  }
  const PairMoments moments = pair_moments(c.record);
  for (size_t at = 0; at < 25; ++at) {
    CHECK(std::abs(moments.cross[at] - cross[at]) < 1e-5 * (own[at] + square[at]) + 1e-12);
    CHECK(moments.square[at] == doctest::Approx(square[at]).epsilon(1e-5));
    CHECK(moments.own[at] == doctest::Approx(own[at]).epsilon(1e-5));
  }
}

// Expert 1 is expert 4 with its neurons in another order, and its tokens go where its likeness is: to 4.
TEST_CASE("merge: a copy in another order merges into the same expert") {
  const RepairCase c("linear > top_k(2) > all > chosen", 6, 1 << 20,
                     [](TestModel& made) { copy_expert(made, 4, 1, 1, 5); });
  const std::vector<int> kept{0, 2, 3, 4, 5};
  const auto target = merge_targets(pair_moments(c.record), flags_of(kept, 6));
  CHECK(target == std::vector<int>{0, 4, 2, 3, 4, 5});
  const Model pruned = c.kept(kept, GainPolicy::kReroute);
  const Model merged = with_merged(c.model(), pruned, 0, {kept, target, c.record.coverage});
  const auto &before = pruned.tensors().blocks[0].moe, &after = merged.tensors().blocks[0].moe;
  for (size_t e = 0; e < kept.size(); ++e) {
    CHECK(numbers_of(after.w1[e]) == numbers_of(before.w1[e]));
    CHECK(numbers_of(after.w3[e]) == numbers_of(before.w3[e]));
    CHECK(numbers_of(after.w2[e]) == numbers_of(before.w2[e]));
  }
}

// Two copies whose rows of the router are alike: whoever chose one of them is answered by what is left.
TEST_CASE("merge: of two equal experts one is enough") {
  const RepairCase c("linear > top_k(1) > all > chosen", 5, 1 << 20, [](TestModel& made) {
    copy_expert(made, 3, 1, 1, 7);
    float* gate = numbers_in(made.model->tensors().blocks[0].moe.gate[0]);
    std::copy_n(gate + 3 * 20, 20, gate + 1 * 20);
  });
  const std::vector<int> kept{0, 2, 3, 4};
  const auto target = merge_targets(pair_moments(c.record), flags_of(kept, 5));
  CHECK(target[1] == 3);
  const Model merged = with_merged(c.model(), c.kept(kept, GainPolicy::kReroute), 0, {kept, target, c.record.coverage});
  CHECK(c.loss_of(merged) < 1e-9 * c.loss_of(c.kept({0, 2, 4}, GainPolicy::kReroute)));
}

// Neuron by neuron, without another order: experts 0 and 2 are nearly alike.
TEST_CASE("merge: the mean counts by coverage") {
  const RepairCase c("linear > top_k(2) > all > chosen", 4, 1 << 20, [](TestModel& made) {
    copy_expert(made, 2, 0, 1);
    const auto& moe = made.model->tensors().blocks[0].moe;
    base::Rng rng(9);
    for (const auto* list : {&moe.w1, &moe.w2, &moe.w3})
      for (size_t i = 0; i < (*list)[0].size(); ++i) numbers_in((*list)[0])[i] += 0.01f * rng.normal();
  });
  const std::vector<int> kept{1, 2, 3};
  const std::vector<int64_t> coverage{30, 7, 9, 5};
  const Model pruned = c.kept(kept, GainPolicy::kReroute);
  const Model merged = with_merged(c.model(), pruned, 0, {kept, {2, 1, 2, 3}, coverage});
  const auto &full = c.model().tensors().blocks[0].moe, &after = merged.tensors().blocks[0].moe;
  for (const auto part : {&moe::MoeTensors<tensor::Weight>::w1, &moe::MoeTensors<tensor::Weight>::w2}) {
    const std::vector<float> a = numbers_of((full.*part)[2]), b = numbers_of((full.*part)[0]),
                             got = numbers_of((after.*part)[1]);
    for (size_t i = 0; i < got.size(); ++i)
      CHECK(got[i] == doctest::Approx((10 * a[i] + 30 * b[i]) / 40).epsilon(1e-4));
  }
  CHECK(after.w1[0].data == pruned.tensors().blocks[0].moe.w1[0].data);
}

}  // namespace
}  // namespace choir::compress
