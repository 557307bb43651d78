#include "train/run_model.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "tensor/buffer.h"
#include "train/data.h"

namespace choir::train {
namespace {

using tensor::DType;
using Bytes = tensor::Buffer<std::byte>;

const char* torch_name(DType type) {
  return type == DType::kBF16 ? "bfloat16" : type == DType::kF16 ? "float16" : "float32";
}

template <class Narrow>
void narrow(std::span<const float> from, Bytes& to) {
  auto* out = reinterpret_cast<Narrow*>(to.data());
  for (size_t i = 0; i < from.size(); ++i) out[i] = Narrow::from(from[i]);
}

Bytes converted(const tensor::Weight& weight, DType type) {
  const std::span<const float> from{static_cast<const float*>(weight.data), weight.size()};
  Bytes to(weight.size() * tensor::size_of(type));
  if (type == DType::kBF16)
    narrow<tensor::BF16>(from, to);
  else if (type == DType::kF16)
    narrow<tensor::F16>(from, to);
  else
    std::memcpy(to.data(), from.data(), from.size_bytes());
  return to;
}

constexpr int kMostPositions = 32768;  // of model::Model::positions

// What the configuration says, the router in its place.
io::Json model_json(const TrainConfig& config) {
  io::Json json = io::parse_json(config.model, "model");
  const io::Fields fields(json, "model");
  if (fields.has("choir")) fields.get_object("choir");
  if (!config.router.empty()) json["choir"]["router"] = config.router;
  return json;
}

}  // namespace

void complete_model(TrainConfig& config, const std::string& data_directory) {
  if (config.model.empty()) config.model = io::read_json(place_of(data_directory, config.from) + "/config.json").dump();
}

void check_model(const TrainConfig& config) {
  io::Json json = model_json(config);
  json["vocab_size"] = 1;  // the tokenizer is not there yet
  const int most = std::min(model::parse_config(json, "model").max_positions, kMostPositions);
  if (config.sequence_length > most)
    base::input_error("sequence_length exceeds max_position_embeddings", "training configuration",
                      "at most " + std::to_string(most) + " tokens");
}

model::Config prepare_model(TrainConfig& config, const text::Tokenizer& tokenizer) {
  io::Json json = model_json(config);
  json["vocab_size"] = tokenizer.vocab_size();
  if (const auto end = tokenizer.end_of_text()) json["bos_token_id"] = json["eos_token_id"] = *end;
  const model::Config result = model::parse_config(json, "model");
  config.model = model::config_json(result, json).dump();
  return result;
}

void save_model(const model::Model& model, const TrainConfig& config, const std::string& directory) {
  std::vector<Bytes> storage;
  std::vector<io::Tensor> tensors;
  model::ModelTensors<tensor::Weight> views = model.tensors();
  model::visit_tensors(model.config(), views, [&](const model::TensorInfo& info, const tensor::Weight& weight) {
    const DType type = info.vector ? DType::kF32 : config.saved_type;
    const Bytes& bytes = storage.emplace_back(converted(weight, type));
    std::vector<int64_t> shape{info.rows, info.cols};
    if (info.vector) shape.erase(shape.begin());
    tensors.push_back({info.name, type, shape, bytes.span()});
  });
  nlohmann::json json = model::config_json(model.config(), io::parse_json(config.model, "model"));
  json["torch_dtype"] = torch_name(config.saved_type);
  json["architectures"] = {"MixtralForCausalLM"};
  io::write_safetensors(directory + "/model.safetensors", tensors, {{"format", "pt"}}, base::Existing::kReplace);
  base::write_file(directory + "/config.json", json.dump(2) + "\n", base::Existing::kReplace);
}

}  // namespace choir::train
