// Models that tests of conversion begin with, and GGUF files made from others.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "io/gguf_writer.h"
#include "model/convert.h"
#include "tests/files.h"
#include "tests/random_model.h"

namespace choir::model {

using io::Tensor;
using tensor::DType;
using tests::contains;
using tests::refusal_of;
using Json = nlohmann::json;

// What most families have in common, small and with awkward sizes; heads wider than the model where that is allowed.
inline Json common(const char* family) {
  return {{"model_type", family},
          {"hidden_size", 36},
          {"vocab_size", 71},
          {"num_hidden_layers", 3},
          {"num_attention_heads", 6},
          {"num_key_value_heads", 2},
          {"intermediate_size", 20},
          {"max_position_embeddings", 64},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"tie_word_embeddings", false}};
}

inline Json with(Json json, const Json& more) {
  json.update(more);
  return json;
}

// Every family that llama.cpp computes as its own code does.
inline std::vector<Json> families() {
  const Json experts{{"num_experts", 5}, {"num_experts_per_tok", 2}, {"moe_intermediate_size", 12}};
  const Json latent{{"num_key_value_heads", 6},
                    {"kv_lora_rank", 10},
                    {"qk_nope_head_dim", 8},
                    {"qk_rope_head_dim", 4},
                    {"v_head_dim", 6},
                    {"moe_intermediate_size", 12},
                    {"n_routed_experts", 8},
                    {"num_experts_per_tok", 3},
                    {"n_shared_experts", 2},
                    {"first_k_dense_replace", 1},
                    {"routed_scaling_factor", 1.5}};
  const Json yarn{{"rope_scaling",
                   {{"type", "yarn"},
                    {"factor", 4.0},
                    {"original_max_position_embeddings", 16},
                    {"mscale", 0.707},
                    {"mscale_all_dim", 0.707}}}};
  return {
      with(common("mixtral"), {{"num_local_experts", 5}, {"num_experts_per_tok", 2}, {"head_dim", 8}}),
      with(common("mixtral"), {{"num_local_experts", 5}, {"tie_word_embeddings", true}}),
      with(common("llama"), {{"attention_bias", true}}),
      with(common("mistral"), {{"sliding_window", nullptr}}),
      common("qwen2"),
      with(common("qwen3"), {{"head_dim", 10}}),
      with(with(common("qwen2_moe"), experts),
           {{"shared_expert_intermediate_size", 16}, {"norm_topk_prob", false}, {"tie_word_embeddings", true}}),
      with(with(common("qwen3_moe"), experts), {{"norm_topk_prob", true}, {"head_dim", 8}}),
      with(common("olmoe"), {{"num_experts", 5}, {"num_experts_per_tok", 2}, {"num_key_value_heads", 6}}),
      with(common("granitemoe"), {{"num_local_experts", 5},
                                  {"embedding_multiplier", 3.0},
                                  {"attention_multiplier", 0.3},
                                  {"residual_multiplier", 0.5},
                                  {"logits_scaling", 2.0}}),
      with(common("gpt_oss"),
           {{"num_local_experts", 5}, {"num_experts_per_tok", 2}, {"head_dim", 8}, {"sliding_window", 8}}),
      with(with(common("deepseek_v2"), latent), with(yarn, {{"q_lora_rank", 14}, {"topk_method", "greedy"}})),
      with(with(common("deepseek_v3"), latent), {{"q_lora_rank", 14}, {"n_group", 4}, {"topk_group", 2}}),
  };
}

struct Case : tests::TemporaryDirectory {
  Json json;
  std::string source = file("source"), gguf = file("model.gguf"), back = file("back");

  explicit Case(const Json& j, uint64_t seed = 5) : json(j) {
    std::filesystem::create_directory(source);
    std::filesystem::create_directory(back);
    tests::random_model(parse_config(json, "test"), seed).model().save(source, json);
  }

  Converted to_gguf(
      std::optional<DType> type = {}, const Check& check = [](const std::string&, const Converted&) {}) {
    Source from(source);
    return convert_to_gguf(from, type,
                           {gguf, base::Existing::kReplace,
                            [](io::GgufHeader& header) { header.put("tokenizer.ggml.model", "none"); }, check});
  }
};

inline std::vector<float> logits_of(const std::string& path) {
  const Model model(path);
  return tests::all_logits(model, tests::random_ids(24, model.config().vocab, 3), 2);
}

// Writes a file again with other tensors in place of some.
inline void rewrite(const std::string& from, const std::string& to,
                    const std::function<std::vector<Tensor>(const Tensor&)>& instead) {
  const io::GgufFile file(from);
  io::GgufHeader header;
  for (const io::GgufEntry& entry : file.metadata().entries()) header.put(entry);
  std::vector<Tensor> tensors;
  for (const Tensor& t : file.tensors())
    for (const Tensor& other : instead(t)) tensors.push_back(other);
  for (const Tensor& t : tensors) header.declare(t.name, t.type, t.shape);
  io::GgufWriter writer(to, header, base::Existing::kReplace);
  for (const Tensor& t : tensors) writer.write(t.bytes);
  writer.commit();
}

}  // namespace choir::model
