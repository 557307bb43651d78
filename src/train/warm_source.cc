#include "train/warm_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace choir::train {
namespace {

using model::Config;
using model::TensorInfo;
using Part = TensorInfo::Part;

std::array<int, 3> place_of(int layer, int expert, Part part) { return {layer, expert, static_cast<int>(part)}; }

}  // namespace

std::vector<Trait> traits_of(const Config& config) {
  const auto& a = config.attention;
  return {{"num_attention_heads", a.heads * 1.0, true}, {"num_key_value_heads", a.kv_heads * 1.0, true},
          {"head_dim", a.head_width * 1.0, true},       {"rope_theta", config.rope.theta, false},
          {"rms_norm_eps", config.norm_epsilon, false}, {"sliding_window", a.window * 1.0, false}};
}

WarmSource::WarmSource(const std::string& directory, const Config& target) : files_(directory), directory_(directory) {
  const std::string path = directory + "/config.json";
  if (std::filesystem::exists(path)) read_config(path, target);
  if (config_)
    read_known();
  else
    read_unknown(target);
}

void WarmSource::read_config(const std::string& path, const Config& target) {
  const io::Json json = io::read_json(path);
  if (!json.is_object()) return;
  const io::Json family = json.value("model_type", io::Json());
  if (family.is_string() && model::knows_family(family.get<std::string>())) {
    config_ = model::parse_config(json, path);
    traits_ = traits_of(*config_);
    return;
  }
  const auto add = [&](const io::Json& object, Trait trait) {
    const auto found = object.find(trait.key);
    if (found == object.end() || !found->is_number()) return;
    trait.value = found->get<double>();
    traits_.push_back(trait);
  };
  for (const Trait& trait : traits_of(target)) {
    add(json, trait);
    if (const auto rope = json.find("rope_parameters"); rope != json.end() && rope->is_object()) add(*rope, trait);
  }
  const auto window = json.find("use_sliding_window");
  if (window != json.end() && *window == false)
    std::erase_if(traits_, [](const Trait& t) { return std::string(t.key) == "sliding_window"; });
}

// What the files lack begins anew.
void WarmSource::read_known() {
  model::Loader loader(*config_, files_, directory_, copies_);
  model::ModelTensors<tensor::Weight> tensors;
  model::visit_tensors(*config_, tensors, [&](const TensorInfo& info, const tensor::Weight&) {
    if (!loader.has(info)) return;
    entries_[info.name] = {info.name, loader.find(info), info.vector};
    const bool network = info.part == Part::kGate || info.part == Part::kUp || info.part == Part::kDown;
    const bool dense = config_->layers[static_cast<size_t>(std::max(0, info.layer))].dense();
    if (network && !info.vector && (info.expert >= 0 || dense))
      experts_[place_of(info.layer, std::max(0, info.expert), info.part)] = info.name;
  });
}

bool WarmSource::take(const std::string& name) {
  const io::Tensor* found = files_.find(name);
  if (!found || found->shape.empty() || found->shape.size() > 2) return false;
  if (std::ranges::any_of(found->shape, [](int64_t size) { return size < 1 || size > INT32_MAX; })) return false;
  if (found->type != tensor::DType::kF32 && found->type != tensor::DType::kBF16 && found->type != tensor::DType::kF16)
    base::input_error(fmt::format("tensor {} is {}", name, tensor::name_of(found->type)), directory_,
                      "weights may be F32, BF16 or F16");
  const bool vector = found->shape.size() == 1;
  const int rows = vector ? 1 : static_cast<int>(found->shape[0]), cols = static_cast<int>(found->shape.back());
  entries_[name] = {name, {found->bytes.data(), found->type, rows, cols}, vector};
  return true;
}

void WarmSource::read_unknown(const Config& target) {
  model::ModelTensors<tensor::Weight> tensors;
  model::visit_tensors(target, tensors, [&](const TensorInfo& info, const tensor::Weight&) {
    if (info.expert < 0) return void(take(info.name));
    if (info.vector) return;
    const char* dense = info.part == Part::kGate ? "gate" : info.part == Part::kUp ? "up" : "down";
    std::string name = fmt::format("model.layers.{}.mlp.{}_proj.weight", info.layer, dense);
    if (info.expert > 0 && entries_.contains(name)) return;
    if (!take(name) && !take(name = info.name)) return;
    experts_[place_of(info.layer, info.expert, info.part)] = name;
    if (info.expert + 1 == target.layers[static_cast<size_t>(info.layer)].experts) take_more(info);
  });
}

// Experts behind the last that we have.
void WarmSource::take_more(const TensorInfo& last) {
  const std::string number = fmt::format("experts.{}.", last.expert);
  const size_t at = last.name.find(number);
  for (int e = last.expert + 1; at != std::string::npos; ++e) {
    std::string name = last.name;
    if (!take(name.replace(at, number.size(), fmt::format("experts.{}.", e)))) return;
    experts_[place_of(last.layer, e, last.part)] = name;
  }
}

const WarmSource::Entry* WarmSource::find(const std::string& name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? nullptr : &found->second;
}

int WarmSource::experts(int layer) const {
  int count = 0;
  while (experts_.contains(place_of(layer, count, Part::kGate))) ++count;
  return count;
}

const WarmSource::Entry* WarmSource::expert(int layer, int expert, Part part) const {
  const auto found = experts_.find(place_of(layer, expert, part));
  return found == experts_.end() ? nullptr : find(found->second);
}

bool WarmSource::has_own_head() const {
  const io::Tensor *head = files_.find("lm_head.weight"), *embedding = files_.find("model.embed_tokens.weight");
  return head && !(embedding && std::ranges::equal(head->bytes, embedding->bytes));
}

}  // namespace choir::train
