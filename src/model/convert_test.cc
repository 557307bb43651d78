#include "model/convert.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "model/gguf_config.h"
#include "model/gguf_model.h"
#include "model/layerwise.h"
#include "tests/convert_case.h"

namespace choir::model {
namespace {

TEST_CASE("convert: to GGUF and back every family has the same bytes and the same logits") {
  for (const Json& json : families()) {
    CAPTURE(json.dump());
    Case c(json);
    const Converted done = c.to_gguf();
    CHECK(done.ignored.empty());
    CHECK(done.notes.empty());
    CHECK(logits_of(c.gguf) == logits_of(c.source));
    Source from(c.gguf);
    convert_to_safetensors(from, {}, tensor::Layout::kRows, c.back, config_file_of(c.gguf));
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
    return bytes.data() + (file.find(name)->bytes.data() - file.files().front()->bytes().data());
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
  CHECK(contains(reason(families()[10], {{"swiglu_limit", 1.5}}), "at 7"));
  CHECK(contains(reason(olmoe, {{"num_key_value_heads", 2}}), "key-value heads"));
  CHECK(contains(reason(families()[11], {{"q_lora_rank", nullptr}}), "26 or 27 layers"));
  CHECK(reason(families()[11], {{"q_lora_rank", nullptr}, {"num_hidden_layers", 27}}).empty());
  CHECK(contains(reason(families()[11], {{"first_k_dense_replace", 3}}), "no layer has experts"));
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
