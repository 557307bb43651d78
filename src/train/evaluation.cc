#include "train/evaluation.h"

#include <algorithm>
#include <limits>

#include "base/profile.h"
#include "kernels/cross_entropy.h"
#include "moe/stats.h"
#include "train/geometry.h"

namespace choir::train {
namespace {

using tensor::Buffer;

constexpr int kAnswered = 512;  // held-out tokens that every expert answers

// What is added up for one domain; losses in nats.
struct Tally {
  int64_t tokens = 0;
  double loss = 0, loss_training_rule = 0;
  std::vector<moe::RoutingStats> layers;
};

// Some rows of x, evenly spread.
Buffer<float> spread_rows(Matrix<const float> x, int rows) {
  Buffer<float> some(static_cast<size_t>(rows) * static_cast<size_t>(x.cols));
  for (int i = 0; i < rows; ++i)
    std::ranges::copy(x.row(static_cast<int>(static_cast<int64_t>(i) * x.rows / rows)), some.matrix(rows, x.cols)[i]);
  return some;
}

class Examination {
 public:
  Examination(const model::Model& model, const HeldOut& held_out, const EvaluationRules& rules, base::Threads& threads)
      : model_(model), held_out_(held_out), rules_(rules), threads_(threads), tallies_(held_out.names.size()) {
    for (const model::LayerConfig& layer : model.config().layers)
      geometry_.emplace_back(layer.routed(), model.config().width);
    for (Tally& tally : tallies_) tally.layers.resize(geometry_.size());
    chosen_.resize(geometry_.size());
  }

  Evaluation run() {
    for (const TokenBatch& batch : held_out_.batches) {
      pass(batch, moe::Rule::kDecode, [&](int l, const moe::Routing& routing) { look(batch, l, routing); });
      add_losses(batch, &Tally::loss);
      pass(batch, moe::Rule::kTraining, [&](int l, const moe::Routing& routing) { compare(l, routing); });
      add_losses(batch, &Tally::loss_training_rule);
      for (size_t s = 0; s < batch.sequences.size(); ++s) tally(batch, s).tokens += counted(batch, s);
    }
    return result();
  }

 private:
  Tally& tally(const TokenBatch& batch, size_t s) { return tallies_[static_cast<size_t>(batch.domains[s])]; }

  static std::span<const int32_t> targets(const TokenBatch& batch, size_t s) {
    return std::span(batch.targets).subspan(batch.sequences[s].row, batch.sequences[s].count);
  }
  static int64_t counted(const TokenBatch& batch, size_t s) {
    return std::ranges::count_if(targets(batch, s), [](int32_t target) { return target >= 0; });
  }

  // Leaves the logits in logits_.
  void pass(const TokenBatch& batch, moe::Rule rule, const model::Observer& observer) {
    const int rows = static_cast<int>(batch.ids.size()), vocab = model_.config().vocab;
    const std::vector<int32_t> nodes = nodes_of(batch, rules_.placement);
    const model::RoutingOptions routing{
        .rule = rule, .seed = rules_.seed, .node = nodes, .nodes = rules_.placement.nodes};
    logits_.reserve(static_cast<size_t>(rows) * static_cast<size_t>(vocab));
    model::forward(model_, {batch.ids, batch.sequences}, {.observer = observer, .routing = routing}, scratch_,
                   logits_.matrix(rows, vocab), threads_);
  }

  void add_losses(const TokenBatch& batch, double Tally::*member) {
    const size_t rows = batch.ids.size();
    for (Buffer<float>* buffer : {&loss_, &log_sum_}) buffer->reserve(rows);
    kernels::cross_entropy_forward(logits_.matrix(static_cast<int>(rows), model_.config().vocab), batch.targets,
                                   loss_.span().first(rows), log_sum_.span().first(rows), threads_);
    for (size_t s = 0; s < batch.sequences.size(); ++s)
      for (const float nll : loss_.span().subspan(batch.sequences[s].row, batch.sequences[s].count))
        tally(batch, s).*member += static_cast<double>(nll);
  }

