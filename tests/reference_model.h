// A decoder of the Mixtral type as straight loops over one scalar: the specification that the engine is tested against.
// S is double, or std::complex<double> for derivatives by the complex step: every choice looks at real parts alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

#include "model/config.h"
#include "tests/reference_router.h"

namespace choir::tests {

inline double real_part(double v) { return v; }
inline double real_part(const std::complex<double>& v) { return v.real(); }

template <class S>
using Row = std::vector<S>;
template <class S>
using Rows = std::vector<Row<S>>;

// A matrix inside the flat list of parameters, row-major; a vector has one row.
template <class S>
struct Table {
  const S* data = nullptr;
  int rows = 0, cols = 0;

  const S& at(int r, int c) const { return data[r * cols + c]; }
};

// Token ids and targets, sequence after sequence; target -1 is not counted.
struct ReferenceBatch {
  std::vector<std::vector<int32_t>> ids, targets;
};

template <class S>
struct ReferenceOutcome {
  Rows<S> logits;  // of every token
  S cross_entropy = 0, balance = 0;
  double margin = HUGE_VAL;  // least distance of a router's K-th best logit from the next one: small is a near-tie

  S loss() const { return cross_entropy + balance; }
};

template <class S>
class ReferenceModel {
 public:
  // `parameters` holds the tensors in the order of a forward: embedding; for each layer norm, q, k, v, o, norm, router,
  // then w1, w2, w3 of each expert; norm; head unless it is tied. It must outlive the model.
  // With a spec every layer has that router instead of the family's, and its tensors stand where the router does.
  ReferenceModel(const model::Config& config, const std::vector<S>& parameters, const RouterSpec* spec = nullptr)
      : config_(config), spec_(spec) {
    const S* next = parameters.data();
    const auto take = [&](int rows, int cols) {
      const Table<S> table{next, rows, cols};
      next += rows * cols;
      return table;
    };
    const int d = config.width, w = config.attention.head_width;
    embedding_ = take(config.vocab, d);
    for (const model::LayerConfig& shape : config.layers) {
      Layer layer;
      layer.attention_norm = take(1, d);
      layer.q = take(config.attention.heads * w, d);
      layer.k = take(config.attention.kv_heads * w, d);
      layer.v = take(config.attention.kv_heads * w, d);
      layer.o = take(d, config.attention.heads * w);
      layer.moe_norm = take(1, d);
      if (!spec)
        layer.router = take(shape.experts, d);
      else
        for (const auto& [rows, cols] : spec->tensors(shape.experts, d)) layer.gate.push_back(take(rows, cols));
      for (int e = 0; e < shape.experts; ++e) {
        layer.experts.emplace_back();
        layer.experts.back().gate = take(shape.expert_width, d);
        layer.experts.back().down = take(d, shape.expert_width);
        layer.experts.back().up = take(shape.expert_width, d);
      }
      layers_.push_back(layer);
    }
    norm_ = take(1, d);
    head_ = config.tied ? embedding_ : take(config.vocab, d);
  }

  // `choices`: of each layer, for routers that have a spec.
  ReferenceOutcome<S> run(const ReferenceBatch& batch, const std::vector<FixedChoices>& choices = {}) const {
    ReferenceOutcome<S> outcome;
    Row<S> scores;
    std::vector<Rows<S>> streams;
    for (const auto& ids : batch.ids) streams.push_back(embed(ids));
    for (size_t l = 0; l < layers_.size(); ++l) {
      for (Rows<S>& h : streams) attend(layers_[l], h);
      if (spec_)
        scores = mix_as(layers_[l], choices[l], scores, streams, outcome);
      else
        mix(layers_[l], config_.layers[l], streams, outcome);
    }
    for (const Rows<S>& stream : streams)
      for (const Row<S>& h : stream) outcome.logits.push_back(linear(head_, rms_norm(h, norm_)));
    outcome.cross_entropy = cross_entropy(batch, outcome.logits);
    return outcome;
  }

 private:
  struct Expert {
    Table<S> gate, down, up;
  };
  struct Layer {
    Table<S> attention_norm, q, k, v, o, moe_norm, router;
    std::vector<Table<S>> gate;
    std::vector<Expert> experts;
  };

