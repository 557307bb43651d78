// What sessions take from the system: all of it in the first calls of a kind.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "runtime/session.h"
#include "tests/counted_memory.h"
#include "tests/routed_model.h"

namespace choir::runtime {
namespace {

using tests::taken_by;

constexpr int kPrompt = 40;

// The cache and the list of ids have grown before.
void check_later_calls(const model::Model& model, base::Threads& threads) {
  Session session(model, threads);
  const auto ids = tests::random_ids(model.positions(), model.config().vocab, 3);
  session.feed(ids);
  session.rewind(0);
  session.feed(std::span(ids).first(kPrompt));
  session.feed({&ids[kPrompt], 1});
  CHECK(taken_by([&] { session.feed({&ids[kPrompt + 1], 1}); }).blocks == 0);
  session.rewind(0);
  CHECK(taken_by([&] { session.feed(std::span(ids).first(kPrompt)); }).blocks == 0);
}

// As the weights lie, and in panels.
void check_layouts(const model::Model& model, base::Threads& threads) {
  check_later_calls(model, threads);
  check_later_calls(model.packed(threads), threads);
}

TEST_CASE("memory: a token more takes nothing, nor does a prompt as long as one before") {
  base::Threads threads(2);
  const tests::RandomModel owner(tests::small_config(), 1);
  for (const tensor::DType type : {tensor::DType::kF32, tensor::DType::kBF16, tensor::DType::kQ8_0})
    check_layouts(tests::TypedModel(owner.model(), type).model(), threads);
}

TEST_CASE("memory: nor in other families") {
  base::Threads threads(2);
  const nlohmann::json common{{"hidden_size", 32},
                              {"intermediate_size", 48},
                              {"moe_intermediate_size", 24},
                              {"num_hidden_layers", 3},
                              {"num_attention_heads", 4},
                              {"num_key_value_heads", 2},
                              {"num_experts_per_tok", 2},
                              {"num_local_experts", 8},
                              {"num_experts", 8},
                              {"n_routed_experts", 8},
                              {"n_group", 4},
                              {"topk_group", 2},
                              {"vocab_size", 67},
                              {"head_dim", 16},
                              {"max_position_embeddings", 64},
                              {"rope_theta", 10000.0},
                              {"rms_norm_eps", 1e-5},
                              {"kv_lora_rank", 16},
                              {"q_lora_rank", 24},
                              {"qk_nope_head_dim", 8},
                              {"qk_rope_head_dim", 8},
                              {"v_head_dim", 8},
                              {"sliding_window", 16},
                              {"norm_topk_prob", true},
                              {"first_k_dense_replace", 1},
                              {"shared_expert_intermediate_size", 40}};
  for (const char* family : {"qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v3", "gpt_oss"}) {
    CAPTURE(family);
    nlohmann::json json = common;
    json["model_type"] = family;
    check_layouts(tests::RandomModel(model::parse_config(json, "test"), 1).model(), threads);
  }
}

TEST_CASE("memory: nor with any router") {
  base::Threads threads(2);
  for (const std::string& router : tests::router_expressions()) {
    CAPTURE(router);
    const model::Config config = tests::routed_config(router, {{16, 2, 24, {}, {}}, {16, 2, 24, {}, {}}});
    check_later_calls(tests::RandomModel(config, 1).model(), threads);
  }
}

}  // namespace
}  // namespace choir::runtime
