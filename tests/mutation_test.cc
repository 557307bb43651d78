// The comparisons of oracle_test and golden_test are worth something if every ingredient of a model shows in the
// logits: each mistake that is made here moves them far beyond the bound.
#include <doctest/doctest.h>

#include <filesystem>
#include <functional>

#include "tests/reference_case.h"

namespace choir {
namespace {

namespace fs = std::filesystem;
using model::Config;
using model::Model;
using tensor::Weight;
using Tensors = model::ModelTensors<Weight>;
using Mistake = std::function<void(Config&, Tensors&)>;

constexpr double kMoved = 1e-3;  // five times the bound

// A case, and how far a mistake moves the logits of its one sequence.
struct Case {
  Model model;
  io::SafetensorsFile reference;
  std::vector<int32_t> ids;
  std::vector<float> logits;

  explicit Case(const std::string& directory)
      : model(directory),
        reference(directory + "/reference.safetensors"),
        ids(tests::read_ids(reference, "A.input_ids")),
        logits(tests::read<float>(reference, "A.logits")) {
    CHECK(moved([](Config&, Tensors&) {}) <= tests::kLogits);
  }

  double moved(const Mistake& mistake) const {
    Config config = model.config();
    Tensors tensors = model.tensors();
    mistake(config, tensors);
    return tests::distance(tests::all_logits(Model(config, tensors), ids, 1), logits);
  }
};

Case golden(const std::string& name) { return Case(std::string(CHOIR_SOURCE_DIR) + "/tests/golden/" + name); }

std::optional<Case> oracle(const std::string& name) {
  const std::string directory = std::string(CHOIR_SOURCE_DIR) + "/../shared/oracle/" + name;
  if (fs::exists(directory)) return Case(directory);
  MESSAGE("skipped: " << directory << " absent");
  return {};
}

void check(const Case& c, std::initializer_list<std::pair<const char*, Mistake>> mistakes) {
  for (const auto& [what, mistake] : mistakes) {
    CAPTURE(std::string(what));
    CHECK(c.moved(mistake) > kMoved);
  }
}

// Zeros in the place of e_score_correction_bias.
void forget_bias(Config&, Tensors& t) {
  static const std::vector<float> zeros(64);
  for (auto& block : t.blocks)
    if (block.moe.state.data) block.moe.state.data = zeros.data();
}

template <class Change>
Mistake each_block(const Change& change) {
  return [change](Config&, Tensors& t) {
    for (auto& block : t.blocks) change(block);
  };
}

TEST_CASE("mutation: what all families share") {
  const auto c = oracle("mixtral_1");
  if (!c) return;
  check(*c, {{"theta", [](Config& m, Tensors&) { m.rope.theta *= 2; }},
             {"interleaved", [](Config& m, Tensors&) { m.pairs = kernels::Pairs::kNeighbours; }},
             {"epsilon", [](Config& m, Tensors&) { m.norm_epsilon *= 10; }},
             {"window", [](Config& m, Tensors&) { m.attention.window = 36; }},
             {"one expert fewer", [](Config& m, Tensors&) { m.layers[1].top_k = 1; }},
             {"skipping", [](Config& m, Tensors&) { m.layers[2].skip_beta = 0.5f; }},
             {"renormalising", [](Config& m, Tensors&) { m.router.weights = moe::PublishedRouter::Weights::kRaw; }},
             {"gate and up", [](Config&, Tensors& t) { std::swap(t.blocks[0].moe.w1, t.blocks[0].moe.w3); }},
             {"two experts", [](Config&, Tensors& t) { std::swap(t.blocks[2].moe.w2[0], t.blocks[2].moe.w2[1]); }},
             {"k and v", [](Config&, Tensors& t) { std::swap(t.blocks[1].attention.k, t.blocks[1].attention.v); }},
             {"norms", [](Config&, Tensors& t) { t.blocks[1].moe_norm = t.blocks[1].attention.norm; }}});
}

// Query head h reads key-value head h mod 2 instead of h div 2: the same as permuted rows of q and columns of o.
TEST_CASE("mutation: key-value heads that are tiled instead of repeated") {
  const Case c = golden("mistral");
  const auto& a = c.model.config().attention;
  std::vector<tensor::Buffer<float>> owned;
  CHECK(c.moved([&](Config& config, Tensors& t) {
    const int w = a.head_width, d = config.width;
    const std::vector<int> order{0, 2, 1, 3};  // the heads of tile 0, then those of tile 1
    for (auto& block : t.blocks) {
      const auto q = tensor::as_matrix(block.attention.q), o = tensor::as_matrix(block.attention.o);
      const auto turned_q = owned.emplace_back(q.rows * q.cols).matrix(q.rows, q.cols);
      const auto turned_o = owned.emplace_back(o.rows * o.cols).matrix(o.rows, o.cols);
      for (int h = 0; h < 4; ++h)
        for (int i = 0; i < w; ++i) {
          std::copy_n(q[order[h] * w + i], d, turned_q[h * w + i]);
          for (int r = 0; r < d; ++r) turned_o[r][h * w + i] = o[r][order[h] * w + i];
        }
      block.attention.q = Weight(tensor::Matrix<const float>(turned_q));
      block.attention.o = Weight(tensor::Matrix<const float>(turned_o));
    }
  }) > kMoved);
}

TEST_CASE("mutation: windows, head widths and stretched positions") {
  check(golden("mistral"),
        {{"window + 1", [](Config& m, Tensors&) { ++m.attention.window; }},
         {"no window", [](Config& m, Tensors&) { m.attention.window = 0; }},
         {"scale of D / heads", [](Config& m, Tensors&) { m.attention.scale = 1 / std::sqrt(6.0f); }}});
  check(golden("qwen2"), {{"all layers slide", [](Config& m, Tensors&) { m.layers[0].sees_all = false; }},
                          {"no layer slides", [](Config& m, Tensors&) { m.layers[1].sees_all = true; }},
                          {"biases", each_block([](auto& b) {
                             for (Weight* w : {&b.attention.q_bias, &b.attention.k_bias, &b.attention.v_bias}) *w = {};
                           })}});
  check(golden("qwen3"), {{"no yarn", [](Config& m, Tensors&) { m.rope.kind = kernels::RopeSpec::Kind::kNone; }},
                          {"whole pairs", [](Config& m, Tensors&) { m.rope.truncate = false; }},
                          {"original length", [](Config& m, Tensors&) { m.rope.original_length = 64; }},
                          {"attention factor", [](Config& m, Tensors&) { m.rope.attention_factor = 1; }},
                          {"no norm of q", each_block([](auto& b) { b.attention.q_norm = {}; })}});
  check(golden("llama"), {{"no llama3", [](Config& m, Tensors&) { m.rope.kind = kernels::RopeSpec::Kind::kNone; }},
                          {"linear", [](Config& m, Tensors&) { m.rope.kind = kernels::RopeSpec::Kind::kLinear; }},
                          {"bias of o", each_block([](auto& b) { b.attention.o_bias = {}; })}});
  check(golden("phimoe"), {{"one list alone", [](Config& m, Tensors&) { m.rope.long_factor = m.rope.short_factor; }},
                           {"mscale", [](Config& m, Tensors&) { m.rope.long_mscale = m.rope.short_mscale; }}});
}

TEST_CASE("mutation: Qwen2-MoE and OLMoE") {
  const Mistake renorm = [](Config& m, Tensors&) { m.router.weights = moe::PublishedRouter::Weights::kNormalised; };
  const Mistake raw = [](Config& m, Tensors&) { m.router.weights = moe::PublishedRouter::Weights::kRaw; };
  check(golden("qwen2_moe"), {{"renormalising", raw},
                              {"shared gate", each_block([](auto& b) { b.moe.shared.gate = {}; })},
                              {"shared expert", [](Config&, Tensors& t) { t.blocks[1].moe.shared = {}; }},
                              {"layer types", [](Config& m, Tensors&) { m.layers[0].sees_all = false; }}});
  check(golden("olmoe"), {{"renormalising", raw},
                          {"clip", [](Config& m, Tensors&) { m.clip_qkv = 0; }},
                          {"no norm of k", each_block([](auto& b) { b.attention.k_norm = {}; })}});
  if (const auto c = oracle("qwen2_moe_1"))
    check(*c, {{"renormalising", renorm}, {"shared gate", each_block([](auto& b) { b.moe.shared.gate = {}; })}});
  if (const auto c = oracle("olmoe_1"))
    check(*c,
          {{"renormalising", renorm},
           {"norm of each head", each_block([](auto& b) { b.attention.q_norm.cols = b.attention.k_norm.cols = 16; })}});
  if (const auto c = oracle("qwen3_moe_1"))
    check(*c, {{"renormalising", raw}, {"scale", [](Config& m, Tensors&) { m.attention.scale = 0.3464f; }}});
}

TEST_CASE("mutation: DeepSeek") {
  const Mistake halves = [](Config& m, Tensors&) { m.pairs = kernels::Pairs::kHalves; };
  const Mistake scale = [](Config& m, Tensors&) { m.router.scale = 1; };
  const Mistake groups = [](Config& m, Tensors&) { m.router.groups = m.router.keep = 1; };
  check(golden("deepseek_v2"),
        {{"half-split", halves},
         {"scale", scale},
         {"groups", groups},
         {"m squared", [](Config& m, Tensors&) { m.latent.scale = 0; }},
         {"two best of a group", [](Config& m, Tensors&) { m.router.by_top_two = true; }},
         {"renormalising", [](Config& m, Tensors&) { m.router.weights = moe::PublishedRouter::Weights::kNormalised; }},
         {"shared experts", [](Config&, Tensors& t) { t.blocks[1].moe.shared = {}; }}});
  check(golden("deepseek_v3"),
        {{"half-split", halves},
         {"scale", scale},
         {"groups", groups},
         {"the best of a group", [](Config& m, Tensors&) { m.router.by_top_two = false; }},
         {"no selection bias", forget_bias},
         {"renormalising", [](Config& m, Tensors&) { m.router.weights = moe::PublishedRouter::Weights::kRaw; }}});
  if (const auto c = oracle("deepseek_v2_1"))
    check(*c, {{"half-split", halves}, {"one shared", [](Config&, Tensors& t) { t.blocks[1].moe.shared = {}; }}});
  if (const auto c = oracle("deepseek_v3_1")) check(*c, {{"half-split", halves}, {"scale", scale}, {"groups", groups}});
}

TEST_CASE("mutation: Phi") {
  const std::initializer_list<std::pair<const char*, Mistake>> mistakes{
      {"softmax of two", [](Config& m, Tensors&) { m.router.weights = moe::PublishedRouter::Weights::kNormalised; }},
      {"another bias", each_block([](auto& b) { b.moe_norm_bias = b.attention.norm_bias; })},
      {"RMS norm", each_block([](auto& b) { b.moe_norm_bias = {}; })},
      {"last norm", [](Config&, Tensors& t) { t.norm_bias = {}; }},
      {"bias of the head", [](Config&, Tensors& t) { t.head_bias = {}; }},
      {"bias of o", each_block([](auto& b) { b.attention.o_bias = {}; })}};
  check(golden("phimoe"), mistakes);
  check(golden("phimoe"), {{"jitter", [](Config& m, Tensors&) { m.router.eps *= 2; }}});
  if (const auto c = oracle("phimoe_1")) check(*c, mistakes);
}

TEST_CASE("mutation: gpt-oss and GraniteMoE") {
  for (const char* name : {"gpt_oss", "gpt_oss_mxfp4"})
    check(golden(name), {{"sinks", each_block([](auto& b) { b.attention.sinks = {}; })},
                         {"limit", each_block([](auto& b) { b.moe.activation.limit = 7; })},
                         {"alpha", each_block([](auto& b) { b.moe.activation.alpha = 1; })},
                         {"plain SwiGLU", each_block([](auto& b) { b.moe.activation = {}; })},
                         {"gate and up", each_block([](auto& b) { std::swap(b.moe.w1, b.moe.w3); })},
                         {"biases of experts", each_block([](auto& b) {
                            for (auto* list : {&b.moe.b1, &b.moe.b2, &b.moe.b3}) list->clear();
                          })},
                         {"bias of the router",
                          [](Config& m, Tensors& t) {
                            m.router.gate_bias = false;
                            for (auto& b : t.blocks) b.moe.gate.resize(1);
                          }},
                         {"window", [](Config& m, Tensors&) { --m.attention.window; }},
                         {"other layers slide", [](Config& m, Tensors&) { std::swap(m.layers[0], m.layers[1]); }},
                         {"whole pairs", [](Config& m, Tensors&) { m.rope.truncate = true; }}});
  check(golden("granitemoe"), {{"embedding", [](Config& m, Tensors&) { m.embedding_multiplier = 1; }},
                               {"residual", [](Config& m, Tensors&) { m.residual_multiplier = 1; }},
                               {"attention", [](Config& m, Tensors&) { m.attention.scale = 0; }},
                               {"logits", [](Config& m, Tensors&) { m.logit_divisor = 1; }},
                               {"gate and up", each_block([](auto& b) { std::swap(b.moe.w1, b.moe.w3); })}});
}

}  // namespace
}  // namespace choir