  static Row<S> linear(const Table<S>& weight, const Row<S>& x) {
    Row<S> y(static_cast<size_t>(weight.rows), S(0));
    for (int r = 0; r < weight.rows; ++r)
      for (int c = 0; c < weight.cols; ++c) y[r] += weight.at(r, c) * x[c];
    return y;
  }

  // The real maximum is a constant that the quotient does not depend on.
  static Row<S> softmax(const Row<S>& z) {
    double most = -HUGE_VAL;
    for (const S& v : z) most = std::max(most, real_part(v));
    Row<S> p;
    S sum = 0;
    for (const S& v : z) sum += p.emplace_back(std::exp(v - most));
    for (S& v : p) v /= sum;
    return p;
  }

  Row<S> rms_norm(const Row<S>& x, const Table<S>& scale) const {
    S squares = 0;
    for (const S& v : x) squares += v * v;
    const S root = std::sqrt(squares / static_cast<double>(x.size()) + config_.norm_epsilon);
    Row<S> y;
    for (int c = 0; c < scale.cols; ++c) y.push_back(x[c] / root * scale.at(0, c));
    return y;
  }

  Rows<S> embed(const std::vector<int32_t>& ids) const {
    Rows<S> h;
    for (const int32_t id : ids) h.emplace_back(&embedding_.at(id, 0), &embedding_.at(id, 0) + config_.width);
    return h;
  }

  // Half-split pairs (i, i + W/2) of every head turn by position * theta^(-2i/W).
  void rotate(Row<S>& x, int position) const {
    const int width = config_.attention.head_width, half = width / 2;
    for (int first = 0; first < static_cast<int>(x.size()); first += width)
      for (int i = 0; i < half; ++i) {
        const double angle = position * std::pow(config_.rope.theta, -2.0 * i / width);
        const S a = x[first + i], b = x[first + i + half];
        x[first + i] = a * std::cos(angle) - b * std::sin(angle);
        x[first + i + half] = b * std::cos(angle) + a * std::sin(angle);
      }
  }

  // What query head `head` at position i gathers; query heads share key-value heads in runs.
  Row<S> gather(const Rows<S>& q, const Rows<S>& k, const Rows<S>& v, int i, int head) const {
    const auto& shape = config_.attention;
    const int w = shape.head_width, from = head / (shape.heads / shape.kv_heads) * w;
    const int first = shape.window > 0 ? std::max(0, i - shape.window + 1) : 0;
    Row<S> scores;
    for (int j = first; j <= i; ++j) {
      S dot = 0;
      for (int c = 0; c < w; ++c) dot += q[i][head * w + c] * k[j][from + c];
      scores.push_back(dot / std::sqrt(static_cast<double>(w)));
    }
    const Row<S> p = softmax(scores);
    Row<S> mixed(static_cast<size_t>(w), S(0));
    for (int j = first; j <= i; ++j)
      for (int c = 0; c < w; ++c) mixed[c] += p[j - first] * v[j][from + c];
    return mixed;
  }

  void attend(const Layer& layer, Rows<S>& h) const {
    Rows<S> q, k, v;
    for (size_t i = 0; i < h.size(); ++i) {
      const Row<S> x = rms_norm(h[i], layer.attention_norm);
      q.push_back(linear(layer.q, x));
      k.push_back(linear(layer.k, x));
      v.push_back(linear(layer.v, x));
      rotate(q.back(), static_cast<int>(i));
      rotate(k.back(), static_cast<int>(i));
    }
    for (size_t i = 0; i < h.size(); ++i) {
      Row<S> mixed;
      for (int head = 0; head < config_.attention.heads; ++head) {
        const Row<S> part = gather(q, k, v, static_cast<int>(i), head);
        mixed.insert(mixed.end(), part.begin(), part.end());
      }
      const Row<S> out = linear(layer.o, mixed);
      for (size_t c = 0; c < out.size(); ++c) h[i][c] += out[c];
    }
  }

  // w2 (silu(w1 x) * (w3 x)).
  static Row<S> apply(const Expert& expert, const Row<S>& x) {
    Row<S> gate = linear(expert.gate, x);
    const Row<S> up = linear(expert.up, x);
    for (size_t f = 0; f < gate.size(); ++f) gate[f] *= up[f] / (1.0 + std::exp(-gate[f]));
    return linear(expert.down, gate);
  }

