// OLMoE (transformers, models/olmoe).
#include "model/families/reader.h"

namespace choir::model {
namespace {

void read(Reader& reader) {
  reader.size(1e-5);
  reader.attention({});
  Config& config = reader.config();
  config.qkv_bias = config.o_bias = reader.fields().get_bool("attention_bias", false);
  config.qk_norm = QkNorm::kWhole;
  if (reader.fields().has("clip_qkv"))
    config.clip_qkv = static_cast<float>(reader.fields().get_number("clip_qkv", 1e-6, 1e9));
  reader.rope(1e4);
  reader.layers({.experts = 64, .top_k = 8, .width = 2048});
  reader.balance("router_aux_loss_coef", 0.01);
  if (!reader.flag("norm_topk_prob", false)) config.router.weights = moe::PublishedRouter::Weights::kRaw;
}

}  // namespace

const Family kOlmoe{"olmoe", {.experts = "num_experts", .other_experts = "num_local_experts"}, {}, read};

}  // namespace choir::model
