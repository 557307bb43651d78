#include "compress/prune.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "compress/test_model.h"

namespace choir::compress {
namespace {

using model::Config;
using tensor::Buffer;

struct LayerData {
  std::vector<Row> x, z;  // what the experts receive and put out
};

// A whole forward of one batch, layer by layer, with the experts as plain loops on the engine's inputs.
std::vector<LayerData> trace(const Model& model, const CalibrationBatch& batch) {
  base::Threads threads(1);
  const auto sequences = sequences_of(batch);
  const model::ForwardPass pass(model, {batch.ids, sequences}, threads);
  const int d = model.config().width;
  const Buffer<float> h(batch.ids.size() * static_cast<size_t>(d)), middle(h.size());
  const auto rows = h.matrix(pass.rows(), d);
  model::BlockActivations activations;
  pass.embed(rows);
  std::vector<LayerData> layers;
  for (int l = 0; l < model.config().depth(); ++l) {
    pass.attend(l, rows, nullptr, activations, middle.matrix(pass.rows(), d));
    LayerData data{as_rows(activations.normed.matrix(pass.rows(), d)), {}};
    const int experts = model.config().layers[l].experts;
    for (const Row& x : data.x)
      data.z.push_back(plain_block(model.tensors().blocks[l].moe, 2, (ExpertSet{1} << experts) - 1, x));
    layers.push_back(std::move(data));
    pass.mix(l, middle.matrix(pass.rows(), d), {}, activations, rows);
  }
  return layers;
}

using Batches = std::vector<CalibrationBatch>;

// The published search: layer by layer, whole forwards of the model pruned so far, the block run again for every set.
std::vector<std::vector<SubsetLoss>> plain_search(const Model& model, const Batches& batches, int keep,
                                                  bool progressive) {
  Config config = model.config();
  std::vector<std::vector<int>> kept(config.layers.size());
  for (int l = 0; l < config.depth(); ++l) kept[l] = others({}, config.layers[l].experts);
  std::vector<std::vector<SubsetLoss>> result;
  for (int l = 0; l < config.depth(); ++l) {
    const int experts = model.config().layers[l].experts;
    const Model so_far = model.with_layers(config, kept);
    std::vector<SubsetLoss> losses;
    for (const std::vector<int>& dropped : combinations(experts, experts - keep)) losses.push_back({dropped, 0});
    for (const CalibrationBatch& batch : batches) {
      const std::vector<LayerData> target = trace(model, batch), input = trace(so_far, batch);
      for (SubsetLoss& loss : losses)
        loss.loss += plain_loss(model.tensors().blocks[l].moe, 2, as_set(others(loss.dropped, experts)), input[l].x,
                                target[l].z);
    }
    const auto best = std::ranges::min_element(losses, {}, &SubsetLoss::loss);
    if (progressive) {
      kept[l] = others(best->dropped, experts);
      config.layers[l].experts = keep;
    }
    result.push_back(std::move(losses));
  }
  return result;
}

PruneResult pruned(const Model& model, const Batches& batches, const PruneOptions& options, int threads_count = 2) {
  base::Threads threads(threads_count);
  return prune(model, batches, options, threads);
}

void check_against_plain(const Model& model, const Batches& batches, bool progressive) {
  PruneOptions options;
  options.keep = {3};
  options.progressive = progressive;
  options.all_losses = true;
  const PruneResult result = pruned(model, batches, options);
  const auto expected = plain_search(model, batches, 3, progressive);
  for (size_t l = 0; l < expected.size(); ++l) {
    const LayerChoice& choice = result.layers[l];
    REQUIRE(choice.losses.size() == expected[l].size());
    for (size_t i = 0; i < expected[l].size(); ++i) {
      CHECK(choice.losses[i].dropped == expected[l][i].dropped);
      CHECK(choice.losses[i].loss == doctest::Approx(expected[l][i].loss).epsilon(1e-5));
    }
    const auto best = std::ranges::min_element(expected[l], {}, &SubsetLoss::loss);
    CHECK(choice.keep == others(best->dropped, 5));
    CHECK(*choice.loss == doctest::Approx(best->loss).epsilon(1e-5));
    CHECK(choice.candidates == 10);
  }
}

std::vector<float> logits_of(const Model& model, const CalibrationBatch& batch) {
  base::Threads threads(1);
  const auto sequences = sequences_of(batch);
  std::vector<float> logits(batch.ids.size() * static_cast<size_t>(model.config().vocab));
  model::Scratch scratch;
  model::forward(model, {batch.ids, sequences}, {}, scratch,
                 {logits.data(), static_cast<int>(batch.ids.size()), model.config().vocab}, threads);
  return logits;
}

TEST_CASE("the search is the published one, with a window and a tied head too") {
  Config config = small_config(5, 2, 3);
  const auto batches = random_batches(2, 2, 11, config.vocab);
  SUBCASE("plain") {}
  SUBCASE("window") { config.attention.window = 4; }
  SUBCASE("tied") { config.tied = true; }
  const TestModel made(config);
  check_against_plain(*made.model, batches, false);
  check_against_plain(*made.model, batches, true);
}

TEST_CASE("the pruned model holds the kept experts and runs") {
  const TestModel made(small_config(5, 2, 2));
  const auto batches = random_batches(2, 2, 11, 31);
  PruneOptions options;
  options.keep = {3, 5};
  const PruneResult result = pruned(*made.model, batches, options);
  const Model smaller = pruned_model(*made.model, result);
  CHECK(smaller.config().layers[0].experts == 3);
  CHECK(smaller.config().layers[0].kept == result.layers[0].keep);
  CHECK(smaller.config().layers[1].kept == std::vector<int>{0, 1, 2, 3, 4});
  for (size_t i = 0; i < 3; ++i)
    CHECK(smaller.tensors().blocks[0].moe.w2[i].data ==
          made.model->tensors().blocks[0].moe.w2[result.layers[0].keep[i]].data);
  CHECK(logits_of(smaller, batches[0]) != logits_of(*made.model, batches[0]));

  options.keep = {2, 5};
  const PruneResult again = pruned(smaller, batches, options);
  for (size_t i = 0; i < 2; ++i) {
    const int named = again.config.layers[0].kept[i];  // a number in the first model
    CHECK(named == result.layers[0].keep[again.layers[0].keep[i]]);
  }
}

TEST_CASE("keeping every expert changes nothing") {
  const TestModel made(small_config(4, 2, 2));
  const auto batches = random_batches(1, 2, 9, 31);
  const PruneResult result = pruned(*made.model, batches, {.keep = {4}});
  CHECK(result.config.layers == made.model->config().layers);
  CHECK(logits_of(pruned_model(*made.model, result), batches[0]) == logits_of(*made.model, batches[0]));
}

TEST_CASE("the split into batches changes the losses") {
  const TestModel made(small_config(5, 2, 1));
  const auto whole = random_batches(1, 4, 11, 31);
  auto halves = random_batches(2, 2, 11, 31);
  for (size_t i = 0; i < 22; ++i) REQUIRE(halves[0].ids[i] == whole[0].ids[i]);
  const double one = *pruned(*made.model, whole, {.keep = {3}, .method = Method::kRandom}).layers[0].loss;
  const double two = *pruned(*made.model, halves, {.keep = {3}, .method = Method::kRandom}).layers[0].loss;
  CHECK(two > 1.1 * one);  // the sum of two norms of like size is about sqrt(2) of the norm of both
}

TEST_CASE("results do not depend on the number of threads") {
  const TestModel made(small_config(8, 2, 2));
  const auto batches = random_batches(2, 3, 20, 31);
  const PruneOptions options{.keep = {4}, .progressive = true, .all_losses = true};
  const PruneResult one = pruned(*made.model, batches, options, 1), three = pruned(*made.model, batches, options, 3);
  for (size_t l = 0; l < 2; ++l)
    for (size_t i = 0; i < 70; ++i) CHECK(one.layers[l].losses[i].loss == three.layers[l].losses[i].loss);
}

TEST_CASE("baselines report the loss of what they chose") {
  const TestModel made(small_config(5, 2, 2));
  const auto batches = random_batches(2, 2, 11, 31);
  const PruneResult exact = pruned(*made.model, batches, {.keep = {3}, .all_losses = true});
  for (const Method method : {Method::kFrequency, Method::kRandom}) {
    const PruneResult other = pruned(*made.model, batches, {.keep = {3}, .method = method, .seed = 4});
    for (size_t l = 0; l < 2; ++l) {
      const std::vector<int> dropped = others(other.layers[l].keep, 5);
      const auto same = std::ranges::find(exact.layers[l].losses, dropped, &SubsetLoss::dropped);
      CHECK(*other.layers[l].loss == same->loss);
      CHECK(other.layers[l].candidates == 1);
      CHECK(exact.layers[l].coverage == other.layers[l].coverage);
    }
  }
}

TEST_CASE("coverage counts the routed tokens and names experts that saw few") {
  const TestModel made(small_config(5, 2, 1));
  const auto batches = random_batches(2, 2, 11, 31);
  std::vector<int64_t> expected(5, 0);
  for (const CalibrationBatch& batch : batches)
    for (const LayerData& layer : trace(*made.model, batch))
      for (const Row& x : layer.x) {
        const Row logits = plain_product(made.model->tensors().blocks[0].moe.gate[0], x);
        for (size_t e = 0; e < 5; ++e)
          expected[e] += std::ranges::count_if(logits, [&](double other) { return other > logits[e]; }) < 2;
      }
  std::vector<int> rare;
  for (int e = 0; e < 5; ++e)
    if (expected[e] < 18) rare.push_back(e);
  const PruneResult result = pruned(*made.model, batches, {.keep = {3}, .few_tokens = 18});
  CHECK(result.layers[0].coverage == expected);
  CHECK(result.layers[0].rarely_seen == rare);
}

TEST_CASE("a super expert that goes is named") {
  const TestModel made(small_config(6, 2, 2));
  const tensor::Weight& w2 = made.model->tensors().blocks[1].moe.w2[3];
  for (size_t i = 0; i < w2.size(); ++i) const_cast<float*>(static_cast<const float*>(w2.data))[i] *= 40;
  const auto batches = random_batches(2, 2, 11, 31);
  base::Threads threads(1);
  int gone = 0;
  for (uint64_t seed = 1; seed < 9; ++seed) {
    const PruneResult result =
        prune(*made.model, batches, {.keep = {4}, .method = Method::kRandom, .seed = seed}, threads);
    CHECK(result.layers[0].super.empty());
    const bool kept = std::ranges::count(result.layers[1].keep, 3) > 0;
    CHECK(result.layers[1].super == (kept ? std::vector<int>{} : std::vector<int>{3}));
    gone += !kept;
  }
  CHECK(gone > 0);
}

TEST_CASE("many experts are pruned by the baselines alone") {
  const TestModel made(small_config(20, 4, 1));
  const auto batches = random_batches(1, 2, 11, 31);
  CHECK_THROWS_AS(pruned(*made.model, batches, {.keep = {10}}), base::Error);
  const PruneResult result = pruned(*made.model, batches, {.keep = {10}, .method = Method::kFrequency});
  CHECK(result.layers[0].keep.size() == 10);
  CHECK_FALSE(result.layers[0].loss.has_value());
}

TEST_CASE("a skipping model is measured and returned without its thresholds") {
  Config config = small_config(5, 2, 2);
  const TestModel plain(config);
  for (model::LayerConfig& layer : config.layers) layer.skip_beta = 0.5f;
  const TestModel skipping(config);
  const auto batches = random_batches(1, 2, 11, 31);
  const PruneResult a = pruned(*plain.model, batches, {.keep = {3}}),
                    b = pruned(*skipping.model, batches, {.keep = {3}});
  for (size_t l = 0; l < 2; ++l) CHECK(*a.layers[l].loss == *b.layers[l].loss);
  CHECK(a.config.layers == b.config.layers);
}

base::Fault fault_of(const Model& model, const Batches& batches, const PruneOptions& options) {
  try {
    pruned(model, batches, options);
  } catch (const base::Error& error) {
    return error.fault;
  }
  return base::Fault::kProgram;
}

TEST_CASE("what cannot be done is refused") {
  const TestModel made(small_config(5, 2, 2));
  const auto batches = random_batches(1, 2, 11, 31);
  for (const std::vector<int>& keep : std::vector<std::vector<int>>{{0}, {1}, {6}, {}, {3, 3, 3}, {3, 1}, {-1}})
    CHECK(fault_of(*made.model, batches, {.keep = keep}) == base::Fault::kUsage);
  CHECK(fault_of(*made.model, {}, {.keep = {3}}) == base::Fault::kInput);
  Batches wrong = batches;
  wrong[0].ids.pop_back();
  CHECK(fault_of(*made.model, wrong, {.keep = {3}}) == base::Fault::kInput);
  Batches unknown = batches;
  unknown[0].ids[3] = 31;
  CHECK(fault_of(*made.model, unknown, {.keep = {3}}) == base::Fault::kInput);
}

TEST_CASE("a NaN among the weights is named") {
  const TestModel made(small_config(5, 2, 2));
  const tensor::Weight& w = made.model->tensors().blocks[1].moe.w2[3];
  for (const tensor::Buffer<float>& numbers : made.numbers)
    if (numbers.data() == w.data) numbers[7] = std::numeric_limits<float>::quiet_NaN();
  try {
    pruned(*made.model, random_batches(1, 2, 11, 31), {.keep = {3}});
    FAIL("not refused");
  } catch (const base::Error& error) {
    CHECK(error.fault == base::Fault::kInput);
    CHECK(error.message.find("layers.1.block_sparse_moe.experts.3.w2") != std::string::npos);
  }
}

TEST_CASE("a router whose layer would be measured wrongly is refused") {
  const auto batches = random_batches(1, 2, 11, 31);
  for (const char* router : {"linear > top_k(2) > all > softmax", "linear(residual) > top_k(2) > all > chosen",
                             "linear > top_k(2) > all > chosen + quantile", "linear > second_random > all > chosen",
                             "linear > top_k(2) > top_capacity(factor(1)) > chosen"}) {
    CAPTURE(router);
    Config config = small_config(5, 2, 2);
    for (model::LayerConfig& layer : config.layers) layer.router = router;
    const TestModel made(config);
    for (const Method method : {Method::kExact, Method::kFrequency})
      CHECK(fault_of(*made.model, batches, {.keep = {3}, .method = method}) == base::Fault::kInput);
  }
}

TEST_CASE("a router that skips is measured and returned as one that does not") {
  Config config = small_config(5, 2, 2);
  const TestModel plain(config);
  for (model::LayerConfig& layer : config.layers) layer.router = "linear > top_k(2) > skip(0.5) > chosen";
  const TestModel skipping(config);
  const auto batches = random_batches(1, 2, 11, 31);
  const PruneResult a = pruned(*plain.model, batches, {.keep = {3}}),
                    b = pruned(*skipping.model, batches, {.keep = {3}});
  for (size_t l = 0; l < 2; ++l) CHECK(*a.layers[l].loss == *b.layers[l].loss);
  CHECK(b.config.layers[0].router == "linear > top_k(2) > all > chosen");
}

}  // namespace
}  // namespace choir::compress
