// Experts without weights in config.json: the keys zero_experts, copy_experts, constant_experts and
// novice_experts of the block choir; and experts of unequal widths.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/config.h"
#include "model/tensors.h"

namespace choir::model {
namespace {

using Json = nlohmann::json;

Json with(const Json& choir) {
  Json json = {{"model_type", "mixtral"},       {"hidden_size", 32},        {"vocab_size", 100},
               {"num_hidden_layers", 3},        {"num_attention_heads", 4}, {"num_key_value_heads", 2},
               {"num_local_experts", 4},        {"num_experts_per_tok", 2}, {"intermediate_size", 48},
               {"max_position_embeddings", 64}, {"rope_theta", 10000.0},    {"rms_norm_eps", 1e-5}};
  if (!choir.is_null()) json["choir"] = choir;
  return json;
}

TEST_CASE("config: idle experts are read for all layers or for each, and written back alike") {
  const Config same = parse_config(with({{"zero_experts", 1}, {"constant_experts", 2}}), "config.json");
  for (const LayerConfig& layer : same.layers) {
    CHECK(layer.experts == 4);
    CHECK(layer.idle() == 3);
    CHECK(layer.routed() == 7);
  }
  const Json written = config_json(same, with({}));
  CHECK(written["choir"]["zero_experts"] == 1);
  CHECK(!written["choir"].contains("copy_experts"));
  CHECK(parse_config(written, "config.json").layers == same.layers);

  const Config mixed = parse_config(with({{"copy_experts", {0, 2, 0}}, {"router", "remoe"}}), "config.json");
  CHECK(mixed.layers[1].copy_experts == 2);
  CHECK(mixed.layers[1].top_k == 6);
  CHECK(mixed.layers[2].top_k == 4);
  const Json again = config_json(mixed, with({}));
  CHECK(again["choir"]["copy_experts"] == Json::array({0, 2, 0}));
  CHECK(parse_config(again, "config.json").layers == mixed.layers);
  CHECK(!config_json(parse_config(with(nullptr), "config.json"), with(nullptr)).contains("choir"));
}

TEST_CASE("config: idle experts of no sound number are refused") {
  for (const Json& counts :
       {Json(-1), Json(5000), Json(1.5), Json("1"), Json::array({1, 1}), Json::array({1, 1, -1})}) {
    CAPTURE(counts.dump());
    CHECK_THROWS_AS(parse_config(with({{"zero_experts", counts}}), "config.json"), base::Error);
  }
}

TEST_CASE("tensors: the gate has a row for each expert, and constant experts have their two tensors") {
  const Config config = parse_config(with({{"zero_experts", 1}, {"constant_experts", {0, 2, 0}}}), "config.json");
  ModelTensors<Weight> tensors;
  std::vector<std::string> constants;
  int64_t total = 0;
  visit_tensors(config, tensors, [&](const TensorInfo& info, Weight&) {
    total += static_cast<int64_t>(info.rows) * info.cols;
    if (info.name.find("constant") != std::string::npos) constants.push_back(info.name);
    if (info.name.ends_with("gate.weight")) CHECK(info.rows == (info.name.find("layers.1.") < 20 ? 7 : 5));
  });
  CHECK(constants == std::vector<std::string>{"model.layers.1.block_sparse_moe.constant.0.v",
                                              "model.layers.1.block_sparse_moe.constant.0.mix.weight",
                                              "model.layers.1.block_sparse_moe.constant.1.v",
                                              "model.layers.1.block_sparse_moe.constant.1.mix.weight"});
  CHECK(tensors.blocks[1].moe.experts() == 7);
  CHECK(count_parameters(config).total == total);
}

TEST_CASE("config: novices and unequal widths are read, written back and shape the tensors") {
  const Json choir = {{"novice_experts", {0, 2, 0}},
                      {"expert_widths", {{48, 16, 32, 32}, Json::array(), {48, 48, 16, 16}}}};
  const Config config = parse_config(with(choir), "config.json");
  CHECK(config.layers[1].routed() == 6);
  CHECK(config.layers[0].width_of(1) == 16);
  CHECK(config.layers[1].width_of(1) == 48);
  CHECK(config.layers[2].total_width() == 128);
  const Json written = config_json(config, with({}));
  CHECK(written["choir"] == choir);
  CHECK(parse_config(written, "config.json").layers == config.layers);
  ModelTensors<Weight> tensors;
  int64_t total = 0, novices = 0;
  visit_tensors(config, tensors, [&](const TensorInfo& info, Weight& weight) {
    weight = {nullptr, tensor::DType::kF32, info.rows, info.cols};
    total += static_cast<int64_t>(info.rows) * info.cols;
    novices += info.name.find("novice") != std::string::npos;
  });
  CHECK(novices == 2);
  CHECK(tensors.blocks[0].moe.w1[1].rows == 16);
  CHECK(tensors.blocks[0].moe.w2[2].cols == 32);
  CHECK(count_parameters(config).total == total);
}

TEST_CASE("config: widths that contradict the layer are refused") {
  const Json empty = Json::array();
  for (const Json& widths :
       {Json(3), Json::array({empty, empty}), Json::array({{48, 16}, empty, empty}),
        Json::array({{48, 0, 16, 16}, empty, empty}), Json::array({{48, 64, 16, 16}, empty, empty}),
        Json::array({{16, 16, 16, 16}, empty, empty}), Json::array({{48, 1.5, 16, 16}, empty, empty})}) {
    CAPTURE(widths.dump());
    CHECK_THROWS_AS(parse_config(with({{"expert_widths", widths}}), "config.json"), base::Error);
  }
}

}  // namespace
}  // namespace choir::model
