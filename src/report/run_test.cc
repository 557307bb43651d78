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
        std::pair{"config.json", "{\"num_local_experts\": -1}"},
        std::pair{"config.json", "{\"choir\": {\"num_local_experts\": [8, null]}}"},
        std::pair{"config.json", "{\"choir\": {\"num_local_experts\": [8, 1e300]}}"},
        std::pair{"config.json", "{\"choir\": {\"num_experts_per_tok\": [2.5]}}"},
        std::pair{"config.json", "{\"choir\": 1}"}, std::pair{"run.json", "{\"experts\": [-1]}"},
        std::pair{"run.json", "{\"top_k\": 2}"}, std::pair{"evaluations.jsonl", "{\"loss\": 1}\n"},
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

TEST_CASE("run: what has no step yet is passed over, unless nothing is left") {
  const TemporaryDirectory place;
  write_run(place.file("good"), 2);
  for (const char* name : {"new", "empty", "torn"}) std::filesystem::create_directory(place.file(name));
  place.write("empty/metrics.jsonl", "");
  place.write("torn/metrics.jsonl", "{\"step\": 1, \"lo");
  std::vector<std::string> passed;
  const auto note = [&](const std::string& directory) { passed.push_back(directory); };
  const std::vector<std::string> waiting{place.file("new"), place.file("empty"), place.file("torn")};
  CHECK(read_runs({waiting[0], waiting[1], place.file("good"), waiting[2]}, note).size() == 1);
  CHECK(passed == waiting);
  passed.clear();
  CHECK(contains(refusal_of([&] { read_runs(waiting, note); }), "no metrics.jsonl"));
  CHECK(passed.empty());
  CHECK(contains(refusal_of([&] { read_runs({place.file("good"), place.file("nowhere")}, note); }), "nowhere"));
}

TEST_CASE("run: a path that is too long is no run") {
  const std::string path(5000, 'x');
  CHECK(!is_run(path));
  CHECK(contains(refusal_of([&] { read_run(path); }), "no metrics.jsonl"));
}

TEST_CASE("run: experts and choices of a run that is not done are those of run.json") {
  const TemporaryDirectory place;
  write_run(place.path(), 2);
  place.write("run.json", R"({"experts": [6, 4], "top_k": [2, 1]})");
  std::filesystem::remove(place.file("config.json"));
  CHECK(read_run(place.path()).experts_of(0) == 6);
  CHECK(read_run(place.path()).experts_of(1) == 4);
  CHECK(read_run(place.path()).top_k_of(1) == 1);
  CHECK(read_run(place.path()).top_k_of(2) == 0);
}

TEST_CASE("run: experts of a layer come from where layers differ") {
  const TemporaryDirectory place;
  write_run(place.path(), 2);
  place.write("config.json", R"({"num_local_experts": 8, "choir": {"num_local_experts": [6, 4]}})");
  CHECK(read_run(place.path()).experts_of(1) == 4);
}

}  // namespace
}  // namespace choir::report
