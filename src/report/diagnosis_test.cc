#include "report/diagnosis.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "report/run.h"
#include "report/test_run.h"

namespace choir::report {
namespace {

using Spoil = std::function<void(Json&, int)>;

constexpr int kSteps = 300;

std::vector<Finding> found(const std::string& check, const Run& run) {
  std::vector<Finding> findings = diagnose(run);
  std::erase_if(findings, [&](const Finding& f) { return f.check != check; });
  return findings;
}

Run spoilt(const Spoil& spoil, const std::string& router = kLinearRouter) {
  const TemporaryDirectory place;
  write_run(place.path(), kSteps, spoil, router);
  return read_run(place.path());
}

// The one finding of a check.
Finding only(const std::string& check, const Run& run) {
  const auto findings = found(check, run);
  REQUIRE(findings.size() == 1);
  return findings[0];
}

void set_layer(Json& line, const char* field, size_t layer, const Json& value) { line["layers"][field][layer] = value; }

TEST_CASE("diagnosis: a sound run passes every check") {
  const auto findings = diagnose(spoilt({}));
  CHECK(findings.size() == 10);
  for (const Finding& f : findings) {
    CAPTURE(f.check + ": " + f.message);
    CHECK(f.severity == Severity::kOk);
    CHECK(f.layer == -1);
  }
}

TEST_CASE("diagnosis: a run of the metrics alone is judged by what it has") {
  const TemporaryDirectory place;
  write_run(place.path(), kSteps, [](Json& line, int) { line.erase("layers"); });
  for (const char* name : {"run.json", "config.json", "evaluations.jsonl"}) std::filesystem::remove(place.file(name));
  for (const Finding& f : diagnose(place.path())) {
    CAPTURE(f.check + ": " + f.message);
    CHECK(f.severity <= Severity::kNote);
  }
}

TEST_CASE("diagnosis: a short run is judged by little") {
  const TemporaryDirectory place;
  write_run(place.path(), 5);
  const auto findings = diagnose(place.path());
  CHECK(findings.back().severity == Severity::kNote);
  CHECK(contains(findings.back().message, "only 5 steps"));
}

TEST_CASE("diagnosis: collapse by the ratio, by the entropy, and on the way there") {
  const Finding all = only("collapse", spoilt([](Json& l, int) { set_layer(l, "max_over_mean_load", 1, 3.9); }));
  CHECK(all.severity == Severity::kFault);
  CHECK(all.layer == 1);
  CHECK(contains(all.message, "3.90"));
  CHECK(only("collapse", spoilt([](Json& l, int) { set_layer(l, "load_entropy", 0, 0.02); })).severity ==
        Severity::kFault);
  CHECK(only("collapse", spoilt([](Json& l, int) { set_layer(l, "max_over_mean_load", 0, 2.2); })).severity ==
        Severity::kWarning);
  const auto early = [](Json& l, int step) {
    if (step < kSteps / 2) set_layer(l, "max_over_mean_load", 1, 4.0);
  };
  CHECK(only("collapse", spoilt(early)).severity == Severity::kOk);
  const auto without_layers = [](Json& l, int) {
    l.erase("layers");
    l["max_over_mean_load"] = 4.0;
  };
  CHECK(only("collapse", spoilt(without_layers)).severity == Severity::kFault);
}

// A run that is not done: no config.json.
Run unfinished(const Spoil& spoil, const std::string& about, bool evaluated = true) {
  const TemporaryDirectory place;
  write_run(place.path(), kSteps, spoil);
  std::filesystem::remove(place.file("config.json"));
  if (!evaluated) std::filesystem::remove(place.file("evaluations.jsonl"));
  place.write("run.json", about);
  return read_run(place.path());
}

TEST_CASE("diagnosis: the collapse of a run that is not done") {
  const std::string eight = R"({"router": "linear > top_k(2) > all > chosen", "experts": [8, 8], "top_k": [2, 2]})";
  const auto collapsed = [](Json& l, int) { l["layers"]["max_over_mean_load"] = {4.0, 4.0}; };
  for (const Finding& f : found("collapse", unfinished(collapsed, eight, false))) CHECK(f.severity == Severity::kFault);
  CHECK(found("collapse", unfinished(collapsed, eight, false)).size() == kLayers);
  CHECK(only("collapse", unfinished({}, eight, false)).severity == Severity::kOk);
  // Older runs tell K by the router alone, E by an evaluation; and where E is not known all is not well.
  const std::string by_router = R"({"router": "linear > top_k(2) > all > chosen"})";
  CHECK(found("collapse", unfinished(collapsed, by_router))[0].severity == Severity::kFault);
  CHECK(only("collapse", unfinished(collapsed, by_router, false)).severity == Severity::kNote);
}

TEST_CASE("diagnosis: two experts that take every pair have an entropy of log 2") {
  const auto two = [](Json& l, int) { set_layer(l, "load_entropy", 1, std::log(2.0) + 0.01); };
  const Finding finding = only("collapse", spoilt(two));
  CHECK(finding.severity == Severity::kFault);
  CHECK(finding.layer == 1);
  const auto three = [](Json& l, int) { set_layer(l, "load_entropy", 1, std::log(3.0)); };
  CHECK(only("collapse", spoilt(three)).severity == Severity::kOk);
  // A router that may use all experts, and uses one.
  const auto one = [](Json& l, int) { set_layer(l, "load_entropy", 1, 0.02); };
  CHECK(only("collapse", unfinished(one, R"({"experts": [8, 8], "top_k": [8, 8]})")).severity == Severity::kFault);
  // Seven of eight: even loads are no collapse.
  const std::string about = R"({"experts": [8, 8], "top_k": [7, 7]})";
  const auto even = [](Json& l, int) {
    l["layers"]["load_entropy"] = {std::log(8.0), std::log(8.0)};
    l["layers"]["max_over_mean_load"] = {1.05, 1.05};
  };
  CHECK(only("collapse", unfinished(even, about)).severity == Severity::kOk);
}

TEST_CASE("diagnosis: with few tokens an expert some are idle by luck") {
  const auto few = [](Json& l, int) {
    set_layer(l, "dead_experts", 1, 3);
    l["layers"]["tokens_per_expert"] = {2.0, 2.0};
  };
  CHECK(only("dead experts", spoilt(few)).severity == Severity::kNote);
}

TEST_CASE("diagnosis: dead experts count when they are dead all the time") {
  const auto dead = [](int count) {
    return only("dead experts", spoilt([=](Json& l, int) { set_layer(l, "dead_experts", 1, count); }));
  };
  CHECK(dead(1).severity == Severity::kWarning);
  CHECK(dead(1).layer == 1);
  CHECK(dead(3).severity == Severity::kFault);
  CHECK(contains(dead(3).message, "3 of 8"));
  const auto sometimes = [](Json& l, int step) { set_layer(l, "dead_experts", 0, step % 10 == 0 ? 0 : 5); };
  CHECK(only("dead experts", spoilt(sometimes)).severity == Severity::kOk);
}

TEST_CASE("diagnosis: a loss that does not move") {
  CHECK(only("constant loss", spoilt([](Json& l, int) { l["loss"] = 8.25; })).severity == Severity::kFault);
  const auto noise = [](Json& l, int step) { l["loss"] = 8.25 + 0.05 * wobble(step, 9); };
  CHECK(only("constant loss", spoilt(noise)).severity == Severity::kWarning);
}

TEST_CASE("diagnosis: losses are held against the run's own scatter") {
  const auto course = [](double end, double noise) {
    return spoilt([=](Json& l, int step) { l["loss"] = 3 + (end - 3) * step / kSteps + noise * wobble(step, 9); });
  };
  CHECK(only("constant loss", course(2.96, 0.002)).severity == Severity::kOk);
  CHECK(only("constant loss", course(2.96, 0.2)).severity == Severity::kWarning);
  CHECK(only("divergence", course(3.04, 0.002)).severity == Severity::kFault);
  // Batches that differ much, with easy ones at the beginning: their median is 5 % below that of the last.
  const auto easy = [](Json& l, int step) { l["loss"] = 3 + 0.2 * wobble(step, 1); };
  CHECK(only("divergence", spoilt(easy)).severity == Severity::kOk);
}

TEST_CASE("diagnosis: a balance loss constant to the last bit while weights move") {
  const auto constant = [](Json& l, int) { set_layer(l, "balance_loss", 1, 0.02); };
  const Finding finding = only("constant balance loss", spoilt(constant));
  CHECK(finding.severity == Severity::kFault);
  CHECK(finding.layer == 1);
  const auto total = [](Json& l, int) {
    l.erase("layers");
    l["balance_loss"] = 0.04;
  };
  CHECK(only("constant balance loss", spoilt(total)).layer == -1);
  const auto resting = [](Json& l, int) {
    set_layer(l, "balance_loss", 1, 0.02);
    l["learning_rate"] = 0;
  };
  CHECK(only("constant balance loss", spoilt(resting)).severity == Severity::kOk);
  const auto none = [](Json& l, int) {
    l["balance_loss"] = 0;
    l["layers"]["balance_loss"] = {0, 0};
  };
  CHECK(contains(only("constant balance loss", spoilt(none)).message, "no balance loss"));
  const auto nearly = [](Json& l, int step) {
    set_layer(l, "balance_loss", 1, step % 2 ? 0.02 : 0.020000000000000004);
  };
  CHECK(only("constant balance loss", spoilt(nearly)).severity == Severity::kOk);
}

TEST_CASE("diagnosis: a router without gradient") {
  const auto zero = [](Json& l, int) { set_layer(l, "router_gradient_norm", 0, 0.0); };
  CHECK(only("router gradient", spoilt(zero)).severity == Severity::kFault);
  CHECK(only("router gradient", spoilt(zero)).layer == 0);
  const auto null = [](Json& l, int) { l["layers"]["router_gradient_norm"] = {nullptr, nullptr}; };
  CHECK(found("router gradient", spoilt(null)).size() == kLayers);
  CHECK(only("router gradient", spoilt(null, "hash > top_k(1) > all > identity")).severity == Severity::kOk);
  CHECK(only("router gradient", spoilt(null, "grap_cosine > top_k(1) > all > softmax")).severity == Severity::kOk);
  CHECK(found("router gradient", spoilt(null, "grap_cosine(learn) > top_k(1) > all > softmax")).size() == kLayers);
  const auto absent = [](Json& l, int) { l["layers"].erase("router_gradient_norm"); };
  CHECK(only("router gradient", spoilt(absent)).severity == Severity::kFault);
  CHECK(only("router gradient", spoilt(absent, "hash > top_k(1) > all > identity")).severity == Severity::kOk);
}

TEST_CASE("diagnosis: what is not a number") {
  const auto nan = [](Json& l, int step) {
    if (step >= 77 && step < 80) l["loss"] = nullptr;
  };
  const Finding finding = only("numbers", spoilt(nan));
  CHECK(finding.severity == Severity::kFault);
  CHECK(contains(finding.message, "3 of 300"));
  CHECK(contains(finding.message, "step 77"));
  CHECK(only("numbers", spoilt([](Json& l, int) { l["gradient_norm"] = nullptr; })).severity == Severity::kFault);
  CHECK(diagnose(spoilt([](Json& l, int) { l["loss"] = nullptr; })).size() >= 8);
  const TemporaryDirectory place;
  write_run(place.path(), kSteps);
  Json evaluation = evaluation_line(kSteps, 3, 3);
  evaluation["loss"] = nullptr;
  place.write("evaluations.jsonl", evaluation.dump() + "\n");
  const Run run = read_run(place.path());
  CHECK(only("numbers", run).severity == Severity::kFault);
  CHECK(contains(only("numbers", run).message, "evaluation after step 300"));
  CHECK(only("rule gap", run).severity == Severity::kNote);
}

TEST_CASE("diagnosis: divergence") {
  const auto away = [](Json& l, int step) {
    if (step > 200) l["loss"] = 8.5 + 0.01 * step;
  };
  CHECK(only("divergence", spoilt(away)).severity == Severity::kFault);
  const auto up = [](Json& l, int step) {
    if (step > 250) l["loss"] = 4.0 + 0.01 * wobble(step, 7);
  };
  CHECK(only("divergence", spoilt(up)).severity == Severity::kWarning);
}

// Layers whose capacity is the same in all of the later steps; 100 tokens are a share of 1.
Run with_capacity(int tokens, const std::string& router) {
  return spoilt(
      [=](Json& l, int step) {
        if (step <= 100) return;
        l["layers"]["capacity"] = {tokens, tokens};
        l["layers"]["capacity_factor"] = {tokens / 100.0, tokens / 100.0};
      },
      router);
}

TEST_CASE("diagnosis: a capacity that rests at its clamp") {
  const std::string adaptive =
      "grap_cosine > top_k(1) > top_capacity(etr_sum(tau=0.7, decay=0.9, lo=0.25, hi=1.1)) > softmax";
  const auto severities = [](const Run& run) { return found("capacity", run)[0].severity; };
  for (const auto& [tokens, limit] : {std::pair{25, "lo = 0.25"}, std::pair{110, "hi = 1.1"}}) {
    const Run run = with_capacity(tokens, adaptive);
    CHECK(found("capacity", run).size() == kLayers);
    CHECK(severities(run) == Severity::kWarning);
    CHECK(found("capacity", run)[1].layer == 1);
    CHECK(contains(found("capacity", run)[0].message, limit));
    CHECK(contains(found("capacity", run)[0].message, std::to_string(tokens)));
  }
  // A tracked mean comes to rest, and a capacity is a whole number: that alone is no fault.
  CHECK(severities(with_capacity(66, adaptive)) == Severity::kOk);
  CHECK(severities(with_capacity(27, adaptive)) == Severity::kOk);
  CHECK(severities(with_capacity(25, "grap > top_k(1) > top_capacity(etr_sum(lo=0.1, hi=2)) > softmax")) ==
        Severity::kOk);
  CHECK(severities(with_capacity(32, "grap > top_k(1) > top_capacity(etr_sum(tile=16)) > softmax")) ==
        Severity::kWarning);
  CHECK(severities(with_capacity(110, "linear > top_k(1) > fifo(factor(1.1)) > softmax")) == Severity::kOk);
  CHECK(severities(with_capacity(110, kLinearRouter)) == Severity::kOk);
  const auto unlimited = [](Json& l, int) { l["layers"]["capacity"] = {nullptr, nullptr}; };
  CHECK(only("capacity", spoilt(unlimited, adaptive)).severity == Severity::kOk);
  CHECK(only("capacity", spoilt({}, adaptive)).severity == Severity::kOk);
}

TEST_CASE("diagnosis: a training rule that sees what decoding cannot") {
  const auto with_losses = [](double loss, double training) {
    const TemporaryDirectory place;
    write_run(place.path(), kSteps);
    place.write("evaluations.jsonl", evaluation_line(kSteps, loss, training).dump() + "\n");
    return only("rule gap", read_run(place.path()));
  };
  CHECK(with_losses(3.3, 3.0).severity == Severity::kFault);
  CHECK(contains(with_losses(3.3, 3.0).message, "+10.0 %"));
  CHECK(with_losses(3.03, 3.0).severity == Severity::kOk);
  CHECK(with_losses(2.9, 3.0).severity == Severity::kNote);
}

TEST_CASE("diagnosis: steps that grow longer") {
  const auto slower = [](Json& l, int step) { l["seconds"] = 0.5 + 0.002 * step; };
  CHECK(only("step time", spoilt(slower)).severity == Severity::kWarning);
  const auto one_pause = [](Json& l, int step) {
    if (step == kSteps - 3) l["seconds"] = 60;
  };
  CHECK(only("step time", spoilt(one_pause)).severity == Severity::kOk);
}

}  // namespace
}  // namespace choir::report
