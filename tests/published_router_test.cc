// Routings of the models' own implementation: its router logits through our routers, and the experts and weights that
// it made of them.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "io/safetensors.h"
#include "moe/published.h"
#include "moe/router.h"

namespace choir {
namespace {

namespace fs = std::filesystem;
using moe::PublishedRouter;
using Chosen = std::map<int64_t, float>;

std::string case_of(const std::string& name) { return std::string(CHOIR_SOURCE_DIR) + "/../shared/oracle/" + name; }

template <class T>
std::vector<T> read(const io::SafetensorsFile& file, const std::string& name) {
  const io::Tensor* tensor = file.find(name);
  REQUIRE_MESSAGE(tensor, name);
  std::vector<T> values(tensor->elements());
  REQUIRE(tensor->bytes.size() == values.size() * sizeof(T));
  std::memcpy(values.data(), tensor->bytes.data(), tensor->bytes.size());
  return values;
}

struct Case {
  nlohmann::json config;
  io::SafetensorsFile reference, weights;

  explicit Case(const std::string& path)
      : config(nlohmann::json::parse(std::ifstream(path + "/config.json"))),
        reference(path + "/reference.safetensors"),
        weights(path + "/model.safetensors") {}
  int layers() const { return config["num_hidden_layers"]; }
};

// The plan for given logits: the tokens are the logits, and the gate picks channel e for expert e.
void route(const moe::Router& router, const std::vector<float>& logits, const std::vector<float>& state, int experts,
           moe::Routing& routing) {
  std::vector<float> identity(static_cast<size_t>(experts * experts));
  for (int e = 0; e < experts; ++e) identity[static_cast<size_t>(e * experts + e)] = 1;
  const tensor::Weight gate[] = {tensor::Matrix<const float>(identity.data(), experts, experts)};
  base::Threads threads(2);
  moe::Tokens tokens;
  tokens.x = {logits.data(), static_cast<int>(logits.size()) / experts, experts};
  router.route(
      {.tokens = tokens, .experts = experts, .tensors = gate, .state = state, .shares = {}, .threads = threads},
      moe::Balancing::kOff, routing);
}

Chosen ours(const moe::Plan& plan, size_t token) {
  Chosen chosen;
  for (int e = 0; e < plan.experts(); ++e)
    for (int i = plan.offset[e]; i < plan.offset[e + 1]; ++i)
      if (plan.token[i] == static_cast<int32_t>(token)) chosen[e] = plan.weight[i];
  return chosen;
}

// How many tokens have other experts than theirs, or a weight that differs by more than 1e-5.
int differing(const Case& c, const std::string& batch, int layer, const PublishedRouter& published) {
  const std::string at = "." + std::to_string(layer);
  const auto logits = read<float>(c.reference, batch + ".router_logits" + at);
  const auto index = read<int64_t>(c.reference, batch + ".topk_idx" + at);
  const auto weight = read<float>(c.reference, batch + ".topk_weight" + at);
  const size_t k = c.config["num_experts_per_tok"], tokens = index.size() / k, experts = logits.size() / tokens;
  const std::string bias = "model.layers" + at + ".mlp.gate.e_score_correction_bias";
  std::vector<float> state;
  if (published.selection_bias) state = read<float>(c.weights, bias);
  moe::Routing routing;
  route(moe::parse_router(expression_of(published)), logits, state, static_cast<int>(experts), routing);
  int different = 0;
  for (size_t t = 0; t < tokens; ++t) {
    const Chosen mine = ours(routing.plan, t);
    bool same = mine.size() == k;
    for (size_t i = t * k; i < (t + 1) * k; ++i)
      same = same && mine.count(index[i]) && std::abs(mine.at(index[i]) - weight[i]) <= 1e-5f;
    different += !same;
  }
  return different;
}

void check_case(const std::string& name, const PublishedRouter& published, int first_layer,
                const std::vector<PublishedRouter>& mistakes) {
  CAPTURE(name);
  if (!fs::exists(case_of(name))) {
    MESSAGE("skipped: oracle/" << name << " absent");
    return;
  }
  const Case c(case_of(name));
  for (const std::string batch : {"A", "B"})
    for (int l = first_layer; l < c.layers(); ++l) {
      CAPTURE(l);
      CHECK(differing(c, batch, l, published) == 0);
      for (const PublishedRouter& mistake : mistakes) {
        CAPTURE(expression_of(mistake));
        CHECK(differing(c, batch, l, mistake) > 0);
      }
    }
}

using Weights = PublishedRouter::Weights;

TEST_CASE("published routers: experts and weights of the models' own implementation") {
  const PublishedRouter normalised{.k = 2}, raw{.k = 2, .weights = Weights::kRaw};
  check_case("mixtral_1", normalised, 0, {raw});
  check_case("mixtral_bf16", normalised, 0, {raw});
  check_case("qwen3_moe_1", normalised, 0, {raw});
  check_case("olmoe_1", raw, 0, {normalised});
  check_case("qwen2_moe_1", {.k = 4, .weights = Weights::kRaw}, 0, {{.k = 4}});
  check_case("deepseek_v2_1", raw, 1, {normalised, {.k = 2, .weights = Weights::kRaw, .scale = 2}});
  check_case("phimoe_1", {.weights = Weights::kSparseMixer}, 0, {normalised, raw});
}

TEST_CASE("published routers: DeepSeek-V3, whose selection bias is the router's state") {
  const PublishedRouter right{.k = 4,
                              .score = PublishedRouter::Score::kSigmoid,
                              .scale = 2.5f,
                              .groups = 4,
                              .keep = 2,
                              .by_top_two = true,
                              .selection_bias = true};
  std::vector<PublishedRouter> mistakes(5, right);
  mistakes[0].scale = 1;
  mistakes[1].groups = 1;
  mistakes[2].selection_bias = false;
  mistakes[3].weights = Weights::kRaw;
  mistakes[4].by_top_two = false;
  check_case("deepseek_v3_1", right, 1, mistakes);
}

}  // namespace
}  // namespace choir
