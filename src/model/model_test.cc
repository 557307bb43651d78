#include "model/model.h"

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "base/error.h"
#include "model/forward.h"
#include "moe/noise.h"
#include "tests/files.h"
#include "tests/random_model.h"

namespace choir::model {
namespace {

namespace fs = std::filesystem;
using io::Tensor;
using tensor::DType;
using tests::contains;
using tests::refusal_of;
using Json = nlohmann::json;

struct Directory : tests::TemporaryDirectory {
  std::string weights() const { return base::read_file(file("model.safetensors")); }
};

Json json_of(const Config& c) {
  return {{"model_type", "mixtral"},
          {"hidden_size", c.width},
          {"vocab_size", c.vocab},
          {"num_hidden_layers", c.depth()},
          {"num_attention_heads", c.attention.heads},
          {"num_key_value_heads", c.attention.kv_heads},
          {"head_dim", c.attention.head_width},
          {"intermediate_size", c.layers[0].expert_width},
          {"max_position_embeddings", c.max_positions},
          {"rms_norm_eps", c.norm_epsilon},
          {"rope_theta", c.rope.theta},
          {"tie_word_embeddings", c.tied},
          {"architectures", {"MixtralForCausalLM"}}};
}

// A random model in a directory, and the tensors of its file to be spoilt and written again.
struct Stored {
  Config config;
  Directory directory;
  std::vector<std::pair<Tensor, std::vector<std::byte>>> tensors;

  explicit Stored(const Config& c = tests::small_config()) : config(c) {
    tests::random_model(config, 1).model().save(directory.path(), json_of(config));
    const io::TensorDirectory files(directory.path());
    for (const Tensor& t : files.tensors()) tensors.push_back({t, {t.bytes.begin(), t.bytes.end()}});
  }

