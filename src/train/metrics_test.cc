#include "train/metrics.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "train/test_run.h"

namespace choir::train {
namespace {

void add_steps(const TemporaryDirectory& place, int after, int last) {
  MetricsFile file(place.file("metrics.jsonl"), after);
  for (int step = after + 1; step <= last; ++step) file.add(to_json(StepReport{.step = step, .loss = 0.5 * step}));
  file.flush();
}

std::string metrics(const TemporaryDirectory& place) { return base::read_file(place.file("metrics.jsonl")); }

TEST_CASE("metrics: a line is one JSON object with what scripts rely on") {
  const StepReport report{.step = 3, .loss = 1.5, .tokens = 96, .tokens_per_second = 20};
  const std::string line = to_json(report);
  CHECK(!contains(line, "\n"));
  const auto json = nlohmann::json::parse(line);
  CHECK(json["step"] == 3);
  CHECK(json["loss"] == 1.5);
  CHECK(json["tokens"] == 96);
  CHECK(json["tokens_per_second"] == 20);
}

TEST_CASE("metrics: lines after the checkpoint are dropped, earlier ones kept as they are") {
  const TemporaryDirectory whole, resumed;
  add_steps(whole, 0, 9);
  add_steps(resumed, 0, 7);
  add_steps(resumed, 5, 9);
  CHECK(metrics(resumed) == metrics(whole));
  add_steps(resumed, 0, 2);  // a new start
  add_steps(whole, 2, 2);
  CHECK(metrics(resumed) == metrics(whole));
}

TEST_CASE("metrics: half a line and lines that are none are dropped") {
  const TemporaryDirectory whole, torn;
  add_steps(whole, 0, 4);
  const std::string text = metrics(whole);
  for (const std::string& rest :
       {std::string("{\"step\":4,\"lo"), std::string("{\"step\":4}"), std::string("\n[]\n{}\n"),
        std::string("{\"step\":\"x\"}\n"), std::string("\xff\n")}) {
    CAPTURE(rest);
    torn.write("metrics.jsonl", text + rest);
    add_steps(torn, 4, 4);
    CHECK(metrics(torn) == text);
  }
}

TEST_CASE("metrics: a place that cannot be written is named") {
  const TemporaryDirectory place;
  std::filesystem::create_directory(place.file("metrics.jsonl"));
  CHECK(contains(refusal_of([&] { MetricsFile(place.file("metrics.jsonl"), 0); }), "metrics.jsonl"));
}

}  // namespace
}  // namespace choir::train
