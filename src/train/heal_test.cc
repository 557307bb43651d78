// A pruned model that learns from the full one.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "io/json.h"
#include "io/safetensors.h"
#include "tests/random_model.h"
#include "train/step.h"
#include "train/test_run.h"
#include "train/warm_start.h"

namespace choir::train {
namespace {

namespace fs = std::filesystem;

const std::vector<std::vector<int>> kKeep{{0, 1, 3, 5}, {0, 2, 4}};

// A model of 6 experts that has learnt a little, and the same without some of them: directories "full" and "small".
struct Patient : Runs {
  Patient() {
    TrainConfig config = tiny_run();
    config.model = full_shape().dump();
    config.saved_type = tensor::DType::kF32;
    config.schedule.steps = 300;
    run(config, options("full"));
    const model::Model full(place.file("full"));
    model::Config shape = full.config();
    for (size_t l = 0; l < kKeep.size(); ++l) {
      shape.layers[l].experts = static_cast<int>(kKeep[l].size());
      shape.layers[l].kept = kKeep[l];
    }
    fs::create_directory(place.file("small"));
    full.with_layers(shape, kKeep).save(place.file("small"), io::read_json(place.file("full/config.json")));
    fs::copy(place.file("full/tokenizer.json"), place.file("small/tokenizer.json"));
  }

  static nlohmann::json full_shape() {
    nlohmann::json json = nlohmann::json::parse(kTinyModel);
    json["num_local_experts"] = 6;
    return json;
  }

  static TrainConfig healing(int steps) {
    TrainConfig config = tiny_run();
    config.model.clear();
    config.tokenizer = {.path = "small/tokenizer.json", .vocab_size = 0};
    config.from = "small";
    config.distillation = {.teacher = "full", .weight = 0.75, .temperature = 2};
    config.saved_type = tensor::DType::kF32;
    config.schedule = {.steps = steps, .warmup_steps = 0, .learning_rate = 0.003, .min_learning_rate = 0.0003};
    return config;
  }

