// Expert pruning and skipping against the authors' own code (arXiv 2402.14800), run on tiny random models.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "compress/prune.h"
#include "compress/skip.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace choir {
namespace {

namespace fs = std::filesystem;
using compress::CalibrationBatch;
using compress::PruneOptions;
using compress::PruneResult;
using io::Json;
using model::Model;

// One recorded run.
struct Case {
  std::string directory;
  Model model;
  io::SafetensorsFile reference;
  Json json;
  base::Threads threads{2};

  explicit Case(const std::string& d)
      : directory(d), model(d), reference(d + "/reference.safetensors"), json(io::read_json(d + "/naee.json")) {}

  template <class T>
  std::vector<T> numbers(const std::string& name) const {
    const io::Tensor* tensor = reference.find(name);
    REQUIRE_MESSAGE(tensor, name);
    std::vector<T> result(tensor->elements());
    REQUIRE(tensor->bytes.size() == result.size() * sizeof(T));
    std::memcpy(result.data(), tensor->bytes.data(), tensor->bytes.size());
    return result;
  }

  // A tensor [..., sequences, length] of ids.
  std::vector<CalibrationBatch> batches(const std::string& name) const {
    const auto& shape = reference.find(name)->shape;
    const auto all = numbers<int64_t>(name);
    const auto sequences = static_cast<int>(shape[shape.size() - 2]), length = static_cast<int>(shape.back());
    std::vector<CalibrationBatch> result;
    for (size_t first = 0; first < all.size(); first += static_cast<size_t>(sequences * length)) {
      CalibrationBatch batch{{}, sequences, length};
      for (int i = 0; i < sequences * length; ++i) batch.ids.push_back(static_cast<int32_t>(all[first + i]));
      result.push_back(std::move(batch));
    }
    return result;
  }
};

std::vector<std::string> cases() {
  std::vector<std::string> found;
  for (const std::string& name : {std::string("naee_1"), std::string("naee_2")}) {
    const std::string directory = std::string(CHOIR_SOURCE_DIR) + "/../shared/oracle/" + name;
    if (fs::exists(directory + "/naee.json"))
      found.push_back(directory);
    else
      MESSAGE("skipped: oracle/" << name << " absent");
  }
  return found;
}

struct Run {
  std::string name;
  PruneOptions options;
};

std::vector<Run> runs() {
  std::vector<Run> all;
  for (const int keep : {6, 4})
    for (const bool progressive : {false, true}) {
      PruneOptions options;
      options.keep = {keep};
      options.progressive = progressive;
      options.all_losses = true;
      all.push_back(
          {std::string(progressive ? "progressive" : "layerwise") + "_pruning_r" + std::to_string(keep), options});
    }
  return all;
}

struct Evaluation {
  std::vector<float> logits;
  std::vector<std::vector<int64_t>> skipped;  // of each layer, 1 where a token's second expert was skipped
};

Evaluation evaluate(Case& c, const Model& model) {
  const CalibrationBatch batch = c.batches("eval.input_ids")[0];
  const auto sequences = compress::sequences_of(batch);
  const int n = static_cast<int>(batch.ids.size()), vocab = model.config().vocab;
  Evaluation result{std::vector<float>(batch.ids.size() * static_cast<size_t>(vocab)), {}};
  model::Scratch scratch;
  const auto observer = [&](int, const moe::Routing& routing) {
    result.skipped.emplace_back();
    for (int t = 0; t < n; ++t) result.skipped.back().push_back(routing.chosen[2 * t + 1] < 0);
  };
  model::forward(model, {batch.ids, sequences}, {.observer = observer}, scratch, {result.logits.data(), n, vocab},
                 c.threads);
  return result;
}

void check_logits(Case& c, const Model& model, const std::string& name) {
  CAPTURE(name);
  const auto expected = c.numbers<float>(name + ".logits");
  const auto got = evaluate(c, model).logits;
  REQUIRE(got.size() == expected.size());
  float most = 0;
  for (size_t i = 0; i < got.size(); ++i) most = std::max(most, std::abs(got[i] - expected[i]));
  CHECK(most < 2e-4f);
}

void check_losses(const PruneResult& result, const Json& expected) {
  for (const compress::LayerChoice& choice : result.layers) {
    CAPTURE(choice.layer);
    const Json& layer = expected[std::to_string(choice.layer)];
    const Json& losses = layer["losses_in_enumeration_order"];
    REQUIRE(choice.losses.size() == losses.size());
    for (size_t i = 0; i < losses.size(); ++i) {
      CHECK(choice.losses[i].dropped == losses[i][0].get<std::vector<int>>());
      CHECK(choice.losses[i].loss == doctest::Approx(losses[i][1].get<double>()).epsilon(1e-5));
    }
    CHECK(choice.keep == layer["keep"].get<std::vector<int>>());
    CHECK(*choice.loss == doctest::Approx(layer["best_loss"].get<double>()).epsilon(1e-5));
  }
}

// Saved and read again, the pruned model has the tensors of the checkpoint that the authors' code wrote.
void check_saved(Case& c, const Model& model, const std::string& checkpoint) {
  if (!fs::exists(checkpoint)) return;
  const fs::path out =
      fs::temp_directory_path() / ("choir_naee_" + std::to_string(std::hash<std::string>{}(checkpoint)));
  fs::remove_all(out);
  fs::create_directory(out);
  model.save(out.string(), io::read_json(c.directory + "/config.json"));
  {
    const io::SafetensorsFile ours(out.string() + "/model.safetensors"), theirs(checkpoint + "/model.safetensors");
    CHECK(ours.tensors().size() == theirs.tensors().size());
    for (const io::Tensor& tensor : theirs.tensors()) {
      const io::Tensor* same = ours.find(tensor.name);
      REQUIRE_MESSAGE(same, tensor.name);
      CHECK(same->shape == tensor.shape);
      CHECK_MESSAGE(std::ranges::equal(same->bytes, tensor.bytes), tensor.name);
    }
    const Model again(out.string());
    CHECK(again.config().layers == model.config().layers);
    CHECK(evaluate(c, again).logits == evaluate(c, model).logits);
  }
  fs::remove_all(out);
}

void check_skipping(Case& c, const Model& model, const std::string& key, const std::string& logits) {
  CAPTURE(key);
  const auto batches = c.batches("calib.input_ids");
  const compress::SkipResult result = compress::calibrate_skipping(model, batches, c.threads);
  const Model skipping = compress::skipping_model(model, result);
  const Evaluation evaluation = evaluate(c, skipping);
  const Json& expected = c.json["dynamic_skipping"][key];
  for (const compress::LayerSkip& layer : result.layers) {
    const std::string l = std::to_string(layer.layer);
    CHECK(layer.beta == doctest::Approx(expected["median"][l].get<double>()).epsilon(1e-6));
    CHECK(layer.mean_ratio == doctest::Approx(expected["mean"][l].get<double>()).epsilon(1e-6));
    const auto& skipped = evaluation.skipped[static_cast<size_t>(layer.layer)];
    CHECK(std::ranges::count(skipped, 1) == expected["eval_skipped"][l].get<int64_t>());
    if (key == "on_full") CHECK(skipped == c.numbers<int64_t>("skip.mask." + l));
  }
  check_logits(c, skipping, logits);
}

TEST_CASE("pruning agrees with the published code") {
  for (const std::string& directory : cases()) {
    CAPTURE(directory);
    Case c(directory);
    check_logits(c, c.model, "full");
    const auto batches = c.batches("calib.input_ids");
    for (const Run& run : runs()) {
      CAPTURE(run.name);
      const PruneResult result = compress::prune(c.model, batches, run.options, c.threads);
      check_losses(result, c.json["pruning"][run.name]);
      const Model pruned = compress::pruned_model(c.model, result);
      check_logits(c, pruned, run.name);
      check_saved(c, pruned, directory + "/" + run.name);
    }
  }
}

TEST_CASE("skipping agrees with the published code, on full and on pruned models") {
  for (const std::string& directory : cases()) {
    CAPTURE(directory);
    Case c(directory);
    check_skipping(c, c.model, "on_full", "skip");
    const auto batches = c.batches("calib.input_ids");
    for (const int keep : {6, 4}) {
      const PruneResult result = compress::prune(c.model, batches, {.keep = {keep}}, c.threads);
      const std::string name = "layerwise_pruning_r" + std::to_string(keep);
      check_skipping(c, compress::pruned_model(c.model, result), "on_" + name, name + "+skip");
    }
  }
}

}  // namespace
}  // namespace choir
