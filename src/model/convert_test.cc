#include "model/convert.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/gguf_config.h"
#include "model/gguf_model.h"
#include "model/layerwise.h"
#include "tests/files.h"
#include "tests/random_model.h"

namespace choir::model {
namespace {

using io::Tensor;
using tensor::DType;
using tests::contains;
using tests::refusal_of;
using Json = nlohmann::json;

// What most families have in common, small and with awkward sizes; heads wider than the model where that is allowed.
Json common(const char* family) {
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

Json with(Json json, const Json& more) {
  json.update(more);
  return json;
}

// Every family that llama.cpp computes as its own code does.
std::vector<Json> families() {
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

std::vector<float> logits_of(const std::string& path) {
  const Model model(path);
  return tests::all_logits(model, tests::random_ids(24, model.config().vocab, 3), 2);
}

TEST_CASE("convert: to GGUF and back every family has the same bytes and the same logits") {
  for (const Json& json : families()) {
    CAPTURE(json.dump());
    Case c(json);
    const Converted done = c.to_gguf();
    CHECK(done.ignored.empty());
    CHECK(done.notes.empty());
    CHECK(logits_of(c.gguf) == logits_of(c.source));
    Source from(c.gguf);
    convert_to_safetensors(from, {}, c.back, config_file_of(c.gguf));
    const io::TensorDirectory before(c.source), after(c.back);
    for (const Tensor& t : before.tensors()) {
      CAPTURE(t.name);
      const Tensor* found = after.find(t.name);
      REQUIRE(found != nullptr);
      CHECK(found->shape == t.shape);
      CHECK(std::equal(t.bytes.begin(), t.bytes.end(), found->bytes.begin(), found->bytes.end()));
    }
    CHECK(logits_of(c.back) == logits_of(c.source));
  }
}

TEST_CASE("convert: layer by layer a model answers as in one piece") {
  base::Threads threads(2);
  for (const Json& json : families()) {
    CAPTURE(json.dump());
    const Case c(json);
    Source source(c.source);
    const auto ids = tests::random_ids(9, source.config().vocab, 4);
    std::vector<float> logits(ids.size() * static_cast<size_t>(source.config().vocab));
    layerwise_forward(source, ids, {}, {logits.data(), 9, source.config().vocab}, threads);
    CHECK(logits == tests::all_logits(Model(c.source), ids, 1));
  }
}

TEST_CASE("convert: rounded to every type the result answers as the rounded source does") {
  base::Threads threads(2);
  for (const Json& json : families()) {
    Json wide = json;  // whole blocks
    wide["hidden_size"] = 96;
    wide["intermediate_size"] = wide["moe_intermediate_size"] = 64;
    Case c(wide);
    for (const DType type : {DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_0}) {
      CAPTURE(wide.dump());
      CAPTURE(tensor::name_of(type));
      Verified verified;
      c.to_gguf(type, [&](const std::string& path, const Converted& done) {
        Source source(c.source);
        verified = verify(source, path, done, threads);
      });
      CHECK(verified.ids == 8);
      CHECK(verified.fault < 1e-4 * std::max(1.0, verified.largest));
      CHECK(verified.drift > verified.fault);
      const bool is_head = wide["tie_word_embeddings"].get<bool>();
      const Model model(c.gguf);
      CHECK(model.tensors().embedding.type == (type == DType::kQ4_0 && is_head ? DType::kQ8_0 : type));
      if (tensor::is_blocked(type))
        CHECK(contains(refusal_of([&] { model.save(c.back, wide); }), "which safetensors cannot hold"));
    }
  }
}

TEST_CASE("convert: a result with exchanged tensors does not pass") {
  base::Threads threads(1);
  Case c(families()[0]);
  const Converted done = c.to_gguf();
  Source source(c.source);
  CHECK(verify(source, c.gguf, done, threads).fault < 1e-4);
  std::string bytes = base::read_file(c.gguf);
  const io::GgufFile file(c.gguf);
  const auto at = [&](const char* name) {
    return bytes.data() + (file.find(name)->bytes.data() - file.file()->bytes().data());
  };
  std::swap_ranges(at("blk.1.ffn_gate_exps.weight"),
                   at("blk.1.ffn_gate_exps.weight") + file.find("blk.1.ffn_gate_exps.weight")->bytes.size(),
                   at("blk.1.ffn_up_exps.weight"));
  c.write("exchanged.gguf", bytes);
  CHECK_THROWS_AS(verify(source, c.file("exchanged.gguf"), done, threads), base::Error);
}

// llama.cpp's permute: reshape [heads, 2, W/2], exchange the last two axes.
TEST_CASE("convert: rows of q and k lie in llama.cpp's order") {
  const int heads = 3, width = 8;
  std::vector<int64_t> permuted;
  for (int h = 0; h < heads; ++h)
    for (int j = 0; j < width / 2; ++j)
      for (int half = 0; half < 2; ++half) permuted.push_back(h * width + half * (width / 2) + j);
  for (int64_t r = 0; r < heads * width; ++r) {
    CHECK(row_of_neighbours(r, width) == permuted[static_cast<size_t>(r)]);
    CHECK(row_of_halves(row_of_neighbours(r, width), width) == r);
  }
}

// Writes a file again with other tensors in place of some.
void rewrite(const std::string& from, const std::string& to,
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

TEST_CASE("convert: old files with a tensor for each expert are read") {
  Case c(families()[0]);
  c.to_gguf();
  rewrite(c.gguf, c.file("old.gguf"), [](const Tensor& t) -> std::vector<Tensor> {
    const size_t at = t.name.find("_exps.");
    if (at == std::string::npos) return {t};
    std::vector<Tensor> alone;
    const size_t size = t.bytes.size() / static_cast<size_t>(t.shape[0]);
    for (size_t e = 0; e < static_cast<size_t>(t.shape[0]); ++e)
      alone.push_back({t.name.substr(0, at) + "." + std::to_string(e) + ".weight",
                       t.type,
                       {t.shape[1], t.shape[2]},
                       t.bytes.subspan(e * size, size)});
    return alone;
  });
  CHECK(logits_of(c.file("old.gguf")) == logits_of(c.source));
}

TEST_CASE("convert: kv_b in two parts is read") {
  Case c(families()[11]);
  REQUIRE(c.json["model_type"] == "deepseek_v2");
  c.to_gguf();
  constexpr size_t kHeads = 6, kNope = 8, kValue = 6, kRank = 10;
  std::vector<std::vector<float>> made;
  made.reserve(100);
  rewrite(c.gguf, c.file("new.gguf"), [&](const Tensor& t) -> std::vector<Tensor> {
    const size_t at = t.name.find("attn_kv_b");
    if (at == std::string::npos) return {t};
    std::vector<float> whole(t.elements()), k, v;
    std::memcpy(whole.data(), t.bytes.data(), t.bytes.size());
    for (size_t h = 0; h < kHeads; ++h) {
      const float* head = whole.data() + h * (kNope + kValue) * kRank;
      for (size_t r = 0; r < kRank; ++r)
        for (size_t i = 0; i < kNope; ++i) k.push_back(head[i * kRank + r]);
      v.insert(v.end(), head + kNope * kRank, head + (kNope + kValue) * kRank);
    }
    made.push_back(k);
    made.push_back(v);
    const std::string in = t.name.substr(0, at);
    return {{in + "attn_k_b.weight", DType::kF32, {6, 10, 8}, std::as_bytes(std::span(made[made.size() - 2]))},
            {in + "attn_v_b.weight", DType::kF32, {6, 6, 10}, std::as_bytes(std::span(made.back()))}};
  });
  CHECK(logits_of(c.file("new.gguf")) == logits_of(c.source));
}

TEST_CASE("convert: missing, unknown and misshapen tensors are refused by name, further ones accounted for") {
  Case c(families()[0]);
  c.to_gguf();
  const std::string other = c.file("other.gguf");
  const auto refusal = [&] { return refusal_of([&] { Model model(other); }); };
  rewrite(c.gguf, other, [](const Tensor& t) -> std::vector<Tensor> {
    if (t.name == "blk.1.attn_k.weight") return {};
    return {t};
  });
  CHECK(contains(refusal(), "tensor missing: blk.1.attn_k.weight"));
  rewrite(c.gguf, other, [](Tensor t) -> std::vector<Tensor> {
    if (t.name == "blk.1.attn_k.weight") t.name = "blk.1.attn_z.weight";
    return {t};
  });
  CHECK(contains(refusal(), "tensor missing: blk.1.attn_k.weight"));
  const std::vector<float> more(4);
  const auto beside = [&](const std::string& name) {
    rewrite(c.gguf, other, [&](const Tensor& t) -> std::vector<Tensor> {
      if (t.name != "output_norm.weight") return {t};
      return {t, {name, DType::kF32, {4}, std::as_bytes(std::span(more))}};
    });
  };
  beside("blk.1.attn_z.weight");
  CHECK(contains(refusal(), "unknown tensor: blk.1.attn_z.weight"));
  beside("blk.3.nextn.eh_proj.weight");
  CHECK(contains(open_gguf(other, RowOrder::kFile).ignored.at(0), "predicts further tokens"));
  rewrite(c.gguf, other, [](Tensor t) -> std::vector<Tensor> {
    if (t.name == "blk.2.attn_q.weight") std::swap(t.shape[0], t.shape[1]);
    return {t};
  });
  CHECK(contains(refusal(), "tensor blk.2.attn_q.weight has another shape than [48,36]"));
}

TEST_CASE("convert: what llama.cpp cannot compute is refused with the reason") {
  const auto reason = [](const Json& json, const Json& more) {
    return reason_against_gguf(parse_config(with(json, more), "test"));
  };
  const Json mixtral = families()[0], qwen2 = families()[6], qwen3 = families()[7], olmoe = families()[8];
  for (const Json& json : families()) CHECK(reason(json, Json::object()).empty());
  const Json pruned{{"choir", {{"num_local_experts", {5, 4, 5}}}}};
  CHECK(contains(reason(mixtral, pruned), "layer 1 has experts 4 where another has 5"));
  CHECK(contains(reason(mixtral, {{"betas", {{"0", 0.5}}}}), "layer 0 skips experts"));
  CHECK(contains(reason(mixtral, {{"sliding_window", 8}}), "no sliding window"));
  CHECK(contains(reason(qwen2, {{"norm_topk_prob", true}}), "does not renormalise"));
  CHECK(contains(reason(qwen3, {{"norm_topk_prob", false}}), "renormalises"));
  CHECK(contains(reason(qwen3, {{"mlp_only_layers", {0}}}), "experts in every layer"));
  CHECK(contains(reason(olmoe, {{"clip_qkv", 4.0}}), "clip_qkv"));
  CHECK(contains(reason(olmoe, {{"num_key_value_heads", 2}}), "key-value heads"));
  CHECK(contains(reason(families()[11], {{"q_lora_rank", nullptr}}), "26 or 27 layers"));
  CHECK(reason(families()[11], {{"q_lora_rank", nullptr}, {"num_hidden_layers", 27}}).empty());
  Case c(mixtral);
  Json json = with(mixtral, pruned);
  base::write_file(c.source + "/config.json", json.dump(), base::Existing::kReplace);
  try {
    c.to_gguf();
    CHECK(false);
  } catch (const base::Error& error) {
    CHECK(error.fault == base::Fault::kUsage);
    CHECK(contains(error.what(), "one number for all"));
  }
  CHECK(!std::filesystem::exists(c.gguf));
}

TEST_CASE("convert: numbers that a type cannot hold are refused by name, and nothing is left behind") {
  for (const float bad : {1e6f, std::nanf(""), HUGE_VALF}) {
    Case c(families()[0]);
    std::string bytes = base::read_file(c.source + "/model.safetensors");
    const io::TensorDirectory files(c.source);
    const Tensor* t = files.find("model.layers.1.self_attn.v_proj.weight");
    const io::SafetensorsFile single(c.source + "/model.safetensors");
    const Tensor* same = single.find(t->name);
    std::memcpy(bytes.data() + (same->bytes.data() - single.file().bytes().data()) + 40, &bad, sizeof bad);
    base::write_file(c.source + "/model.safetensors", bytes, base::Existing::kReplace);
    CHECK(contains(refusal_of([&] { c.to_gguf(DType::kF16); }), "model.layers.1.self_attn.v_proj.weight"));
    CHECK(!std::filesystem::exists(c.gguf));
  }
}

TEST_CASE("convert: a pruned model keeps the numbers of its experts") {
  Json json = families()[0];
  json["choir"]["kept_experts"] = {{0, 1, 2, 3, 7}, {1, 2, 3, 4, 5}, {0, 2, 4, 6, 7}};
  Case c(json);
  c.to_gguf();
  CHECK(Model(c.gguf).config().layers[0].kept == std::vector<int>{0, 1, 2, 3, 7});
  CHECK(config_file_of(c.gguf)["choir"] == json["choir"]);
}

}  // namespace
}  // namespace choir::model
