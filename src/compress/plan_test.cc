#include "compress/plan.h"

#include <doctest/doctest.h>

#include "compress/fingerprint.h"
#include "compress/test_model.h"
#include "tests/files.h"

namespace choir::compress {
namespace {

using tests::contains;
using tests::refusal_of;

// Two layers: six experts with two for a token, and three groups of two.
model::Config config() {
  model::Config config = small_config(6, 2, 2);
  config.layers[1].router = "linear > groups(3, 2, 2) > all > softmax";
  return config;
}

struct Fixture {
  TestModel made{config()};
  base::Threads threads{1};
  std::string print = fingerprint(*made.model, threads);

  Plan plan() const {
    Plan plan = empty_plan(*made.model, print);
    plan.calibration = "0123456789abcdef";
    plan.tokens = 4096;
    plan.criterion = "reap";
    plan.objective = "squared error over squared output";
    plan.seed = UINT64_MAX;
    plan.nested = true;
    plan.counts = {4, 3};
    plan.layers[0].sets = {{{1, 4}, 0.1}, {{0, 1, 4, 5}, 1.0 / 3}};
    plan.layers[1].sets = {{{1, 2, 5}, {}}, {{0, 1, 2, 3, 4, 5}, 0.0}};
    return plan;
  }
};

const char* const kText = R"({"choir_plan": 1, "fingerprint": "f", "calibration": "c", "tokens": 5, "criterion": "man",
  "objective": "o", "seed": 3, "nested": true, "counts": [1],
  "layers": [{"layer": 0, "experts": 3, "original": [0, 2, 7],
    "sets": [{"keep": [1], "loss": null}, {"keep": [0, 1], "loss": 2}]}]})";

