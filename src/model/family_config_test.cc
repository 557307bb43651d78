// Each family's config.json: what a missing key means, the traps, and what is refused.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/config.h"
#include "model/tensors.h"

namespace choir::model {
namespace {

using Json = nlohmann::json;
using Weights = moe::PublishedRouter::Weights;

// The keys that no family has a default for.
Json bare(const std::string& family) {
  return {{"model_type", family},      {"hidden_size", 128},
          {"vocab_size", 100},         {"num_hidden_layers", 4},
          {"num_attention_heads", 16}, {"intermediate_size", 96},
          {"num_key_value_heads", 4},  {"max_position_embeddings", 64},
          {"rope_theta", 10000.0}};
}

Json with(Json json, const Json& changes) {
  json.update(changes);
  return json;
}

Json without(Json json, const char* key) {
  json.erase(key);
  return json;
}

Config parse(const Json& json) { return parse_config(json, "config.json"); }

std::string refusal_of(const Json& json) {
  try {
    parse(json);
  } catch (const base::Error& error) {
    return error.fault == base::Fault::kInput ? error.what() : "";
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

bool says(const Config& config, const std::string& line) {
  return std::ranges::find(config.defaulted, line) != config.defaulted.end();
}

std::vector<bool> dense(const Config& config) {
  std::vector<bool> result;
  for (const LayerConfig& layer : config.layers) result.push_back(layer.dense());
  return result;
}

std::vector<int> windows(const Config& config) {
  std::vector<int> result;
  for (int l = 0; l < config.depth(); ++l) result.push_back(config.attention_of(l).window);
  return result;
}

TEST_CASE("families: sizes and constants that a file need not say are those of the family, and are said") {
  const Config qwen2 = parse(bare("qwen2_moe")), qwen3 = parse(bare("qwen3_moe")), olmoe = parse(bare("olmoe"));
  CHECK(qwen2.layers == std::vector<LayerConfig>(4, [] {
          LayerConfig layer{60, 4, 1408, {}, {}};
          layer.shared_width = 5632;
          layer.shared_gate = true;
          return layer;
        }()));
  CHECK(qwen2.qkv_bias);
  CHECK(!qwen2.o_bias);
  CHECK(qwen2.norm_epsilon == 1e-6);
  for (const char* line : {"qkv_bias = true", "num_experts = 60", "moe_intermediate_size = 1408",
                           "norm_topk_prob = false", "shared_expert_intermediate_size = 5632", "rms_norm_eps = 1e-06"})
    CHECK_MESSAGE(says(qwen2, line), line);
  CHECK(qwen3.layers == std::vector<LayerConfig>(4, {128, 8, 768, {}, {}}));
  CHECK(qwen3.qk_norm == QkNorm::kHead);
  CHECK(qwen3.router.weights == Weights::kRaw);
  CHECK(olmoe.layers == std::vector<LayerConfig>(4, {64, 8, 96, {}, {}}));
  CHECK(olmoe.qk_norm == QkNorm::kWhole);
  CHECK(olmoe.norm_epsilon == 1e-5);
  CHECK(parse(without(bare("olmoe"), "num_key_value_heads")).attention.kv_heads == 16);
  CHECK(parse(without(bare("olmoe"), "rope_theta")).rope.theta == 1e4);
  CHECK(parse(without(bare("mixtral"), "rope_theta")).rope.theta == 1e6);
  CHECK(parse(without(bare("gpt_oss"), "rope_theta")).rope.theta == 150000);
  CHECK(parse(with(bare("qwen2_moe"), {{"qkv_bias", false}})).qkv_bias == false);
}

TEST_CASE("families: routers are those of the published models") {
  const auto router = [](const Json& json) {
    const Config config = parse(json);
    return router_expression(config, typical_layer(config));
  };
  const Json small{{"num_experts", 8}, {"num_experts_per_tok", 2}};
  CHECK(router(bare("mixtral")) == "linear > top_k(2) > all > chosen + load(0.001)");
  CHECK(router(with(bare("olmoe"), small)) == "linear > top_k(2) > all > softmax + load(0.01)");
  CHECK(router(with(bare("qwen3_moe"), with(small, {{"norm_topk_prob", true}}))) ==
        router(with(bare("mixtral"), {{"num_local_experts", 8}})));
  CHECK(contains(router(bare("phimoe")), "sparse"));
  const Json latent{{"n_routed_experts", 8}, {"num_experts_per_tok", 2}, {"num_hidden_layers", 6}};
  CHECK(router(with(bare("deepseek_v2"), with(latent, {{"routed_scaling_factor", 16.0}}))) ==
        "linear > top_k(2) > all > softmax(scale=16) + load(0.001)");
  // DeepSeek's code divides by the sum instead of scaling; transformers' scales whatever this key says.
  CHECK(router(with(bare("deepseek_v2"), with(latent, {{"routed_scaling_factor", 16.0}, {"norm_topk_prob", true}}))) ==
        "linear > top_k(2) > all > chosen + load(0.001)");
  CHECK(router(with(bare("deepseek_v2"),
                    with(latent, {{"topk_method", "group_limited_greedy"}, {"n_group", 4}, {"topk_group", 2}}))) ==
        "linear > groups(4, 2, 2) > all > softmax + load(0.001)");
  const std::string third = router(with(bare("deepseek_v3"), with(latent, {{"n_group", 4}, {"topk_group", 2}})));
  CHECK(third == "linear(sigmoid) > groups(4, 2, 2, by=top2) > all > sigmoid_norm(scale=2.5) + bias(0.001)");
}

TEST_CASE("families: a query latent that is null is none, one that is missing is not") {
  const Json json = with(bare("deepseek_v2"), {{"num_experts_per_tok", 2}});
  CHECK(parse(json).latent.q_rank == 1536);
  CHECK(says(parse(json), "q_lora_rank = 1536"));
  const Config none = parse(with(json, {{"q_lora_rank", nullptr}}));
  CHECK(none.latent.q_rank == 0);
  CHECK(none.defaulted.size() + 1 == parse(json).defaulted.size());
  CHECK(none.latent.kv_rank == 512);
  CHECK(none.attention.head_width == 192);
  CHECK(none.attention.values() == 128);
  CHECK(parse(with(json, {{"head_dim", 64}})).attention.head_width == 192);  // of the part that turns; not used
  CHECK(none.latent.scale == doctest::Approx(1 / std::sqrt(192.0)));
  CHECK(contains(refusal_of(without(json, "num_experts_per_tok")), "num_experts_per_tok"));
}

TEST_CASE("families: YaRN raises the scores of latent attention by m squared, for V2 as for V3") {
  const Json stretch{{"rope_scaling",
                      {{"type", "yarn"},
                       {"factor", 40},
                       {"mscale", 0.707},
                       {"mscale_all_dim", 0.707},
                       {"original_max_position_embeddings", 32}}},
                     {"num_experts_per_tok", 2},
                     {"n_group", 1},
                     {"topk_group", 1}};
  for (const char* family : {"deepseek_v2", "deepseek_v3"}) {
    const Config config = parse(with(bare(family), stretch));
    CHECK(static_cast<double>(config.latent.scale) == doctest::Approx(1.5896 / std::sqrt(192.0)).epsilon(1e-4));
    CHECK(config.rope.factor == 40);
  }
}

TEST_CASE("families: which layers have experts") {
  const Json qwen = with(bare("qwen2_moe"), {{"num_hidden_layers", 6}, {"decoder_sparse_step", 2}});
  CHECK(dense(parse(with(qwen, {{"mlp_only_layers", {3, 90}}}))) == std::vector{true, false, true, true, true, false});
  CHECK(parse(qwen).layers[0].shared_width == 96);
  const Json deep = with(bare("deepseek_v3"), {{"num_hidden_layers", 5}, {"first_k_dense_replace", 2}});
  CHECK(dense(parse(deep)) == std::vector{true, true, false, false, false});
  CHECK(dense(parse(without(deep, "first_k_dense_replace"))) == std::vector{true, true, true, false, false});
  const Config every = parse(with(deep, {{"moe_layer_freq", 2}}));
  CHECK(dense(every) == std::vector{true, true, false, true, false});
  REQUIRE(every.notes.size() == 1);
  CHECK(contains(every.notes[0], "moe_layer_freq 2"));
  CHECK(every.layers[2].shared_width == 2048);
  CHECK(dense(parse(bare("llama"))) == std::vector<bool>(4, true));
}

TEST_CASE("families: windows of some layers") {
  const Json sliding{{"use_sliding_window", true}, {"sliding_window", 8}};
  CHECK(windows(parse(with(bare("qwen2"), {{"sliding_window", 8}}))) == std::vector<int>(4, 0));
  CHECK(windows(parse(with(bare("qwen2"), with(sliding, {{"max_window_layers", 3}})))) == std::vector{0, 0, 0, 8});
  const Config all = parse(with(bare("qwen2_moe"), with(sliding, {{"max_window_layers", 3}})));
  CHECK(windows(all) == std::vector<int>(4, 8));
  CHECK(all.notes.size() == 1);
  CHECK(parse(with(bare("qwen2_moe"), with(sliding, {{"max_window_layers", 0}}))).notes.empty());
  const Json types{{"layer_types", {"full_attention", "sliding_attention", "full_attention", "sliding_attention"}}};
  CHECK(windows(parse(with(bare("qwen2_moe"), with(sliding, types)))) == std::vector{0, 8, 0, 8});
  CHECK(windows(parse(with(bare("gpt_oss"), types))) == std::vector{0, 128, 0, 128});
  CHECK(windows(parse(bare("gpt_oss"))) == std::vector{128, 0, 128, 0});
  CHECK(windows(parse(bare("mistral"))) == std::vector<int>(4, 4096));
  CHECK(windows(parse(with(bare("mistral"), {{"sliding_window", nullptr}}))) == std::vector<int>(4, 0));
  CHECK(contains(refusal_of(with(bare("qwen2_moe"), types)), "sliding_window"));
  CHECK(contains(refusal_of(with(bare("gpt_oss"), {{"layer_types", {"full_attention"}}})), "layer_types"));
  CHECK(contains(refusal_of(with(bare("gpt_oss"), {{"layer_types", {"a", "b", "c", "d"}}})), "\"a\""));
}

TEST_CASE("families: what is not made here is refused, and so is what implementations disagree about") {
  CHECK(contains(refusal_of(without(bare("phimoe"), "rope_theta")), "rope_theta"));
  CHECK(contains(refusal_of(with(bare("phimoe"), {{"num_experts_per_tok", 3}})), "two experts"));
  CHECK(contains(refusal_of(with(bare("llama"), {{"mlp_bias", true}})), "mlp_bias"));
  CHECK(contains(refusal_of(with(bare("llama"), {{"partial_rotary_factor", 0.5}})), "partial_rotary_factor"));
  const Json v2 = with(bare("deepseek_v2"), {{"num_experts_per_tok", 2}});
  CHECK(contains(refusal_of(with(v2, {{"topk_method", "noaux_tc"}})), "topk_method"));
  CHECK(contains(refusal_of(with(v2, {{"scoring_func", "sigmoid"}})), "scoring_func"));
  CHECK(contains(refusal_of(with(bare("llama"), {{"quantization_config", {{"quant_method", "gptq"}}}})), "gptq"));
  const Json fp8{{"quant_method", "fp8"}, {"weight_block_size", {128, 0}}};
  CHECK(contains(refusal_of(with(bare("llama"), {{"quantization_config", fp8}})), "weight_block_size"));
}

TEST_CASE("families: both spellings of a key are read, and the file's own is written") {
  for (const char* key : {"num_experts", "num_local_experts"}) {
    const Json json = with(bare("qwen3_moe"), {{key, 8}, {"num_experts_per_tok", 2}});
    Config config = parse(json);
    CHECK(config.layers[0].experts == 8);
    config.layers[1].experts = 5;
    const Json written = config_json(config, json);
    CHECK(written["choir"][key] == Json({8, 5, 8, 8}));
    CHECK(parse(written).layers == config.layers);
  }
}

TEST_CASE("families: layers that differ are written and read beside dense ones") {
  const Json json = with(bare("deepseek_v3"), {{"n_routed_experts", 8},
                                               {"num_experts_per_tok", 2},
                                               {"moe_intermediate_size", 24},
                                               {"first_k_dense_replace", 1},
                                               {"n_group", 1},
                                               {"topk_group", 1}});
  Config config = parse(json);
  CHECK(config_json(config, json) == json);
  for (int l = 1; l < 4; ++l) config.layers[l].kept = {0, 2, 3, 5, 6, 7};
  for (int l = 1; l < 4; ++l) config.layers[l].experts = 6;
  Json written = config_json(config, json);
  CHECK(written["n_routed_experts"] == 6);
  CHECK(written["choir"]["kept_experts"][0] == Json::array());
  CHECK(parse(written).layers == config.layers);
  for (int l = 1; l < 4; ++l) config.layers[l].expert_width = 16;  // the shared expert stays as wide as it was
  config.layers[2].router = "linear > top_k(2) > all > softmax";
  written = config_json(config, json);
  CHECK(written["moe_intermediate_size"] == 24);
  CHECK(written["choir"]["moe_intermediate_size"] == Json({0, 16, 16, 16}));
  CHECK(written["choir"]["router"] == Json({"", "", config.layers[2].router, ""}));
  CHECK(parse(written).layers == config.layers);
  CHECK(contains(refusal_of(with(json, {{"choir", {{"zero_experts", {1, 1, 1, 1}}}}})), "zero_experts[0]"));
  CHECK(parse(with(json, {{"choir", {{"zero_experts", 1}}}})).layers[0].dense());
  CHECK(contains(refusal_of(with(json, {{"choir", {{"n_routed_experts", {0, 0, 8, 8}}}}})), "n_routed_experts[1]"));
}

TEST_CASE("families: parameters are those of the tensors") {
  const Json latent{{"n_routed_experts", 8}, {"num_experts_per_tok", 2}, {"moe_intermediate_size", 24},
                    {"kv_lora_rank", 16},    {"q_lora_rank", 24},        {"attention_bias", true},
                    {"n_group", 1},          {"topk_group", 1}};
  for (const Json& json :
       {with(bare("gpt_oss"), {{"num_local_experts", 4}}), with(bare("phimoe"), {{"lm_head_bias", true}}),
        with(bare("deepseek_v2"), latent), with(bare("deepseek_v2"), with(latent, {{"q_lora_rank", nullptr}})),
        with(bare("deepseek_v3"), latent), with(bare("qwen2_moe"), {{"decoder_sparse_step", 2}}),
        with(bare("olmoe"), {{"attention_bias", true}}), bare("qwen3"), bare("llama"), bare("granitemoe")}) {
    CAPTURE(json["model_type"]);
    const Config config = parse(json);
    ModelTensors<Weight> tensors;
    int64_t total = 0;
    visit_tensors(config, tensors, [&](const TensorInfo& info, const Weight&) {
      if (info.role != TensorInfo::Role::kState) total += static_cast<int64_t>(info.rows) * info.cols;
    });
    CHECK(count_parameters(config).total == total);
    CHECK(count_parameters(config).active < total);
  }
}

}  // namespace
}  // namespace choir::model
