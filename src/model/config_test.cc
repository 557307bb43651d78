#include "model/config.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace choir::model {
namespace {

using Json = nlohmann::json;

// As transformers 4.x writes it.
Json small() {
  return {{"architectures", {"MixtralForCausalLM"}},
          {"model_type", "mixtral"},
          {"hidden_act", "silu"},
          {"hidden_size", 32},
          {"vocab_size", 100},
          {"num_hidden_layers", 3},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"num_local_experts", 8},
          {"num_experts_per_tok", 2},
          {"intermediate_size", 48},
          {"max_position_embeddings", 512},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"router_aux_loss_coef", 0.02},
          {"sliding_window", nullptr},
          {"tie_word_embeddings", false},
          {"eos_token_id", 2},
          {"torch_dtype", "bfloat16"}};
}

Json with(const std::string& key, const Json& value) {
  Json json = small();
  json[key] = value;
  return json;
}

Json without(const std::string& key) {
  Json json = small();
  json.erase(key);
  return json;
}

Config parse(const Json& json) { return parse_config(json, "config.json"); }

// The text of the input error that parsing gives; empty when it gives none.
std::string refusal_of(const Json& json) {
  try {
    parse(json);
  } catch (const base::Error& error) {
    return error.fault == base::Fault::kInput ? error.what() : "";
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

void check_same(const Config& a, const Config& b) {
  CHECK(a.layers == b.layers);
  CHECK(a.width == b.width);
  CHECK(a.vocab == b.vocab);
  CHECK(a.attention.heads == b.attention.heads);
  CHECK(a.attention.kv_heads == b.attention.kv_heads);
  CHECK(a.attention.head_width == b.attention.head_width);
  CHECK(a.attention.window == b.attention.window);
  CHECK(a.rope.theta == b.rope.theta);
  CHECK(a.tied == b.tied);
  CHECK(a.end_tokens == b.end_tokens);
}

TEST_CASE("config: the dialect of transformers 4.x") {
  const Config c = parse(small());
  CHECK(c.family == "mixtral");
  CHECK(c.width == 32);
  CHECK(c.vocab == 100);
  CHECK(c.attention.heads == 4);
  CHECK(c.attention.kv_heads == 2);
  CHECK(c.attention.head_width == 8);
  CHECK(c.attention.window == 0);
  CHECK(c.max_positions == 512);
  CHECK(c.rope.theta == 10000);
  CHECK(c.norm_epsilon == 1e-5);
  CHECK(!c.tied);
  CHECK(c.load_weight == 0.02);
  CHECK(c.layers == std::vector<LayerConfig>(3, {8, 2, 48, {}, {}}));
  CHECK(c.end_tokens == std::vector<int>{2});
  CHECK(c.defaulted.empty());
}

TEST_CASE("config: the dialect of transformers 5.x") {
  Json json = without("rope_theta");
  json.erase("torch_dtype");
  json["dtype"] = "bfloat16";
  json["rope_parameters"] = {{"rope_theta", 10000.0}, {"rope_type", "default"}};
  json["head_dim"] = nullptr;  // means absent
  json["layer_types"] = {"full_attention", "full_attention", "full_attention"};
  check_same(parse(json), parse(small()));
}

TEST_CASE("config: values that differ from the usual ones are read") {
  CHECK(parse(with("head_dim", 16)).attention.head_width == 16);
  CHECK(parse(with("sliding_window", 128)).attention.window == 128);
  CHECK(parse(with("tie_word_embeddings", true)).tied);
  CHECK(parse(with("eos_token_id", {2, 7})).end_tokens == std::vector<int>{2, 7});
  CHECK(parse(with("eos_token_id", nullptr)).end_tokens.empty());
  CHECK(parse(with("rope_scaling", nullptr)).rope.theta == 10000);
  CHECK(parse(with("rope_scaling", {{"type", "default"}})).rope.theta == 10000);
}

TEST_CASE("config: a key that is missing takes the family's default, and that is said") {
  const std::pair<const char*, const char*> defaults[] = {{"rope_theta", "rope_theta = 1000000"},
                                                          {"rms_norm_eps", "rms_norm_eps = 1e-05"},
                                                          {"num_local_experts", "num_local_experts = 8"},
                                                          {"num_experts_per_tok", "num_experts_per_tok = 2"}};
  for (const auto& [key, said] : defaults) CHECK(parse(without(key)).defaulted == std::vector<std::string>{said});
  CHECK(parse(without("rope_theta")).rope.theta == 1e6);
  CHECK(contains(refusal_of(without("num_key_value_heads")), "8 key-value heads"));
}

TEST_CASE("config: what differs from layer to layer survives being written and read") {
  const Json base = small();
  Config config = parse(base);
  config.layers[0] = {8, 2, 48, 0.4f, {}};
  config.layers[1] = {3, 2, 20, 1e30f, {}};
  config.layers[2] = {1, 1, 48, {}, {}};
  const Json written = config_json(config, base);
  check_same(parse(written), config);
  CHECK(written["torch_dtype"] == "bfloat16");  // what Choir does not use is passed on
  CHECK(written["num_local_experts"] == 8);
  CHECK(written["betas"] == Json({{"0", 0.4}, {"1", 1e30}}));
  CHECK(config_json(parse(written), written) == written);
}

TEST_CASE("config: layers that are alike need no extension block, and an old one goes") {
  Json base = small();
  const Config uniform = parse(base);
  base["choir"] = {{"num_local_experts", {8, 4, 2}}};
  base["betas"] = {{"0", 0.5}};
  const Json written = config_json(uniform, base);
  CHECK(!written.contains("choir"));
  CHECK(!written.contains("betas"));
  Config smaller = uniform;
  for (LayerConfig& layer : smaller.layers) layer.experts = 4;
  CHECK(config_json(smaller, base)["num_local_experts"] == 4);
  CHECK(!config_json(smaller, base).contains("choir"));
}

TEST_CASE("config: the original numbers of kept experts survive") {
  const Json base = small();
  Config config = parse(base);
  for (LayerConfig& layer : config.layers) layer = {3, 2, 48, {}, {0, 4, 7}};
  check_same(parse(config_json(config, base)), config);
}

TEST_CASE("config: skipping thresholds of some layers") {
  const Config c = parse(with("betas", {{"0", 0.25}, {"2", 0}}));
  CHECK(c.layers[0].skip_beta == 0.25f);
  CHECK(!c.layers[1].skip_beta);
  CHECK(c.layers[2].skip_beta == 0.0f);
  CHECK(router_expression(c, c.layers[0]) == "linear > top_k(2) > skip(0.25) > chosen + load(0.02)");
  CHECK(router_expression(c, c.layers[1]) == "linear > top_k(2) > all > chosen + load(0.02)");
}

TEST_CASE("config: refuses what is missing, naming the field") {
  for (const char* key :
       {"model_type", "hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"}) {
    CAPTURE(key);
    CHECK(contains(refusal_of(without(key)), key));
    CHECK(contains(refusal_of(with(key, nullptr)), key));
  }
  CHECK(!refusal_of(Json::array()).empty());
}

TEST_CASE("config: refuses wrong types and absurd values, naming the field") {
  for (const char* key :
       {"hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "num_local_experts", "num_experts_per_tok", "intermediate_size", "max_position_embeddings"})
    for (const Json& value : {Json("8"), Json(0), Json(-1), Json(2.5), Json(true), Json(1e18), Json(UINT64_MAX),
                              Json(int64_t{1} << 40), Json::array({8})}) {
      CAPTURE(key);
      CAPTURE(value.dump());
      CHECK(contains(refusal_of(with(key, value)), key));
    }
  for (const char* key : {"rms_norm_eps", "rope_theta", "router_aux_loss_coef"})
    for (const Json& value : {Json("1"), Json(-1.0), Json(1e300)}) CHECK(contains(refusal_of(with(key, value)), key));
  CHECK(contains(refusal_of(with("rope_theta", 1e-200)), "rope_theta"));
  CHECK(contains(refusal_of(with("tie_word_embeddings", 1)), "tie_word_embeddings"));
  CHECK(contains(refusal_of(with("sliding_window", 0)), "sliding_window"));
}

TEST_CASE("config: refuses sizes whose products no machine holds") {
  Json json = with("num_attention_heads", 1 << 17);
  json["head_dim"] = 512;
  CHECK(contains(refusal_of(json), "heads of width"));
  CHECK(contains(refusal_of(with("head_dim", 2048)), "width 2048"));
  CHECK(contains(refusal_of(with("num_local_experts", 5000)), "5000 experts"));
}

TEST_CASE("config: refuses families, activations and rotary scalings that it does not know") {
  CHECK(contains(refusal_of(with("model_type", "gemma")), "gemma"));
  CHECK(contains(refusal_of(with("hidden_act", "gelu")), "gelu"));
  CHECK(contains(refusal_of(with("rope_scaling", {{"type", "dynamic"}, {"factor", 4}})), "dynamic"));
  CHECK(contains(refusal_of(with("rope_scaling", {{"rope_type", "llama3"}, {"factor", 4}})), "low_freq_factor"));
  CHECK(contains(refusal_of(with("rope_parameters", {{"rope_type", "linear"}})), "factor"));
  CHECK(!refusal_of(with("rope_scaling", "linear")).empty());
}

TEST_CASE("config: refuses shapes that contradict themselves") {
  CHECK(contains(refusal_of(with("num_experts_per_tok", 9)), "9 of 8"));
  CHECK(contains(refusal_of(with("num_key_value_heads", 3)), "3 key-value heads"));
  CHECK(contains(refusal_of(with("num_attention_heads", 6)), "no multiple of 6"));
  CHECK(contains(refusal_of(with("head_dim", 7)), "odd"));
  CHECK(contains(refusal_of(with("choir", {{"num_experts_per_tok", {2, 9, 2}}})), "layer 1"));
}

TEST_CASE("config: refuses per-layer arrays and thresholds that do not fit") {
  for (const Json& array : {Json(8), Json({8, 8}), Json({8, 8, 8, 8}), Json({8, 0, 8}), Json({8, "8", 8}),
                            Json({8, 2.5, 8}), Json({8, UINT64_MAX, 8})}) {
    CAPTURE(array.dump());
    CHECK(contains(refusal_of(with("choir", {{"num_local_experts", array}})), "num_local_experts"));
  }
  const Json good = {0, 1, 2, 3, 4, 5, 6, 7};
  for (const Json& e : {Json(-1), Json("1"), Json(1.0), Json(UINT64_MAX), Json(uint64_t{1} << 63)}) {
    Json bad = good;
    bad[3] = e;
    CAPTURE(e.dump());
    CHECK(contains(refusal_of(with("choir", {{"kept_experts", {good, bad, good}}})), "kept_experts[1]"));
  }
  CHECK(contains(refusal_of(with("choir", {{"kept_experts", {good, good}}})), "kept_experts"));
  CHECK(contains(refusal_of(with("choir", {{"kept_experts", {good, {1, 2}, good}}})), "kept_experts[1]"));
  CHECK(contains(refusal_of(with("betas", {{"0", -0.5}})), "betas"));
  CHECK(contains(refusal_of(with("betas", {0.5, 0.5})), "betas"));
  Json top1 = with("betas", {{"1", 0.5}});
  top1["num_experts_per_tok"] = 1;
  CHECK(contains(refusal_of(top1), "betas.1"));
}

TEST_CASE("config: parameters in all and of one token, counted by hand") {
  Config c = parse(small());
  // Attention: 32 * (32 + 16 + 16 + 32) weights; norms 2 * 32; router 8 * 32; an expert 3 * 32 * 48.
  const int64_t shared = 32 * 96 + 64 + 8 * 32, expert = 3 * 32 * 48, table = 100 * 32;
  CHECK(count_parameters(c).total == 2 * table + 32 + 3 * (shared + 8 * expert));
  CHECK(count_parameters(c).active == table + 2 * 32 + 3 * (shared + 2 * expert));
  c.tied = true;
  CHECK(count_parameters(c).total == table + 32 + 3 * (shared + 8 * expert));
}

TEST_CASE("config: a token uses no more experts with weights than there are") {
  Json json = small();
  json["choir"] = {{"copy_experts", 8}, {"router", "linear > top_k(16) > all > softmax"}};
  const Config c = parse(json);
  CHECK(count_parameters(c).active == count_parameters(c).total - 99 * 32);  // of the embedding a token uses one row
}

TEST_CASE("config: thresholds of skipping stand in the place of no other admission") {
  Json json = small();
  json["betas"] = {{"0", 0.5}};
  json["choir"] = {{"router", "linear > top_k(2) > all > softmax + bias(0.1)"}};
  CHECK_NOTHROW(parse(json));
  json["choir"] = {{"router", "linear > top_k(2) > fifo(etr_sum) > softmax + bias(0.1)"}};
  CHECK(contains(refusal_of(json), "betas.0"));
}

TEST_CASE("config: each layer's own policy of skipping survives, beside thresholds") {
  const Json base = small();
  Config config = parse(base);
  config.layers[0].router = "linear > top_k(2) > skip(tail=0.3) > chosen(over=4) + load(0.02)";
  config.layers[1].router = "linear > top_k(4) > skip(ser=0.25, least=2) > softmax(renorm)";
  config.layers[1].top_k = 4;
  config.layers[2] = {8, 2, 48, 0.4f, {}};
  config.layers[2].router = "linear > top_k(2) > all > chosen + load(0.02)";
  const Json written = config_json(config, base);
  CHECK(parse(written).layers == config.layers);
  CHECK(written["betas"] == Json({{"2", 0.4}}));
  CHECK(router_expression(config, config.layers[1]) == config.layers[1].router);
  CHECK(router_expression(config, config.layers[2]) == "linear > top_k(2) > skip(0.4) > chosen + load(0.02)");
  Json wrong = written;
  wrong["choir"]["router"][0] = "linear > top_k(3) > skip(0.3) > chosen";
  CHECK(contains(refusal_of(wrong), "choir.router"));
  wrong["choir"]["router"][0] = "linear > top_k(2) > skip(tail=0.3) > chosen(over=9)";
  CHECK(contains(refusal_of(wrong), "9 best"));
}

}  // namespace
}  // namespace choir::model
