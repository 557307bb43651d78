// GraniteMoE (transformers, models/granitemoe).
#include "model/families/reader.h"

namespace choir::model {
namespace {

void read(Reader& reader) {
  reader.size(1e-6);
  reader.attention({});
  Config& config = reader.config();
  config.qkv_bias = config.o_bias = reader.fields().get_bool("attention_bias", false);
  const auto multiplier = [&](const char* key) { return static_cast<float>(reader.multiplier(key)); };
  config.attention.scale = multiplier("attention_multiplier");  // in place of 1 / sqrt(W)
  config.embedding_multiplier = multiplier("embedding_multiplier");
  config.residual_multiplier = multiplier("residual_multiplier");
  config.logit_divisor = multiplier("logits_scaling");
  reader.rope(1e4);
  reader.layers({.experts = 8, .top_k = 2, .width = 0});
  reader.balance("router_aux_loss_coef", 0.001);
}

}  // namespace

const Family kGraniteMoe{
    "granitemoe",
    {.experts = "num_local_experts"},
    {.mixture = "block_sparse_moe.",
     .router = "router.layer",
     .stacked = {.gate_up = "input_linear.weight", .down = "output_linear.weight", .written = true}},
    read};

}  // namespace choir::model
