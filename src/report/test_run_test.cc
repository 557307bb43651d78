#include "report/test_run.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

namespace choir::report {
namespace {

Json layer_values(double value) { return Json::array({value, value * 1.01}); }

}  // namespace

Json sound_line(int step) {
  const double entropy = std::log(kExperts) - 0.02;
  return {{"step", step},
          {"loss", 3 + 5 * std::exp(-step / 40.0) + 0.05 * wobble(step, 1)},
          {"balance_loss", 0.04 + 1e-4 * wobble(step, 2)},
          {"gradient_norm", 0.6 + 0.1 * wobble(step, 3)},
          {"learning_rate", 1e-3},
          {"tokens", 512 * step},
          {"seconds", 0.5 + 0.02 * wobble(step, 4)},
          {"tokens_per_second", 1024.0},
          {"max_over_mean_load", 1.2 + 0.05 * wobble(step, 5)},
          {"processed_share", 0.97},
          {"peak_memory", 1 << 30},
          {"layers",
           {{"capacity", layer_values(std::round(150 + 10 * wobble(step, 6)))},
            {"processed_share", layer_values(0.97)},
            {"max_over_mean_load", layer_values(1.2 + 0.05 * wobble(step, 5))},
            {"dead_experts", Json::array({0, step % 7 == 0 ? 1 : 0})},
            {"load_entropy", layer_values(entropy)},
            {"balance_loss", layer_values(0.02 + 1e-4 * wobble(step, 2))},
            {"router_gradient_norm", layer_values(0.02)},
            {"tokens_per_expert", layer_values(120.0)}}}};
}

Json evaluation_line(int step, double loss, double loss_training_rule) {
  const Json row = Json::array({0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.2});
  Json cosine = Json::array();
  for (int e = 0; e < kExperts; ++e) cosine.push_back(row);
  return {{"step", step},
          {"tokens", 512 * step},
          {"seconds", 0.5 * step},
          {"loss", loss},
          {"loss_training_rule", loss_training_rule},
          {"agreement", 0.98},
          {"domains", Json::array({{{"name", "prose"},
                                    {"tokens", 1000},
                                    {"loss", loss},
                                    {"loss_training_rule", loss_training_rule},
                                    {"load", Json::array({row, row})},
                                    {"affinity", Json::array({row, row})}}})},
          {"expert_cosine", Json::array({cosine, cosine})},
          {"ch_index", Json::array({5, 7})}};
}

void write_run(const std::string& directory, int steps, const std::function<void(Json&, int)>& spoil,
               const std::string& router) {
  std::filesystem::create_directories(directory);
  const auto write = [&](const char* name, const std::string& text) {
    base::write_file(directory + "/" + name, text, base::Existing::kReplace);
  };
  std::string lines;
  for (int step = 1; step <= steps; ++step) {
    Json line = sound_line(step);
    if (spoil) spoil(line, step);
    lines += line.dump() + "\n";
  }
  write("metrics.jsonl", lines);
  write("evaluations.jsonl",
        evaluation_line(steps / 2, 3.4, 3.39).dump() + "\n" + evaluation_line(steps, 3.05, 3.04).dump() + "\n");
  write("run.json", Json{{"router", router}, {"parameters", 1000}, {"active_parameters", 400}, {"seed", 1}}.dump());
  write("config.json", Json{{"num_local_experts", kExperts}, {"num_experts_per_tok", 2}}.dump());
}

TEST_CASE("test run: the files are there, and the lines spoilt") {
  const TemporaryDirectory place;
  write_run(place.path(), 3, [](Json& line, int step) { line["loss"] = 10 * step; });
  for (const char* name : {"metrics.jsonl", "evaluations.jsonl", "run.json", "config.json"})
    CHECK(std::filesystem::exists(place.file(name)));
  CHECK(contains(base::read_file(place.file("metrics.jsonl")), "\"loss\":30"));
}

}  // namespace choir::report
