// Phi-3.5-MoE (transformers, models/phimoe).
#include "model/families/reader.h"

namespace choir::model {
namespace {

void read(Reader& reader) {
  reader.size(1e-5);
  Config& config = reader.config();
  config.layer_norm = true;
  config.head_bias = reader.flag("lm_head_bias", false);
  reader.attention({.kv_heads = 8});
  config.qkv_bias = config.o_bias = reader.flag("attention_bias", false);
  reader.rope({});  // implementations disagree about what a missing theta is
  reader.layers({.experts = 16, .top_k = 2, .width = 6400});
  reader.window(reader.window_size(1));
  reader.balance("router_aux_loss_coef", 0.001);
  for (const LayerConfig& layer : config.layers)
    reader.require(layer.top_k == 2, "the sparse mixer is defined for two experts a token");
  config.router.weights = moe::PublishedRouter::Weights::kSparseMixer;
  config.router.eps = static_cast<float>(reader.number("router_jitter_noise", 1, 0.01));
}

}  // namespace

const Family kPhimoe{"phimoe",
                     {.experts = "num_local_experts"},
                     {.mixture = "block_sparse_moe.", .gate = "w1", .up = "w3", .down = "w2"},
                     read};

}  // namespace choir::model
