// Experts taken from models of every family: what the record of a pass says a set costs is what the smaller model's
// layer then loses, and the smaller model is written and read back whole.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "compress/block_search.h"
#include "compress/choose_sets.h"
#include "compress/coverage.h"
#include "compress/kept_counts.h"
#include "compress/layer_run.h"
#include "compress/neurons.h"
#include "compress/observe.h"
#include "compress/pad.h"
#include "compress/plan.h"
#include "compress/prune.h"
#include "compress/sensitivity.h"
#include "compress/skip_budget.h"
#include "io/test_files.h"
#include "tests/random_model.h"

namespace choir::compress {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using tensor::Weight;

std::string golden(const std::string& name) { return std::string(CHOIR_SOURCE_DIR) + "/tests/golden/" + name; }

std::vector<CalibrationBatch> batches_of(const Model& model) {
  std::vector<CalibrationBatch> batches;
  for (const uint64_t seed : {5, 6}) batches.push_back({tests::random_ids(48, model.config().vocab, seed), 3, 16});
  return batches;
}

std::vector<int> complete(int experts) {
  std::vector<int> all(static_cast<size_t>(experts));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

// The smallest sets of every layer, and what the records say of them.
struct Chosen {
  std::vector<std::vector<int>> keep;
  std::vector<double> loss;
};

Chosen choose(const Model& model, base::Threads& threads) {
  Chosen chosen;
  observe(
      model, batches_of(model), {.ranks = 64},
      [&](int l, const LayerRecord& record) {
        const int count = record.experts == 0 ? 0 : least_count(record.rule, record.experts);
        const SetChoice choice = choose_set(record, l, count, {}, threads);
        CHECK(choice.short_of == 0);
        chosen.keep.push_back(choice.keep);
        chosen.loss.push_back(choice.objective);
      },
      threads);
  return chosen;
}

// Rows of the gate, its bias and what the router keeps besides go with their experts.
void check_gate(const moe::MoeTensors<Weight>& full, const moe::MoeTensors<Weight>& pruned,
                const std::vector<int>& keep) {
  const auto number = [](const Weight& w, size_t i) { return static_cast<const float*>(w.data)[i]; };
  for (size_t i = 0; i < keep.size(); ++i) {
    const auto from = static_cast<size_t>(keep[i]);
    CHECK(std::memcmp(pruned.gate[0].row(static_cast<int>(i)).data, full.gate[0].row(keep[i]).data,
                      full.gate[0].row(0).bytes()) == 0);
    if (full.gate.size() > 1) CHECK(number(pruned.gate[1], i) == number(full.gate[1], from));
    if (full.state.data) CHECK(number(pruned.state, i) == number(full.state, from));
    if (!full.b2.empty()) CHECK(pruned.b2[i].data == full.b2[from].data);
    CHECK(pruned.w2[i].data == full.w2[from].data);
  }
}

void check_family(const std::string& directory) {
  const Model model = Model(directory).savable();
  base::Threads threads(2);
  const Chosen chosen = choose(model, threads);
  const Model pruned = model.with_layers(pruned_config(model.config(), chosen.keep), chosen.keep);
  layer_inputs(
      model, batches_of(model),
      [&](int l, tensor::Matrix<const float> x) {
        const model::LayerConfig& layer = model.config().layers[l];
        if (layer.dense()) return;
        CHECK(static_cast<int>(chosen.keep[l].size()) < layer.experts);
        const tensor::Buffer<float> z(static_cast<size_t>(x.rows) * static_cast<size_t>(x.cols));
        run_layer(model, l, x, z.matrix(x.rows, x.cols), threads);
        CHECK(layer_loss(pruned, l, {x, z.matrix(x.rows, x.cols)}, threads) ==
              doctest::Approx(chosen.loss[static_cast<size_t>(l)]).epsilon(1e-4));
        check_gate(model.tensors().blocks[l].moe, pruned.tensors().blocks[l].moe, chosen.keep[l]);
      },
      threads);
  const io::TemporaryDirectory place;
  pruned.save(place.path(), Json::parse(base::read_file(directory + "/config.json")));
  const Model again(place.path());
  CHECK(again.config().layers == pruned.config().layers);
  const auto ids = tests::random_ids(20, model.config().vocab, 1);
  CHECK(tests::all_logits(again, ids, 2) == tests::all_logits(pruned, ids, 2));
}

TEST_CASE("families: what a set of experts costs is what the smaller model loses") {
  for (const char* name :
       {"qwen2_moe", "olmoe", "deepseek_v2", "deepseek_v3", "gpt_oss", "gpt_oss_mxfp4", "granitemoe"}) {
    CAPTURE(std::string(name));
    check_family(golden(name));
  }
}

// The residual stream behind all layers.
std::vector<float> stream_of(const Model& model, base::Threads& threads) {
  std::vector<float> stream;
  for (const CalibrationBatch& batch : batches_of(model)) {
    const auto sequences = sequences_of(batch);
    const model::ForwardPass pass(model, {batch.ids, sequences}, threads);
    const int rows = pass.rows(), d = model.config().width;
    const tensor::Buffer<float> h(static_cast<size_t>(rows) * static_cast<size_t>(d)), middle(h.size());
    model::BlockActivations activations;
    pass.embed(h.matrix(rows, d));
    for (int l = 0; l < model.config().depth(); ++l) {
      pass.attend(l, h.matrix(rows, d), nullptr, activations, middle.matrix(rows, d));
      pass.mix(l, middle.matrix(rows, d), {}, activations, h.matrix(rows, d));
    }
    stream.insert(stream.end(), h.data(), h.data() + h.size());
  }
  return stream;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return sum;
}

TEST_CASE("families: a block of all layers loses what the smaller model's stream does") {
  for (const char* name : {"qwen2_moe", "deepseek_v3", "gpt_oss", "granitemoe"}) {
    CAPTURE(std::string(name));
    const Model model(golden(name));
    base::Threads threads(2);
    const Chosen chosen = choose(model, threads);
    std::vector<std::vector<ScoredSet>> candidates;
    for (const std::vector<int>& keep : chosen.keep) candidates.push_back({{keep, 0}});
    const auto blocks = choose_in_blocks(model, batches_of(model), candidates, {model.config().depth()}, threads);
    REQUIRE(blocks.size() == 1);
    CHECK(blocks[0].keep == chosen.keep);
    const Model pruned = model.with_layers(pruned_config(model.config(), chosen.keep), chosen.keep);
    CHECK(blocks[0].loss ==
          doctest::Approx(distance(stream_of(pruned, threads), stream_of(model, threads))).epsilon(1e-4));
  }
}

TEST_CASE("families: text is enough or not, and gradients are there, of dense layers too") {
  for (const char* name : {"qwen2_moe", "deepseek_v2", "gpt_oss_mxfp4", "granitemoe"}) {
    CAPTURE(std::string(name));
    const Model model(golden(name));
    base::Threads threads(2);
    CHECK(enough_text(model, batches_of(model), 1, threads).reached);
    const auto squares = loss_gradients(model, batches_of(model), threads);
    REQUIRE(static_cast<int>(squares.size()) == model.config().depth());
    for (const std::vector<float>& layer : squares) {
      CHECK(layer.size() == 96);
      CHECK(std::ranges::max(layer) > 0);
    }
  }
}

TEST_CASE("families: fewer neurons, biases included, are written and read back") {
  for (const char* name : {"qwen2_moe", "olmoe", "deepseek_v3", "gpt_oss", "gpt_oss_mxfp4"}) {
    CAPTURE(std::string(name));
    const Model model = Model(golden(name)).savable();
    base::Threads threads(2);
    const NeuronLists kept = find_neurons(model, model, batches_of(model), {0.6, 4}, threads);
    const Model narrow = with_neurons(model, kept);
    int gone = 0;
    for (int l = 0; l < model.config().depth(); ++l)
      for (int e = 0; e < model.config().layers[l].experts; ++e)
        gone += model.config().layers[l].width_of(e) - narrow.config().layers[l].width_of(e);
    CHECK(gone > 0);
    const io::TemporaryDirectory place;
    narrow.save(place.path(), Json::parse(base::read_file(golden(name) + "/config.json")));
    const auto ids = tests::random_ids(20, model.config().vocab, 1);
    CHECK(tests::all_logits(Model(place.path()), ids, 2) == tests::all_logits(narrow, ids, 2));
  }
}

TEST_CASE("families: padding where the gate or the choice has a bias changes no logit") {
  for (const char* name : {"gpt_oss", "gpt_oss_mxfp4"}) {
    CAPTURE(std::string(name));
    const Model model = Model(golden(name)).savable();
    const std::vector<std::vector<int>> keep{{0, 2, 3, 4}, {1, 3}};
    const Model pruned = planned_model(model, keep);
    const Padded result = padded(model, pruned, keep);
    CHECK(result.experts == std::vector<std::vector<int>>{{}, {0, 2}});
    const io::TemporaryDirectory place;
    result.model.save(place.path(), Json::parse(base::read_file(golden(name) + "/config.json")));
    const auto ids = tests::random_ids(20, model.config().vocab, 1);
    CHECK(tests::all_logits(Model(place.path()), ids, 2) == tests::all_logits(pruned, ids, 2));
  }
  CHECK_NOTHROW(check_paddable(Model(golden("deepseek_v3"))));
  CHECK_THROWS_AS(check_paddable(Model(golden("olmoe"))), base::Error);
}

TEST_CASE("families: a model that loses no expert is the same, bit for bit") {
  for (const auto& entry : fs::directory_iterator(golden(""))) {
    CAPTURE(entry.path().filename().string());
    const Model model = Model(entry.path()).savable();
    std::vector<std::vector<int>> keep;
    for (const model::LayerConfig& layer : model.config().layers) keep.push_back(complete(layer.experts));
    const Model same = model.with_layers(pruned_config(model.config(), keep), keep);
    const io::TemporaryDirectory one, two;
    const Json json = Json::parse(base::read_file(entry.path().string() + "/config.json"));
    model.save(one.path(), json);
    same.save(two.path(), json);
    for (const char* file : {"model.safetensors", "config.json"})
      CHECK(base::read_file(one.file(file)) == base::read_file(two.file(file)));
  }
}

TEST_CASE("families: models of dense layers, and those whose routers are not known to pruning, are refused by name") {
  for (const auto& [name, reason] : {std::pair{"llama", "no layer has experts"}, {"phimoe", "sparse"}}) {
    const Model model(golden(name));
    try {
      check_observable(model);
      FAIL("not refused");
    } catch (const base::Error& error) {
      CHECK(std::string(error.what()).find(reason) != std::string::npos);
    }
  }
}

TEST_CASE("families: skipping passes dense layers by") {
  const Model model(golden("qwen2_moe"));
  base::Threads threads(2);
  const auto batches = batches_of(model);
  const BudgetResult result = budget_skipping(model, batches, {.by = moe::Skip::By::kTail, .keep = 0.6}, threads);
  CHECK(result.kept_share <= 0.6);
  REQUIRE(result.layers.size() == 1);
  CHECK(result.layers[0].layer == 1);
  CHECK(result.config.layers[1].router.find("skip(") != std::string::npos);
  CHECK(result.config.layers[0].router.empty());
  const io::TemporaryDirectory place;
  skipping_model(model, result).save(place.path(), Json::parse(base::read_file(golden("qwen2_moe/config.json"))));
  CHECK(Model(place.path()).config().layers == result.config.layers);
}

}  // namespace
}  // namespace choir::compress
