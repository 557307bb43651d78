#include "model/packed_file.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>

#include "kernels/packed_gemm.h"
#include "model/gguf_model.h"
#include "model/packed.h"
#include "tests/convert_case.h"

namespace choir::model {
namespace {

struct PackedCase : Case {
  std::string packed = file("packed");

  explicit PackedCase(const Json& j) : Case(j) {}

  Converted pack(const std::string& from, std::optional<DType> type = {}) {
    std::filesystem::remove_all(packed);
    std::filesystem::create_directory(packed);
    Source read(from);
    return convert_to_safetensors(read, type, tensor::Layout::kPanels, packed, config_file_of(from));
  }

  // Writes the packed file again after a change of its tensors or metadata.
  void change(const std::function<void(std::vector<Tensor>&, io::Metadata&)>& how) const {
    const std::string path = packed + "/model.safetensors";
    const io::SafetensorsFile file(path);
    std::vector<Tensor> tensors = file.tensors();
    io::Metadata metadata = file.metadata();
    how(tensors, metadata);
    io::write_safetensors(path, tensors, metadata, base::Existing::kReplace);
  }
};

// Whole blocks of every type, and rows that are not whole panels.
Json wide(Json json, int width) {
  json["hidden_size"] = width;
  json["intermediate_size"] = json["moe_intermediate_size"] = width;
  return json;
}

std::vector<float> logits(const Model& model) {
  return tests::all_logits(model, tests::random_ids(24, model.config().vocab, 3), 2);
}

// The file that memory at this address is mapped from; empty: none.
std::string file_at(const void* address) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0, end = 0;
    std::string path;
    char dash;
    std::istringstream fields(line);
    fields >> std::hex >> begin >> dash >> end;
    for (int i = 0; i < 5; ++i) fields >> path;  // rights, offset, device, node, path
    const auto at = reinterpret_cast<uintptr_t>(address);
    if (begin <= at && at < end) return path;
  }
  return {};
}

// Calls function(info, weight) for every tensor, the head of a tied model too.
template <class Function>
void each_weight(const Model& model, const Function& function) {
  ModelTensors<Weight> views = model.tensors();
  visit_tensors(model.config(), views, function);
  if (model.config().tied)
    function({kHeadName, model.config().vocab, model.config().width, false}, model.tensors().head);
}

void check_same_rows(const Model& a, const Model& b) {
  std::vector<Weight> of_b;
  each_weight(b, [&](const TensorInfo&, const Weight& w) { of_b.push_back(w); });
  size_t i = 0;
  each_weight(a, [&](const TensorInfo& info, const Weight& w) {
    CAPTURE(info.name);
    const Weight& other = of_b[i++];
    CHECK(w.layout == tensor::Layout::kRows);
    CHECK(w.type == other.type);
    REQUIRE(w.bytes() == other.bytes());
    CHECK(std::memcmp(w.data, other.data, w.bytes()) == 0);
  });
}

// What packing at load does to `source` is what the file has: without a copy, and with the same bits.
void check_packed(const PackedCase& c, const Model& source) {
  base::Threads threads(2);
  const Model stays(c.packed, Panels::kStay);
  const auto names = names_in_panels(stays.config());
  each_weight(stays, [&](const TensorInfo& info, const Weight& w) {
    CAPTURE(info.name);
    CHECK(w.packed() == names.contains(info.name));
    if (w.packed()) CHECK(file_at(w.data) == c.packed + "/model.safetensors");
    if (w.packed()) CHECK(reinterpret_cast<uintptr_t>(w.data) % 64 == 0);
  });
  const Model again = stays.packed(threads);
  std::vector<const void*> places;
  each_weight(stays, [&](const TensorInfo&, const Weight& w) { places.push_back(w.data); });
  size_t i = 0;
  each_weight(again, [&](const TensorInfo&, const Weight& w) { CHECK(w.data == places[i++]); });
  const std::vector<float> expected = logits(source.packed(threads));
  CHECK(logits(stays) == expected);
  CHECK(logits(stays.packed_in_passing()) == expected);
  CHECK(logits(again) == expected);
  CHECK(bytes_of(stays) == bytes_of(source));
  check_same_rows(Model(c.packed), source);
}

TEST_CASE("packed file: every family computes as when it is packed at load, and comes back as it was") {
  for (const Json& json : families()) {
    CAPTURE(json.dump());
    PackedCase c(json);
    const Converted done = c.pack(c.source);
    CHECK(done.notes.empty());
    check_packed(c, Model(c.source));
    Source from(c.packed);
    convert_to_safetensors(from, {}, tensor::Layout::kRows, c.back, json);
    const io::TensorDirectory before(c.source), after(c.back);
    REQUIRE(before.tensors().size() == after.tensors().size());
    for (const Tensor& t : before.tensors()) {
      CAPTURE(t.name);
      const Tensor* found = after.find(t.name);
      REQUIRE(found != nullptr);
      CHECK(found->shape == t.shape);
      CHECK(std::equal(t.bytes.begin(), t.bytes.end(), found->bytes.begin(), found->bytes.end()));
    }
  }
}