  nlohmann::json line(const std::string& name, int step) const {
    const std::string text = bytes(name, "metrics.jsonl");
    size_t begin = 0;
    for (int s = 1; s < step; ++s) begin = text.find('\n', begin) + 1;
    return nlohmann::json::parse(text.substr(begin, text.find('\n', begin) - begin));
  }
};

// T^2 KL(p || q) of two rows of logits, by plain loops.
double divergence(const float* p, const float* q, int vocab, double temperature) {
  const auto log_softmax = [&](const float* row) {
    double sum = 0;
    for (int v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(row[v]) / temperature);
    std::vector<double> result;
    for (int v = 0; v < vocab; ++v) result.push_back(static_cast<double>(row[v]) / temperature - std::log(sum));
    return result;
  };
  const std::vector<double> log_p = log_softmax(p), log_q = log_softmax(q);
  double sum = 0;
  for (size_t v = 0; v < log_p.size(); ++v) sum += std::exp(log_p[v]) * (log_p[v] - log_q[v]);
  return temperature * temperature * sum;
}

double mean_divergence(const model::Model& teacher, const model::Model& student, std::span<const int32_t> ids,
                       int sequences, double temperature) {
  const std::vector<float> p = tests::all_logits(teacher, ids, sequences),
                           q = tests::all_logits(student, ids, sequences);
  const int vocab = teacher.config().vocab;
  double sum = 0;
  for (size_t i = 0; i < ids.size(); ++i)
    sum += divergence(p.data() + i * static_cast<size_t>(vocab), q.data() + i * static_cast<size_t>(vocab), vocab,
                      temperature);
  return sum / static_cast<double>(ids.size());
}

TEST_CASE("heal: a pruned model keeps its shape and comes nearer to the full one") {
  const Patient runs;
  runs.run(Patient::healing(5), runs.options("five"));
  const model::Model small(runs.place.file("small")), five(runs.place.file("five"));
  CHECK(five.config().layers == small.config().layers);
  CHECK(five.config().layers[0].kept == kKeep[0]);
  CHECK(five.config().layers[1].experts == 3);

  TrainConfig config = Patient::healing(60);
  config.distillation.weight = 1;
  runs.run(config, runs.options("healed"));
  const model::Model full(runs.place.file("full")), healed(runs.place.file("healed"));
  const auto ids = text::load_tokenizer(runs.place.file("full/tokenizer.json"))
                       ->encode_ordinary("31 and 88, 32 and 54, song 7 of the choir");
  const std::span<const int32_t> read(ids.data(), std::min<size_t>(ids.size(), 64));
  CHECK(mean_divergence(full, healed, read, 1, 1) < 0.5 * mean_divergence(full, small, read, 1, 1));
  CHECK(runs.line("healed", 60)["distill_loss"] < runs.line("healed", 1)["distill_loss"]);
  CHECK(!runs.line("full", 1).contains("distill_loss"));
}

TEST_CASE("heal: stopped and resumed, and for any number of threads, it ends bit for bit the same") {
  const Patient runs;
  const TrainConfig config = Patient::healing(8);
  runs.run(config, runs.options("whole"), 1);
  runs.run_in_parts(config, "parts", 3);
  for (const char* file : {"model.safetensors", "config.json", "checkpoint.safetensors"})
    CHECK(runs.bytes("whole", file) == runs.bytes("parts", file));
  for (int step = 1; step <= 8; ++step)
    CHECK(runs.line("whole", step)["distill_loss"] == runs.line("parts", step)["distill_loss"]);
}

TEST_CASE("heal: another teacher makes another run, the same one in another place does not") {
  const Patient runs;
  const TrainConfig config = Patient::healing(6);
  runs.run_until(config, runs.options("a"), 2);
  fs::copy(runs.place.file("full"), runs.place.file("moved"));
  fs::copy(runs.place.file("full"), runs.place.file("other"));
  const model::Model small(runs.place.file("small"));
  const auto refuses = [&](const char* what, const auto& change) {
    CAPTURE(what);
    TrainConfig changed = config;
    change(changed.distillation);
    CHECK(contains(refusal_of([&] { runs.run(changed, runs.options("a", true)); }), "another configuration"));
  };
  std::string weights = runs.bytes("other", "model.safetensors");
  weights[weights.size() - 2] ^= 1;
  runs.place.write("other/model.safetensors", weights);
  refuses("a bit", [](Distillation& d) { d.teacher = "other"; });
  refuses("none", [](Distillation& d) { d.teacher.clear(); });
  refuses("weight", [](Distillation& d) { d.weight = 0.5; });
  refuses("temperature", [](Distillation& d) { d.temperature = 1; });
  TrainConfig same = config;
  same.distillation.teacher = "moved";
  CHECK(runs.run(same, runs.options("a", true)) == RunEnd::kFinished);
}

TEST_CASE("heal: a teacher without weight is a witness") {
  const Patient runs;
  TrainConfig config = Patient::healing(4);
  config.distillation.weight = 0;
  runs.run(config, runs.options("watched"));
  config.distillation.teacher.clear();
  runs.run(config, runs.options("alone"));
  CHECK(runs.bytes("watched", "model.safetensors") == runs.bytes("alone", "model.safetensors"));
  CHECK(runs.line("watched", 4)["distill_loss"] > 0);
}

TEST_CASE("heal: micro-batches teach what one batch teaches") {
  const Patient runs;
  TrainConfig config = Patient::healing(2);
  config.batch_size = 4;
  runs.run(config, runs.options("whole"));
  config.batch_size = 2;
  config.accumulate = 2;
  runs.run(config, runs.options("parts"));
  for (const char* key : {"loss", "distill_loss", "gradient_norm"})
    CHECK(runs.line("parts", 1)[key].get<double>() ==
          doctest::Approx(runs.line("whole", 1)[key].get<double>()).epsilon(1e-5));
}

TEST_CASE("heal: what is frozen is bit for bit that of the pruned model") {
  const Patient runs;
  const std::vector<std::string> around{"model.embed_tokens.*", "*.self_attn.*", "*layernorm.*", "model.norm.*",
                                        "lm_head.*"};
  for (const std::string learns : {".gate.", ".experts."}) {
    CAPTURE(learns);
    TrainConfig config = Patient::healing(3);
    config.freeze = around;
    config.freeze.push_back(learns == ".gate." ? "*.experts.*" : "*.gate.*");
    runs.run(config, runs.options(learns));
    const io::SafetensorsFile before(runs.place.file("small/model.safetensors")),
        after(runs.place.file(learns + "/model.safetensors"));
    REQUIRE(before.tensors().size() == after.tensors().size());
    for (const io::Tensor& tensor : before.tensors()) {
      CAPTURE(tensor.name);
      const auto now = std::ranges::find(after.tensors(), tensor.name, &io::Tensor::name);
      REQUIRE(now != after.tensors().end());
      CHECK(std::ranges::equal(tensor.bytes, now->bytes) == !contains(tensor.name, learns));
    }
  }
}

TEST_CASE("heal: what cannot teach is refused before anything is written") {
  const Patient runs;
  const auto refuses = [&](const TrainConfig& config, const char* named) {
    CAPTURE(named);
    const RunOptions options = runs.options("never");
    const std::string refusal = refusal_of([&] { runs.run(config, options); });
    CHECK(contains(refusal, named));
    CHECK(!contains(refusal, "\n"));
    CHECK(fs::is_empty(options.directory));
  };
  TrainConfig config = Patient::healing(2);
  config.distillation.teacher = "absent";
  refuses(config, "absent");

  config = Patient::healing(2);  // learnt anew: fewer tokens, or as many others
  config.model = Patient::full_shape().dump();
  config.tokenizer = {.path = "", .vocab_size = 265};
  refuses(config, "the teacher's vocabulary has 270 tokens, that of the run 265");
  config.domains = {{"other", 1, {"other.txt"}}};
  std::string other;
  for (int i = 0; i < 200; ++i) other += "wholly different letters " + std::to_string(i * 31 % 101) + "; ";
  runs.place.write("other.txt", other);
  config.tokenizer.vocab_size = 270;
  refuses(config, "of the teacher is another than that of the run");

  config = Patient::healing(2);
  nlohmann::json shape = io::read_json(runs.place.file("small/config.json"));
  shape["max_position_embeddings"] = 200;
  config.model = shape.dump();
  config.sequence_length = 65;
  refuses(config, "the teacher takes 64 tokens at most");

  config = Patient::healing(2);
  std::string weights = runs.bytes("full", "model.safetensors");
  std::memset(weights.data() + weights.size() - 4, 0xff, 4);
  runs.place.write("full/model.safetensors", weights);
  refuses(config, "NaN");
}

// One step on a batch that is at hand.
struct Step {
  model::Model small;
  Parameters parameters;
  TokenBatch batch;
  TrainConfig config = Patient::healing(2);
  base::Threads threads{1};

