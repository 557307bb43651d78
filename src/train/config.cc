#include "train/config.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/error.h"
#include "io/json.h"

namespace choir::train {
namespace {

using io::Fields;
using io::Json;

int count(const Fields& fields, const std::string& key, std::optional<int64_t> fallback = {}) {
  return static_cast<int>(fields.get_int(key, 1, 1 << 30, fallback));
}

std::vector<Domain> read_domains(const Json& json, const std::string& where) {
  if (!json.contains("data") || !json["data"].is_array() || json["data"].empty())
    base::input_error("no training data", where + ": data", "give an array of {name, weight, files}");
  std::vector<Domain> domains;
  for (const Json& entry : json["data"]) {
    const std::string field = where + ": data[" + std::to_string(domains.size()) + "]";
    const Fields fields(entry, field);
    Domain domain{fields.get_string("name"), fields.get_number("weight", 1e-6, 1e6, 1.0), {}};
    if (!entry.contains("files") || !entry["files"].is_array() || entry["files"].empty())
      base::input_error("no files", field, "give an array of paths");
    for (const Json& file : entry["files"]) {
      if (!file.is_string()) base::input_error("a path is not a string", field + ".files", file.dump());
      domain.files.push_back(file.get<std::string>());
    }
    domains.push_back(std::move(domain));
  }
  return domains;
}

void read_training(const Fields& fields, TrainConfig& config) {
  config.schedule.steps = count(fields, "steps");
  config.schedule.warmup_steps = static_cast<int>(fields.get_int("warmup_steps", 0, 1 << 30, 0));
  config.schedule.learning_rate = fields.get_number("learning_rate", 0, 10);
  config.schedule.min_learning_rate = fields.get_number("min_learning_rate", 0, 10, 0.0);
  config.batch_size = count(fields, "batch_size", config.batch_size);
  config.sequence_length = count(fields, "sequence_length", config.sequence_length);
  config.beta1 = fields.get_number("beta1", 0, 0.99999, config.beta1);
  config.beta2 = fields.get_number("beta2", 0, 0.9999999, config.beta2);
  config.epsilon = fields.get_number("epsilon", 1e-30, 1, config.epsilon);
  config.weight_decay = fields.get_number("weight_decay", 0, 10, config.weight_decay);
  config.gradient_clip = fields.get_number("gradient_clip", 1e-6, 1e9, config.gradient_clip);
  config.checkpoint_every = count(fields, "checkpoint_every", config.checkpoint_every);
  config.seed = static_cast<uint64_t>(fields.get_int("seed", 0, INT64_MAX, 1));
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
  fields.get_object("model");
  config.model = json["model"].dump();
  config.router = fields.get_string("router", "");
  const Fields tokenizer = fields.get_object("tokenizer");
  config.tokenizer.path = tokenizer.get_string("path", "");
  if (config.tokenizer.path.empty())
    config.tokenizer.vocab_size = static_cast<int>(tokenizer.get_int("vocab_size", 257, 1 << 20));
  config.domains = read_domains(json, path);
  read_training(fields.get_object("training"), config);
  config.saved_type = saved_type(fields.get_string("dtype", "bfloat16"), path + ": dtype");
  return config;
}

}  // namespace choir::train
