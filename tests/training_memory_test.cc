// What training steps take from the system: all of it in the first one, and as much as was said before.
#include <doctest/doctest.h>
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <nlohmann/json.hpp>

#include "tests/random_model.h"
#include "train/memory.h"
#include "train/step.h"

namespace {

// Every block that the program holds; `largest` is of those taken since it was set to 0.
std::atomic<int64_t> held{0}, largest{0};

void* counted(void* block) {
  if (!block) throw std::bad_alloc();
  const auto size = static_cast<int64_t>(malloc_usable_size(block));
  held += size;
  for (int64_t seen = largest; seen < size && !largest.compare_exchange_weak(seen, size);) continue;
  return block;
}

void released(void* block) {
  if (block) held -= static_cast<int64_t>(malloc_usable_size(block));
  std::free(block);
}

size_t rounded(size_t size, std::align_val_t align) {
  const auto step = static_cast<size_t>(align);
  return (size + step - 1) / step * step;
}

}  // namespace

void* operator new(size_t size) { return counted(std::malloc(size)); }
void* operator new(size_t size, std::align_val_t align) {
  return counted(std::aligned_alloc(static_cast<size_t>(align), rounded(size, align)));
}
void operator delete(void* block) noexcept { released(block); }
void operator delete(void* block, size_t) noexcept { released(block); }
void operator delete(void* block, std::align_val_t) noexcept { released(block); }
void operator delete(void* block, size_t, std::align_val_t) noexcept { released(block); }

namespace choir::train {
namespace {

constexpr int kSequences = 6, kLength = 128, kRows = kSequences * kLength, kExperts = 4;

model::Config config_of(const std::string& changes) {
  nlohmann::json json{{"model_type", "mixtral"},       {"hidden_size", 64},        {"intermediate_size", 96},
                      {"num_hidden_layers", 3},        {"num_attention_heads", 4}, {"num_key_value_heads", 2},
                      {"num_local_experts", kExperts}, {"num_experts_per_tok", 2}, {"max_position_embeddings", kLength},
                      {"rope_theta", 10000.0},         {"rms_norm_eps", 1e-5},     {"router_aux_loss_coef", 0.01},
                      {"tie_word_embeddings", false},  {"vocab_size", 500}};
  json.update(nlohmann::json::parse(changes));
  return model::parse_config(json, "test");
}

TokenBatch batch_of(int vocab, uint64_t seed) {
  TokenBatch batch;
  for (int s = 0; s < kSequences; ++s)
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
  Steps(const Case& c, model::Recompute recompute, base::Threads& threads) : shape_(config_of(c.changes)) {
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
  void step(uint64_t seed) { stepper_->step({{batch_of(shape_.vocab, seed)}}, progress_); }

  // Of a step over a batch that is there.
  int64_t largest_of_step(uint64_t seed) {
    const std::vector<TokenBatch> batches{batch_of(shape_.vocab, seed)};
    largest = 0;
    stepper_->step(batches, progress_);
    return largest;
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
      Steps steps(c, recompute, threads);
      steps.step(1);
      const auto took = static_cast<double>(held - before), said = static_cast<double>(steps.plan().total());
      CHECK(took > 0.97 * said);
      CHECK(took < 1.03 * said);
    }
}

// The lists of a routing are left: a number for each token and expert at most, where an activation has `width`.
TEST_CASE("memory: a second step takes no room for activations or gradients") {
  base::Threads threads(2);
  for (const Case& c : kCases)
    for (const auto recompute : {model::Recompute::kNone, model::Recompute::kBlock}) {
      CAPTURE(c.name);
      CAPTURE(recompute == model::Recompute::kBlock);
      Steps steps(c, recompute, threads);
      steps.step(1);
      const int64_t most = steps.largest_of_step(2);
      CHECK(most < kRows * (kExperts + 1) * static_cast<int64_t>(sizeof(float)));
    }
}

}  // namespace
}  // namespace choir::train
