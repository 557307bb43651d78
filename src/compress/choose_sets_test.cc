#include "compress/choose_sets.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "compress/enumerate.h"
#include "compress/kept_counts.h"
#include "compress/record_source.h"
#include "compress/test_layer.h"

namespace choir::compress {
namespace {

// Sum over batches of the norm of the error of a kept set, by (C10) token for token: no replay, no table.
double plain_loss(const LayerRecord& record, const std::vector<int>& kept) {
  std::vector<uint8_t> there(static_cast<size_t>(record.experts), 0);
  for (const int e : kept) there[static_cast<size_t>(e)] = 1;
  double total = 0;
  for (size_t s = 0; s + 1 < record.batch.size(); ++s) {
    double sum = 0;
    for (int t = record.batch[s]; t < record.batch[s + 1]; ++t)
      sum += squared_error(record, t, own_choice(record, t), choose(record, t, there));
    total += std::sqrt(sum);
  }
  return total;
}

double plain_energy(const LayerRecord& record) {
  double sum = 0;
  for (int t = 0; t < record.tokens(); ++t) sum += squared_error(record, t, own_choice(record, t), {});
  return sum;
}

int half(const TestRule& rule) { return std::max(rule.least, rule.experts / 2); }

}  // namespace

TEST_CASE("every method keeps the right number, tells the loss of what it keeps, and exact is the least") {
  base::Threads threads(2);
  for (const TestRule& rule : kTestRules) {
    const TestLayer layer(rule);
    const int keep = half(rule);
    double least = 0;
    for (const char* name : {"exact", "search", "nested", "genetic", "sampled", "frequency", "reap", "random"}) {
      CAPTURE(rule.router);
      CAPTURE(name);
      SetOptions options;
      options.samples = 30;
      parse_method(name, options);
      const SetChoice choice = choose_set(layer.record, 0, keep, options, threads);
      REQUIRE(static_cast<int>(choice.keep.size()) == keep);
      CHECK(std::ranges::is_sorted(choice.keep));
      CHECK(choice.loss == doctest::Approx(plain_loss(layer.record, choice.keep)).epsilon(1e-6));
      CHECK(choice.relative == doctest::Approx(choice.objective / plain_energy(layer.record)).epsilon(1e-6));
      CHECK(choice.short_of == 0);
      if (options.method == SetMethod::kExact) least = choice.objective;
      CHECK(choice.objective >= least * (1 - 1e-9));
      const SetChoice again = choose_set(layer.record, 0, keep, options, threads);
      CHECK(again.keep == choice.keep);
    }
  }
}

TEST_CASE("an exact choice counts its sets, also within groups") {
  base::Threads threads(1);
  const SetOptions exact{.method = SetMethod::kExact};
  CHECK(choose_set(TestLayer(kTestRules[0]).record, 0, 5, exact, threads).candidates == 56);             // C(8,3)
  CHECK(choose_set(TestLayer(kTestRules[5]).record, 0, 8, exact, threads).candidates == 6 * 6 * 6 * 6);  // C(4,2)^4
}

TEST_CASE("nested sets hold one another, and a nested choice is among them with the same loss") {
  base::Threads threads(2);
  for (const TestRule& rule : kTestRules)
    for (const char* name : {"nested", "reap"}) {
      CAPTURE(rule.router);
      const TestLayer layer(rule);
      SetOptions options;
      parse_method(name, options);
      const std::vector<ScoredSet> sets = nested_sets(layer.record, 0, 1, options, threads);
      CHECK(static_cast<int>(sets.front().kept.size()) == least_count(layer.record.rule, rule.experts));
      CHECK(static_cast<int>(sets.back().kept.size()) == rule.experts);
      CHECK(sets.back().loss == doctest::Approx(0));
      for (size_t i = 1; i < sets.size(); ++i) CHECK(std::ranges::includes(sets[i].kept, sets[i - 1].kept));
      const SetChoice choice = choose_set(layer.record, 0, half(rule), options, threads);
      const auto same = std::ranges::find(sets, choice.keep, &ScoredSet::kept);
      REQUIRE(same != sets.end());
      CHECK(same->loss == doctest::Approx(choice.relative).epsilon(1e-9));
      const LayerCurve curve = curve_of(layer.record, sets);
      CHECK(curve.loss[choice.keep.size()] == same->loss);
      CHECK(curve.loss[0] == std::numeric_limits<double>::infinity());
    }
}

TEST_CASE("a proof never worsens a choice and bounds it") {
  base::Threads threads(1);
  const TestLayer layer(kTestRules[0]);
  const SetChoice exact = choose_set(layer.record, 0, 5, {.method = SetMethod::kExact}, threads);
  const SetChoice proved = choose_set(layer.record, 0, 5, {.prove_nodes = 10000}, threads);
  REQUIRE(proved.proof);
  CHECK(proved.proof->proved);
  CHECK(proved.keep == exact.keep);
  const SetChoice short_one = choose_set(layer.record, 0, 5, {.prove_nodes = 1}, threads);
  CHECK(short_one.proof->bound <= exact.objective * (1 + 1e-9));
}

// The first two experts that the best set of all drops are pinned.
TEST_CASE("pinned experts are in the choice of every method; exact is the best of the sets that hold them") {
  base::Threads threads(2);
  for (const TestRule& rule : kTestRules) {
    TestLayer layer(rule);
    LayerRecord& record = layer.record;
    const int keep = half(rule);
    std::vector<int> dropped = others(enumerate(record, {}, keep, 1, threads)[0].kept, rule.experts);
    dropped.resize(2);
    record.pinned = dropped;
    CAPTURE(rule.router);
    const auto holds = [&](const std::vector<int>& set) { return std::ranges::includes(set, record.pinned); };
    LayerRecord free = record;
    free.pinned.clear();
    std::vector<ScoredSet> all = enumerate(free, {}, keep, 1 << 16, threads);
    std::erase_if(all, [&](const ScoredSet& set) { return !holds(set.kept); });
    for (const char* name : {"exact", "search", "nested", "genetic", "sampled", "frequency", "reap", "random"}) {
      CAPTURE(name);
      SetOptions options;
      options.samples = 30;
      parse_method(name, options);
      const SetChoice choice = choose_set(record, 0, keep, options, threads);
      CHECK(holds(choice.keep));
      CHECK(choice.objective >= all[0].loss * (1 - 1e-9));
      if (options.method == SetMethod::kExact) {
        CHECK(choice.keep == all[0].kept);
        CHECK(choice.candidates == static_cast<int64_t>(all.size()));
      }
      if (!options.nested()) continue;
      const auto sets = nested_sets(record, 0, 1, options, threads);
      for (const ScoredSet& set : sets) CHECK(holds(set.kept));
      CHECK(static_cast<int>(sets[0].kept.size()) == least_count(record));
    }
    const SetChoice proved = choose_set(record, 0, keep, {.prove_nodes = 2000}, threads);
    CHECK(proved.proof->bound <= all[0].loss * (1 + 1e-9));
    if (proved.proof->proved) CHECK(proved.objective == doctest::Approx(all[0].loss).epsilon(1e-9));
  }
}

TEST_CASE("more pinned experts than may stay are refused") {
  base::Threads threads(1);
  TestLayer plain(kTestRules[0]), grouped(kTestRules[5]);
  plain.record.pinned = {0, 2, 4, 6, 7};
  CHECK_THROWS_WITH_AS(choose_set(plain.record, 0, 4, {}, threads),
                       doctest::Contains("pinned ones need 5: a layer of 8 experts: keep at least 5, or pin fewer"),
                       base::Error);
  CHECK(choose_set(plain.record, 0, 5, {}, threads).keep == plain.record.pinned);
  grouped.record.pinned = {4, 5, 7};  // three of the second of four groups
  CHECK(least_count(grouped.record) == 12);
  CHECK(least_served(grouped.record) == 12);
  CHECK_THROWS_AS(choose_set(grouped.record, 0, 8, {}, threads), base::Error);
}

TEST_CASE("names of methods") {
  SetOptions options;
  parse_method("easy_ep", options);
  CHECK(options.method == SetMethod::kScore);
  CHECK(options.criterion == Criterion::kEasyEp);
  for (const char* wrong : {"", "magic", "random, frequency", "reap,"})
    CHECK_THROWS_WITH_AS(parse_method(wrong, options), doctest::Contains("search, nested"), base::Error);
}

TEST_CASE("a share of the experts is the nearest count that leaves groups whole") {
  moe::SubsetRule rule{.k = 2};
  CHECK(count_of_share(rule, 8, 0.5) == 4);
  CHECK(count_of_share(rule, 7, 0.5) == 4);  // 3.5: the larger
  CHECK(count_of_share(rule, 8, 0.92) == 7);
  CHECK(count_of_share(rule, 8, 0.95) == 8);
  rule.groups = 4;
  CHECK(count_of_share(rule, 16, 0.6) == 8);  // 9.6 experts: 2.4 of each group
  CHECK(count_of_share(rule, 16, 0.65) == 12);
}

TEST_CASE("a record serves the counts that its ranks were made for") {
  const TestRule rule{"linear > top_k(2) > all > chosen", 16, 2, 2};
  CHECK(least_served(TestLayer(rule).record) == 2);
  const int ranks = ranks_for(16, 2, 12);
  REQUIRE(ranks < 16);
  const TestLayer few(rule, ranks);
  CHECK(least_served(few.record) <= 12);
  CHECK(ranks_for(16, 2, least_served(few.record) - 1) > ranks);
}

TEST_CASE("a source gives the records of its pass, once or held") {
  const TestModel made(small_config(6, 2, 3));
  const auto batches = random_batches(2, 2, 10, 31);
  base::Threads threads(2);
  const Progress progress = [](int, int) {};
  std::vector<LayerRecord> expected;
  observe(
      *made.model, batches, {}, [&](int, LayerRecord r) { expected.push_back(std::move(r)); }, threads);
  RecordSource source(*made.model, batches, {}, threads, progress);
  const auto check = [&] {
    int next = 0;
    source.each([&](int l, const LayerRecord& record) {
      CHECK(l == next++);
      CHECK(record.gram == expected[static_cast<size_t>(l)].gram);
      CHECK(record.order == expected[static_cast<size_t>(l)].order);
    });
    CHECK(next == 3);
  };
  check();
  CHECK(source.all().size() == 3);
  check();
  CHECK(!source.capture());
}

TEST_CASE("a source pins super experts, as far beyond the others as it is told") {
  const TestModel made(small_config(6, 2, 2));
  const tensor::Weight& w2 = made.model->tensors().blocks[1].moe.w2[3];
  for (size_t i = 0; i < w2.size(); ++i) const_cast<float*>(static_cast<const float*>(w2.data))[i] *= 40;
  const auto batches = random_batches(2, 2, 10, 31);
  base::Threads threads(1);
  const Progress progress = [](int, int) {};
  const auto pinned = [&](double factor) {
    RecordSource source(*made.model, batches, {}, threads, progress);
    if (factor >= 0) source.pin_super_experts(factor);
    std::vector<std::vector<int>> lists;
    source.each([&](int, const LayerRecord& record) { lists.push_back(record.pinned); });
    return lists;
  };
  using Lists = std::vector<std::vector<int>>;
  CHECK(pinned(-1) == Lists{{}, {3}});
  CHECK(pinned(0) == Lists{{}, {}});
  CHECK(pinned(1e6) == Lists{{}, {}});
}

}  // namespace choir::compress
