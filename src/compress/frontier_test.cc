#include "compress/frontier.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "compress/enumerate.h"
#include "compress/kept_counts.h"
#include "compress/test_model.h"
#include "tests/files.h"

namespace choir::compress {
namespace {

using Sets = std::vector<std::vector<int>>;

model::Config config_of(bool groups) {
  model::Config config = small_config(8, 2, 3);
  if (!groups) return config;
  config.layers[1] = {12, 3, 9, {}, {}};
  config.layers[1].router = "linear > groups(3, 2, 3) > all > softmax(renorm)";
  return config;
}

struct Observed {
  TestModel made;
  std::vector<CalibrationBatch> batches = random_batches(2, 3, 40, 31);
  std::vector<int64_t> bytes;
  base::Threads threads{2};
  Progress progress = [](int, int) {};
  RecordSource source;
  const std::vector<LayerRecord>& records;

  explicit Observed(bool groups = false)
      : made(config_of(groups)), source(*made.model, batches, {}, threads, progress), records(source.all()) {
    for (int l = 0; l < 3; ++l) bytes.push_back(expert_bytes(*made.model, l));
  }
  PruningFrontier frontier(const FrontierOptions& options = {}) { return {source, bytes, options, threads}; }
  int64_t bytes_of(const Sets& keep) const {
    int64_t sum = 0;
    for (size_t l = 0; l < keep.size(); ++l) sum += static_cast<int64_t>(keep[l].size()) * bytes[l];
    return sum;
  }

