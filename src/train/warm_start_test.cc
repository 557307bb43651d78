#include "train/warm_start.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "io/safetensors.h"
#include "tests/random_model.h"
#include "train/test_run.h"

namespace choir::train {
namespace {

using Layers = std::vector<model::LayerConfig>;

// A model on disk. dense: under the names of Llama, without a router and without config.json.
tests::RandomModel write_source(const TemporaryDirectory& place, const Layers& layers, bool dense = false) {
  tests::RandomModel source(tests::small_config(layers), 3);
  if (!dense) {
    const nlohmann::json base{
        {"model_type", "mixtral"},        {"hidden_size", 32},           {"vocab_size", 67},
        {"num_hidden_layers", 2},         {"num_attention_heads", 4},    {"num_key_value_heads", 2},
        {"max_position_embeddings", 128}, {"router_aux_loss_coef", 0.0}, {"rope_theta", 10000.0}};
    source.model().save(place.path(), base);
    return source;
  }
  std::vector<io::Tensor> tensors;
  ModelTensors<Weight> views = source.model().tensors();
  model::visit_tensors(source.model().config(), views, [&](const model::TensorInfo& info, const Weight& w) {
    if (info.role == model::TensorInfo::Role::kGate) return;
    std::string name = info.name;
    const std::pair<const char*, const char*> names[] = {{"block_sparse_moe.experts.0.w1", "mlp.gate_proj"},
                                                         {"block_sparse_moe.experts.0.w3", "mlp.up_proj"},
                                                         {"block_sparse_moe.experts.0.w2", "mlp.down_proj"}};
    for (const auto& [ours, theirs] : names)
      if (const size_t at = name.find(ours); at != std::string::npos)
        name.replace(at, std::string(ours).size(), theirs);
    std::vector<int64_t> shape{info.rows, info.cols};
    if (info.vector) shape.erase(shape.begin());
    tensors.push_back({name, w.type, shape, {static_cast<const std::byte*>(w.data), w.bytes()}});
  });
  io::write_safetensors(place.file("model.safetensors"), tensors, {}, base::Existing::kRefuse);
  return source;
}

double most_apart(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i)
    most = std::max(most, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  return most;
}

TEST_CASE("warm start: experts that are all the source's one answer as the source did") {
  for (const bool dense : {false, true})
    for (const int width : {24, 40}) {
      CAPTURE(dense);
      CAPTURE(width);
      const TemporaryDirectory place;
      const tests::RandomModel source = write_source(place, {{1, 1, 24, {}, {}}, {1, 1, 24, {}, {}}}, dense);
      const Config config = tests::small_config({{4, 2, width, {}, {}}, {3, 2, width, {}, {}}});
      Parameters parameters(config);
      parameters.initialize(1);
      const std::string line = warm_start({place.path(), 0, 1}, config, parameters);
      CHECK(contains(line, "2 begin anew: model.layers.0.block_sparse_moe.gate.weight"));
      CHECK(contains(line, "15 of them again"));
      const auto ids = tests::random_ids(24, 67, 5);
      const model::Model model(config, parameters.weights());
      CHECK(most_apart(tests::all_logits(model, ids, 2), tests::all_logits(source.model(), ids, 2)) < 1e-4);
    }
}

TEST_CASE("warm start: experts go round, copies take noise") {
  const TemporaryDirectory place;
  const tests::RandomModel source = write_source(place, {{2, 2, 24, {}, {}}, {2, 2, 24, {}, {}}});
  const Config config = tests::small_config({{5, 2, 24, {}, {}}, {5, 2, 24, {}, {}}});
  Parameters parameters(config);
  parameters.initialize(1);
  warm_start({place.path(), 0.1, 1}, config, parameters);
  const ModelTensors<Matrix<float>> numbers = parameters.numbers();
  for (int e = 0; e < 5; ++e) {
    const Matrix<float> got = numbers.blocks[1].moe.w2[e];
    const Matrix<const float> from = tensor::as_matrix(source.model().tensors().blocks[1].moe.w2[e % 2]);
    double apart = 0, size = 0;
    for (int i = 0; i < got.rows * got.cols; ++i) {
      apart += std::pow(static_cast<double>(got.data[i]) - static_cast<double>(from.data[i]), 2);
      size += std::pow(static_cast<double>(from.data[i]), 2);
    }
    CHECK(std::sqrt(apart / size) == doctest::Approx(e < 2 ? 0 : 0.1).epsilon(0.1));
  }
}

TEST_CASE("warm start: the same model goes on whole; of another router a gate of the same score") {
  const TemporaryDirectory place;
  const tests::RandomModel source = write_source(place, {{4, 2, 24, {}, {}}, {4, 2, 24, {}, {}}});
  Config config = tests::small_config({{4, 2, 24, {}, {}}, {4, 2, 24, {}, {}}});
  Parameters parameters(config);
  CHECK(contains(warm_start({place.path(), 0, 1}, config, parameters), "nothing begins anew"));
  const auto ids = tests::random_ids(24, 67, 5);
  CHECK(tests::all_logits(model::Model(config, parameters.weights()), ids, 2) ==
        tests::all_logits(source.model(), ids, 2));
  const auto line_with = [&](const std::string& router) {
    for (model::LayerConfig& layer : config.layers) layer.router = router;
    Parameters other(config);
    const std::string line = warm_start({place.path(), 0, 1}, config, other);
    const Matrix<float> gate = other.numbers().blocks[1].moe.gate[0];
    const float* from = tensor::as_matrix(source.model().tensors().blocks[1].moe.gate[0]).data;
    const bool same = std::equal(from, from + 4 * 32, gate.data);
    CHECK(same == router.starts_with("linear >"));
    return line;
  };
  CHECK(contains(line_with("linear > top_k(1) > all > softmax + load(0.1)"), "nothing begins anew"));
  CHECK(contains(line_with("linear > top_k(2) > all > chosen + bias(0.01)"),
                 "2 begin anew: model.layers.0.block_sparse_moe.router_state"));
  CHECK(contains(line_with("noisy > top_k(2) > all > chosen"), "begin anew: model.layers.0.block_sparse_moe.gate"));
}

// Own numbers of experts in each layer, experts of unequal widths, a novice in the place of those that are gone.
TEST_CASE("warm start: a pruned model goes on whole, in its own shape") {
  const TemporaryDirectory place;
  Layers layers{{5, 2, 24, {}, {0, 2, 3, 5, 7}}, {3, 2, 24, {}, {1, 2, 6}}};
  layers[1].widths = {16, 24, 8};
  layers[1].novice_experts = 2;
  const tests::RandomModel source = write_source(place, layers);
  const Config config = model::read_config(place.file("config.json"));
  REQUIRE(config.layers == layers);
  Parameters parameters(config);
  parameters.initialize(1);
  CHECK(contains(warm_start({place.path(), 0, 1}, config, parameters), "nothing begins anew"));
  const auto ids = tests::random_ids(24, 67, 5);
  CHECK(tests::all_logits(model::Model(config, parameters.weights()), ids, 2) ==
        tests::all_logits(source.model(), ids, 2));
}

TEST_CASE("warm start: what does not fit is refused or left") {
  const TemporaryDirectory place;
  write_source(place, {{3, 2, 24, {}, {}}, {3, 2, 24, {}, {}}});
  const auto refusal = [&](const Config& config) {
    Parameters parameters(config);
    return refusal_of([&] { warm_start({place.path(), 0, 1}, config, parameters); });
  };
  CHECK(contains(refusal(tests::small_config({{3, 2, 20, {}, {}}, {3, 2, 24, {}, {}}})), "has width 24"));
  CHECK(contains(refusal(tests::small_config({{3, 2, 24, {}, {}}, {2, 2, 24, {}, {}}})), "has 3 experts, the model 2"));
  Config other = tests::small_config({{3, 2, 24, {}, {}}, {3, 2, 24, {}, {}}});
  other.vocab = 99;
  Parameters parameters(other);
  CHECK(contains(warm_start({place.path(), 0, 1}, other, parameters),
                 "2 begin anew: model.embed_tokens.weight, lm_head"));
  other.width = 64;
  other.vocab = 67;
  CHECK(contains(refusal(other), "no tensor of the model fits"));
  CHECK(contains(refusal_of([&] { warm_start({place.file("none"), 0, 1}, other, parameters); }), "none"));
}

TEST_CASE("warm start: other heads are refused, other constants and a lost head named") {
  for (const bool dense : {false, true}) {
    CAPTURE(dense);
    const TemporaryDirectory place;
    write_source(place, {{1, 1, 24, {}, {}}, {1, 1, 24, {}, {}}}, dense);
    if (dense)
      place.write("config.json", R"({"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2,
        "hidden_size": 32, "vocab_size": 67, "num_hidden_layers": 2, "intermediate_size": 24,
        "rms_norm_eps": 1e-5, "rope_parameters": {"rope_theta": 10000.0}, "sliding_window": null})");
    Config config = tests::small_config({{2, 1, 24, {}, {}}, {2, 1, 24, {}, {}}});
    const auto line = [&] {
      Parameters parameters(config);
      return warm_start({place.path(), 0, 1}, config, parameters);
    };
    CHECK(!contains(line(), "another"));
    CHECK(!contains(line(), "lm_head"));
    config.rope.theta = 5000;
    config.norm_epsilon = 1e-6;
    CHECK(contains(line(), "rope_theta 10000 is another, rms_norm_eps 1e-05 is another"));
    config.tied = true;
    CHECK(contains(line(), "its lm_head left"));
    config.attention = {.heads = 2, .kv_heads = 1, .head_width = 16, .window = 0};
    CHECK(contains(refusal_of(line), "num_attention_heads is 4, the model's 2"));
  }
}

TEST_CASE("warm start: a number that is not finite is refused by its tensor") {
  const TemporaryDirectory place;
  const Layers layers{{2, 1, 24, {}, {}}, {2, 1, 24, {}, {}}};
  const tests::RandomModel source = write_source(place, layers);
  tests::RandomModel::numbers(source.model().tensors().blocks[1].moe.w3[1])[3][2] = NAN;
  const TemporaryDirectory damaged;
  source.model().save(damaged.path(), nlohmann::json::parse(base::read_file(place.file("config.json"))));
  const Config config = tests::small_config(layers);
  Parameters parameters(config);
  CHECK(contains(refusal_of([&] {
                   warm_start({damaged.path(), 0, 1}, config, parameters);
                 }),
                 "tensor model.layers.1.block_sparse_moe.experts.1.w3.weight"));
}

}  // namespace
}  // namespace choir::train
