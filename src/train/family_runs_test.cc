// Runs of models of other families: dense layers, shared experts, latent attention, sinks, selection biases.
#include <doctest/doctest.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <sstream>

#include "model/model.h"
#include "tests/random_model.h"
#include "train/test_run.h"
#include "train/warm_start.h"

namespace choir::train {
namespace {

using Json = nlohmann::json;

const Json kBlock{{"hidden_size", 16},
                  {"intermediate_size", 12},
                  {"num_hidden_layers", 2},
                  {"num_attention_heads", 2},
                  {"num_key_value_heads", 2},
                  {"max_position_embeddings", 64},
                  {"rope_theta", 10000.0},
                  {"rms_norm_eps", 1e-5},
                  {"vocab_size", 270},
                  {"num_experts_per_tok", 2},
                  {"moe_intermediate_size", 8},
                  {"shared_expert_intermediate_size", 6},
                  {"num_experts", 4},
                  {"num_local_experts", 4},
                  {"n_routed_experts", 4},
                  {"decoder_sparse_step", 2},
                  {"first_k_dense_replace", 1},
                  {"n_group", 1},
                  {"topk_group", 1},
                  {"kv_lora_rank", 8},
                  {"q_lora_rank", 6},
                  {"qk_nope_head_dim", 4},
                  {"qk_rope_head_dim", 4},
                  {"v_head_dim", 4},
                  {"router_jitter_noise", 0.01},
                  {"head_dim", 8}};

TrainConfig run_of(const std::string& family) {
  Json json = kBlock;
  json["model_type"] = family;
  TrainConfig config = tiny_run();
  config.model = json.dump();
  config.schedule.steps = 30;
  config.evaluation.every = 15;
  config.evaluation.tokens = 64;
  config.saved_type = tensor::DType::kF32;
  return config;
}

double loss_at(const Runs& runs, const std::string& name, int step) {
  std::istringstream lines(runs.bytes(name, "metrics.jsonl"));
  std::string line;
  for (int i = 0; i <= step; ++i) REQUIRE(std::getline(lines, line));
  return Json::parse(line)["loss"].get<double>();
}

TEST_CASE("families: every one learns, stops and goes on bit for bit, and is a model afterwards") {
  for (const char* family : {"llama", "mistral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2",
                             "deepseek_v3", "phimoe", "gpt_oss", "granitemoe"}) {
    CAPTURE(std::string(family));
    const Runs runs;
    const TrainConfig config = run_of(family);
    CHECK(runs.run(config, runs.options("whole")) == RunEnd::kFinished);
    CHECK(loss_at(runs, "whole", 29) < loss_at(runs, "whole", 0) - 0.5);
    const model::Model model(runs.place.file("whole"));
    model.check_finite();
    runs.run_in_parts(config, "parts", 11);
    CHECK(runs.bytes("parts", "model.safetensors") == runs.bytes("whole", "model.safetensors"));
  }
}

TEST_CASE("families: a warm start takes everything over from a model of its own family") {
  for (const char* family : {"qwen2_moe", "deepseek_v3", "gpt_oss", "granitemoe", "qwen3"}) {
    CAPTURE(std::string(family));
    const Runs runs;
    TrainConfig config = run_of(family);
    config.schedule.steps = 2;
    config.evaluation = {};
    runs.run(config, runs.options("a"));
    const model::Model model(runs.place.file("a"));
    Parameters parameters(model.config());
    parameters.initialize(9);
    const std::string line = warm_start({runs.place.file("a"), 0, 1}, model.config(), parameters);
    CHECK(contains(line, "nothing begins anew"));
    model::ModelTensors<tensor::Weight> from = model.tensors(), to = parameters.weights();
    std::vector<tensor::Weight> weights;
    model::visit_tensors(model.config(), to,
                         [&](const model::TensorInfo&, tensor::Weight& w) { weights.push_back(w); });
    size_t next = 0;
    model::visit_tensors(model.config(), from, [&](const model::TensorInfo& info, const tensor::Weight& w) {
      CAPTURE(info.name);
      CHECK(std::memcmp(w.data, weights[next++].data, w.bytes()) == 0);
    });
  }
}

// A dense model's feed-forward part becomes every expert of a sparse one of another family.
TEST_CASE("families: a dense model begins a sparse one with the same attention") {
  const Runs runs;
  TrainConfig dense = run_of("qwen3");
  dense.schedule.steps = 2;
  dense.evaluation = {};
  runs.run(dense, runs.options("dense"));
  Json json = kBlock;
  json.update({{"model_type", "qwen3_moe"}, {"moe_intermediate_size", 12}, {"norm_topk_prob", true}});
  json["decoder_sparse_step"] = 1;
  model::Config config = model::parse_config(json, "model");
  config.vocab = model::read_config(runs.place.file("dense/config.json")).vocab;
  Parameters parameters(config);
  parameters.initialize(9);
  const std::string line = warm_start({runs.place.file("dense"), 0, 1}, config, parameters);
  CHECK(contains(line, "2 begin anew: model.layers.0.mlp.gate.weight"));
  const model::Model from(runs.place.file("dense")), to(config, parameters.weights());
  const auto ids = tests::random_ids(20, config.vocab, 1);
  const auto a = tests::all_logits(from, ids, 2), b = tests::all_logits(to, ids, 2);
  for (size_t i = 0; i < a.size(); ++i) CHECK(b[i] == doctest::Approx(a[i]).epsilon(1e-4));
}

}  // namespace
}  // namespace choir::train
