#include "train/trainer.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "io/safetensors.h"
#include "model/model.h"
#include "text/tokenizer.h"
#include "train/checkpoint.h"
#include "train/test_run.h"

namespace choir::train {
namespace {

namespace fs = std::filesystem;

// Steps with their losses, norms and loads: all but the times.
std::vector<nlohmann::json> numbers(const Runs& runs, const std::string& name,
                                    const std::string& file = "metrics.jsonl") {
  std::vector<nlohmann::json> result;
  const std::string text = runs.bytes(name, file);
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    result.push_back(nlohmann::json::parse(text.substr(begin, end - begin)));
    for (const char* time : {"seconds", "tokens_per_second", "share_of_peak", "peak_memory"}) result.back().erase(time);
  }
  return result;
}

void check_same(const Runs& runs, const std::string& a, const std::string& b) {
  CHECK(numbers(runs, a).size() == 12);
  CHECK(numbers(runs, a) == numbers(runs, b));
  for (const char* file : {"model.safetensors", "config.json", "tokenizer.json", "checkpoint.safetensors"}) {
    CAPTURE(file);
    CHECK(runs.bytes(a, file) == runs.bytes(b, file));
  }
}

TEST_CASE("trainer: it learns, and the finished directory is a model") {
  const Runs runs;
  TrainConfig config = tiny_run();
  config.schedule.steps = 60;
  CHECK(runs.run(config, runs.options("a")) == RunEnd::kFinished);
  const auto steps = numbers(runs, "a");
  REQUIRE(steps.size() == 60);
  CHECK(steps[0]["loss"].get<double>() == doctest::Approx(std::log(270)).epsilon(0.02));
  CHECK(steps[59]["loss"].get<double>() < steps[0]["loss"].get<double>() - 1);
  CHECK(steps[59]["tokens"] == 60 * 48);
  const model::Model model(runs.place.file("a"));
  CHECK(model.tensors().embedding.type == tensor::DType::kBF16);
  model.check_finite();
  const auto tokenizer = text::load_tokenizer(runs.place.file("a/tokenizer.json"));
  CHECK(model.config().vocab == tokenizer->vocab_size());
  CHECK(model.config().end_tokens == std::vector<int>{*tokenizer->end_of_text()});
}

TEST_CASE("trainer: the model it writes is the one it trained") {
  const Runs runs;
  TrainConfig config = tiny_run();
  config.saved_type = tensor::DType::kF32;
  runs.run(config, runs.options("a"));
  const model::Model model(runs.place.file("a"));
  Parameters trained(model.config());
  const std::string print = io::SafetensorsFile(checkpoint_path(runs.place.file("a"))).metadata().at("fingerprint");
  load_checkpoint(runs.place.file("a"), print, trained);
  model::ModelTensors<Weight> written = model.tensors(), expected = trained.weights();
  std::vector<Weight> weights;
  model::visit_tensors(model.config(), expected, [&](const model::TensorInfo&, Weight& w) { weights.push_back(w); });
  size_t next = 0;
  model::visit_tensors(model.config(), written, [&](const model::TensorInfo& info, const Weight& w) {
    CAPTURE(info.name);
    CHECK(std::memcmp(w.data, weights[next++].data, w.bytes()) == 0);
  });
}

TEST_CASE("trainer: a run that was stopped or killed ends bit for bit like one that was not") {
  const Runs runs;
  const TrainConfig config = tiny_run();
  CHECK(runs.run(config, runs.options("whole")) == RunEnd::kFinished);

  CHECK(runs.run_until(config, runs.options("stopped"), 5) == RunEnd::kStopped);
  CHECK(!fs::exists(runs.place.file("stopped/config.json")));
  CHECK(runs.run(config, runs.options("stopped", true)) == RunEnd::kFinished);
  check_same(runs, "whole", "stopped");

  TrainConfig often = config;
  often.checkpoint_every = 4;
  RunOptions source = runs.options("source");
  source.on_step = [&](const StepReport& report) {
    if (report.step == 6) fs::copy(source.directory, runs.place.file("killed"));
    return true;
  };
  runs.run(often, source);
  RunOptions killed = runs.options("killed");
  killed.resume = true;
  runs.place.write("killed/checkpoint.safetensors.partial.77", "half of it");
  std::vector<int> steps;
  killed.on_step = [&](const StepReport& report) { return steps.push_back(report.step), true; };
  runs.run(often, killed);
  CHECK(steps.front() == 5);
  check_same(runs, "whole", "killed");
  CHECK(!fs::exists(runs.place.file("killed/checkpoint.safetensors.partial.77")));
  check_same(runs, "whole", "source");
}

TEST_CASE("trainer: the number of threads changes nothing") {
  const Runs runs;
  runs.run(tiny_run(), runs.options("one"), 1);
  runs.run(tiny_run(), runs.options("three"), 3);
  check_same(runs, "one", "three");
}

TEST_CASE("trainer: evaluations change no bit of the training, and a resumed run has them too") {
  const Runs runs;
  TrainConfig config = tiny_run();
  config.router = "etr";
  config.placement.nodes = 2;
  config.evaluation = {.every = 5, .tokens = 64, .files = {}};
  runs.run(config, runs.options("often"));
  const auto often = numbers(runs, "often", "evaluations.jsonl");
  REQUIRE(often.size() == 3);
  CHECK(often[0]["step"] == 5);
  CHECK(often[2]["step"] == 12);
  CHECK(often[2]["domains"][1]["name"] == "songs");
  CHECK(often[2]["expert_cosine"].size() == 2);

  TrainConfig once = config;
  once.evaluation.every = 100;
  runs.run(once, runs.options("once"));
  check_same(runs, "often", "once");
  CHECK(numbers(runs, "once", "evaluations.jsonl") == std::vector<nlohmann::json>{often[2]});

  runs.run_in_parts(config, "stopped", 7);
  check_same(runs, "often", "stopped");
  CHECK(numbers(runs, "stopped", "evaluations.jsonl") == often);
}

TEST_CASE("trainer: what the routers did stands in the metrics, and what the run is in run.json") {
  const Runs runs;
  TrainConfig config = tiny_run();
  config.router = "linear > top_k(2) > top_capacity(factor(0.5)) > chosen + load(0.01)";
  config.placement.nodes = 2;
  runs.run(config, runs.options("a"));
  const nlohmann::json step = numbers(runs, "a").back(), &layers = step["layers"];
  CHECK(layers["capacity"] == nlohmann::json{12, 12});  // 0.5 * 2 * 48 / 4
  CHECK(layers["capacity_factor"] == nlohmann::json{0.5, 0.5});
  CHECK(layers["log_min_capacity"][0].get<double>() > -std::log(4.0));  // its admission compares cosines
  CHECK(step["processed_share"].get<double>() <= 0.5);
  CHECK(step["processed_share"].get<double>() > 0.3);
  CHECK(layers["tokens_per_expert"][0].get<double>() <= 12);
  CHECK(layers["max_over_mean_load"][0].get<double>() > 1);  // though each takes 12
  CHECK(layers["dropped_token_share"].size() == 2);
  CHECK(layers["router_gradient_norm"][0].get<double>() > 0);
  CHECK(layers["affinity_kept"][1].is_number());
  REQUIRE(layers["mean_gate"].size() == 2);
  REQUIRE(layers["mean_gate"][1].size() == 4);
  for (const auto& gate : layers["mean_gate"][1]) {  // all experts are full: no null
    CHECK(gate.get<double>() > 0);
    CHECK(gate.get<double>() <= 1);
  }
  CHECK(layers["local_share"][0].get<double>() > 0);
  CHECK(step["local_share"].get<double>() < 1);
  double balance = 0;
  for (const auto& loss : layers["balance_loss"]) balance += loss.get<double>();
  CHECK(balance == doctest::Approx(step["balance_loss"].get<double>()));
  const auto run = nlohmann::json::parse(runs.bytes("a", "run.json"));
  CHECK(run["router"] == config.router);
  CHECK(run["seed"] == 7);
  CHECK(run["experts"] == nlohmann::json{4, 4});
  CHECK(run["top_k"] == nlohmann::json{2, 2});
  CHECK(run["parameters"] > run["active_parameters"]);

  runs.run(tiny_run(), runs.options("b"));
  const nlohmann::json plain = numbers(runs, "b").back();
  CHECK(plain["layers"]["capacity"] == nlohmann::json{nullptr, nullptr});
  CHECK(plain["layers"]["affinity_dropped"][0].is_null());
  CHECK(plain["layers"]["log_min_capacity"] == nlohmann::json{nullptr, nullptr});
  CHECK(plain["processed_share"] == 1);
  CHECK(!plain.contains("local_share"));
}

// What the first step of a run did: its metrics, and (1 - beta1) times its gradient.
struct FirstStep {
  nlohmann::json metrics;
  std::vector<float> moment;

