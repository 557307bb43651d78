#include "compress/repair.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "base/error.h"
#include "compress/observe.h"
#include "compress/prune.h"
#include "compress/test_model.h"

namespace choir::compress {
namespace {

struct Pruned {
  TestModel made{small_config(8, 2, 2)};
  std::vector<CalibrationBatch> batches = random_batches(2, 3, 40, 31);
  std::vector<std::vector<int>> keep{{0, 2, 3, 6}, {1, 2, 4, 5, 7}};
  std::vector<LayerRecord> records;
  base::Threads threads{2};

  Pruned() {
    observe(
        *made.model, batches, {8, 0, 0}, [&](int, LayerRecord record) { records.push_back(std::move(record)); },
        threads);
  }
  RepairCalibration calibration() const { return {*made.model, keep, records, batches}; }

  // Squared distance of the logits from the full model's on other tokens.
  double distance(const Model& model) {
    const auto other = random_batches(1, 3, 40, 31, 99);
    const auto logits = [&](const Model& m) {
      std::vector<float> out(other[0].ids.size() * 31);
      model::Scratch scratch;
      const auto sequences = sequences_of(other[0]);
      model::forward(m, {other[0].ids, sequences}, {}, scratch, {out.data(), static_cast<int>(other[0].ids.size()), 31},
                     threads);
      return out;
    };
    const auto a = logits(model), b = logits(*made.model);
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i] - b[i]) * (a[i] - b[i]);
    return sum;
  }
};

TEST_CASE("repair: steps stay where the judge's value falls, and the model is the last that stayed") {
  Pruned p;
  const RepairResult result = repair(
      p.calibration(), {}, [&](const Model& model) { return p.distance(model); }, p.threads);
  REQUIRE(result.steps.size() >= 4);
  CHECK(result.steps[0].name == "pruned");
  CHECK(result.steps[0].after ==
        p.distance(p.made.model->with_layers(pruned_config(p.made.model->config(), p.keep), p.keep)));
  double value = result.steps[0].after;
  for (size_t i = 1; i < result.steps.size(); ++i) {
    const RepairStep& step = result.steps[i];
    CAPTURE(step.name);
    CHECK(step.before == value);
    CHECK(step.kept == (step.after < step.before));
    if (step.kept) value = step.after;
  }
  CHECK(value < result.steps[0].after);
  CHECK(p.distance(result.model) == value);
  for (int l = 0; l < 2; ++l) {
    CHECK(result.model.config().layers[static_cast<size_t>(l)].kept == p.keep[static_cast<size_t>(l)]);
    CHECK(result.model.router(l).subset_rule());
  }
}

// What the judge forbids is not taken, and what it then likes of the others is.
TEST_CASE("repair: without idle experts the kept ones are repaired") {
  Pruned p;
  const auto judge = [&](const Model& model) {
    return model.config().layers[0].idle() + model.config().layers[1].idle() > 0 ? 1e30 : p.distance(model);
  };
  const RepairResult result = repair(p.calibration(), {}, judge, p.threads);
  std::vector<std::string> kept;
  for (const RepairStep& step : result.steps)
    if (step.kept) kept.push_back(step.name);
  CHECK(kept.size() > 1);
  for (const char* name : {"drop", "novice"}) CHECK(std::ranges::count(kept, name) == 0);
  CHECK(p.distance(result.model) < result.steps[0].after);
  CHECK(result.model.config().layers[0].idle() == 0);
}

TEST_CASE("repair: a judge that likes nothing gets the pruned model, and each repair in order") {
  Pruned p;
  int calls = 0;
  const RepairResult result = repair(
      p.calibration(), {}, [&](const Model&) { return calls++; }, p.threads);
  std::vector<std::string> names;
  for (const RepairStep& step : result.steps) {
    names.push_back(step.name);
    CHECK(step.before == 0);
  }
  std::erase(names, "drop");  // tried where the records of a layer speak for it
  CHECK(names == std::vector<std::string>{"pruned", "novice", "merge", "scalar", "ridge"});
  CHECK(result.model.config().layers[0].idle() == 0);
  CHECK(p.distance(result.model) == p.distance(p.made.model->with_layers(result.model.config(), p.keep)));
}

