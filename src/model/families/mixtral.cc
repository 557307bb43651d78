// Mixtral, and Mistral, its dense relative (transformers, models/mixtral and models/mistral).
#include "model/families/reader.h"

namespace choir::model {
namespace {

void read_mixtral(Reader& reader) {
  reader.size(1e-5);
  reader.attention({.kv_heads = 8});
  reader.rope(1e6);
  reader.layers({.experts = 8, .top_k = 2, .width = 0});
  reader.window(reader.window_size(1));
  reader.balance("router_aux_loss_coef", 0.001);
}

// A window that is null is none; one that is not said is 4096.
void read_mistral(Reader& reader) {
  reader.size(1e-6);
  reader.attention({.kv_heads = 8});
  reader.rope(1e4);
  reader.dense_layers(reader.count("intermediate_size"));
  reader.window(reader.says("sliding_window") ? reader.window_size(1) : reader.count("sliding_window", 4096));
}

}  // namespace

const Family kMixtral{"mixtral",
                      {.experts = "num_local_experts"},
                      {.mixture = "block_sparse_moe.", .gate = "w1", .up = "w3", .down = "w2"},
                      read_mixtral};
const Family kMistral{"mistral", {}, {}, read_mistral};

}  // namespace choir::model