TEST_CASE("packed file: from a GGUF file of every type that is made, and back to the same tensors") {
  base::Threads threads(2);
  for (const Json& json : families())
    for (const DType type : {DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_0}) {
      CAPTURE(json.dump());
      CAPTURE(tensor::name_of(type));
      PackedCase c(wide(json, 96));
      c.to_gguf(type);
      const Converted done = c.pack(c.gguf);
      check_packed(c, Model(c.gguf));
      Source from(c.gguf), packed(c.packed);
      const Verified verified = verify(from, c.packed, done, threads);
      CHECK(verified.drift < 1e-4 * std::max(1.0, verified.largest));
      convert_to_gguf(packed, {},
                      {c.file("again.gguf"), base::Existing::kReplace,
                       [](io::GgufHeader& header) { header.put("tokenizer.ggml.model", "none"); },
                       [](const std::string&, const Converted&) {}});
      const io::GgufFile before(c.gguf), after(c.file("again.gguf"));
      REQUIRE(before.tensors().size() == after.tensors().size());
      for (const Tensor& t : before.tensors()) {
        CAPTURE(t.name);
        const Tensor* found = after.find(t.name);
        REQUIRE(found != nullptr);
        CHECK(found->type == t.type);
        CHECK(std::equal(t.bytes.begin(), t.bytes.end(), found->bytes.begin(), found->bytes.end()));
      }
    }
}

TEST_CASE("packed file: rounded on the way to every type, as GGUF is") {
  for (const DType type : {DType::kBF16, DType::kQ8_0, DType::kQ4_0}) {
    CAPTURE(tensor::name_of(type));
    PackedCase c(wide(families()[1], 96));  // tied
    c.to_gguf(type);
    c.pack(c.source, type);
    const Model a(c.packed), b(c.gguf);
    for (const auto& [mine, other] : {std::pair{a.tensors().embedding, b.tensors().embedding},
                                      {a.tensors().blocks[1].moe.w2[3], b.tensors().blocks[1].moe.w2[3]}}) {
      CHECK(mine.type == other.type);
      CHECK(std::memcmp(mine.data, other.data, mine.bytes()) == 0);
    }
    if (tensor::is_blocked(type)) CHECK(a.tensors().blocks[0].moe.gate[0].type == DType::kF32);
  }
  PackedCase c(families()[0]);
  CHECK(contains(c.pack(c.source, DType::kQ8_0).notes.at(0), "not whole blocks of Q8_0"));
}

// Random codes under scales that stay small.
std::vector<std::byte> random_blocks(DType type, size_t numbers, uint64_t seed) {
  std::vector<std::byte> bytes(tensor::bytes_of(type, numbers));
  base::Rng rng(seed);
  for (std::byte& b : bytes) b = static_cast<std::byte>(rng.below(256));
  for (size_t at = 0; at < bytes.size(); at += tensor::block_of(type).bytes) {
    const tensor::F16 scale = tensor::F16::from(0.002f * rng.normal());
    const size_t place = type == DType::kQ6_K ? 208 : 0;
    if (type == DType::kMXFP4)
      bytes[at] = static_cast<std::byte>(118 + rng.below(4));
    else
      std::memcpy(&bytes[at + place], &scale, sizeof scale);
    if (type == DType::kQ4_K) std::memcpy(&bytes[at + 2], &scale, sizeof scale);
  }
  return bytes;
}

// As files of 2023 have them: a tensor for each expert.
TEST_CASE("packed file: experts of one layer each in a type of its own") {
  PackedCase c(wide(families()[0], 256));
  c.to_gguf();
  const std::vector<DType> types{DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K, DType::kMXFP4};
  std::vector<std::vector<std::byte>> kept;
  kept.reserve(100);
  const std::string mixed = c.file("mixed.gguf");
  rewrite(c.gguf, mixed, [&](const Tensor& t) -> std::vector<Tensor> {
    const size_t at = t.name.find("_exps.");
    if (at == std::string::npos) return {t};
    std::vector<Tensor> experts;
    for (size_t e = 0; e < types.size(); ++e) {
      kept.push_back(random_blocks(types[e], static_cast<size_t>(t.shape[1] * t.shape[2]), kept.size()));
      std::string name = t.name;
      name.replace(at, 6, "." + std::to_string(e) + ".");
      experts.push_back({name, types[e], {t.shape[1], t.shape[2]}, kept.back()});
    }
    return experts;
  });
  const Model source(mixed);
  c.pack(mixed);
  check_packed(c, source);
  for (size_t e = 0; e < types.size(); ++e) CHECK(Model(c.packed).tensors().blocks[1].moe.w3[e].type == types[e]);
}

