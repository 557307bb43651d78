#include "model/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/json.h"
#include "model/extension.h"
#include "model/families/reader.h"
#include "moe/router.h"

namespace choir::model {
namespace {

using io::Json;

void read_end_tokens(const Json& json, Config& config) {
  if (!json.contains("eos_token_id")) return;
  const Json& eos = json["eos_token_id"];
  for (const Json& id : eos.is_array() ? eos : Json::array({eos}))
    if (id.is_number_integer() && id >= 0 && id < config.vocab) config.end_tokens.push_back(id.get<int>());
}

// Formats of which the files say enough to widen them on loading.
void read_quantization(const Json& json, const std::string& where, Config& config) {
  const io::Fields fields(json, where);
  if (!fields.has("quantization_config")) return;
  const std::string field = where + ": quantization_config";
  const io::Fields scheme(json["quantization_config"], field);
  const std::string method = scheme.get_string("quant_method");
  if (method == "mxfp4") return;
  if (method != "fp8" || scheme.get_string("fmt", "e4m3") != "e4m3")
    base::input_error("quantised by \"" + method + "\"", field, "known: mxfp4, and fp8 in the format e4m3");
  if (!scheme.has("weight_block_size")) return;
  const Json& block = json["quantization_config"]["weight_block_size"];
  const auto whole = [](const Json& side) { return side.is_number_integer() && side >= 1 && side <= kMost; };
  if (!block.is_array() || block.size() != 2 || !whole(block[0]) || !whole(block[1]))
    base::input_error("not two whole numbers", field + ".weight_block_size", block.dump());
  config.fp8_block = {block[0].get<int>(), block[1].get<int>()};
}

int64_t area(int rows, int cols) { return static_cast<int64_t>(rows) * cols; }

// Of the attention half of a block, its norm included.
int64_t attention_parameters(const Config& config) {
  const auto& a = config.attention;
  const int d = config.width, q = a.heads * a.head_width, k = a.kv_heads * a.head_width, v = a.kv_heads * a.values(),
            o = a.heads * a.values();
  int64_t count = area(o, d) + (config.o_bias ? d : 0) + (config.layer_norm ? 2 * d : d);
  if (config.is_latent()) {
    const nn::LatentShape& latent = config.latent;
    count +=
        area(latent.cached(), d) + latent.kv_rank + area(latent.heads * (latent.nope + latent.value), latent.kv_rank);
    if (config.qkv_bias) count += latent.q_rank + latent.cached();
    if (latent.q_rank == 0) return count + area(q, d);
    return count + area(latent.q_rank, d) + latent.q_rank + area(q, latent.q_rank);
  }
  count += area(q + k + v, d) + (config.qkv_bias ? q + k + v : 0) + (config.sinks ? a.heads : 0);
  if (config.qk_norm == QkNorm::kHead) count += 2 * a.head_width;
  if (config.qk_norm == QkNorm::kWhole) count += q + k;
  return count;
}

}  // namespace

int64_t LayerConfig::total_width() const {
  int64_t total = 0;
  for (int e = 0; e < experts; ++e) total += width_of(e);
  return total;
}

kernels::AttentionShape Config::attention_of(int layer) const {
  kernels::AttentionShape shape = attention;
  if (layers[static_cast<size_t>(layer)].sees_all) shape.window = 0;
  return shape;
}

int Config::rope_switch() const {
  return rope.kind == kernels::RopeSpec::Kind::kLongrope && rope.original_length < max_positions ? rope.original_length
                                                                                                 : 0;
}

std::string router_expression(const Config& config, const LayerConfig& layer) {
  if (layer.dense()) return moe::Router().expression();
  std::string expression = layer.router;
  if (expression.empty()) {
    moe::PublishedRouter router = config.router;
    router.k = layer.top_k;
    router.load = static_cast<float>(config.load_weight);
    expression = moe::expression_of(router);
  }
  return layer.skip_beta ? moe::with_admission(expression, fmt::format("skip({})", *layer.skip_beta)) : expression;
}

const LayerConfig& typical_layer(const Config& config) {
  const auto found = std::ranges::find_if(config.layers, [](const LayerConfig& layer) { return !layer.dense(); });
  return found == config.layers.end() ? config.layers.front() : *found;
}

bool knows_family(const std::string& model_type) { return find_family(model_type) != nullptr; }

Config parse_config(const Json& json, const std::string& where) {
  Config config;
  config.family = io::Fields(json, where).get_string("model_type");
  const Family& family = family_of(config.family, where);
  Reader reader(json, where, family, config);
  family.read(reader);
  try {  // a rule that no router follows
    moe::expression_of(config.router);
  } catch (const base::Error& error) {
    base::input_error(error.message, where, error.hint);
  }
  read_quantization(json, where, config);
  read_extension(json, where, config);
  read_end_tokens(json, config);
  return config;
}

Config read_config(const std::string& path) { return parse_config(io::read_json(path), path); }

Json config_json(const Config& config, const Json& base) {
  Json json = base.is_object() ? base : Json::object();
  write_extension(config, family_of(config.family, "config.json"), json);
  json.erase("quantization_config");  // what was read so is written plain
  return json;
}

ParameterCount count_parameters(const Config& config) {
  const int64_t d = config.width, table = area(config.vocab, config.width), norm = config.layer_norm ? 2 * d : d;
  const int64_t bias = config.head_bias ? config.vocab : 0;
  // Of the embedding a token uses one row, of the head all: that row too where they are one.
  ParameterCount count{table + norm + bias, (config.tied ? 0 : d) + table + norm + bias};
  if (!config.tied) count.total += table;
  for (const LayerConfig& layer : config.layers) {
    int64_t gate = 0;
    const moe::Router router = moe::parse_router(router_expression(config, layer));
    for (const moe::GateTensor& tensor : router.tensors(layer.routed(), config.width))
      gate += area(tensor.rows, tensor.cols);
    const int64_t shared = attention_parameters(config) + norm + gate +
                           d * (3 * layer.constant_experts + layer.novice_experts) + 3 * d * layer.shared_width +
                           (layer.shared_gate ? d : 0);
    int64_t experts = 3 * d * layer.total_width();  // a token uses top_k of mean width
    if (config.expert_bias) experts += 2 * layer.total_width() + d * layer.experts;
    count.total += shared + experts;
    count.active += shared;
    if (layer.experts > 0) count.active += experts * std::min(layer.top_k, layer.experts) / layer.experts;
  }
  return count;
}

}  // namespace choir::model