  FirstStep(const Runs& runs, TrainConfig config, const std::string& name) {
    config.schedule.steps = 1;
    config.gradient_clip = 1e9;
    runs.run(config, runs.options(name));
    metrics = numbers(runs, name).back();
    const io::SafetensorsFile file(checkpoint_path(runs.place.file(name)));
    const io::Tensor& stored = *file.find("first_moment");
    moment.resize(stored.elements());
    std::memcpy(moment.data(), stored.bytes.data(), stored.bytes.size());
  }
};

TEST_CASE("trainer: micro-batches are one batch, the balance loss included") {
  const Runs runs;
  for (const char* router : {"mixtral", "linear > top_k(2) > all > chosen + load(0.5) + z_loss(0.01)", "hash"}) {
    CAPTURE(router);
    TrainConfig config = tiny_run();
    config.router = router;
    config.batch_size = 8;
    const FirstStep whole(runs, config, std::string(router) + "whole");
    config.batch_size = 2;
    config.accumulate = 4;
    const FirstStep parts(runs, config, std::string(router) + "parts");
    const auto same = [](const nlohmann::json& a, const nlohmann::json& b) {
      CHECK(a.get<double>() == doctest::Approx(b.get<double>()).epsilon(1e-5));
    };
    for (const char* key : {"loss", "balance_loss", "gradient_norm", "tokens", "processed_share"})
      same(whole.metrics[key], parts.metrics[key]);
    CHECK(whole.metrics["layers"]["tokens_per_expert"] == parts.metrics["layers"]["tokens_per_expert"]);
    CHECK(whole.metrics["layers"]["load_entropy"] == parts.metrics["layers"]["load_entropy"]);
    REQUIRE(whole.moment.size() == parts.moment.size());
    double most = 0, worst = 0;
    for (size_t i = 0; i < whole.moment.size(); ++i) {
      most = std::max(most, static_cast<double>(std::abs(whole.moment[i])));
      worst = std::max(worst, static_cast<double>(std::abs(whole.moment[i] - parts.moment[i])));
    }
    CHECK(worst < 1e-5 * most);
  }
}

ptrdiff_t moved_bytes(std::span<const std::byte> moments) {
  return std::ranges::count_if(moments, [](std::byte b) { return b != std::byte{0}; });
}

TEST_CASE("trainer: what is frozen stays, moments and routers' numbers too") {
  const Runs runs;
  TrainConfig config = tiny_run();
  config.router = "linear > top_k(2) > all > chosen + bias(0.01)";
  config.freeze = {"model.embed_tokens.*", "*.gate.weight", "*layers.1.*router_state"};
  runs.run(config, runs.options("a"));
  const std::string print = io::SafetensorsFile(checkpoint_path(runs.place.file("a"))).metadata().at("fingerprint");
  const model::Model model(runs.place.file("a"));
  Parameters trained(model.config()), fresh(model.config());
  load_checkpoint(runs.place.file("a"), print, trained);
  fresh.initialize(config.seed);
  ModelTensors<Matrix<float>> now = trained.numbers(), then = fresh.numbers();
  std::vector<Matrix<float>> before;
  model::visit_tensors(model.config(), then, [&](const auto&, Matrix<float>& m) { before.push_back(m); });
  size_t next = 0;
  ptrdiff_t moved = 0;
  model::visit_tensors(model.config(), now, [&](const model::TensorInfo& info, const Matrix<float>& m) {
    const size_t bytes = sizeof(float) * static_cast<size_t>(m.rows) * static_cast<size_t>(m.cols);
    const bool same = std::memcmp(m.data, before[next].data, bytes) == 0;
    const bool stays = contains(info.name, "embed_tokens") || contains(info.name, "gate.weight") ||
                       contains(info.name, "layers.1.block_sparse_moe.router_state");
    CAPTURE(info.name);
    CHECK(same == stays);
    const size_t begin = sizeof(float) * static_cast<size_t>(m.data - trained.values().data());
    if (stays && !contains(info.name, "state")) {
      moved += moved_bytes(trained.moments().first().subspan(begin, bytes));
      moved += moved_bytes(trained.moments().second().subspan(begin, bytes));
    }
    ++next;
  });
  CHECK(moved == 0);
  CHECK(numbers(runs, "a").back()["layers"]["router_gradient_norm"][0] > 0);
  config.freeze = {"model.embed_tokens.weight", "*.gates.*"};
  CHECK(contains(refusal_of([&] { runs.run(config, runs.options("b")); }), "\"*.gates.*\""));
  CHECK(fs::is_empty(runs.place.file("b")));
}

TEST_CASE("trainer: a warm start begins where the other run ended") {
  const Runs runs;
  TrainConfig config = tiny_run();
  config.schedule.steps = 40;
  config.saved_type = tensor::DType::kF32;
  runs.run(config, runs.options("source"));
  TrainConfig next = tiny_run();
  next.tokenizer.path = "source/tokenizer.json";
  next.from = "source";
  std::string said;
  RunOptions options = runs.options("next");
  options.on_note = [&](const std::string& line) { said += line + "\n"; };
  runs.run(next, options);
  CHECK(contains(said, "nothing begins anew"));
  CHECK(numbers(runs, "next").front()["loss"].get<double>() < numbers(runs, "source")[20]["loss"].get<double>());
}

TEST_CASE("trainer: moments in half the memory, and a resumed run with them") {
  const Runs runs;
  TrainConfig config = tiny_run();
  config.moments = tensor::DType::kBF16;
  runs.run(config, runs.options("whole"));
  runs.run_in_parts(config, "stopped", 5);
  check_same(runs, "whole", "stopped");
}

TEST_CASE("trainer: products in bfloat16 learn about as well, and a resumed run with them is the same") {
  const Runs runs;
  TrainConfig config = tiny_run();
  runs.run(config, runs.options("float"));
  config.sums = kernels::Sums::kRounded;
  runs.run(config, runs.options("whole"));
  runs.run_in_parts(config, "stopped", 5);
  check_same(runs, "whole", "stopped");
  const double exact = numbers(runs, "float").back()["loss"], rounded = numbers(runs, "whole").back()["loss"];
  CHECK(rounded == doctest::Approx(exact).epsilon(0.01));
  CHECK((rounded != exact) == (kernels::best_isa() == kernels::Isa::kBf16));
}

TEST_CASE("trainer: fine-tuning learns answers and resumes bit for bit") {
  const Runs runs;
  std::string lines;
  for (int i = 0; i < 40; ++i) {
    const std::string answer = "\", \"answer\": \"" + std::string(i % 2 ? "odd" : "even, not odd") + "\"}\n";
    lines += "{\"prompt\": \"" + std::to_string(i) + " is " + answer;
  }
  runs.place.write("exchanges.jsonl", lines);
  TrainConfig config = tiny_run();
  config.task = Task::kExamples;
  config.router = "etr";
  config.domains = {{"numbers", 1, {"exchanges.jsonl"}}};
  config.evaluation = {.every = 6, .tokens = 64, .files = {}};
  runs.run(config, runs.options("whole"));
  const auto steps = numbers(runs, "whole");
  CHECK(steps[11]["loss"].get<double>() < steps[0]["loss"].get<double>());
  CHECK(steps[11]["tokens"].get<int>() < 12 * 48);  // whole examples do not fill a batch
  runs.run_in_parts(config, "stopped", 7);
  check_same(runs, "whole", "stopped");
  CHECK(numbers(runs, "stopped", "evaluations.jsonl").size() == 2);
  runs.place.write("exchanges.jsonl", "{\"text\": \"no prompt\"}\n");
  CHECK(contains(refusal_of([&] { runs.run(config, runs.options("bad")); }), "exchanges.jsonl:1"));
}

TEST_CASE("trainer: a loss that is not a number ends the run, and the last checkpoint stays") {
  const Runs runs;
  TrainConfig config = tiny_run();
  config.schedule = {.steps = 12, .warmup_steps = 0, .learning_rate = 1e30, .min_learning_rate = 1e30};
  config.checkpoint_every = 1;
  RunOptions options = runs.options("a");
  int good_steps = 0;
  options.on_step = [&](const StepReport& report) { return good_steps = report.step, true; };
  const std::string refusal = refusal_of([&] { runs.run(config, options); });
  CHECK(contains(refusal, "not a number at step"));
  CHECK(contains(refusal, options.directory));
  REQUIRE(good_steps > 0);
  const io::SafetensorsFile kept(checkpoint_path(options.directory));
  CHECK(kept.metadata().at("step") == std::to_string(good_steps));
  CHECK(!fs::exists(runs.place.file("a/config.json")));
  const nlohmann::json last = numbers(runs, "a").back();
  CHECK(last["step"] == good_steps + 1);
  CHECK((last["loss"].is_null() || last["gradient_norm"].is_null()));
}

TEST_CASE("trainer: what cannot be trained is refused before anything is written") {
  const Runs runs;
  const auto refuses = [&](const TrainConfig& config, const char* named) {
    CAPTURE(named);
    const RunOptions options = runs.options("a");
    CHECK(contains(refusal_of([&] { runs.run(config, options); }), named));
    CHECK(fs::is_empty(options.directory));
  };
  TrainConfig config = tiny_run();
  config.sequence_length = 65;
  config.domains[1].files = {"absent.txt"};  // not even looked for
  refuses(config, "max_position_embeddings");
  config.model.replace(config.model.find("64"), 2, "70000");
  config.sequence_length = 32769;
  refuses(config, "at most 32768");
  config = tiny_run();
  config.domains[1].files = {"absent.txt"};
  refuses(config, "absent.txt");
  config = tiny_run();
  config.model = R"({"model_type": "other"})";
  refuses(config, "model_type");
  config = tiny_run();
  config.router = "mixtral";
  config.model.insert(1, R"("choir": 5, )");
  refuses(config, "choir");
  for (const char* own : {"counting.txt", "../" /* and back */}) {
    config = tiny_run();
    const std::string name = fs::path(runs.place.path()).filename().string();
    config.evaluation = {.every = 5, .tokens = 64, .files = {{"songs", own}}};
    if (own[0] == '.') config.evaluation.files["songs"] = std::string(own) + name + "/counting.txt";
    refuses(config, "is learnt from");
  }
}

}  // namespace
}  // namespace choir::train
