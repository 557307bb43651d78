// What is read from GGUF files that others wrote.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "model/gguf_model.h"
#include "model/gguf_names.h"
#include "tests/convert_case.h"

namespace choir::model {
namespace {

TEST_CASE("import: old files with a tensor for each expert are read") {
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

TEST_CASE("import: kv_b in two parts is read") {
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

TEST_CASE("import: missing, unknown and misshapen tensors are refused by name, further ones accounted for") {
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

// As llama.cpp's gguf-split has it: the description in the first part, and every third tensor in each.
TEST_CASE("import: a model in parts answers as in one piece") {
  Case c(families()[0]);
  c.to_gguf();
  const io::GgufFile file(c.gguf);
  for (uint32_t part = 0; part < 3; ++part) {
    io::GgufHeader header;
    for (const io::GgufEntry& entry : file.metadata().entries())
      if (part == 0) header.put(entry);
    header.put("split.no", part);
    header.put("split.count", uint32_t{3});
    header.put("split.tensors.count", static_cast<uint32_t>(file.tensors().size()));
    const auto mine = [&](size_t i) { return i % 3 == part; };
    for (size_t i = 0; i < file.tensors().size(); ++i)
      if (const Tensor& t = file.tensors()[i]; mine(i)) header.declare(t.name, t.type, t.shape);
    io::GgufWriter writer(c.file("m-0000" + std::to_string(part + 1) + "-of-00003.gguf"), header,
                          base::Existing::kReplace);
    for (size_t i = 0; i < file.tensors().size(); ++i)
      if (mine(i)) writer.write(file.tensors()[i].bytes);
    writer.commit();
  }
  const std::string first = c.file("m-00001-of-00003.gguf");
  CHECK(logits_of(first) == logits_of(c.source));
  Source from(first);
  convert_to_safetensors(from, {}, tensor::Layout::kRows, c.back, config_file_of(first));
  CHECK(logits_of(c.back) == logits_of(c.source));
}

TEST_CASE("import: a count of experts in a family that has none is refused, unless it is none") {
  Case c(common("qwen2"));
  c.to_gguf();
  const auto with_count = [&](uint32_t count) {
    const io::GgufFile file(c.gguf);
    io::GgufHeader header;
    for (const io::GgufEntry& entry : file.metadata().entries()) header.put(entry);
    header.put("qwen2.expert_count", count);
    for (const Tensor& t : file.tensors()) header.declare(t.name, t.type, t.shape);
    io::GgufWriter writer(c.file("counted.gguf"), header, base::Existing::kReplace);
    for (const Tensor& t : file.tensors()) writer.write(t.bytes);
    writer.commit();
    return c.file("counted.gguf");
  };
  CHECK(logits_of(with_count(0)) == logits_of(c.source));
  CHECK(contains(refusal_of([&] { Model{with_count(4)}; }), "experts in a family of dense layers"));
}

// The keys and tensors that llama.cpp's converter gives Phi-3.5-MoE, which this one does not write.
TEST_CASE("import: Phi-3.5-MoE") {
  const Json factors{{"type", "longrope"},
                     {"short_factor", {1.0, 1.25, 1.5}},
                     {"long_factor", {1.5, 3.0, 6.0}},
                     {"short_mscale", 1.25},
                     {"long_mscale", 1.25},
                     {"original_max_position_embeddings", 16}};
  Case c(with(common("phimoe"), {{"num_local_experts", 5},
                                 {"num_experts_per_tok", 2},
                                 {"attention_bias", true},
                                 {"lm_head_bias", true},
                                 {"sliding_window", 9},
                                 {"rope_scaling", factors}}));
  const Config config = read_config(c.source + "/config.json");
  io::GgufHeader header;
  header.put("general.architecture", "phimoe");
  for (const auto& [key, value] :
       {std::pair{"context_length", 64u}, std::pair{"embedding_length", 36u}, std::pair{"block_count", 3u},
        std::pair{"feed_forward_length", 20u}, std::pair{"attention.head_count", 6u},
        std::pair{"attention.head_count_kv", 2u}, std::pair{"attention.sliding_window", 9u},
        std::pair{"rope.dimension_count", 6u}, std::pair{"rope.scaling.original_context_length", 16u},
        std::pair{"expert_count", 5u}, std::pair{"expert_used_count", 2u}})
    header.put(std::string("phimoe.") + key, value);
  header.put("phimoe.attention.layer_norm_rms_epsilon", 1e-5f);
  header.put("phimoe.rope.freq_base", 10000.0f);
  header.put("phimoe.rope.scaling.attn_factor", 1.25f);
  const io::TensorDirectory source(c.source);
  const std::vector<float> long_factors{1.5f, 3, 6}, short_factors{1, 1.25f, 1.5f};
  std::vector<std::vector<std::span<const std::byte>>> parts;
  std::vector<Tensor> tensors;
  for (const auto& [name, numbers] :
       {std::pair{"rope_factors_long.weight", &long_factors}, std::pair{"rope_factors_short.weight", &short_factors}}) {
    tensors.push_back({name, DType::kF32, {3}, {}});
    parts.push_back({std::as_bytes(std::span(*numbers))});
  }
  ModelTensors<Weight> places;
  visit_tensors(config, places, [&](const TensorInfo& info, Weight&) {
    const Tensor* found = source.find(info.name);
    REQUIRE(found);
    const GgufPlace place = place_in_gguf(config, *architecture_of("phimoe"), info);
    const auto same = std::ranges::find(tensors, place.name, &Tensor::name);
    const auto at = static_cast<size_t>(same - tensors.begin());
    if (same == tensors.end()) {
      tensors.push_back({place.name, found->type, found->shape, {}});
      if (place.slice >= 0) tensors.back().shape.insert(tensors.back().shape.begin(), 5);
      parts.emplace_back();
    }
    parts[at].push_back(found->bytes);
  });
  for (const Tensor& t : tensors) header.declare(t.name, t.type, t.shape);
  io::GgufWriter writer(c.gguf, header, base::Existing::kReplace);
  for (const auto& tensor : parts)
    for (const auto& piece : tensor) writer.write(piece);
  writer.commit();
  for (const char* name : {"output.bias", "blk.2.attn_output.bias", "blk.0.ffn_norm.bias", "blk.1.ffn_up_exps.weight"})
    CHECK(std::ranges::find(tensors, name, &Tensor::name) != tensors.end());
  CHECK(logits_of(c.gguf) == logits_of(c.source));
  CHECK(open_gguf(c.gguf, RowOrder::kFamily).ignored.size() == 2);
}

// The matrices of a model in blocks, under the family's own names.
std::string with_blocks(const Case& c, DType type) {
  Source source(c.source);
  convert_to_gguf(
      source, type,
      {c.gguf, base::Existing::kReplace, [](io::GgufHeader& header) { header.put("tokenizer.ggml.model", "none"); },
       [](const std::string&, const Converted&) {}});
  return c.gguf;
}

TEST_CASE("import: what a model in blocks can be written as") {
  const Case c(with(common("mixtral"), {{"num_local_experts", 5},
                                        {"num_experts_per_tok", 2},
                                        {"head_dim", 8},
                                        {"hidden_size", 64},
                                        {"intermediate_size", 32}}));
  const Model whole(with_blocks(c, DType::kQ8_0));
  CHECK(contains(refusal_of([&] { whole.savable(); }), "is Q8_0, which safetensors cannot hold: " + c.gguf));
  CHECK(contains(refusal_of([&] { whole.file_bytes(); }), "choir convert MODEL --to safetensors"));
  const Model plain(c.source);
  CHECK(plain.savable().tensors().head.data == plain.tensors().head.data);
}

TEST_CASE("import: MXFP4 stays as it lies, goes to GGUF as it is, and is written as BF16") {
  const std::string from = std::string(CHOIR_SOURCE_DIR) + "/tests/golden/gpt_oss_mxfp4";
  const tests::TemporaryDirectory source_place;
  const std::string golden = source_place.path();
  std::filesystem::copy_file(from + "/model.safetensors", golden + "/model.safetensors");
  source_place.write("config.json", with(config_file_of(from), {{"swiglu_limit", 7.0}}).dump());  // as llama.cpp has it
  const Model model(golden);
  const Model wide = model.savable();
  for (const auto& block : model.tensors().blocks) CHECK(block.moe.w1.front().type == DType::kMXFP4);
  for (const auto& block : wide.tensors().blocks) CHECK(block.moe.w2.front().type == DType::kBF16);
  const std::vector<float> logits = logits_of(golden);
  const tests::TemporaryDirectory place;
  wide.save(place.path(), config_file_of(golden));
  CHECK(logits_of(place.path()) == logits);
  Source source(golden);
  convert_to_gguf(source, {},
                  {place.file("m.gguf"), base::Existing::kRefuse,
                   [](io::GgufHeader& header) { header.put("tokenizer.ggml.model", "none"); },
                   [](const std::string&, const Converted&) {}});
  const io::GgufFile file(place.file("m.gguf"));
  REQUIRE(file.find("blk.0.ffn_down_exps.weight"));
  CHECK(file.find("blk.0.ffn_down_exps.weight")->type == DType::kMXFP4);
  CHECK(logits_of(place.file("m.gguf")) == logits);
}

}  // namespace
}  // namespace choir::model
