#include "train/warm_start.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "train/warm_source.h"

namespace choir::train {
namespace {

using Role = model::TensorInfo::Role;

// Of "linear > top_k(2) > all > chosen": "linear".
std::string score_of(const Config& config, const model::LayerConfig& layer) {
  const std::string expression = model::router_expression(config, layer);
  return expression.substr(0, expression.find(" > "));
}

class Copier {
 public:
  Copier(const WarmStart& from, const Config& config, Parameters& parameters)
      : from_(from), config_(config), parameters_(parameters), source_(from.directory, config), rng_(from.seed) {
    compare(source_.traits(), from.directory + "/config.json");
  }

  std::string run() {
    ModelTensors<Matrix<float>> numbers = parameters_.numbers();
    model::visit_tensors(config_, numbers, [&](const model::TensorInfo& info, Matrix<float>& to) {
      const bool done = info.expert >= 0 && !info.vector ? copy_expert(info, to) : copy_same(info, to);
      if (done)
        ++copied_;
      else
        fresh_.push_back(info.name);
    });
    if (copied_ == 0)
      base::input_error("no tensor of the model fits", from_.directory, "its names or shapes are others");
    std::string line = fmt::format("warm start from {}: {} tensors copied", from_.directory, copied_);
    if (repeated_ > 0) line += fmt::format(", {} of them again for further experts", repeated_);
    if (narrow_ > 0) line += fmt::format(", {} into wider ones", narrow_);
    if (drops_head()) line += ", its lm_head left, for the model is tied";
    for (const std::string& key : others_) line += fmt::format(", {} is another", key);
    line += fresh_.empty() ? "; nothing begins anew" : fmt::format("; {} begin anew: ", fresh_.size());
    for (size_t i = 0; i < std::min<size_t>(3, fresh_.size()); ++i) line += (i > 0 ? ", " : "") + fresh_[i];
    return line + (fresh_.size() > 3 ? ", ..." : "");
  }

 private:
  void compare(const std::vector<Trait>& theirs, const std::string& path) {
    const std::vector<Trait> ours = traits_of(config_);
    for (const Trait& trait : theirs) {
      const double value = std::ranges::find(ours, std::string_view(trait.key), &Trait::key)->value;
      if (trait.value == value) continue;
      if (trait.shapes)
        base::input_error(fmt::format("{} is {}, the model's {}", trait.key, trait.value, value), path,
                          "give the model the same: the tensors of the attention follow from it");
      others_.push_back(fmt::format("{} {}", trait.key, trait.value));
    }
  }

  bool drops_head() const { return config_.tied && source_.has_own_head(); }

  // The numbers of a tensor of the source, widened.
  Buffer<float> widened(const WarmSource::Entry& entry) const {
    Buffer<float> wide(entry.weight.size());
    tensor::widen(entry.weight, wide.span());
    if (!std::ranges::all_of(wide.span(), [](float v) { return std::isfinite(v); }))
      base::input_error(fmt::format("tensor {} holds a number that is not finite", entry.name), from_.directory,
                        "the source is damaged");
    return wide;
  }

  // A gate is known by its experts and its score; the router's own numbers are of the whole expression.
  bool same_router(const model::TensorInfo& info) const {
    const std::optional<Config>& source = source_.config();
    if (!source || source->depth() != config_.depth()) return false;
    const auto l = static_cast<size_t>(info.layer);
    const model::LayerConfig &theirs = source->layers[l], &ours = config_.layers[l];
    const auto experts = [](const model::LayerConfig& c) {
      return std::array{c.experts, c.zero_experts, c.copy_experts, c.constant_experts, c.novice_experts};
    };
    if (experts(theirs) != experts(ours)) return false;
    if (info.role == Role::kGate) return score_of(*source, theirs) == score_of(config_, ours);
    return model::router_expression(*source, theirs) == model::router_expression(config_, ours);
  }

  bool copy_same(const model::TensorInfo& info, Matrix<float> to) const {
    const bool router = info.role == Role::kGate || info.role == Role::kState;
    if (router && !same_router(info)) return false;
    const WarmSource::Entry* found = source_.find(info.name);
    if (!found && info.name == "lm_head.weight") found = source_.find("model.embed_tokens.weight");  // a tied source
    if (!found || found->vector != info.vector || found->weight.rows != info.rows || found->weight.cols != info.cols)
      return false;
    std::ranges::copy(widened(*found).span(), to.data);
    return true;
  }

  // w1 and w3 are (F,D), w2 is (D,F). Where the source is narrower the columns of w2 behind it are zero: the expert
  // answers as it did, and these columns learn first.
  bool copy_expert(const model::TensorInfo& info, Matrix<float> to) {
    const int count = source_.experts(info.layer), ours = config_.layers[static_cast<size_t>(info.layer)].experts;
    if (count == 0) return false;
    if (count > ours)
      base::input_error(fmt::format("layer {} has {} experts, the model {}", info.layer, count, ours), from_.directory,
                        "prune it first, or train with as many");
    const WarmSource::Entry* found = source_.expert(info.layer, info.expert % count, info.part);
    const bool down = info.part == model::TensorInfo::Part::kDown;
    if (!found || (down ? found->weight.rows != to.rows : found->weight.cols != to.cols)) return false;
    const int width = down ? found->weight.cols : found->weight.rows, room = down ? to.cols : to.rows;
    if (width > room)
      base::input_error(fmt::format("{} has width {}", found->name, width), from_.directory,
                        fmt::format("the model's experts have {}", room));
    const Buffer<float> wide = widened(*found);
    const Matrix<const float> source = wide.matrix(found->weight.rows, found->weight.cols);
    if (down) std::fill_n(to.data, static_cast<size_t>(to.rows) * static_cast<size_t>(to.cols), 0.0f);
    for (int r = 0; r < source.rows; ++r) std::ranges::copy(source.row(r), to[r]);
    narrow_ += width < room;
    if (info.expert < count) return true;
    ++repeated_;
    add_noise(source, to);
    return true;
  }

  void add_noise(Matrix<const float> source, Matrix<float> to) {
    if (from_.noise <= 0) return;
    double squares = 0;
    for (int r = 0; r < source.rows; ++r)
      for (const float v : source.row(r)) squares += static_cast<double>(v) * static_cast<double>(v);
    const double size = static_cast<double>(source.rows) * source.cols;
    const auto deviation = static_cast<float>(from_.noise * std::sqrt(squares / size));
    for (int r = 0; r < source.rows; ++r)
      for (int c = 0; c < source.cols; ++c) to[r][c] += deviation * rng_.normal();
  }

  const WarmStart& from_;
  const Config& config_;
  Parameters& parameters_;
  WarmSource source_;
  base::Rng rng_;
  int copied_ = 0, repeated_ = 0, narrow_ = 0;
  std::vector<std::string> fresh_, others_;  // tensors that begin anew; what the source computes otherwise
};

}  // namespace

std::string warm_start(const WarmStart& from, const Config& config, Parameters& parameters) {
  return Copier(from, config, parameters).run();
}

}  // namespace choir::train
