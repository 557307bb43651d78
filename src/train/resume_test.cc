// What a run may go on with, and what it must not.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>

#include "io/safetensors.h"
#include "text/tokenizer.h"
#include "train/checkpoint.h"
#include "train/test_run.h"

namespace choir::train {
namespace {

namespace fs = std::filesystem;

size_t lines(const Runs& runs, const std::string& name, const std::string& file) {
  const std::string text = runs.bytes(name, file);
  return static_cast<size_t>(std::ranges::count(text, '\n'));
}

TrainConfig fine_tuning(const Runs& runs) {
  std::string exchanges;
  for (int i = 0; i < 20; ++i)
    exchanges += "{\"prompt\": \"" + std::to_string(i) + " is\", \"answer\": \" a number\"}\n";
  runs.place.write("exchanges.jsonl", exchanges);
  TrainConfig config = tiny_run();
  config.task = Task::kExamples;
  config.domains = {{"numbers", 1, {"exchanges.jsonl"}}};
  return config;
}

TEST_CASE("resume: an empty directory begins a run") {
  const Runs runs;
  TrainConfig config = tiny_run();
  config.schedule.steps = 1;
  CHECK(runs.run(config, runs.options("a", true)) == RunEnd::kFinished);
}

TEST_CASE("resume: whatever changes a step makes another run") {
  const Runs runs;
  const TrainConfig config = tiny_run();
  runs.run_until(config, runs.options("a"), 2);
  const auto refuses = [&](const char* what, const auto& change) {
    CAPTURE(what);
    TrainConfig other = config;
    change(other);
    CHECK(contains(refusal_of([&] { runs.run(other, runs.options("a", true)); }), "another configuration"));
  };
  refuses("seed", [](TrainConfig& c) { c.seed = 8; });
  refuses("domain's name", [](TrainConfig& c) { c.domains[0].name = "sums"; });
  refuses("domain's weight", [](TrainConfig& c) { c.domains[0].weight = 3; });
  refuses("order of the domains", [](TrainConfig& c) { std::swap(c.domains[0].files, c.domains[1].files); });
  refuses("beta1", [](TrainConfig& c) { c.beta1 = 0.8; });
  refuses("beta2", [](TrainConfig& c) { c.beta2 = 0.8; });
  refuses("epsilon", [](TrainConfig& c) { c.epsilon = 1e-7; });
  refuses("weight_decay", [](TrainConfig& c) { c.weight_decay = 0; });
  refuses("gradient_clip", [](TrainConfig& c) { c.gradient_clip = 2; });
  refuses("batch_size", [](TrainConfig& c) { c.batch_size = 4; });
  refuses("sequence_length", [](TrainConfig& c) { c.sequence_length = 15; });
  refuses("accumulate", [](TrainConfig& c) { c.accumulate = 2; });
  refuses("router", [](TrainConfig& c) { c.router = "switch"; });
  refuses("freeze", [](TrainConfig& c) { c.freeze = {"*.gate.weight"}; });
  refuses("moments", [](TrainConfig& c) { c.moments = tensor::DType::kBF16; });
  refuses("nodes", [](TrainConfig& c) { c.placement.nodes = 2; });
  std::string text = base::read_file(runs.place.file("counting.txt"));
  std::swap(text[10], text[11]);  // as many tokens, or nearly
  const std::string before = base::read_file(runs.place.file("counting.txt"));
  runs.place.write("counting.txt", text);
  refuses("text", [](TrainConfig&) {});
  runs.place.write("counting.txt", before);
  TrainConfig same = config;
  same.schedule = {.steps = 3, .warmup_steps = 1, .learning_rate = 0.02, .min_learning_rate = 0};
  CHECK(runs.run(same, runs.options("a", true)) == RunEnd::kFinished);
}

TEST_CASE("resume: the tokenizer of the run is the one it has") {
  const Runs runs;
  TrainConfig config = tiny_run();
  runs.run(config, runs.options("whole"));
  fs::copy(runs.place.file("whole/tokenizer.json"), runs.place.file("own.json"));
  config.tokenizer = {.path = "own.json", .vocab_size = 0};
  runs.run_until(config, runs.options("parts"), 5);
  runs.place.write("own.json", "not even a tokenizer");
  runs.run(config, runs.options("parts", true));
  for (const char* file : {"tokenizer.json", "model.safetensors", "checkpoint.safetensors"})
    CHECK(runs.bytes("whole", file) == runs.bytes("parts", file));
}

TEST_CASE("resume: a damaged place in the data is refused") {
  const Runs runs;
  for (const bool sft : {false, true}) {
    CAPTURE(sft);
    const TrainConfig config = sft ? fine_tuning(runs) : tiny_run();
    const std::string name = sft ? "sft" : "text", path = checkpoint_path(runs.place.file(name));
    runs.run_until(config, runs.options(name), 2);
    const std::string bytes = base::read_file(path);
    const io::SafetensorsFile whole(path);
    for (const char* next : {"20", "4611686018427387903"}) {
      io::Metadata metadata = whole.metadata();
      metadata["next"] = next;
      io::write_safetensors(path, whole.tensors(), metadata, base::Existing::kReplace);
      CHECK(contains(refusal_of([&] { runs.run(config, runs.options(name, true)); }), "the place in the data"));
    }
  }
}

TEST_CASE("resume: evaluations are on disk when they are made, and those behind the checkpoint go") {
  const Runs runs;
  TrainConfig config = tiny_run();
  runs.place.write("held.txt", std::string(300, 'a') + " of the choir and 7");
  config.evaluation = {.every = 2, .tokens = 32, .files = {{"counting", "held.txt"}, {"songs", "held.txt"}}};
  config.checkpoint_every = 5;
  RunOptions options = runs.options("a");
  options.on_step = [&](const StepReport& report) {
    CHECK(lines(runs, "a", "evaluations.jsonl") == static_cast<size_t>(report.step / 2));
    if (report.step == 9) fs::copy(options.directory, runs.place.file("killed"));
    return report.step < 9;
  };
  runs.run(config, options);
  CHECK(lines(runs, "killed", "evaluations.jsonl") == 4);
  config.evaluation.every = 0;
  runs.run(config, runs.options("killed", true));
  CHECK(lines(runs, "killed", "evaluations.jsonl") == 2);
}

}  // namespace
}  // namespace choir::train