  explicit Step(const Patient& runs) : small(runs.place.file("small")), parameters(small.config()) {
    warm_start({runs.place.file("small"), 0, 1}, small.config(), parameters);
    const std::vector<int32_t> ids = tests::random_ids(21, small.config().vocab, 3);
    for (const size_t begin : {0, 10})
      batch.add(0, std::span(ids).subspan(begin, 10), std::span(ids).subspan(begin + 1, 10));
  }
  StepReport run(Teacher* teacher) {
    const model::Model model(small.config(), parameters.weights());
    Progress progress{0, base::Rng(1).state()};
    return Stepper(config, model, parameters, 1, threads, teacher).step({&batch, 1}, progress);
  }
};

TEST_CASE("heal: the loss is the divergence by plain loops, and the teacher's products are counted") {
  const Patient runs;
  const auto tokenizer = text::load_tokenizer(runs.place.file("full/tokenizer.json"));
  Teacher teacher(runs.place.file("full"), *tokenizer, 10);
  Step step(runs), alone(runs);
  const StepReport report = step.run(&teacher), without = alone.run(nullptr);
  const double expected = mean_divergence(model::Model(runs.place.file("full")), step.small, step.batch.ids, 2,
                                          step.config.distillation.temperature);
  REQUIRE(report.distill_loss.has_value());
  CHECK(*report.distill_loss == doctest::Approx(expected).epsilon(1e-4));
  CHECK(report.loss == without.loss);
  CHECK(!without.distill_loss.has_value());
  // Of D = 16, F = 12, 2 layers, 2 heads of width 8 and 1 of keys, 6 experts, V = 270.
  const double shared = 270 * 16 + 16 + 2 * (2 * 16 + 2 * 16 * (16 + 8) + 6 * 16), experts = 2 * 2 * 3 * 16 * 12;
  const double attention = 2 * 2 * 8 * 2 * 10 * 10;  // twice the pairs, of both sequences
  CHECK(report.share_of_peak * report.seconds - without.share_of_peak * without.seconds ==
        doctest::Approx(2 * (20 * (shared + experts) + attention)));
}

// Of pruned layers: a choice among the kept ones is still to be balanced.
TEST_CASE("heal: balance losses reach the routers of a pruned model") {
  const Patient runs;
  Step step(runs);
  const model::Model model(step.small.config(), step.parameters.weights());
  const model::TrainingBatch training{{step.batch.ids, step.batch.sequences}, step.batch.targets};
  model::TrainingActivations activations;
  forward_backward(model, training, {0, 1}, activations, step.parameters.gradients(), step.threads);
  for (int l = 0; l < model.config().depth(); ++l) CHECK(step.parameters.gate_gradient_norm(l, step.threads) > 1e-7);
  step.config.distillation.weight = 1;
  const auto tokenizer = text::load_tokenizer(runs.place.file("full/tokenizer.json"));
  Teacher teacher(runs.place.file("full"), *tokenizer, 10);
  for (const LayerReport& layer : step.run(&teacher).layers) {
    CHECK(layer.balance_loss > 0);
    CHECK(layer.router_gradient_norm > 1e-7);
  }
}

}  // namespace
}  // namespace choir::train