  std::pair<Tensor, std::vector<std::byte>>& at(const std::string& name) {
    const auto found = std::ranges::find_if(tensors, [&](const auto& t) { return t.first.name == name; });
    REQUIRE(found != tensors.end());
    return *found;
  }
  void remove(const std::string& name) {
    std::erase_if(tensors, [&](const auto& t) { return t.first.name == name; });
  }
  std::vector<Tensor> views() {
    std::vector<Tensor> result;
    for (auto& [t, bytes] : tensors) {
      t.bytes = bytes;
      result.push_back(t);
    }
    return result;
  }
  void write() {
    io::write_safetensors(directory.file("model.safetensors"), views(), {{"format", "pt"}}, base::Existing::kReplace);
  }
  // Every number rounded to `type`.
  void convert(DType type) {
    for (auto& [t, bytes] : tensors) {
      std::vector<std::byte> narrow(bytes.size() / 2);
      for (size_t i = 0; i < narrow.size() / 2; ++i) {
        float value;
        std::memcpy(&value, bytes.data() + 4 * i, 4);
        const uint16_t bits = type == DType::kF16 ? tensor::F16::from(value).bits : tensor::BF16::from(value).bits;
        std::memcpy(narrow.data() + 2 * i, &bits, 2);
      }
      bytes = narrow;
      t.type = type;
    }
    write();
  }
};

std::vector<float> logits_of(const Model& model) {
  base::Threads threads(2);
  const auto ids = tests::random_ids(20, model.config().vocab, 3);
  const std::vector<Sequence> sequences{{0, 13, 0, 0}, {13, 7, 0, 13}};
  std::vector<float> logits(ids.size() * static_cast<size_t>(model.config().vocab));
  Scratch scratch;
  forward(model, {ids, sequences}, {}, scratch, {logits.data(), 20, model.config().vocab}, threads);
  return logits;
}

std::string load_refusal(const Directory& directory) {
  return refusal_of([&] { Model model(directory.path()); });
}

constexpr const char* kExpert = "model.layers.1.block_sparse_moe.experts.2.w2.weight";

TEST_CASE("model: saved, loaded and saved again it is the same, byte for byte") {
  Config config = tests::small_config({{4, 2, 24, 0.5f, {}}, {6, 2, 40, {}, {}}});
  for (const bool tied : {false, true}) {
    config.tied = tied;
    const Stored stored(config);
    const Model model(stored.directory.path());
    CHECK(model.config().layers == config.layers);
    CHECK(model.config().tied == tied);
    CHECK(logits_of(model) == logits_of(tests::random_model(config, 1).model()));
    const Directory again;
    model.save(again.path(), Json::parse(base::read_file(stored.directory.file("config.json"))));
    CHECK(again.weights() == stored.directory.weights());
    CHECK(model.file_bytes() == static_cast<int64_t>(again.weights().size()));
    CHECK(base::read_file(again.file("config.json")) == base::read_file(stored.directory.file("config.json")));
  }
}

TEST_CASE("model: files in half precision compute as their numbers in float do, and are saved as they were") {
  for (const DType type : {DType::kBF16, DType::kF16}) {
    Stored stored;
    stored.convert(type);
    const Model half(stored.directory.path());
    Directory again;
    half.save(again.path(), json_of(stored.config));
    CHECK(again.weights() == stored.directory.weights());
    CHECK(half.file_bytes() == static_cast<int64_t>(again.weights().size()));
    CHECK(bytes_of(Model(again.path())) == bytes_of(half));

    for (auto& [t, bytes] : stored.tensors) {
      std::vector<std::byte> wide(2 * bytes.size());
      tensor::widen({bytes.data(), type, 1, static_cast<int>(t.elements())},
                    {reinterpret_cast<float*>(wide.data()), t.elements()});
      bytes = wide;
      t.type = DType::kF32;
    }
    stored.write();
    CHECK(logits_of(half) == logits_of(Model(stored.directory.path())));
  }
}

TEST_CASE("model: tensors that do not start at a multiple of their size are read right") {
  const Stored stored;
  const auto want = logits_of(Model(stored.directory.path()));
  std::string bytes = stored.directory.weights();
  uint64_t length;
  std::memcpy(&length, bytes.data(), 8);
  bytes.insert(8 + length, " ");  // blanks after the header are legal; one moves all numbers off their place
  ++length;
  std::memcpy(bytes.data(), &length, 8);
  base::write_file(stored.directory.file("model.safetensors"), bytes, base::Existing::kReplace);
  CHECK(logits_of(Model(stored.directory.path())) == want);
}

TEST_CASE("model: refuses a missing tensor, naming it") {
  for (const char* name : {"model.norm.weight", "lm_head.weight", kExpert}) {
    Stored stored;
    stored.remove(name);
    stored.write();
    CHECK(contains(load_refusal(stored.directory), name));
  }
}

TEST_CASE("model: refuses an unknown tensor, but passes over what old files carry along") {
  Stored stored;
  auto extra = stored.at("model.norm.weight");
  extra.first.name = "model.layers.0.self_attn.rotary_emb.inv_freq";
  stored.tensors.push_back(extra);
  stored.write();
  CHECK(load_refusal(stored.directory).empty());
  stored.tensors.back().first.name = "model.layers.2.enorm.weight";  // of a layer that predicts further tokens
  stored.write();
  CHECK(load_refusal(stored.directory).empty());
  stored.tensors.back().first.name = "model.layers.1.enorm.weight";
  stored.write();
  CHECK(contains(load_refusal(stored.directory), "model.layers.1.enorm.weight"));
}

TEST_CASE("model: refuses a tensor of another shape or type, naming it") {
  Stored stored;
  auto& shape = stored.at(kExpert).first.shape;
  std::swap(shape[0], shape[1]);
  stored.write();
  CHECK(contains(load_refusal(stored.directory), std::string(kExpert) + " has shape [40,32]"));
  std::swap(shape[0], shape[1]);
  stored.at(kExpert).first.type = DType::kI32;
  stored.write();
  CHECK(contains(load_refusal(stored.directory), std::string(kExpert) + " is I32"));
}

// As transformers 5 holds it in memory, and saves it when told to: "mlp.", gate and up rows of all experts in one
// tensor.
TEST_CASE("model: experts that are stacked compute as the same experts one by one") {
  Stored stored;
  const auto want = logits_of(Model(stored.directory.path()));
  std::map<std::string, std::pair<Tensor, std::vector<std::byte>>> stacks;
  for (int l = 0; l < stored.config.depth(); ++l)
    for (int e = 0; e < stored.config.layers[l].experts; ++e)
      for (const char* part : {"w1", "w3", "w2"}) {
        const std::string at = "model.layers." + std::to_string(l);
        const std::string name = at + ".block_sparse_moe.experts." + std::to_string(e) + "." + part + ".weight";
        const auto& [tensor, bytes] = stored.at(name);
        const bool down = part[1] == '2';
        auto& [stack, all] = stacks[at + ".mlp.experts." + (down ? "down_proj" : "gate_up_proj")];
        stack.shape = {stored.config.layers[l].experts, tensor.shape[0] * (down ? 1 : 2), tensor.shape[1]};
        all.insert(all.end(), bytes.begin(), bytes.end());
        stored.remove(name);
      }
  for (auto& [tensor, bytes] : stored.tensors)
    if (const size_t at = tensor.name.find("block_sparse_moe"); at != std::string::npos)
      tensor.name.replace(at, std::string("block_sparse_moe").size(), "mlp");
  for (auto& [name, stack] : stacks) {
    stack.first.name = name;
    stored.tensors.push_back(stack);
  }
  stored.write();
  CHECK(logits_of(Model(stored.directory.path())) == want);
  stored.tensors.back().first.shape[0] /= 2;
  stored.tensors.back().first.shape[1] *= 2;
  stored.write();
  CHECK(contains(load_refusal(stored.directory), stored.tensors.back().first.name + " has shape"));
  stored.tensors.pop_back();
  stored.write();
  CHECK(contains(load_refusal(stored.directory), "tensor missing: "));
}

TEST_CASE("model: a NaN or an infinity is found and named") {
  for (const float bad : {NAN, INFINITY})
    for (const char* name : {kExpert, "model.norm.weight", "model.embed_tokens.weight"}) {
      Stored stored;
      CHECK_NOTHROW(Model(stored.directory.path()).check_finite());
      std::memcpy(stored.at(name).second.data() + 8, &bad, 4);
      stored.write();
      const Model model(stored.directory.path());
      CHECK(contains(refusal_of([&] { model.check_finite(); }), name));
    }
}

TEST_CASE("model: shards are one model; a shard that is missing is named") {
  Stored stored;
  const auto want = logits_of(Model(stored.directory.path()));
  const auto all = stored.views();
  const auto middle = all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2);
  Json index;
  for (const auto& [file, first, last] : {std::tuple{"model-00001-of-00002.safetensors", all.begin(), middle},
                                          {"model-00002-of-00002.safetensors", middle, all.end()}}) {
    const std::vector<Tensor> part(first, last);
    io::write_safetensors(stored.directory.file(file), part, {}, base::Existing::kRefuse);
    for (const Tensor& t : part) index["weight_map"][t.name] = file;
  }
  base::write_file(stored.directory.file("model.safetensors.index.json"), index.dump(), base::Existing::kRefuse);
  fs::remove(stored.directory.file("model.safetensors"));
  CHECK(logits_of(Model(stored.directory.path())) == want);
  fs::remove(stored.directory.file("model-00002-of-00002.safetensors"));
  CHECK(contains(load_refusal(stored.directory), "model-00002-of-00002.safetensors"));
}

TEST_CASE("model: a tied head is the embedding, whatever the file holds under its name") {
  Config config = tests::small_config();
  config.tied = true;
  Stored stored(config);
  const auto want = logits_of(Model(stored.directory.path()));
  auto head = stored.at("model.embed_tokens.weight");
  head.first.name = "lm_head.weight";
  std::ranges::fill(head.second, std::byte{0});
  stored.tensors.push_back(head);
  stored.write();
  CHECK(logits_of(Model(stored.directory.path())) == want);
}

TEST_CASE("model: some of its experts make the same model as the directory that it is saved to") {
  const Stored stored;
  Config config = stored.config;
  config.layers[0] = {2, 2, 24, 0.3f, {1, 3}};
  config.layers[1] = {3, 2, 40, {}, {0, 2, 5}};
  const Directory again;
  std::vector<float> logits;
  {
    const Model pruned =
        Model(stored.directory.path()).with_layers(config, {{1, 3}, {0, 2, 5}});  // outlives its origin
    logits = logits_of(pruned);
    pruned.save(again.path(), json_of(stored.config));
  }
  const Model loaded(again.path());
  CHECK(loaded.config().layers == config.layers);
  CHECK(logits_of(loaded) == logits);
  CHECK(logits != logits_of(Model(stored.directory.path())));
  const tests::RandomModel owner = tests::random_model(stored.config, 1);
  const auto& from = owner.model().tensors().blocks[1].moe;
  const auto& to = loaded.tensors().blocks[1].moe;
  CHECK(std::memcmp(to.w1[2].data, from.w1[5].data, to.w1[2].bytes()) == 0);
  CHECK(std::memcmp(to.gate[0].row(1).data, from.gate[0].row(2).data, to.gate[0].row(1).bytes()) == 0);
}

TEST_CASE("model: a router's numbers go with their experts into the file") {
  Config config = tests::small_config();
  for (LayerConfig& layer : config.layers)
    layer.router = moe::parse_router("linear(sigmoid) > top_k(2) > all > sigmoid_norm(1) + bias(0.001)").expression();
  const Stored stored(config);
  const Model model(stored.directory.path());
  std::vector<std::vector<int>> keep;
  for (LayerConfig& layer : config.layers) {
    layer.experts = 3;
    layer.kept = {0, 2, 3};
    keep.push_back(layer.kept);
  }
  const Model pruned = model.with_layers(config, keep);
  const Directory again;
  pruned.save(again.path(), json_of(stored.config));
  const Model loaded(again.path());
  CHECK(loaded.tensors().blocks[0].moe.state.cols == 3);
  CHECK(logits_of(loaded) == logits_of(pruned));
}

// Layer 0 without the last half of one expert's neurons, and with a novice in the place of another.
TEST_CASE("model: another mixture in a layer is stored and loaded with its widths and novices") {
  const Stored stored;
  const Model model(stored.directory.path());
  moe::MoeTensors<Weight> moe = model.tensors().blocks[0].moe;
  LayerConfig layer = model.config().layers[0];
  const int half = layer.expert_width / 2, d = model.config().width;
  std::vector<float> narrow(static_cast<size_t>(half * d)), v(static_cast<size_t>(d), 0.25f);
  for (int k = 0; k < d; ++k)
    for (int f = 0; f < half; ++f)
      narrow[static_cast<size_t>(k * half + f)] = static_cast<const float*>(moe.w2[1].row(k).data)[f];
  Model::Owned owned;
  const auto own = [&](const std::vector<float>& numbers, int rows) {
    Model::Bytes bytes(numbers.size() * sizeof(float));
    std::memcpy(bytes.data(), numbers.data(), bytes.size());
    owned.push_back(std::make_shared<const Model::Bytes>(std::move(bytes)));
    return Weight(owned.back()->data(), DType::kF32, rows, static_cast<int>(numbers.size()) / rows);
  };
  moe.w1[1].rows = moe.w3[1].rows = half;
  moe.w2[1] = own(narrow, d);
  for (auto* list : {&moe.w1, &moe.w2, &moe.w3}) list->pop_back();
  moe.idle.novice = {own(v, 1)};
  CHECK(contains(refusal_of([&] { model.with_mixture(0, layer, moe, owned); }), "experts.1.w1.weight"));
  layer.experts -= 1;
  layer.novice_experts = 1;
  layer.widths.assign(static_cast<size_t>(layer.experts), layer.expert_width);
  layer.widths[1] = half;
  const Model changed = model.with_mixture(0, layer, moe, owned);
  const Directory again;
  changed.save(again.path(), json_of(stored.config));
  const Model loaded(again.path());
  CHECK(loaded.config().layers == changed.config().layers);
  CHECK(logits_of(loaded) == logits_of(changed));
  CHECK(logits_of(loaded) != logits_of(model));
  CHECK(count_parameters(model.config()).total - count_parameters(loaded.config()).total ==
        3 * d * (layer.expert_width + half) - d);
}

TEST_CASE("model: all of its experts make the same model") {
  const Stored stored;
  const Model model(stored.directory.path());
  std::vector<std::vector<int>> all;
  for (const LayerConfig& layer : stored.config.layers) {
    all.emplace_back(static_cast<size_t>(layer.experts));
    std::iota(all.back().begin(), all.back().end(), 0);
  }
  const Model same = model.with_layers(model.config(), all);
  CHECK(logits_of(same) == logits_of(model));
  const Directory again;
  same.save(again.path(), json_of(stored.config));
  CHECK(again.weights() == stored.directory.weights());
}

TEST_CASE("model: refuses to keep fewer experts than a token needs") {
  const tests::RandomModel owner = tests::random_model(tests::small_config(), 1);
  Config config = owner.model().config();
  config.layers[0].experts = 1;
  const std::string text = refusal_of([&] { owner.model().with_layers(config, {{2}, {0, 1, 2, 3, 4, 5}}); });
  CHECK(contains(text, "2 of 1"));
  CHECK(contains(text, "layer 0"));
}

TEST_CASE("model: its bytes are those of its parameters") {
  for (const bool tied : {false, true}) {
    Config config = tests::small_config();
    config.tied = tied;
    const tests::RandomModel owner = tests::random_model(config, 1);
    CHECK(bytes_of(owner.model()) == 4 * count_parameters(config).total);
    // The token's row of the embedding does not count, where it is not the head's too.
    CHECK(bytes_per_token(owner.model()) == 4 * (count_parameters(config).active - (tied ? 0 : config.width)));
  }
}

TEST_CASE("model: does not overwrite what is there") {
  const Stored stored;
  CHECK_THROWS_AS(Model(stored.directory.path()).save(stored.directory.path(), json_of(stored.config)), base::Error);
}

TEST_CASE("model: ids and lengths beyond the model are refused") {
  const tests::RandomModel owner = tests::random_model(tests::small_config(), 1);
  base::Threads threads(1);
  for (const int32_t id : {-1, 67}) {
    const std::vector<int32_t> ids{3, id};
    const std::vector<Sequence> sequences{{0, 2, 0, 0}};
    CHECK(contains(refusal_of([&] { ForwardPass(owner.model(), {ids, sequences}, threads); }), "position 1"));
  }
  const std::vector<int32_t> ids(129);
  const std::vector<Sequence> sequences{{0, 129, 0, 0}};
  CHECK(contains(refusal_of([&] { ForwardPass(owner.model(), {ids, sequences}, threads); }), "129 tokens"));
}

TEST_CASE("model: an admission that refuses nothing changes no bit, one with a floor does, another gate is refused") {
  const tests::RandomModel owner = tests::random_model(tests::small_config(), 3);
  const auto ids = tests::random_ids(40, owner.model().config().vocab, 5);
  const auto host = tests::all_logits(owner.model(), ids, 2);
  for (const char* open :
       {"linear > top_k(2) > all > chosen", "linear > top_k(2) > top_capacity(factor(1000)) > chosen",
        "linear > top_k(2) > top_capacity(etr_sum, floor=-1) > chosen"})
    CHECK(tests::all_logits(owner.model().with_router(open), ids, 2) == host);
  const Model strict = owner.model().with_router("linear > top_k(2) > top_capacity(factor(8), floor=0.2) > chosen");
  CHECK(tests::all_logits(strict, ids, 2) != host);
  CHECK(contains(refusal_of([&] { owner.model().with_router("grap_cosine > top_k(1) > all > softmax"); }), "gate"));
}

TEST_CASE("model: another skipping keeps the router's numbers and the tensors, and none of it brings the model back") {
  Config config = tests::small_config();
  for (LayerConfig& layer : config.layers) layer.router = "linear > top_k(2) > all > softmax(renorm) + bias(0.1)";
  const tests::RandomModel owner = tests::random_model(config, 3);
  const auto ids = tests::random_ids(40, config.vocab, 5);
  const auto host = tests::all_logits(owner.model(), ids, 2);
  const Model skipping = owner.model().with_admission("skip(tail=0.4)");
  CHECK(skipping.tensors().blocks[0].moe.state.data == owner.model().tensors().blocks[0].moe.state.data);
  CHECK(skipping.tensors().blocks[1].moe.w2[3].data == owner.model().tensors().blocks[1].moe.w2[3].data);
  CHECK(tests::all_logits(skipping, ids, 2) != host);
  CHECK(tests::all_logits(skipping.with_admission("all"), ids, 2) == host);
  CHECK(tests::all_logits(owner.model().with_admission("skip(count=2)"), ids, 2) == host);
  CHECK(skipping.with_admission("all").config().layers == config.layers);
  CHECK_THROWS_AS(owner.model().with_admission("skip(tail=2)"), base::Error);
  const Model capped = owner.model().with_router("linear > top_k(2) > fifo(factor(1)) > softmax");
  CHECK_THROWS_AS(capped.with_admission("skip(tail=0.4)"), base::Error);
}

TEST_CASE("model: the draws of layers and of steps share no shifted run") {
  const tests::RandomModel owner = tests::random_model(tests::small_config(), 1);
  base::Threads threads(1);
  const std::vector<int32_t> ids{3, 4};
  const std::vector<Sequence> sequences{{0, 2, 0, 0}};
  BlockActivations activations;
  activations.normed.reserve(64);
  std::set<uint64_t> draws;
  for (const uint64_t seed : {7, 8}) {
    RoutingOptions routing;
    routing.seed = seed;
    const ForwardPass pass(owner.model(), {ids, sequences}, threads, routing);
    for (const int layer : {0, 1}) {
      const moe::MoeStep step = pass.routing_step(layer, activations, {});
      for (uint64_t place = 0; place < 64; ++place) draws.insert(moe::scramble(step.seed, place));
    }
  }
  CHECK(draws.size() == 2 * 2 * 64);
}

TEST_CASE("model: refuses numbers of another router, and scores of masked experts in front of a gate that reads them") {
  Config config = tests::small_config({{4, 2, 24, {}, {}}, {4, 2, 40, {}, {}}});
  config.layers[0].router = "linear > top_k(2) > all > chosen + bias(0.1)";
  const tests::RandomModel owner = tests::random_model(config, 1);
  auto tensors = owner.model().tensors();
  Weight& state = tensors.blocks[0].moe.state;
  CHECK_NOTHROW(Model(config, tensors));
  state.cols -= 1;
  CHECK(contains(refusal_of([&] { Model(config, tensors); }), "3 numbers"));
  state = {};
  CHECK(contains(refusal_of([&] { Model(config, tensors); }), "0 numbers"));
  config.layers[1].router = "linear(residual) > top_k(2) > all > softmax";
  CHECK_NOTHROW(tests::random_model(config, 1));
  config.layers[0].router = "linear > top_k(2) > mask(1) > softmax";
  CHECK(contains(refusal_of([&] { tests::random_model(config, 1); }), "masked"));
}

TEST_CASE("model: only a router that stays the same without some experts loses them") {
  for (const auto& [router, can] : {std::pair{"linear > top_k(2) > all > chosen + load(0.1)", true},
                                    {"linear(sigmoid) > top_k(2) > all > chosen", true},
                                    {"linear > top_k(2) > all > softmax", true},
                                    {"dense_cosine > top_k(2) > all > chosen", false},
                                    {"linear > top_k(2) > all > chosen + bias(0.1)", true},
                                    {"linear > top_k(2) > all > chosen(over=3)", false},
                                    {"linear > top_k(2) > mask(1) > chosen", false}}) {
    CAPTURE(router);
    Config config = tests::small_config();
    for (LayerConfig& layer : config.layers) layer.router = router;
    const tests::RandomModel owner = tests::random_model(config, 1);
    config.layers[0].experts = 3;
    const auto prune = [&] { owner.model().with_layers(config, {{0, 1, 3}, {0, 1, 2, 3, 4, 5}}); };
    if (can)
      CHECK_NOTHROW(prune());
    else
      CHECK(contains(refusal_of(prune), "layer 0"));
  }
}

}  // namespace
}  // namespace choir::model
