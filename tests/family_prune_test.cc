// Experts taken from models of every family: what the record of a pass says a set costs is what the smaller model's
// layer then loses, and the smaller model is written and read back whole.
#include <doctest/doctest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "compress/choose_sets.h"
#include "compress/kept_counts.h"
#include "compress/layer_run.h"
#include "compress/observe.h"
#include "compress/prune.h"
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
  const Model model(directory);
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

TEST_CASE("families: a model that loses no expert is the same, bit for bit") {
  for (const auto& entry : fs::directory_iterator(golden(""))) {
    CAPTURE(entry.path().filename().string());
    const Model model(entry.path());
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
