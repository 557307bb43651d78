// DeepSeek-V2 and V3 (deepseek-ai/DeepSeek-V3, inference/; the modelling files that come with the checkpoints; and
// transformers, models/deepseek_v2 and deepseek_v3).
#include <fmt/format.h>

#include "base/error.h"
#include "model/families/reader.h"

namespace choir::model {
namespace {

using Router = moe::PublishedRouter;

// Layer l has experts iff l >= first_k_dense_replace and l mod moe_layer_freq = 0; transformers ignores the second.
std::vector<bool> dense_layers(Reader& reader, int first) {
  const int64_t from = reader.count("first_k_dense_replace", first, 0),
                every = reader.fields().get_int("moe_layer_freq", 1, kMost, 1);
  if (every != 1)
    reader.config().notes.push_back(fmt::format(
        "moe_layer_freq {}: only every so many layers have experts, as in DeepSeek's code; transformers ignores it",
        every));
  std::vector<bool> dense(static_cast<size_t>(reader.depth()));
  for (size_t l = 0; l < dense.size(); ++l)
    dense[l] = static_cast<int64_t>(l) < from || static_cast<int64_t>(l) % every != 0;
  return dense;
}

void read_attention(Reader& reader) {
  reader.latent_attention(1536);
  Config& config = reader.config();
  config.qkv_bias = config.o_bias = reader.fields().get_bool("attention_bias", false);
  reader.rope(1e4);
  config.pairs =
      reader.fields().get_bool("rope_interleave", true) ? kernels::Pairs::kNeighbours : kernels::Pairs::kHalves;
  // transformers' own code for V2 leaves the factor out that DeepSeek's has for both.
  config.latent.scale = nn::latent_scale(config.latent.key(), config.rope);
  config.attention.scale = config.latent.scale;
}

void read_groups(Reader& reader, int groups, int kept) {
  Router& router = reader.config().router;
  router.groups = static_cast<int>(reader.fields().get_int("n_group", 1, kMostExperts, groups));
  router.keep = static_cast<int>(reader.fields().get_int("topk_group", 1, kMostExperts, kept));
  reader.require(router.keep <= router.groups, fmt::format("topk_group {} of {} groups", router.keep, router.groups));
}

void check_word(const Reader& reader, const char* key, const std::string& known) {
  const std::string word = reader.fields().get_string(key, known);
  if (word != known) base::input_error(std::string(key) + " \"" + word + "\" is not known", key, "known: " + known);
}

float read_scale(const Reader& reader, double fallback) {
  return static_cast<float>(reader.fields().get_number("routed_scaling_factor", 1e-6, 1e6, fallback));
}

void read_v2(Reader& reader) {
  reader.size(1e-6);
  reader.refuse_flag("mlp_bias");
  read_attention(reader);
  reader.layers({64, 0, 1407, dense_layers(reader, 0), 11008});
  reader.share_experts(1407, 2);
  reader.balance("aux_loss_alpha", 0.001);
  check_word(reader, "scoring_func", "softmax");
  Router& router = reader.config().router;
  const std::string method = reader.fields().get_string("topk_method", "greedy");
  if (method == "group_limited_greedy")
    read_groups(reader, 1, 1);
  else if (method != "greedy")
    base::input_error("topk_method \"" + method + "\" is not known", "topk_method",
                      "known: greedy, group_limited_greedy");
  // DeepSeek's code divides by the sum instead of scaling; transformers' ignores the key and scales.
  if (reader.flag("norm_topk_prob", false)) return;
  router.weights = Router::Weights::kRaw;
  router.scale = read_scale(reader, 1);
}

void read_v3(Reader& reader) {
  reader.size(1e-6);
  read_attention(reader);
  reader.layers({256, 8, 2048, dense_layers(reader, 3), 18432});
  reader.share_experts(2048, 1);
  reader.balance("aux_loss_alpha", 0);
  check_word(reader, "scoring_func", "sigmoid");
  check_word(reader, "topk_method", "noaux_tc");
  read_groups(reader, 8, 4);
  Router& router = reader.config().router;
  router.score = Router::Score::kSigmoid;
  router.selection_bias = true;
  router.by_top_two = true;
  router.scale = read_scale(reader, 2.5);
  if (!reader.flag("norm_topk_prob", true)) router.weights = Router::Weights::kRaw;
}

constexpr Keys kKeys{.experts = "n_routed_experts", .width = "moe_intermediate_size", .shared = true};

}  // namespace

const Family kDeepseekV2{"deepseek_v2", kKeys, {.shared = "shared_experts."}, read_v2};
const Family kDeepseekV3{
    "deepseek_v3", kKeys, {.shared = "shared_experts.", .state = "gate.e_score_correction_bias"}, read_v3};

}  // namespace choir::model
