#include "report/run.h"

#include <doctest/doctest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "report/test_run.h"

namespace choir::report {
namespace {

std::string text_of(const TemporaryDirectory& place, const std::string& name) {
  return base::read_file(place.file(name));
}

TEST_CASE("run: all of a run is read") {
  const TemporaryDirectory place;
  write_run(place.path(), 30);
  const Run run = read_run(place.path());
  CHECK(run.steps.size() == 30);
  CHECK(run.steps.tokens.back() == 30 * 512);
  CHECK(run.steps.find("loss")->size() == 30);
  CHECK(run.steps.find("nothing") == nullptr);
  CHECK(run.steps.find_layers("capacity")->size() == kLayers);
  double seconds = 0;
  for (int step = 1; step <= 30; ++step) seconds += sound_line(step)["seconds"].get<double>();
  CHECK(run.steps.elapsed.back() == doctest::Approx(seconds));
  REQUIRE(run.evaluations.size() == 2);
  CHECK(run.evaluations[1].loss == 3.05);
  CHECK(run.evaluations[1].domains[0].name == "prose");
  CHECK(run.evaluations[1].domains[0].load[1][7] == 0.2);
  CHECK(run.evaluations[1].expert_cosine[1].size() == kExperts);
  CHECK(run.router == "linear > top_k(2) > all > chosen + load(0.02)");
  CHECK(run.parameters == 1000);
  CHECK(run.experts_of(1) == kExperts);
}

TEST_CASE("run: the metrics alone are enough, and absent fields are no fields") {
  const TemporaryDirectory place;
  place.write("metrics.jsonl", "{\"step\":1,\"loss\":2.5}\n{\"step\":5,\"loss\":null,\"balance_loss\":1}\n");
  const Run run = read_run(place.path());
  CHECK(run.steps.step == Column{1, 5});
  CHECK(std::isnan((*run.steps.find("loss"))[1]));
  CHECK(std::isnan((*run.steps.find("balance_loss"))[0]));
  CHECK((*run.steps.find("balance_loss"))[1] == 1);
  CHECK(run.steps.find("gradient_norm") == nullptr);
  CHECK(!run.parameters);
  CHECK(run.experts_of(0) == 0);
}

TEST_CASE("run: a null in a layer is no number") {
  const TemporaryDirectory place;
  place.write("metrics.jsonl",
              "{\"step\":1,\"loss\":2.5,\"layers\":{\"capacity\":[null,7]}}\n{\"step\":2,\"loss\":1}\n");
  const Run run = read_run(place.path());
  const Rows& capacity = *run.steps.find_layers("capacity");
  CHECK(std::isnan(capacity[0][0]));
  CHECK(capacity[1][0] == 7);
  CHECK(capacity[1].size() == 2);
  CHECK(std::isnan(capacity[1][1]));
}

TEST_CASE("run: a last line that a crash cut short is passed over, a whole one without a newline is read") {
  const TemporaryDirectory place;
  write_run(place.path(), 10);
  const std::string whole = text_of(place, "metrics.jsonl");
  for (size_t cut = 2; cut < 40; ++cut) {
    place.write("metrics.jsonl", whole.substr(0, whole.size() - cut));
    CHECK(read_run(place.path()).steps.size() == 9);
  }
  place.write("metrics.jsonl", whole.substr(0, whole.size() - 1));
  CHECK(read_run(place.path()).steps.size() == 10);
  place.write("evaluations.jsonl", text_of(place, "evaluations.jsonl") + "{\"step\": 7, \"lo");
  CHECK(read_run(place.path()).evaluations.size() == 2);
}

TEST_CASE("run: damaged files are refused with their place") {
  const std::string good = "{\"step\":1,\"loss\":2}\n";
  for (const std::string& bad :
       {std::string(), std::string("{\"step\":1,\"lo\n") + good, good + "{}\n", good + "[]\n", good + "nonsense\n",
        good + good, good + "{\"step\":2}\n", good + "{\"step\":2,\"loss\":\"x\"}\n",
        good + "{\"step\":-1,\"loss\":1}\n", good + "{\"step\":2.5,\"loss\":1}\n",
        good + "{\"step\":2,\"loss\":1,\"layers\":[]}\n",
        good + "{\"step\":2,\"loss\":1,\"layers\":{\"capacity\":1}}\n",
        good + "{\"step\":2,\"loss\":1,\"layers\":{\"capacity\":[\"x\"]}}\n", std::string("\0\n", 2)}) {
    CAPTURE(bad);
    const TemporaryDirectory place;
    place.write("metrics.jsonl", bad);
    CHECK(contains(refusal_of([&] { read_run(place.path()); }), "metrics.jsonl"));
  }
  const TemporaryDirectory place;
  CHECK(contains(refusal_of([&] { read_run(place.path()); }), "no metrics.jsonl"));
  CHECK(contains(refusal_of([&] { read_run(place.file("nowhere")); }), "nowhere"));
  place.write("metrics.jsonl", good + "[]\n" + good);
  CHECK(contains(refusal_of([&] { read_run(place.path()); }), "line 2"));
}

TEST_CASE("run: the files beside the metrics are checked as well") {
  for (const auto& [name, bad] :
       {std::pair{"run.json", "{"}, std::pair{"run.json", "{\"router\": 1}"}, std::pair{"config.json", "[]"},
        std::pair{"config.json", "{\"num_local_experts\": -1}"}, std::pair{"evaluations.jsonl", "{\"loss\": 1}\n"},
        std::pair{"evaluations.jsonl", "{\"step\": 1, \"domains\": 7}\n"},
        std::pair{"evaluations.jsonl", "{\"step\": 1, \"domains\": [{}]}\n"},
        std::pair{"evaluations.jsonl", "{\"step\": 1, \"expert_cosine\": [[1]]}\n"},
        std::pair{"evaluations.jsonl", "{\"step\": 1, \"ch_index\": {}}\n"}}) {
    CAPTURE(bad);
    const TemporaryDirectory place;
    write_run(place.path(), 3);
    place.write(name, bad);
    CHECK(contains(refusal_of([&] { read_run(place.path()); }), name));
  }
}

TEST_CASE("run: names are those of the directories, made to differ") {
  const TemporaryDirectory place;
  for (const char* name : {"a/run", "b/run", "c/run", "run (2)"}) write_run(place.file(name), 2);
  const auto runs =
      read_runs({place.file("a/run"), place.file("run (2)/"), place.file("b/run/."), place.file("c/run")});
  CHECK(runs[0].name == "run");
  CHECK(runs[1].name == "run (2)");
  CHECK(runs[2].name == "run (3)");
  CHECK(runs[3].name == "run (4)");
}

TEST_CASE("run: experts of a layer come from where layers differ") {
  const TemporaryDirectory place;
  write_run(place.path(), 2);
  place.write("config.json", R"({"num_local_experts": 8, "choir": {"num_local_experts": [6, 4]}})");
  CHECK(read_run(place.path()).experts_of(1) == 4);
}

}  // namespace
}  // namespace choir::report
