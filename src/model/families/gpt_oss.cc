// gpt-oss (openai/gpt-oss, torch/model.py and torch/weights.py; transformers, models/gpt_oss).
#include "model/families/reader.h"

namespace choir::model {
namespace {

// What transformers takes where the file says nothing of rope_scaling.
kernels::RopeSpec stretched() {
  kernels::RopeSpec spec;
  spec.kind = kernels::RopeSpec::Kind::kYarn;
  spec.factor = 32;
  spec.original_length = 4096;
  spec.truncate = false;
  return spec;
}

void read(Reader& reader) {
  reader.size(1e-5);
  reader.attention({.kv_heads = 8, .head_width = 64});
  Config& config = reader.config();
  config.qkv_bias = config.o_bias = reader.flag("attention_bias", true);
  config.sinks = true;
  if (!reader.says("rope_scaling") && !reader.says("rope_parameters")) {
    config.rope = stretched();
    config.defaulted.push_back("rope_scaling = yarn by 32 from 4096, truncate false");
  }
  reader.rope(150000);
  reader.layers({.experts = 128, .top_k = 4, .width = 2880});
  std::vector<bool> even(config.layers.size());
  for (size_t l = 0; l < even.size(); l += 2) even[l] = true;
  reader.window(reader.says("sliding_window") ? reader.window_size(1) : reader.count("sliding_window", 128), even);
  reader.balance("router_aux_loss_coef", 0.9);
  config.router.gate_bias = true;
  config.expert_bias = true;
  config.activation.limit = static_cast<float>(reader.fields().get_number("swiglu_limit", 1e-3, 1e6, 7));
}

}  // namespace

const Family kGptOss{"gpt_oss",
                     {.experts = "num_local_experts", .other_top_k = "experts_per_token"},
                     {.router = "router", .stacked = {.interleaved = true, .written = true}},
                     read};

}  // namespace choir::model
