#include "train/config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/error.h"
#include "io/json.h"

namespace choir::train {
namespace {

using io::Fields;
using io::Json;

// Every key of the file. What stands under "model" is for the model to judge.
struct Section {
  const char* name;
  std::vector<std::string> keys;
};
const std::vector<Section>& sections() {
  static const std::vector<Section> known{
      {"",
       {"task", "tensorboard", "model", "router", "from", "upcycle_noise", "teacher", "distill", "freeze", "moments",
        "recompute", "precision", "tokenizer", "data", "evaluation", "nodes", "pin", "training", "dtype"}},
      {"tokenizer", {"path", "vocab_size"}},
      {"data", {"name", "weight", "files"}},
      {"distill", {"weight", "temperature"}},
      {"evaluation", {"every", "tokens", "files"}},
      {"training",
       {"steps", "warmup_steps", "learning_rate", "min_learning_rate", "batch_size", "accumulate", "sequence_length",
        "beta1", "beta2", "epsilon", "weight_decay", "gradient_clip", "checkpoint_every", "seed"}},
  };
  return known;
}

// A typo must not pass as a default.
void check_keys(const Json& object, const std::string& section, const std::string& where) {
  if (!object.is_object()) return;  // refused by who reads it
  const auto knows = [&](const Section& s, const std::string& key) {
    return std::ranges::find(s.keys, key) != s.keys.end();
  };
  const Section& own = *std::ranges::find(sections(), section, [](const Section& s) { return std::string(s.name); });
  for (const auto& [key, value] : object.items()) {
    if (knows(own, key)) continue;
    std::string hint = "known:";
    for (const std::string& known : own.keys) hint += (hint.back() == ':' ? " " : ", ") + known;
    for (const Section& other : sections())
      if (knows(other, key)) hint = *other.name ? std::string("it belongs under ") + other.name : "it belongs on top";
    base::input_error("unknown key \"" + key + "\"", where, hint);
  }
}

int count(const Fields& fields, const std::string& key, std::optional<int64_t> fallback = {}) {
  return static_cast<int>(fields.get_int(key, 1, 1 << 30, fallback));
}

std::vector<std::string> strings(const Json& array, const std::string& where) {
  if (!array.is_array()) base::input_error("not an array of strings", where, array.dump());
  std::vector<std::string> result;
  for (const Json& entry : array) {
    if (!entry.is_string()) base::input_error("not a string", where, entry.dump());
    result.push_back(entry.get<std::string>());
  }
  return result;
}

std::vector<Domain> read_domains(const Json& json, const std::string& where) {
  if (!json.contains("data") || !json["data"].is_array() || json["data"].empty())
    base::input_error("no training data", where + ": data", "give an array of {name, weight, files}");
  std::vector<Domain> domains;
  for (const Json& entry : json["data"]) {
    const std::string field = where + ": data[" + std::to_string(domains.size()) + "]";
    const Fields fields(entry, field);
    check_keys(entry, "data", field);
    Domain domain{fields.get_string("name"), fields.get_number("weight", 1e-6, 1e6, 1.0), {}};
    if (!entry.contains("files") || !entry["files"].is_array() || entry["files"].empty())
      base::input_error("no files", field, "give an array of paths");
    domain.files = strings(entry["files"], field + ".files");
    if (std::ranges::find(domains, domain.name, &Domain::name) != domains.end())
      base::input_error("two domains \"" + domain.name + "\"", field, "give each its own name");
    domains.push_back(std::move(domain));
  }
  return domains;
}

constexpr int64_t kMostTokens = 1 << 22;  // of a micro-batch

void read_training(const Fields& fields, const std::string& where, TrainConfig& config) {
  config.schedule.steps = count(fields, "steps");
  config.schedule.warmup_steps = static_cast<int>(fields.get_int("warmup_steps", 0, 1 << 30, 0));
  config.schedule.learning_rate = fields.get_number("learning_rate", 0, 10);
  config.schedule.min_learning_rate = fields.get_number("min_learning_rate", 0, 10, 0.0);
  config.batch_size = count(fields, "batch_size", config.batch_size);
  config.accumulate = static_cast<int>(fields.get_int("accumulate", 1, 1 << 16, config.accumulate));
  config.sequence_length = count(fields, "sequence_length", config.sequence_length);
  if (static_cast<int64_t>(config.batch_size) * config.sequence_length > kMostTokens)
    base::input_error("batch_size times sequence_length is too large", where + ": training",
                      "at most " + std::to_string(kMostTokens) + " tokens; use accumulate");
  config.beta1 = fields.get_number("beta1", 0, 0.99999, config.beta1);
  config.beta2 = fields.get_number("beta2", 0, 0.9999999, config.beta2);
  config.epsilon = fields.get_number("epsilon", 1e-30, 1, config.epsilon);
  config.weight_decay = fields.get_number("weight_decay", 0, 10, config.weight_decay);
  config.gradient_clip = fields.get_number("gradient_clip", 1e-6, 1e9, config.gradient_clip);
  config.checkpoint_every = count(fields, "checkpoint_every", config.checkpoint_every);
  config.seed = static_cast<uint64_t>(fields.get_int("seed", 0, INT64_MAX, 1));
}

void read_evaluation(const Json& json, const std::string& where, TrainConfig& config) {
  if (!json.contains("evaluation") || json["evaluation"].is_null()) return;
  const std::string field = where + ": evaluation";
  const Fields fields(json["evaluation"], field);
  config.evaluation.every = count(fields, "every");
  config.evaluation.tokens = count(fields, "tokens", config.evaluation.tokens);
  if (!fields.has("files")) return;
  const Fields files = fields.get_object("files");
  for (const auto& [name, path] : json["evaluation"]["files"].items()) {
    if (std::ranges::find(config.domains, name, &Domain::name) == config.domains.end())
      base::input_error("no domain \"" + name + "\"", field + ".files", "name one of data");
    config.evaluation.files[name] = files.get_string(name);
  }
}

void read_placement(const Fields& fields, const std::string& where, Placement& placement) {
  placement.nodes = static_cast<int>(fields.get_int("nodes", 1, 4096, 1));
  const std::string pin = fields.get_string("pin", "batch");
  if (pin != "batch" && pin != "domain")
    base::input_error("unknown pin \"" + pin + "\"", where + ": pin", "use batch or domain");
  placement.pin = pin == "domain" ? Placement::Pin::kDomain : Placement::Pin::kBatch;
}

// A softening beyond these bounds leaves differences that floats do not hold.
void read_distillation(const Fields& fields, const std::string& where, Distillation& distillation) {
  distillation.teacher = fields.get_string("teacher", "");
  if (!fields.has("distill")) return;
  if (distillation.teacher.empty())
    base::input_error("distill without a teacher", where + ": distill", "name a model directory as teacher");
  const Fields own = fields.get_object("distill");
  distillation.weight = own.get_number("weight", 0, 1, distillation.weight);
  distillation.temperature = own.get_number("temperature", 0.1, 100, distillation.temperature);
}

// A run that begins as another model has its shape and its tokenizer, unless it says otherwise.
void read_model(const Json& json, const Fields& fields, TrainConfig& config) {
  config.from = fields.get_string("from", "");
  config.router = fields.get_string("router", "");
  if (config.from.empty() || json.contains("model")) {
    fields.get_object("model");
    config.model = json["model"].dump();
  }
  if (!config.from.empty() && !json.contains("tokenizer")) {
    config.tokenizer.path = config.from + "/tokenizer.json";
    return;
  }
  const Fields tokenizer = fields.get_object("tokenizer");
  config.tokenizer.path = tokenizer.get_string("path", "");
  if (config.tokenizer.path.empty())
    config.tokenizer.vocab_size = static_cast<int>(tokenizer.get_int("vocab_size", 257, 1 << 20));
}

tensor::DType saved_type(const std::string& name, const std::string& where) {
  if (name == "float32") return tensor::DType::kF32;
  if (name == "bfloat16") return tensor::DType::kBF16;
  if (name == "float16") return tensor::DType::kF16;
  base::input_error("unknown dtype \"" + name + "\"", where, "use float32, bfloat16 or float16");
}

}  // namespace

double Schedule::at(int step) const {
  if (step <= warmup_steps) return learning_rate * step / warmup_steps;
  if (step >= steps) return min_learning_rate;
  const double done = static_cast<double>(step - warmup_steps) / (steps - warmup_steps);
  return min_learning_rate + 0.5 * (learning_rate - min_learning_rate) * (1 + std::cos(std::numbers::pi * done));
}

TrainConfig read_train_config(const std::string& path) {
  const Json json = io::read_json(path);
  const Fields fields(json, path);
  TrainConfig config;
  check_keys(json, "", path);
  for (const Section& section : sections())
    if (*section.name && json.contains(section.name)) check_keys(json[section.name], section.name, path);
  read_model(json, fields, config);
  const std::string task = fields.get_string("task", "text");
  if (task != "text" && task != "sft")
    base::input_error("unknown task \"" + task + "\"", path + ": task", "use text or sft");
  if (task == "sft") config.task = Task::kExamples;
  config.tensorboard = fields.get_bool("tensorboard", true);
  config.domains = read_domains(json, path);
  read_evaluation(json, path, config);
  read_placement(fields, path, config.placement);
  read_training(fields.get_object("training"), path, config);
  read_distillation(fields, path, config.distillation);
  config.upcycle_noise = fields.get_number("upcycle_noise", 0, 10, 0.0);
  if (json.contains("freeze")) config.freeze = strings(json["freeze"], path + ": freeze");
  const std::string moments = fields.get_string("moments", "float32");
  if (moments != "float32" && moments != "bfloat16")
    base::input_error("unknown moments \"" + moments + "\"", path + ": moments", "use float32 or bfloat16");
  if (moments == "bfloat16") config.moments = tensor::DType::kBF16;
  const std::string recompute = fields.get_string("recompute", "none");
  if (recompute != "none" && recompute != "block")
    base::input_error("unknown recompute \"" + recompute + "\"", path + ": recompute", "use none or block");
  if (recompute == "block") config.recompute = model::Recompute::kBlock;
  const std::string precision = fields.get_string("precision", "float32");
  if (precision != "float32" && precision != "bfloat16")
    base::input_error("unknown precision \"" + precision + "\"", path + ": precision", "use float32 or bfloat16");
  if (precision == "bfloat16") config.sums = kernels::Sums::kRounded;
  config.saved_type = saved_type(fields.get_string("dtype", "bfloat16"), path + ": dtype");
  return config;
}

}  // namespace choir::train