std::string with(const std::string& from, const std::string& to) {
  std::string text = kText;
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

std::string refusal(const std::string& from, const std::string& to) {
  return refusal_of([&] { parse_plan(with(from, to), "plan.json"); });
}

TEST_CASE("plan: what is written is read again") {
  const Fixture f;
  const tests::TemporaryDirectory place;
  write_plan(place.file("plan.json"), f.plan(), base::Existing::kRefuse);
  const Plan read = read_plan(place.file("plan.json"));
  CHECK(read == f.plan());
  check_plan(read, *f.made.model, f.print, "plan.json");
  CHECK_THROWS_AS(write_plan(place.file("plan.json"), f.plan(), base::Existing::kRefuse), base::Error);
}

TEST_CASE("plan: JSON by another hand is read") {
  const Plan plan = parse_plan(kText, "plan.json");
  CHECK(plan.seed == 3);
  CHECK(plan.layers[0].original == std::vector<int>{0, 2, 7});
  CHECK(plan.layers[0].sets[0] == PlanSet{{1}, {}});
  CHECK(plan.layers[0].sets[1] == PlanSet{{0, 1}, 2.0});
}

TEST_CASE("plan: each fault has its line") {
  CHECK(contains(refusal("\"seed\": 3", "\"seed\": 3, \"sead\": 4"), "an unknown key \"sead\": plan.json: known: "));
  CHECK(contains(refusal("\"keep\": [1], \"loss\"", "\"keep\": [1], \"lost\""),
                 "an unknown key \"lost\": plan.json: layers[0]: sets[0]: known: keep, loss"));
  CHECK(contains(refusal("\"experts\": 3,", "\"experts\": 3, \"width\": 1,"), "an unknown key \"width\""));
  CHECK(contains(refusal("\"tokens\": 5, ", ""), "a field is missing: plan.json: field \"tokens\""));
  CHECK(contains(refusal("\"seed\": 3", "\"seed\": -3"), "a seed is missing"));
  CHECK(contains(refusal("\"choir_plan\": 1", "\"choir_plan\": 2"), "it must be an integer from 1 to 1"));
  CHECK(contains(refusal("[0, 1]", "[1, 1]"), "expert 1 is kept twice: plan.json: layers[0]: sets[1]: field \"keep\""));
  CHECK(contains(refusal("[0, 1]", "[1, 0]"), "kept experts out of order"));
  CHECK(contains(refusal("[0, 1]", "[1, 3]"),
                 "entry 1 is wrong: plan.json: layers[0]: sets[1]: field \"keep\": "
                 "it must be a whole number from 0 to 2"));
  CHECK(contains(refusal("[0, 1]", "[-1, 1]"), "entry 0 is wrong"));
  CHECK(contains(refusal("[0, 1]", "[0, 18446744073709551615]"), "entry 1 is wrong"));
  CHECK(contains(refusal("[0, 1]", "[0, 1.5]"), "entry 1 is wrong"));
  CHECK(contains(refusal("\"keep\": [1],", "\"keep\": [],"), "a set without experts"));
  CHECK(contains(refusal("\"keep\": [1]", "\"keep\": 1"), "an array is missing"));
  CHECK(contains(refusal("[0, 1]", "[2]"), "counts of experts do not rise: plan.json: layers[0]: sets[1]"));
  CHECK(contains(refusal("[0, 1]", "[0, 2]"), "a set lacks experts of the smaller one before it"));
  CHECK(refusal("\"nested\": true", "\"nested\": false").empty());
  CHECK(contains(refusal("\"counts\": [1]", "\"counts\": [3]"),
                 "no set of 3 experts: plan.json: layers[0]: the layer has sets of 1, 2"));
  CHECK(contains(refusal("\"counts\": [1]", "\"counts\": [1, 1]"), "2 counts for 1 layers"));
  CHECK(contains(refusal("[0, 2, 7]", "[0, 2]"), "not a rising number for each of 3 experts"));
  CHECK(contains(refusal("[0, 2, 7]", "[0, 7, 2]"), "not a rising number"));
  CHECK(contains(refusal("\"layer\": 0", "\"layer\": 1"), "it must be an integer from 0 to 0"));
  CHECK(contains(refusal("\"loss\": 2", "\"loss\": \"2\""), "field \"loss\""));
  CHECK(contains(refusal_of([] { parse_plan("[]", "plan.json"); }), "not a JSON object: plan.json"));
}

TEST_CASE("plan: one for another model, too few experts and unequal groups are refused") {
  const Fixture f;
  const auto fault = [&](const auto& change) {
    Plan plan = f.plan();
    change(plan);
    return refusal_of([&] { check_plan(plan, *f.made.model, f.print, "plan.json"); });
  };
  CHECK(fault([](Plan&) {}).empty());
  CHECK(
      contains(fault([](Plan& p) { p.fingerprint = "0"; }), "the plan is for another model: fingerprint 0: plan.json"));
  CHECK(contains(fault([](Plan& p) { p.layers.pop_back(); }), "a plan for 1 layers: plan.json: the model has 2"));
  CHECK(contains(fault([](Plan& p) { p.layers[0].experts = 5; }), "a plan for 5 experts, or for others"));
  CHECK(contains(fault([](Plan& p) { p.layers[0].original[0] = 9; }), "or for others: plan.json: layers[0]"));
  CHECK(contains(fault([](Plan& p) { p.layers[0].sets[0].keep = {1}; }),
                 "1 experts kept, each token uses 2: plan.json: layers[0]: sets[0]"));
  CHECK(contains(fault([](Plan& p) { p.layers[1].sets[0].keep = {0, 1, 2, 5}; }), "3 groups must stay equally large"));
  CHECK(contains(fault([](Plan& p) { p.layers[1].sets[0].keep = {0, 1, 2}; }), "keep unequal numbers of experts"));
}

TEST_CASE("plan: applied, it is the model with those experts, and its numbers are those of the first model") {
  const Fixture f;
  const Plan plan = f.plan();
  const auto keep = keep_lists(plan, {});
  CHECK(keep == std::vector<std::vector<int>>{{0, 1, 4, 5}, {1, 2, 5}});
  CHECK(keep_lists(plan, {2, 6}) == std::vector<std::vector<int>>{{1, 4}, {0, 1, 2, 3, 4, 5}});
  const Model smaller = planned_model(*f.made.model, keep);
  CHECK(smaller.config().layers[0].kept == keep[0]);
  CHECK(smaller.config().layers[1].experts == 3);
  CHECK(smaller.tensors().blocks[1].moe.w2[1].data == f.made.model->tensors().blocks[1].moe.w2[2].data);
  const Plan next = empty_plan(smaller, "x");
  CHECK(next.layers[0].original == keep[0]);
  CHECK(next.layers[1].original == keep[1]);
  const auto usage = [&](std::vector<int> counts) {
    try {
      keep_lists(plan, std::move(counts));
    } catch (const base::Error& error) {
      return std::string(error.fault == base::Fault::kUsage ? error.what() : "");
    }
    return std::string();
  };
  CHECK(contains(usage({3}), "the plan has no set of 3 experts: layer 0: it has sets of 2, 4"));
  CHECK(contains(usage({2, 3, 4}), "3 numbers of experts to keep"));
}

}  // namespace
}  // namespace choir::compress
