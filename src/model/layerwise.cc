#include "model/layerwise.h"

#include <algorithm>

#include "base/error.h"
#include "nn/linear.h"
#include "nn/norm.h"

namespace choir::model {
namespace {

// A tensor and its place in the model.
struct Place {
  TensorInfo info;
  Weight* weight;
};

class Layerwise {
 public:
  Layerwise(Source& source, std::span<const int32_t> ids, const Rounding& rounding, Threads& threads)
      : source_(source),
        config_(source.config()),
        rounding_(rounding),
        threads_(threads),
        ids_(ids),
        n_(static_cast<int>(ids.size())),
        h_(size(config_.width)),
        middle_(size(config_.width)) {
    visit_tensors(config_, all_, [&](const TensorInfo& info, Weight& weight) {
      (info.name.starts_with("model.layers.") ? inside_ : outside_).push_back({info, &weight});
    });
    // The table of angles is made for each layer anew.
    config_.max_positions = std::min(config_.max_positions, std::max(n_, 1));
  }

  void run(Matrix<float> logits) {
    embed();
    for (size_t l = 0; l < config_.layers.size(); ++l) block(l);
    head(logits);
  }

 private:
  size_t size(int width) const { return static_cast<size_t>(n_) * static_cast<size_t>(width); }
  Matrix<float> h() const { return h_.matrix(n_, config_.width); }
  Matrix<float> middle() const { return middle_.matrix(n_, config_.width); }

  Weight round(const TensorInfo& info, const Weight& weight) {
    const auto type = rounding_ ? rounding_(info) : std::nullopt;
    if (!type || *type == weight.type) return weight;
    const Weight narrow = copy_of(weight, *type, rounded_);
    return info.vector ? copy_of(narrow, tensor::DType::kF32, rounded_) : narrow;
  }

  void load(const Place& place) { *place.weight = round(place.info, source_.find(place.info)); }

  void drop() {
    source_.drop();
    rounded_.clear();
  }

  // Row by row: of a large vocabulary the table is a gigabyte.
  void embed() {
    const Place& table = outside_.front();
    const Weight whole = source_.find(table.info);
    for (int i = 0; i < n_; ++i) tensor::widen(round(table.info, whole.row(ids_[static_cast<size_t>(i)])), h().row(i));
    for (float& x : h_.span()) x *= config_.embedding_multiplier;
    drop();
  }

  // One layer as a model of its own.
  Model model_of(size_t l) const {
    Config config = config_;
    config.layers = {config_.layers[l]};
    ModelTensors<Weight> tensors;
    tensors.blocks = {all_.blocks[l]};
    return Model(config, tensors);
  }

  // Loads all but the experts, routes, and loads those that have tokens. The others have their shape and no numbers.
  void block(size_t l) {
    const std::string in = "model.layers." + std::to_string(l) + ".";
    std::vector<const Place*> experts;
    for (const Place& place : inside_) {
      if (!place.info.name.starts_with(in)) continue;
      if (place.info.expert < 0 || place.info.vector) {
        load(place);
      } else {
        *place.weight = {nullptr, tensor::DType::kF32, place.info.rows, place.info.cols};
        experts.push_back(&place);
      }
    }
    const Sequence sequence{.row = 0, .count = n_};
    const Batch batch{ids_, {&sequence, 1}};
    const Model attending = model_of(l);
    const ForwardPass first(attending, batch, threads_);
    first.attend(0, h(), nullptr, activations_, middle());
    Matrix<const float> previous;
    if (l > 0 && attending.router(0).residual()) {  // the scores of the layer before change places
      std::swap(scores_, activations_.moe.routing.score);
      previous = scores_.matrix(n_, config_.layers[l - 1].routed());
    }
    if (!config_.layers[l].dense()) load_chosen(attending, first.routing_step(0, activations_, previous), experts);
    const Model mixing = model_of(l);
    ForwardPass(mixing, batch, threads_).mix(0, middle(), previous, activations_, h());
    drop();
  }

  void load_chosen(const Model& model, const moe::MoeStep& step, const std::vector<const Place*>& experts) {
    moe::Routing routing;
    model.router(0).route(moe::context_of(model.tensors().blocks[0].moe, step, threads_), moe::Balancing::kOff,
                          routing);
    const auto has_tokens = [&](int e) { return routing.plan.offset[e + 1] > routing.plan.offset[e]; };
    for (const Place* place : experts)
      if (has_tokens(place->info.expert)) load(*place);
  }

  // The head a strip of rows at a time.
  void head(Matrix<float> logits) {
    const TensorInfo* info = &outside_.front().info;  // of a tied model
    for (const Place& place : outside_) {
      if (place.weight == &all_.head)
        info = &place.info;
      else if (place.weight != &all_.embedding)
        load(place);
    }
    const Weight whole = source_.find(*info);
    const Buffer<float> normed(size(config_.width));
    HeadActivations activations;
    nn::norm_forward({all_.norm, all_.norm_bias, static_cast<float>(config_.norm_epsilon)}, h(),
                     normed.matrix(n_, config_.width), activations.norm, threads_);
    constexpr int kStrip = 4096;
    for (int begin = 0; begin < whole.rows; begin += kStrip) {
      Weight strip = whole.row(begin), bias = all_.head_bias;
      strip.rows = std::min(kStrip, whole.rows - begin);
      if (bias.data) bias = {static_cast<const float*>(bias.data) + begin, bias.type, 1, strip.rows};
      Owned of_strip;
      std::swap(of_strip, rounded_);  // what was rounded before stays
      const Matrix<float> part(logits.data + begin, n_, strip.rows, logits.stride);
      nn::linear_forward(normed.matrix(n_, config_.width), {{round(*info, strip), bias, part}}, activations.blocks,
                         threads_, kernels::Sums::kLanes);
      std::swap(of_strip, rounded_);
      source_.files().forget({static_cast<const std::byte*>(strip.data), strip.bytes()});
    }
    for (int r = 0; r < n_; ++r)
      for (float& x : logits.row(r)) x /= config_.logit_divisor;
    drop();
  }

  Source& source_;
  Config config_;
  const Rounding& rounding_;
  Threads& threads_;
  std::span<const int32_t> ids_;
  int n_;
  Buffer<float> h_, middle_;
  ModelTensors<Weight> all_;
  std::vector<Place> inside_, outside_;  // outside: the embedding first
  Owned rounded_;
  BlockActivations activations_;
  Buffer<float> scores_;  // of the layer before
};

}  // namespace

void layerwise_forward(Source& source, std::span<const int32_t> ids, const Rounding& rounding, Matrix<float> logits,
                       Threads& threads) {
  CHOIR_CHECK(!ids.empty() && logits.rows == static_cast<int>(ids.size()) && logits.cols == source.config().vocab,
              "logits do not fit");
  Layerwise(source, ids, rounding, threads).run(logits);
}

std::vector<int32_t> probe_ids(const Config& config) {
  constexpr int64_t kMostBytes = int64_t{1} << 28, kMostIds = 8;
  int64_t chosen = 1;  // bytes of one token's experts, widened
  for (const LayerConfig& layer : config.layers)
    chosen = std::max(chosen, int64_t{12} * config.width * layer.expert_width * layer.top_k);
  const int64_t count = std::clamp<int64_t>(kMostBytes / chosen, 1, std::min<int64_t>(kMostIds, config.max_positions));
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>((7919 * (i + 1)) % config.vocab));
  return ids;
}

}  // namespace choir::model
