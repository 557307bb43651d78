// What training steps take from the system: all of it in the first one, and as much as was said before.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "tests/counted_memory.h"
#include "tests/routed_model.h"
#include "train/memory.h"
#include "train/step.h"

namespace choir::train {
namespace {

using tests::held;

constexpr int kSequences = 6, kLength = 128, kExperts = 4;

model::Config config_of(const std::string& changes) {
  nlohmann::json json{{"model_type", "mixtral"},       {"hidden_size", 64},        {"intermediate_size", 96},
                      {"num_hidden_layers", 3},        {"num_attention_heads", 4}, {"num_key_value_heads", 2},
                      {"num_local_experts", kExperts}, {"num_experts_per_tok", 2}, {"max_position_embeddings", kLength},
                      {"rope_theta", 10000.0},         {"rms_norm_eps", 1e-5},     {"router_aux_loss_coef", 0.01},
                      {"tie_word_embeddings", false},  {"vocab_size", 500}};
  json.update(nlohmann::json::parse(changes));
  return model::parse_config(json, "test");
}

TokenBatch batch_of(int vocab, uint64_t seed, int sequences) {
  TokenBatch batch;
  for (int s = 0; s < sequences; ++s)
    batch.add(0, tests::random_ids(kLength, vocab, seed + static_cast<uint64_t>(s)),
              tests::random_ids(kLength, vocab, seed + 50 + static_cast<uint64_t>(s)));
  return batch;
}

struct Case {
  const char* name;
  const char* changes;
};
constexpr Case kCases[] = {
    {"mixtral", "{}"},
    {"tied, one kind of head", R"({"tie_word_embeddings": true, "num_key_value_heads": 4})"},
    {"norms of heads", R"({"model_type": "qwen3_moe", "moe_intermediate_size": 96, "num_experts": 4, "head_dim": 16,
                           "norm_topk_prob": true})"},
    {"a shared expert", R"({"model_type": "qwen2_moe", "moe_intermediate_size": 96, "num_experts": 4,
                            "shared_expert_intermediate_size": 128, "norm_topk_prob": false})"},
};

class Steps {
 public:
  Steps(const model::Config& shape, model::Recompute recompute, base::Threads& threads) : shape_(shape) {
    config_.recompute = recompute;
    config_.batch_size = kSequences;
    config_.sequence_length = kLength;
    config_.schedule = {.steps = 10, .warmup_steps = 1, .learning_rate = 0.01, .min_learning_rate = 0.001};
    parameters_.emplace(shape_);
    parameters_->initialize(1);
    model_.emplace(shape_, parameters_->weights());
    stepper_.emplace(config_, *model_, *parameters_, 1e9, threads);
  }

  MemoryPlan plan() const { return plan_memory(config_, *model_, 0, nullptr); }

  // What a step over micro-batches that are there takes.
  tests::Taken step(uint64_t seed, int sequences = kSequences, int micro_batches = 1) {
    std::vector<TokenBatch> batches;
    for (int b = 0; b < micro_batches; ++b)
      batches.push_back(batch_of(shape_.vocab, seed + 1000 * static_cast<uint64_t>(b), sequences));
    return tests::taken_by([&] { stepper_->step(batches, progress_); });
  }

 private:
  TrainConfig config_;
  model::Config shape_;
  std::optional<Parameters> parameters_;
  std::optional<model::Model> model_;
  std::optional<Stepper> stepper_;
  Progress progress_{0, base::Rng(1).state()};
};

TEST_CASE("memory: what a run is said to take is what it takes") {
  base::Threads threads(2);
  for (const Case& c : kCases)
    for (const auto recompute : {model::Recompute::kNone, model::Recompute::kBlock}) {
      CAPTURE(c.name);
      CAPTURE(recompute == model::Recompute::kBlock);
      const int64_t before = held;
      Steps steps(config_of(c.changes), recompute, threads);
      steps.step(1);
      const auto took = static_cast<double>(held - before), said = static_cast<double>(steps.plan().total());
      CHECK(took > 0.97 * said);
      CHECK(took < 1.03 * said);
    }
}

// What is left are lists of layers and of experts: more tokens take no byte more.
void check_later_steps(const model::Config& shape, model::Recompute recompute, int micro_batches,
                       base::Threads& threads) {
  Steps few(shape, recompute, threads), many(shape, recompute, threads);
  tests::Taken by_few{}, by_many{};
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    by_few = few.step(seed, kSequences / 2, micro_batches);
    by_many = many.step(seed, kSequences, micro_batches);
  }
  CHECK(by_many.blocks == by_few.blocks);
  CHECK(by_many.bytes == by_few.bytes);
}

TEST_CASE("memory: later steps take no room for what tokens need") {
  base::Threads threads(2);
  for (const Case& c : kCases)
    for (const auto recompute : {model::Recompute::kNone, model::Recompute::kBlock}) {
      CAPTURE(c.name);
      CAPTURE(recompute == model::Recompute::kBlock);
      check_later_steps(config_of(c.changes), recompute, 1, threads);
    }
  check_later_steps(config_of("{}"), model::Recompute::kNone, 2, threads);
}

// The best assignment keeps a heap for each pair of experts, in which tokens come and go. Where tokens get as many
// experts as pass a threshold, a step may have more pairs than any before, and the experts' buffers grow.
TEST_CASE("memory: nor do the steps of most routers") {
  base::Threads threads(2);
  for (const std::string& router : tests::router_expressions()) {
    CAPTURE(router);
    if (router == "base" || router == "remoe" || router == "expert_threshold") continue;
    model::Config shape = config_of(R"({"num_local_experts": 16})");
    for (model::LayerConfig& layer : shape.layers) layer.router = moe::parse_router(router).expression();
    check_later_steps(shape, model::Recompute::kNone, 1, threads);
  }
}

}  // namespace
}  // namespace choir::train