  // Under the decode rule: who computes what, and how far the experts are apart.
  void look(const TokenBatch& batch, int l, const moe::Routing& routing) {
    const auto layer = static_cast<size_t>(l);
    chosen_[layer] = routing.chosen;
    for (size_t s = 0; s < batch.sequences.size(); ++s) {
      const model::Sequence& rows = batch.sequences[s];
      tally(batch, s).layers[layer].add_rows(routing, rows.row, rows.row + rows.count);
    }
    const Matrix<const float> x = scratch_.block.normed.matrix(routing.plan.tokens, model_.config().width);
    geometry_[layer].add_inputs(x, routing);
    const int batches = static_cast<int>(held_out_.batches.size());
    const int asked = std::min(x.rows, std::max(1, kAnswered / batches));
    const Buffer<float> some = spread_rows(x, asked);
    for (float& v : some.span()) v *= routing.plan.input;
    geometry_[layer].add_answers(some.matrix(asked, x.cols), model_.tensors().blocks[layer].moe, threads_);
  }

  void compare(int l, const moe::Routing& routing) {
    const std::vector<int32_t>& other = chosen_[static_cast<size_t>(l)];
    for (size_t i = 0; i < other.size(); ++i) {
      agreed_ += routing.chosen[i] == other[i] && other[i] >= 0;
      decisions_ += routing.chosen[i] >= 0 || other[i] >= 0;
    }
  }

  static double over(double sum, int64_t count) { return count > 0 ? sum / static_cast<double>(count) : 0; }

  // Of no tokens it is not known, which is not 0.
  static double mean_loss(double sum, int64_t tokens) {
    return tokens > 0 ? sum / static_cast<double>(tokens) : std::numeric_limits<double>::quiet_NaN();
  }

  static DomainEvaluation finished(const std::string& name, const Tally& t) {
    DomainEvaluation domain{name, t.tokens, mean_loss(t.loss, t.tokens), mean_loss(t.loss_training_rule, t.tokens),
                            {},   {}};
    for (const moe::RoutingStats& stats : t.layers) {
      std::vector<double>& load = domain.load.emplace_back();
      auto& affinity = domain.affinity.emplace_back();
      for (const moe::ExpertStats& e : stats.experts) {
        load.push_back(over(static_cast<double>(e.kept), stats.kept()));
        affinity.push_back(e.proposed > 0 ? std::optional(over(e.affinity, e.proposed)) : std::nullopt);
      }
    }
    return domain;
  }

  Evaluation result() const {
    Evaluation e;
    for (size_t d = 0; d < tallies_.size(); ++d) {
      const Tally& t = tallies_[d];
      e.domains.push_back(finished(held_out_.names[d], t));
      e.tokens += t.tokens;
      e.loss += t.loss;
      e.loss_training_rule += t.loss_training_rule;
    }
    e.loss = mean_loss(e.loss, e.tokens);
    e.loss_training_rule = mean_loss(e.loss_training_rule, e.tokens);
    e.agreement = over(static_cast<double>(agreed_), decisions_);
    for (const LayerGeometry& layer : geometry_) {
      e.expert_cosine.push_back(layer.cosines());
      e.ch_index.push_back(layer.ch_index());
    }
    return e;
  }

  const model::Model& model_;
  const HeldOut& held_out_;
  const EvaluationRules& rules_;
  base::Threads& threads_;
  std::vector<Tally> tallies_;                // of each domain
  std::vector<LayerGeometry> geometry_;       // [L]
  std::vector<std::vector<int32_t>> chosen_;  // [L] under the decode rule, of the batch at hand
  int64_t agreed_ = 0, decisions_ = 0;
  model::Scratch scratch_;
  Buffer<float> logits_, loss_, log_sum_;
};

}  // namespace

Evaluation evaluate(const model::Model& model, const HeldOut& held_out, const EvaluationRules& rules,
                    base::Threads& threads) {
  const base::Scope scope(threads, "evaluation");
  return Examination(model, held_out, rules, threads).run();
}

}  // namespace choir::train