  // Experts by falling probability.
  static std::vector<int> ranked(const Row<S>& p) {
    std::vector<int> order;
    for (int e = 0; e < static_cast<int>(p.size()); ++e) order.push_back(e);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return real_part(p[a]) > real_part(p[b]); });
    return order;
  }

  // The probabilities of the best K divided by their sum; what skipping takes away leaves the first with weight 1.
  void mix(const Layer& layer, const model::LayerConfig& shape, std::vector<Rows<S>>& streams,
           ReferenceOutcome<S>& outcome) const {
    Row<S> mean(layer.experts.size(), S(0));
    std::vector<double> share(layer.experts.size());
    double tokens = 0;
    for (const Rows<S>& stream : streams) tokens += static_cast<double>(stream.size());
    for (Rows<S>& stream : streams)
      for (Row<S>& h : stream) {
        const Row<S> x = rms_norm(h, layer.moe_norm), z = linear(layer.router, x), p = softmax(z);
        std::vector<int> chosen = ranked(p);
        if (shape.top_k < shape.experts)
          outcome.margin =
              std::min(outcome.margin, real_part(z[chosen[shape.top_k - 1]]) - real_part(z[chosen[shape.top_k]]));
        chosen.resize(static_cast<size_t>(shape.top_k));
        for (size_t e = 0; e < p.size(); ++e) mean[e] += p[e] / tokens;
        for (const int e : chosen) share[e] += 1 / (tokens * shape.top_k);
        if (shape.skip_beta &&
            real_part(p[chosen[1]]) < static_cast<double>(*shape.skip_beta) * real_part(p[chosen[0]]))
          chosen.pop_back();
        S sum = 0;
        for (const int e : chosen) sum += p[e];
        for (const int e : chosen) {
          const Row<S> out = apply(layer.experts[e], x);
          for (size_t c = 0; c < out.size(); ++c) h[c] += p[e] / sum * out[c];
        }
      }
    for (size_t e = 0; e < mean.size(); ++e)
      outcome.balance += config_.load_weight * static_cast<double>(shape.experts) * share[e] * mean[e];
  }

  // The same by the spec, for choices made elsewhere. Returns the scores, which the next layer may read.
  Row<S> mix_as(const Layer& layer, const FixedChoices& choices, const Row<S>& before, std::vector<Rows<S>>& streams,
                ReferenceOutcome<S>& outcome) const {
    Row<S> x;
    for (const Rows<S>& stream : streams)
      for (const Row<S>& h : stream)
        for (const S& v : rms_norm(h, layer.moe_norm)) x.push_back(v);
    std::vector<Row<S>> gate;
    for (const Table<S>& t : layer.gate) gate.emplace_back(t.data, t.data + t.rows * t.cols);
    const auto routed = route_as(*spec_, x, gate, before, {choices, layer.experts.size()});
    outcome.balance += routed.balance;
    const auto width = static_cast<size_t>(config_.width), k = choices.chosen.size() * width / x.size();
    size_t t = 0;
    for (Rows<S>& stream : streams)
      for (Row<S>& h : stream) {
        const Row<S> row(x.begin() + static_cast<std::ptrdiff_t>(t * width),
                         x.begin() + static_cast<std::ptrdiff_t>((t + 1) * width));
        for (size_t i = t * k; i < (t + 1) * k; ++i) {
          if (choices.chosen[i] < 0) continue;
          const Row<S> out = apply(layer.experts[static_cast<size_t>(choices.chosen[i])], row);
          for (size_t c = 0; c < width; ++c) h[c] += routed.weights[i] * out[c];
        }
        ++t;
      }
    return routed.scores;
  }

  // Nats per counted token.
  static S cross_entropy(const ReferenceBatch& batch, const Rows<S>& logits) {
    S total = 0;
    int counted = 0;
    size_t row = 0;
    for (const auto& targets : batch.targets)
      for (const int32_t target : targets) {
        const Row<S>& z = logits[row++];
        if (target < 0) continue;
        total -= std::log(softmax(z)[target]);
        ++counted;
      }
    return total / static_cast<double>(counted);
  }

  model::Config config_;
  const RouterSpec* spec_;
  Table<S> embedding_, norm_, head_;
  std::vector<Layer> layers_;
};

}  // namespace choir::tests
