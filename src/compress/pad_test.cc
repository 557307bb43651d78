#include "compress/pad.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "base/error.h"
#include "compress/plan.h"
#include "compress/test_model.h"

namespace choir::compress {
namespace {

std::vector<float> logits_of(const Model& model, const CalibrationBatch& batch) {
  base::Threads threads(1);
  const auto sequences = sequences_of(batch);
  std::vector<float> logits(batch.ids.size() * static_cast<size_t>(model.config().vocab));
  model::Scratch scratch;
  model::forward(model, {batch.ids, sequences}, {}, scratch,
                 {logits.data(), static_cast<int>(batch.ids.size()), model.config().vocab}, threads);
  return logits;
}

model::Config biased(const std::string& router, int experts, int top_k) {
  model::Config config = small_config(experts, top_k, 3);
  for (auto& layer : config.layers) layer.router = router;
  return config;
}

TEST_CASE("padding: all layers have as many experts, and not a bit of an answer changes") {
  for (const auto& [router, keep, added] :
       {std::tuple{"linear(sigmoid) > top_k(2) > all > sigmoid_norm(2.5) + bias(0.001)",
                   std::vector<std::vector<int>>{{1, 2, 3, 5, 7}, {2, 6}, {0, 4, 5}},
                   std::vector<std::vector<int>>{{}, {0, 1, 3}, {1, 2}}},
        std::tuple{
            "linear(sigmoid) > groups(4, 2, 2, by=top2) > all > sigmoid_norm(1) + bias(0.001)",
            std::vector<std::vector<int>>{{0, 1, 2, 3, 4, 5, 6, 7}, {0, 1, 2, 3, 4, 5, 6, 7}, {0, 1, 2, 3, 4, 5, 6, 7}},
            std::vector<std::vector<int>>{{}, {}, {}}},
        std::tuple{"linear > top_k(3) > all > chosen + bias(0.001)",
                   std::vector<std::vector<int>>{{5, 6, 7}, {0, 1, 2, 3}, {1, 3, 7}},
                   std::vector<std::vector<int>>{{0}, {}, {0}}},
        std::tuple{"linear(bias) > top_k(3) > all > chosen",
                   std::vector<std::vector<int>>{{5, 6, 7}, {0, 1, 2, 3}, {1, 3, 7}},
                   std::vector<std::vector<int>>{{0}, {}, {0}}},
        std::tuple{"linear(bias) > top_k(2) > all > softmax(scale=4)",
                   std::vector<std::vector<int>>{{5, 7}, {1, 3, 4, 6}, {0, 1}},
                   std::vector<std::vector<int>>{{0, 1}, {}, {2, 3}}}}) {
    CAPTURE(router);
    const TestModel made(biased(router, 8, moe::parse_router(router).choices(8)));
    const Model pruned = planned_model(*made.model, keep);
    const Padded result = padded(*made.model, pruned, keep);
    CHECK(result.experts == added);
    size_t most = 0;
    for (const auto& list : keep) most = std::max(most, list.size());
    for (size_t l = 0; l < 3; ++l) {
      const model::LayerConfig& layer = result.model.config().layers[l];
      CHECK(layer.experts == static_cast<int>(most));
      if (most == 8) continue;
      std::vector<int> all = keep[l];
      all.insert(all.end(), added[l].begin(), added[l].end());
      std::ranges::sort(all);
      CHECK(layer.kept == all);
    }
    for (const CalibrationBatch& batch : random_batches(2, 2, 20, 31))
      CHECK(logits_of(result.model, batch) == logits_of(pruned, batch));
  }
}

TEST_CASE("padding: groups of unequal layers are filled up equally") {
  const std::string router = "linear(sigmoid) > groups(4, 2, 3) > all > sigmoid_norm(1) + bias(0.001)";
  const TestModel made(biased(router, 16, 3));
  const std::vector<std::vector<int>> keep{
      {0, 1, 2, 5, 6, 7, 8, 9, 11, 13, 14, 15}, {0, 3, 4, 7, 8, 11, 12, 15}, {0, 1, 2, 5, 6, 7, 8, 9, 11, 13, 14, 15}};
  const Model pruned = planned_model(*made.model, keep);
  const Padded result = padded(*made.model, pruned, keep);
  CHECK(result.experts == std::vector<std::vector<int>>{{}, {1, 5, 9, 13}, {}});
  for (const CalibrationBatch& batch : random_batches(2, 2, 20, 31))
    CHECK(logits_of(result.model, batch) == logits_of(pruned, batch));
}

TEST_CASE("padding: a router without a bias is refused, and a layer that has not so many experts") {
  const TestModel plain(small_config(6, 2, 2));
  CHECK_THROWS_WITH_AS(check_paddable(*plain.model), doctest::Contains("no bias"), base::Error);
  model::Config config = biased("linear(sigmoid) > top_k(2) > all > sigmoid_norm(1) + bias(0.001)", 8, 2);
  config.layers[1].experts = 4;
  const TestModel made(config);
  const std::vector<std::vector<int>> keep{{0, 1, 2, 3, 4}, {0, 1}, {0, 1, 2}};
  CHECK_THROWS_WITH_AS(padded(*made.model, planned_model(*made.model, keep), keep), doctest::Contains("layer 1"),
                       base::Error);
}

}  // namespace
}  // namespace choir::compress
