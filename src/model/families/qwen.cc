// Qwen2 and Qwen3, dense and with experts (transformers, models/qwen2, qwen3, qwen2_moe, qwen3_moe).
#include "model/families/reader.h"

namespace choir::model {
namespace {

// Layer l has experts iff it is not in mlp_only_layers and (l + 1) mod decoder_sparse_step = 0.
std::vector<bool> dense_layers(Reader& reader) {
  const int64_t step = reader.fields().get_int("decoder_sparse_step", 1, kMost, 1);
  std::vector<bool> dense(static_cast<size_t>(reader.depth()));
  for (size_t l = 0; l < dense.size(); ++l) dense[l] = (static_cast<int64_t>(l) + 1) % step != 0;
  for (const int64_t l : reader.list("mlp_only_layers"))
    if (l < reader.depth()) dense[static_cast<size_t>(l)] = true;
  return dense;
}

// Both mixtures slide in every layer, as the eager code of transformers 4.x does; its other paths look at
// max_window_layers, each in its own way.
void read_mixture_window(Reader& reader) {
  if (!reader.fields().get_bool("use_sliding_window", false) && !reader.fields().has("layer_types"))
    return reader.window(0);
  const int size = reader.window_size(0);
  if (!reader.fields().has("layer_types") && reader.fields().get_int("max_window_layers", 0, kMost, 28) != 0)
    reader.config().notes.push_back(
        "use_sliding_window: every layer slides, as in the eager code of transformers 4; other code spares the first "
        "max_window_layers layers, and layer_types would say which");
  reader.window(size);
}

// The dense ones slide from layer max_window_layers on.
void read_dense_window(Reader& reader) {
  if (!reader.fields().get_bool("use_sliding_window", false) && !reader.fields().has("layer_types"))
    return reader.window(0);
  const int64_t from = reader.fields().get_int("max_window_layers", 0, kMost, 28);
  std::vector<bool> sliding(static_cast<size_t>(reader.depth()));
  for (size_t l = 0; l < sliding.size(); ++l) sliding[l] = static_cast<int64_t>(l) >= from;
  reader.window(reader.window_size(0), sliding);
}

void read_mixture(Reader& reader, const Reader::Experts& defaults) {
  reader.rope(1e4);
  reader.layers(defaults);
  read_mixture_window(reader);
  reader.balance("router_aux_loss_coef", 0.001);
  if (!reader.flag("norm_topk_prob", false)) reader.config().router.weights = moe::PublishedRouter::Weights::kRaw;
}

void read_qwen2_moe(Reader& reader) {
  reader.size(1e-6);
  reader.attention({.kv_heads = 16});
  reader.config().qkv_bias = reader.flag("qkv_bias", true);
  read_mixture(reader, {60, 4, 1408, dense_layers(reader), 5632});
  reader.share(reader.count("shared_expert_intermediate_size", 5632), true);
}

void read_qwen3_attention(Reader& reader, const Reader::Heads& heads) {
  reader.attention(heads);
  Config& config = reader.config();
  config.qkv_bias = config.o_bias = reader.fields().get_bool("attention_bias", false);
  config.qk_norm = QkNorm::kHead;
}

void read_qwen3_moe(Reader& reader) {
  reader.size(1e-6);
  read_qwen3_attention(reader, {.kv_heads = 4});
  read_mixture(reader, {128, 8, 768, dense_layers(reader), 6144});
}

void read_dense(Reader& reader) {
  reader.rope(1e4);
  reader.dense_layers(reader.count("intermediate_size"));
  read_dense_window(reader);
}

void read_qwen2(Reader& reader) {
  reader.size(1e-6);
  reader.attention({.kv_heads = 32});
  reader.config().qkv_bias = true;
  read_dense(reader);
}

void read_qwen3(Reader& reader) {
  reader.size(1e-6);
  read_qwen3_attention(reader, {.kv_heads = 32, .head_width = 128});
  read_dense(reader);
}

// transformers 5 writes the number of experts under the name that Mixtral has for it.
constexpr Keys kMixture{
    .experts = "num_experts", .other_experts = "num_local_experts", .width = "moe_intermediate_size"};

}  // namespace

const Family kQwen2{"qwen2", {}, {}, read_qwen2};
const Family kQwen3{"qwen3", {}, {}, read_qwen3};
const Family kQwen2Moe{"qwen2_moe", kMixture, {}, read_qwen2_moe};
const Family kQwen3Moe{"qwen3_moe", kMixture, {}, read_qwen3_moe};

}  // namespace choir::model