TEST_CASE("repair: a ridge refit by itself takes the place of all others where it is better") {
  Pruned p;
  RepairOptions options;
  options.only = {"novice", "ridge"};
  int calls = 0;
  const auto judge = [&](const Model& model) {
    if (calls++ == 0) return 1.0;
    return model.config().layers[0].idle() > 0 ? 0.9 : 0.5;
  };
  const RepairResult result = repair(p.calibration(), options, judge, p.threads);
  std::vector<std::string> kept;
  for (const RepairStep& step : result.steps)
    if (step.kept) kept.push_back(step.name);
  CHECK(kept == std::vector<std::string>{"pruned", "novice", "ridge alone"});
  CHECK(result.steps.back().before == 0.9);
  options.only = {"ridge"};
  const RepairResult direct = repair(
      p.calibration(), options, [&](const Model& m) { return p.distance(m); }, p.threads);
  CHECK(direct.steps.size() == 2);
  CHECK(p.distance(result.model) == direct.steps[1].after);
}

TEST_CASE("repair: only what is asked for is tried, and a name that is none is refused") {
  Pruned p;
  const Judge strict = [](const Model&) { return 1.0; };
  RepairOptions options;
  options.only = {"ridge", "drop"};
  std::vector<std::string> tried;
  for (const RepairStep& step : repair(p.calibration(), options, strict, p.threads).steps) tried.push_back(step.name);
  CHECK(tried.front() == "pruned");
  CHECK(tried.back() == "ridge");
  for (const char* name : {"novice", "merge", "scalar"}) CHECK(!std::ranges::count(tried, name));
  options.only = {"pray"};
  CHECK_THROWS_WITH_AS(repair(p.calibration(), options, strict, p.threads), doctest::Contains("drop, novice"),
                       base::Error);
}

TEST_CASE("repair: where neurons are cut every model lacks them, and what records cannot judge is not tried") {
  Pruned p;
  const Model pruned = p.made.model->with_layers(pruned_config(p.made.model->config(), p.keep), p.keep);
  const NeuronLists neurons = find_neurons(*p.made.model, pruned, p.batches, {0.6, 4}, p.threads);
  RepairCalibration calibration = p.calibration();
  calibration.neurons = neurons;
  std::vector<std::string> names;
  const auto judge = [&](const Model& model) {
    for (size_t l = 0; l < 2; ++l)
      for (size_t e = 0; e < neurons[l].size(); ++e)
        CHECK(model.config().layers[l].width_of(static_cast<int>(e)) == static_cast<int>(neurons[l][e].size()));
    return p.distance(model);
  };
  const RepairResult result = repair(calibration, {}, judge, p.threads);
  CHECK(result.steps[0].after == p.distance(with_neurons(pruned, neurons)));
  for (const RepairStep& step : result.steps) names.push_back(step.name);
  CHECK(std::ranges::count(names, "ridge") == 1);
  for (const char* name : {"merge", "scalar"}) CHECK(!std::ranges::count(names, name));
  for (std::vector<int>& kept : p.keep) kept = {0, 1, 2, 3, 4, 5, 6, 7};
  const NeuronLists all = find_neurons(*p.made.model, *p.made.model, p.batches, {0.6, 4}, p.threads);
  RepairCalibration whole = p.calibration();
  whole.neurons = all;
  const RepairResult cut = repair(
      whole, {}, [&](const Model& m) { return p.distance(m); }, p.threads);
  REQUIRE(cut.steps.size() == 2);
  CHECK(cut.steps[1].kept);
}

TEST_CASE("repair: where nothing was dropped nothing is tried") {
  Pruned p;
  for (std::vector<int>& kept : p.keep) kept = {0, 1, 2, 3, 4, 5, 6, 7};
  const RepairResult result = repair(
      p.calibration(), {}, [&](const Model& model) { return p.distance(model); }, p.threads);
  CHECK(result.steps.size() == 1);
  CHECK(result.steps[0].after == 0);
}

}  // namespace
}  // namespace choir::compress
