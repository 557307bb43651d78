#include "eval/routing_report.h"

#include <doctest/doctest.h>

#include <numeric>

#include "base/error.h"
#include "tests/random_model.h"

namespace choir::eval {
namespace {

TEST_CASE("loads and weights are those that one forward over each window shows") {
  model::Config config = tests::small_config();
  config.layers[1].skip_beta = 0.5f;
  const tests::RandomModel random(config, 1);
  const std::vector<Document> texts = {{tests::random_ids(70, 67, 2), 0}, {tests::random_ids(1, 67, 3), 0}};
  base::Threads threads(2);
  const RoutingReport report = routing_report(random.model(), texts, {32, 0}, threads);
  CHECK(report.tokens == 71);
  REQUIRE(report.layers.size() == 2);

  std::vector<std::vector<double>> load(2, std::vector<double>(6)), weight = load;
  for (const Document& text : texts)
    for (size_t begin = 0; begin < text.ids.size(); begin += 32) {
      const auto count = static_cast<int>(std::min<size_t>(32, text.ids.size() - begin));
      const kernels::Sequence place{0, count, 0, 0};
      std::vector<float> logits(67);
      model::Scratch scratch;
      const auto observer = [&](int l, const moe::Routing& routing) {
        for (size_t i = 0; i < routing.chosen.size(); ++i) {
          if (routing.chosen[i] < 0) continue;
          load[l][routing.chosen[i]] += 1;
          weight[l][routing.chosen[i]] += static_cast<double>(routing.plan.weight[routing.plan.edge[i]]);
        }
      };
      model::forward(random.model(), {std::span(text.ids).subspan(begin, static_cast<size_t>(count)), {&place, 1}},
                     {.rows = model::Rows::kLast, .observer = observer}, scratch, {logits.data(), 1, 67}, threads);
    }
  for (int l = 0; l < 2; ++l) {
    const LayerRouting& layer = report.layers[l];
    REQUIRE(static_cast<int>(layer.load.size()) == config.layers[l].experts);
    CHECK(layer.counts.run + layer.counts.skipped == 142);
    CHECK(layer.counts.run == std::accumulate(layer.load.begin(), layer.load.end(), int64_t{0}));
    for (size_t e = 0; e < layer.load.size(); ++e) {
      CHECK(static_cast<double>(layer.load[e]) == load[l][e]);
      CHECK(layer.mean_weight[e] == doctest::Approx(load[l][e] > 0 ? weight[l][e] / load[l][e] : 0));
    }
  }
  CHECK(report.layers[0].counts.skipped_share() == 0);
  CHECK(report.layers[1].counts.skipped_share() > 0);
  CHECK(report.layers[1].counts.skipped_share() <= 0.5);
}

TEST_CASE("a text without a token has no routing") {
  const tests::RandomModel random(tests::small_config(), 4);
  base::Threads threads(1);
  CHECK_THROWS_AS(routing_report(random.model(), std::vector<Document>{{{}, 0}}, {}, threads), base::Error);
}

}  // namespace
}  // namespace choir::eval
