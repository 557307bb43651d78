#include "model/gguf_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "model/families/family.h"

namespace choir::model {
namespace {

constexpr Architecture kArchitectures[] = {
    {"mixtral", "llama", true},
    {"llama", "llama", true},
    {"mistral", "llama", true},
    {"qwen2", "qwen2"},
    {"qwen3", "qwen3"},
    {"qwen2_moe", "qwen2moe"},
    {"qwen3_moe", "qwen3moe"},
    {"olmoe", "olmoe"},
    {"phimoe", "phimoe"},
    {"deepseek_v2", "deepseek2"},
    {"deepseek_v3", "deepseek2"},
    {"granitemoe", "granitemoe", true},
    {"gpt_oss", "gpt-oss", false, "post_attention_norm"},
};

// Behind "model.layers.N." and "blk.N."; ".weight" and ".bias" stay as they are.
constexpr std::pair<std::string_view, std::string_view> kAttention[] = {
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"self_attn.q_a_proj", "attn_q_a"},
    {"self_attn.q_a_layernorm", "attn_q_a_norm"},
    {"self_attn.q_b_proj", "attn_q_b"},
    {"self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"},
    {"self_attn.kv_a_layernorm", "attn_kv_a_norm"},
    {"self_attn.kv_b_proj", "attn_kv_b"},
};

constexpr std::pair<std::string_view, std::string_view> kOutside[] = {
    {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}};

constexpr std::pair<std::string_view, std::string_view> kNetwork[] = {
    {"gate_proj", "ffn_gate"}, {"up_proj", "ffn_up"}, {"down_proj", "ffn_down"}};

template <class Table>
std::string_view look_up(const Table& table, std::string_view name) {
  for (const auto& [ours, theirs] : table)
    if (ours == name) return theirs;
  return {};
}

std::string_view name_of(TensorInfo::Part part) {
  return part == TensorInfo::Part::kGate ? "ffn_gate" : part == TensorInfo::Part::kUp ? "ffn_up" : "ffn_down";
}

// Of the mixture of a block, its router and the networks of every token; empty when it is none of them.
std::string mixture_name(const Names& names, std::string_view stem) {
  if (!stem.starts_with(names.mixture)) return {};
  stem.remove_prefix(std::string_view(names.mixture).size());
  if (stem == names.router) return "ffn_gate_inp";
  if (stem == "shared_expert_gate") return "ffn_gate_inp_shexp";
  if (const std::string_view dense = look_up(kNetwork, stem); !dense.empty()) return std::string(dense);
  if (!stem.starts_with(names.shared)) return {};
  const std::string_view shared = look_up(kNetwork, stem.substr(std::string_view(names.shared).size()));
  return shared.empty() ? "" : std::string(shared) + "_shexp";
}

struct BlockName {
  int layer = -1;
  std::string_view rest;
};

BlockName split(std::string_view name) {
  constexpr std::string_view kBlocks = "model.layers.";
  BlockName result{-1, name};
  if (!name.starts_with(kBlocks)) return result;
  const auto [end, error] = std::from_chars(name.data() + kBlocks.size(), name.data() + name.size(), result.layer);
  result.rest = name.substr(static_cast<size_t>(end - name.data()) + 1);
  return result;
}

}  // namespace

const Architecture* architecture_of(std::string_view family) {
  const auto* found = std::ranges::find_if(kArchitectures, [&](const Architecture& a) { return a.family == family; });
  return found == std::end(kArchitectures) ? nullptr : found;
}

const Architecture& architecture_of(const GgufKind& kind, const std::string& where) {
  const std::string_view family = kind.architecture == "llama"       ? (kind.experts ? "mixtral" : "llama")
                                  : kind.architecture == "deepseek2" ? (kind.sigmoid ? "deepseek_v3" : "deepseek_v2")
                                                                     : "";
  std::string known;
  for (const Architecture& a : kArchitectures) {
    if (a.name == kind.architecture && (family.empty() || a.family == family)) return a;
    if (known.find(a.name) == std::string::npos) known += (known.empty() ? "" : ", ") + std::string(a.name);
  }
  base::input_error("unknown architecture \"" + std::string(kind.architecture) + "\"", where, "known: " + known);
}

GgufPlace place_in_gguf(const Config& config, const Architecture& architecture, const TensorInfo& info) {
  const Names& names = family_of(config.family, "model").names;
  const auto [layer, rest] = split(info.name);
  if (rest == std::string(names.mixture) + names.state) return {fmt::format("blk.{}.exp_probs_b.bias", layer)};
  if (rest == "self_attn.sinks") return {fmt::format("blk.{}.attn_sinks.weight", layer)};
  const size_t dot = rest.rfind('.');
  const std::string_view stem = rest.substr(0, dot), ending = rest.substr(dot);
  if (layer < 0) {
    if (const std::string_view outside = look_up(kOutside, stem); !outside.empty())
      return {fmt::format("{}{}", outside, ending)};
  } else if (info.expert >= 0) {
    return {fmt::format("blk.{}.{}_exps{}", layer, name_of(info.part), ending), info.expert};
  } else if (stem == "post_attention_layernorm") {
    return {fmt::format("blk.{}.{}{}", layer, architecture.mixture_norm, ending)};
  } else if (const std::string_view attention = look_up(kAttention, stem); !attention.empty()) {
    const bool turns = attention == "attn_q" || attention == "attn_k";
    return {fmt::format("blk.{}.{}{}", layer, attention, ending), -1,
            turns && architecture.neighbours ? config.attention.head_width : 0};
  } else if (const std::string mixture = mixture_name(names, stem); !mixture.empty()) {
    return {fmt::format("blk.{}.{}{}", layer, mixture, ending)};
  }
  base::input_error("GGUF has no place for the tensor " + info.name, config.family,
                    "llama.cpp knows the plain models of this family");
}

int64_t row_of_neighbours(int64_t row, int head_width) {
  const int64_t within = row % head_width;
  return row - within + within % 2 * (head_width / 2) + within / 2;
}

int64_t row_of_halves(int64_t row, int head_width) {
  const int64_t within = row % head_width, half = head_width / 2;
  return row - within + within % half * 2 + within / half;
}

}  // namespace choir::model
