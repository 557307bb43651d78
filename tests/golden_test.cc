// Every family and layout that has no oracle, or more than one has: tests/golden, made by tools/make_golden.py from a
// plain forward that knows nothing of the engine.
#include <doctest/doctest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "io/test_files.h"
#include "tests/reference_case.h"

namespace choir {
namespace {

namespace fs = std::filesystem;
using model::Model;
using Json = nlohmann::json;

const std::string kGolden = std::string(CHOIR_SOURCE_DIR) + "/tests/golden/";

std::vector<std::string> cases() {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(kGolden)) names.push_back(entry.path().filename());
  std::ranges::sort(names);
  REQUIRE(names.size() >= 12);
  return names;
}

Json config_of(const std::string& directory) { return Json::parse(base::read_file(directory + "/config.json")); }

// What transformers 5 makes of a config.json of 4.
Json fifth(Json json) {
  Json rope = json.contains("rope_scaling") ? json["rope_scaling"] : Json{{"rope_type", "default"}};
  rope["rope_theta"] = json["rope_theta"];
  json.erase("rope_scaling");
  json.erase("rope_theta");
  json["rope_parameters"] = rope;
  json["dtype"] = "float32";
  if (!json.contains("head_dim")) json["head_dim"] = nullptr;
  return json;
}

TEST_CASE("golden: every family gives the numbers of a plain forward, in both dialects of its configuration") {
  for (const std::string& name : cases())
    for (const bool newer : {false, true}) {
      CAPTURE(name);
      CAPTURE(newer);
      const std::string from = kGolden + name;
      const io::TemporaryDirectory to;
      const Json json = config_of(from);
      to.write("config.json", (newer ? fifth(json) : json).dump());
      fs::copy_file(from + "/model.safetensors", to.file("model.safetensors"));
      const Model model(to.path());
      CHECK(model.config().defaulted == std::vector<std::string>());
      const io::SafetensorsFile reference(from + "/reference.safetensors");
      tests::compare_batch(model, reference, "A");
      tests::compare_greedy(model, reference);
    }
}

TEST_CASE("golden: what is saved computes the same, and is saved again byte for byte") {
  for (const std::string& name : cases()) {
    CAPTURE(name);
    const Json json = config_of(kGolden + name);
    const Model model = Model(kGolden + name).savable();
    const io::TemporaryDirectory first, second;
    model.save(first.path(), json);
    const std::string bytes = base::read_file(first.file("model.safetensors"));
    CHECK(model.file_bytes() == static_cast<int64_t>(bytes.size()));
    const Model again(first.path());
    const auto ids = tests::random_ids(20, model.config().vocab, 1);
    CHECK(tests::all_logits(again, ids, 2) == tests::all_logits(model, ids, 2));
    again.save(second.path(), config_of(first.path()));
    CHECK(base::read_file(second.file("model.safetensors")) == bytes);
    CHECK(base::read_file(second.file("config.json")) == base::read_file(first.file("config.json")));
    // What stands in the file as its family's own code reads it, and in a format that is computed with, is not changed.
    if (json.contains("quantization_config") || name == "qwen2_moe") continue;
    const io::SafetensorsFile theirs(kGolden + name + "/model.safetensors"), ours(first.file("model.safetensors"));
    CHECK(ours.tensors().size() == theirs.tensors().size());
    for (const io::Tensor& tensor : theirs.tensors()) {
      CAPTURE(tensor.name);
      const io::Tensor* same = ours.find(tensor.name);
      REQUIRE(same);
      CHECK(same->shape == tensor.shape);
      if (name == "gpt_oss" && tensor.name.ends_with("_bias")) continue;  // written as float
      CHECK(same->type == tensor.type);
      CHECK(std::ranges::equal(same->bytes, tensor.bytes));
    }
  }
}

TEST_CASE("golden: experts that are stacked, one by one and stacked again are the same") {
  const std::string from = kGolden + "qwen2_moe";
  const Model stacked(from);
  const io::TemporaryDirectory to;
  stacked.save(to.path(), config_of(from));
  const io::SafetensorsFile theirs(from + "/model.safetensors"), ours(to.file("model.safetensors"));
  const std::string at = "model.layers.1.mlp.experts.";
  const io::Tensor *both = theirs.find(at + "gate_up_proj"), *down = theirs.find(at + "down_proj");
  REQUIRE((both && down));
  std::vector<std::byte> gates, downs;
  for (int e = 0; e < 6; ++e)
    for (const char* part : {"gate", "up", "down"}) {
      const io::Tensor* one = ours.find(at + std::to_string(e) + "." + part + "_proj.weight");
      REQUIRE(one);
      auto& list = part[0] == 'd' ? downs : gates;
      list.insert(list.end(), one->bytes.begin(), one->bytes.end());
    }
  CHECK(std::ranges::equal(gates, both->bytes));
  CHECK(std::ranges::equal(downs, down->bytes));
}

TEST_CASE("golden: stacked experts stay in the file where their rows are runs") {
  for (const char* name : {"qwen2_moe", "granitemoe"}) {
    const Model model(kGolden + name);
    const auto& moe = model.tensors().blocks[1].moe;
    const auto at = [](const tensor::Weight& w) { return static_cast<const std::byte*>(w.data); };
    CHECK(at(moe.w3[0]) == at(moe.w1[0]) + moe.w1[0].bytes());
    CHECK(at(moe.w1[1]) == at(moe.w3[0]) + moe.w3[0].bytes());
  }
}

// All rows of one sequence that is fed in pieces of `piece` tokens through a cache.
std::vector<float> in_pieces(const Model& model, std::span<const int32_t> ids, int piece) {
  base::Threads threads(2);
  const int count = static_cast<int>(ids.size()), vocab = model.config().vocab;
  const model::KvCache cache(model.config(), 1, count);
  std::vector<float> logits(ids.size() * static_cast<size_t>(vocab));
  model::Scratch scratch;
  for (int first = 0; first < count; first += piece) {
    const int taken = std::min(piece, count - first);
    const kernels::Sequence place{0, taken, first, 0};
    const tensor::Matrix<float> rows(logits.data() + static_cast<ptrdiff_t>(first) * vocab, taken, vocab);
    model::forward(model, {ids.subspan(static_cast<size_t>(first), static_cast<size_t>(taken)), {&place, 1}},
                   {.cache = &cache}, scratch, rows, threads);
  }
  return logits;
}

TEST_CASE("golden: a row has the same bits in one piece, in small ones, and beside another sequence") {
  for (const std::string& name : cases()) {
    CAPTURE(name);
    const Model model(kGolden + name);
    const int length = model.config().rope_switch() > 0 ? model.config().rope_switch() : 20;
    const auto ids = tests::random_ids(length, model.config().vocab, 1);
    const std::vector<float> whole = tests::all_logits(model, ids, 1);
    CHECK(in_pieces(model, ids, 1) == whole);
    CHECK(in_pieces(model, ids, 7) == whole);
    auto two = tests::random_ids(length, model.config().vocab, 2);
    two.insert(two.end(), ids.begin(), ids.end());
    const std::vector<float> both = tests::all_logits(model, two, 2, 2);
    CHECK(std::equal(whole.begin(), whole.end(), both.begin() + static_cast<ptrdiff_t>(whole.size())));
  }
}

// Longrope: what was read for a short text is read again once the text is long, and again when it is cut back.
TEST_CASE("golden: a session that outgrows the original length of its rotation, and returns, is as one read whole") {
  const Model model(kGolden + "phimoe");
  REQUIRE(model.config().rope_switch() == 16);
  base::Threads threads(2);
  const auto ids = tests::random_ids(24, model.config().vocab, 4);
  const auto last_row = [&](int count) {
    const auto all = tests::all_logits(model, std::span(ids).first(static_cast<size_t>(count)), 1);
    return std::vector<float>(all.end() - model.config().vocab, all.end());
  };
  runtime::Session session(model, threads);
  const auto fed = [&](int from, int to) {
    const auto logits = session.feed(std::span(ids).subspan(static_cast<size_t>(from), static_cast<size_t>(to - from)));
    return std::vector<float>(logits.begin(), logits.end());
  };
  CHECK(fed(0, 10) == last_row(10));
  CHECK(fed(10, 16) == last_row(16));
  CHECK(fed(16, 17) == last_row(17));
  CHECK(fed(17, 24) == last_row(24));
  session.rewind(9);
  CHECK(fed(9, 12) == last_row(12));
  session.rewind(0);
  CHECK(fed(0, 20) == last_row(20));
}

}  // namespace
}  // namespace choir