// Of another writer: nothing at a multiple of 64, an expert in rows beside others in panels, and in panels a matrix of
// which rows are taken.
TEST_CASE("packed file: what must not be in panels is unpacked, what is not is packed") {
  base::Threads threads(2);
  PackedCase c(wide(families()[0], 96));
  c.to_gguf(DType::kQ8_0);
  c.pack(c.gguf);
  const Model source(c.gguf);
  const std::string expert = "model.layers.1.block_sparse_moe.experts.2.w2.weight", table = "model.embed_tokens.weight";
  const Weight& rows = source.tensors().blocks[1].moe.w2[2];
  Weight panels = source.tensors().embedding;
  Bytes bytes(kernels::packed_bytes({&panels, 1}));
  kernels::pack({&panels, 1}, bytes.span(), threads);
  const std::vector<std::byte> one(1);
  c.change([&](std::vector<Tensor>& tensors, io::Metadata& metadata) {
    for (Tensor& t : tensors) {
      if (t.name == expert) t.bytes = {static_cast<const std::byte*>(rows.data), rows.bytes()};
      if (t.name == table) t.bytes = bytes.span();
      if (t.type == DType::kU8) t.shape = {static_cast<int64_t>(t.bytes.size())};
    }
    tensors.push_back({"a.rotary_emb.inv_freq", DType::kU8, {1}, one});  // is passed over, and moves all behind it
    metadata[expert] = description_of(rows);
    metadata[table] = description_of(panels);
  });
  const Model stays(c.packed, Panels::kStay);
  CHECK(!stays.tensors().embedding.packed());
  CHECK(stays.tensors().blocks[1].moe.w2[1].packed());
  CHECK(!stays.tensors().blocks[1].moe.w2[2].packed());
  CHECK(logits(stays.packed(threads)) == logits(source.packed(threads)));
  CHECK(logits(stays.packed_in_passing()) == logits(source.packed(threads)));
  check_same_rows(Model(c.packed), source);
}

TEST_CASE("packed file: numbers that are not finite are found in panels too") {
  for (const bool tied : {false, true}) {
    PackedCase c(families()[tied ? 1 : 0]);
    c.pack(c.source);
    CHECK_NOTHROW(Model(c.packed, Panels::kStay).check_finite());
    const std::string name = tied ? kHeadName : "model.layers.2.self_attn.q_proj.weight";
    std::vector<std::byte> bytes;
    c.change([&](std::vector<Tensor>& tensors, io::Metadata&) {
      for (Tensor& t : tensors)
        if (t.name == name) {
          bytes.assign(t.bytes.begin(), t.bytes.end());
          const float bad = HUGE_VALF;
          std::memcpy(bytes.data() + bytes.size() - 64 * 4, &bad, sizeof bad);  // of the last panel
          t.bytes = bytes;
        }
    });
    CHECK(contains(refusal_of([&] { Model(c.packed, Panels::kStay).check_finite(); }), name));
  }
}

TEST_CASE("packed file: what is not what it should be is refused by name") {
  const std::string expert = "model.layers.1.block_sparse_moe.experts.2.w2.weight", norm = "model.norm.weight";
  using Change = std::function<void(std::vector<Tensor>&, io::Metadata&)>;
  const auto refusal = [&](const Change& how) {
    PackedCase c(wide(families()[0], 96));
    c.pack(c.source, DType::kQ8_0);
    c.change(how);
    const std::string rows = refusal_of([&] { Model model(c.packed); }),
                      stay = refusal_of([&] { Model model(c.packed, Panels::kStay); });
    CHECK(rows == stay);
    return stay;
  };
  const auto says = [&](const std::string& text) {
    return refusal([&](auto&, io::Metadata& metadata) { metadata[expert] = text; });
  };
  CHECK(says("Q8_0 panels [96,96]").empty());
  CHECK(contains(says("Q8_0 panels [96,97]"), expert + " is described as another one"));
  CHECK(contains(says("Q8_0 panels [96,96] "), "asks for [96,96]"));
  CHECK(contains(says("I8 panels [96,96]"), expert));
  CHECK(contains(says("F32 rows [96,96]"), expert));
  CHECK(contains(says("Q4_K panels [96,96]"), expert));  // not whole blocks
  CHECK(contains(says("BF16 panels [96,96]"), expert + " has 9792 bytes"));
  CHECK(
      contains(refusal([&](auto&, io::Metadata& metadata) { metadata.erase(expert); }), expert + " has shape [9792]"));
  CHECK(contains(refusal([&](auto&, io::Metadata& metadata) { metadata["choir.panels"] = "2"; }),
                 "of another version than 1"));
  CHECK(contains(refusal([&](auto&, io::Metadata& metadata) { metadata.erase("choir.panels"); }), "choir.panels"));
  CHECK(contains(refusal([&](std::vector<Tensor>& tensors, io::Metadata&) {
                   for (Tensor& t : tensors)
                     if (t.name == expert) {
                       t.bytes = t.bytes.first(t.bytes.size() - 1);
                       t.shape = {static_cast<int64_t>(t.bytes.size())};
                     }
                 }),
                 expert + " has 9791 bytes"));
  CHECK(contains(refusal([&](std::vector<Tensor>& tensors, io::Metadata& metadata) {
                   for (Tensor& t : tensors)
                     if (t.name == norm) t = {norm, DType::kU8, {static_cast<int64_t>(t.bytes.size())}, t.bytes};
                   metadata[norm] = "F32 panels [1,96]";
                 }),
                 norm));
}

}  // namespace
}  // namespace choir::model