  // The loss of a layer's set beside its stream, token by token.
  double loss(size_t l, const std::vector<int>& kept) const {
    const LayerRecord& record = records[l];
    std::vector<uint8_t> flags(static_cast<size_t>(record.experts), 0);
    for (const int e : kept) flags[static_cast<size_t>(e)] = 1;
    std::vector<float> sorted = record.residual;
    std::ranges::sort(sorted);
    const size_t n = sorted.size();
    const double median = (static_cast<double>(sorted[n / 2]) + sorted[(n - 1) / 2]) / 2;
    double sum = 0, energy = 0;
    for (int t = 0; t < record.tokens(); ++t) {
      const double stream = record.residual[static_cast<size_t>(t)], weight = 1 / std::max(stream, 0.01 * median);
      sum += weight * squared_error(record, t, own_choice(record, t), choose(record, t, flags));
      energy += weight * stream;
    }
    return sum / energy;
  }
};

const KeptChoice& choice_of(const std::vector<KeptChoice>& all, const std::string& method, double ratio) {
  return *std::ranges::find_if(all, [&](const auto& c) { return c.method == method && c.ratio == ratio; });
}

std::vector<int> best_by(const std::vector<int64_t>& score, size_t count) {
  std::vector<int> order(score.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int a, int b) { return score[a] > score[b]; });
  order.resize(count);
  std::ranges::sort(order);
  return order;
}

TEST_CASE("frontier: every ratio has every method, and no method takes more bytes than the uniform counts") {
  Observed o;
  const auto choices = o.frontier().choices(kKeepRatios);
  REQUIRE(choices.size() == std::size(kKeepRatios) * (4 + 20));
  int64_t before = o.bytes_of({{0, 1, 2, 3, 4, 5, 6, 7}, {0, 1, 2, 3, 4, 5, 6, 7}, {0, 1, 2, 3, 4, 5, 6, 7}});
  for (const double ratio : kKeepRatios) {
    CAPTURE(ratio);
    const int64_t uniform = o.bytes_of(choice_of(choices, "uniform", ratio).keep);
    CHECK(uniform < before);
    before = uniform;
    for (const char* method : {"search", "uniform", "reap", "frequency", "random"}) {
      CAPTURE(method);
      const KeptChoice& choice = choice_of(choices, method, ratio);
      REQUIRE(choice.keep.size() == 3);
      CHECK(o.bytes_of(choice.keep) <= uniform);
      double sum = 0;
      for (size_t l = 0; l < 3; ++l) {
        CHECK(misfit(o.records[l].rule, 8, static_cast<int>(choice.keep[l].size())).empty());
        sum += o.loss(l, choice.keep[l]);
        if (choice.method != "search") CHECK(choice.keep[l].size() == static_cast<size_t>(ratio * 8));
        if (choice.method == "frequency")
          CHECK(choice.keep[l] == best_by(o.records[l].coverage, choice.keep[l].size()));
      }
      CHECK(choice.loss == doctest::Approx(sum).epsilon(1e-6));
      CHECK(choice_of(choices, "search", ratio).loss <= choice.loss * (1 + 1e-9));
    }
  }
}

TEST_CASE("frontier: draws of the random baseline have seeds of their own, from the first one on") {
  Observed o;
  const std::vector<double> half{0.5};
  const auto three = o.frontier({.seed = 5, .draws = 3}).choices(half);
  REQUIRE(three.size() == 4 + 3);
  for (size_t i = 0; i < 3; ++i) {
    CHECK(three[4 + i].method == "random");
    const auto one = o.frontier({.seed = 5 + i, .draws = 1}).choices(half);
    REQUIRE(one.size() == 5);
    CHECK(three[4 + i].keep == one[4].keep);
    CHECK(three[4 + i].loss == one[4].loss);
    if (i > 0) CHECK(three[4 + i].keep != three[4].keep);
  }
}

TEST_CASE("frontier: a searched set of a small layer is the best of all") {
  Observed o;
  const auto choices = o.frontier().choices(std::vector<double>{0.625});
  for (size_t l = 0; l < 3; ++l) {
    const auto weight = objective_weights(o.records[l], Objective::kStream, o.threads);
    CHECK(choice_of(choices, "uniform", 0.625).keep[l] ==
          enumerate(o.records[l], weight, 5, 1, o.threads).front().kept);
  }
}

TEST_CASE("frontier: counts that a layer's rule or its least share forbids are left out, repeated ones too") {
  Observed o(true);
  PruningFrontier frontier = o.frontier();
  CHECK(least_counts(*o.made.model, 0.25) == std::vector<int>{2, 6, 2});  // two of three groups must hold three experts
  CHECK(frontier.counts_at(0.8) == std::vector<int>{6, 9, 6});            // 6.4, and 9.6 of groups of equal size
  CHECK(frontier.counts_at(0.5) == std::vector<int>{4, 6, 4});
  CHECK(!frontier.counts_at(0.3));  // 3.6 of 12 is one of each group
  const auto choices = frontier.choices(std::vector<double>{1.0, 0.8, 0.79, 0.3});
  CHECK(choices.size() == 4 + 20);
  for (const KeptChoice& choice : choices) CHECK(choice.ratio == 0.8);
  CHECK(least_counts(*o.made.model, 0.6) == std::vector<int>{4, 9, 4});
  CHECK(!o.frontier({.least = 0.6}).counts_at(0.5));  // 4 of 8, but 9 of 12
  CHECK_THROWS_AS(o.frontier({.least = 0}), base::Error);
}

TEST_CASE("frontier: counts within a budget never exceed it, and are searched to such sets") {
  Observed o(true);
  PruningFrontier frontier = o.frontier();
  const std::vector<int64_t> other{100, 37, 250};
  for (const int64_t total : {1000, 1500, 2222}) {
    const std::vector<int> counts = frontier.counts_within(total, other);
    CHECK(counts[0] * 100 + counts[1] * 37 + counts[2] * 250 <= total);
    const Sets keep = frontier.searched(counts);
    for (size_t l = 0; l < 3; ++l) CHECK(static_cast<int>(keep[l].size()) == counts[l]);
  }
  CHECK_THROWS_AS(frontier.counts_within(900, other), base::Error);  // 2, 6 and 2 take 922
}

TEST_CASE("frontier: a capture on disk gives what records in memory give, for any number of threads") {
  Observed o;
  const auto expected = o.frontier().choices(kKeepRatios);
  const tests::TemporaryDirectory place;
  base::Threads one(1);
  RecordSource source(capture_to(place.file("capture"), *o.made.model, o.batches, {}, one));
  const auto found = PruningFrontier(source, o.bytes, {}, one).choices(kKeepRatios);
  REQUIRE(found.size() == expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    CHECK(found[i].method == expected[i].method);
    CHECK(found[i].keep == expected[i].keep);
    CHECK(found[i].loss == expected[i].loss);
  }
}

TEST_CASE("frontier: skipping from the records of the pruning is that of a pass of its own") {
  Observed o;
  SkipStudy study(*o.made.model, moe::Skip::By::kTail);
  for (const LayerRecord& record : o.records) study.add(record);
  const auto choices = skipping_choices(study, std::vector<double>{1, 0.9, 0.7, 0.5, 0.4});
  REQUIRE(choices.size() == 3);  // 1 is no skipping, 0.4 less than one expert a token
  for (const SkippingChoice& choice : choices) {
    const BudgetResult own = budget_skipping(*o.made.model, o.batches, {.keep = choice.share}, o.threads);
    CHECK(choice.policy.kept_share <= choice.share);
    CHECK(choice.policy.kept_share == own.kept_share);
    for (size_t l = 0; l < 3; ++l) CHECK(choice.policy.config.layers[l] == own.config.layers[l]);
  }
}

}  // namespace
}  // namespace choir::compress
