#include "train/step.h"

#include <algorithm>

#include "base/arena.h"
#include "base/clock.h"
#include "base/profile.h"

namespace choir::train {

// Over the micro-batches of a step.
struct Stepper::Sums {
  double loss = 0, distillation = 0;
  Passed passed;
  bool swept = false;                           // the proposals were counted in a forward of their own
  double taught = 0;                            // FLOP of the teacher
  std::vector<double> balance;                  // [L]
  std::vector<int64_t> local;                   // [L] pairs on the node of their token
  std::vector<std::optional<double>> gates;     // [L] gradient norms, frozen or not
  std::vector<std::vector<float>> router_sums;  // [L] of Router::observe

  explicit Sums(const model::Model& model)
      : passed(model.config()), balance(model.config().layers.size()), local(balance.size()) {
    for (int l = 0; l < model.config().depth(); ++l)
      router_sums.emplace_back(static_cast<size_t>(model.router(l).sums_size(model.config().layers[l].routed())));
  }
};

namespace {

float share(int64_t part, int64_t whole) {
  return static_cast<float>(static_cast<double>(part) / static_cast<double>(std::max<int64_t>(1, whole)));
}

int64_t tokens_of(const TokenBatch& batch) { return static_cast<int64_t>(batch.ids.size()); }

model::RoutingOptions routing_of(const TrainConfig& config, uint64_t seed, size_t number, const TokenBatch& batch,
                                 base::Frame& frame) {
  const std::span<int32_t> nodes = frame.list<int32_t>(batch.ids.size());
  fill_nodes(batch, config.placement, nodes);
  return {.rule = moe::Rule::kTraining,
          .training_sums = config.sums,
          .seed = seed + 0xd1342543de82ef95 * number,
          .node = nodes,
          .nodes = config.placement.nodes};
}

}  // namespace

Stepper::Stepper(const TrainConfig& config, const model::Model& model, Parameters& parameters, double peak,
                 base::Threads& threads, Teacher* teacher)
    : config_(config),
      model_(model),
      parameters_(parameters),
      peak_(peak),
      threads_(threads),
      teacher_(teacher),
      work_(model.config()) {
  activations_.recompute = config.recompute;
}

// [L][E] of the proposals of all micro-batches. The load loss is a product of means over the whole step, so each part
// must know the shares of all before its backward; that costs one more forward, which is skipped where nobody asks.
std::vector<std::vector<float>> Stepper::shares(std::span<const TokenBatch> batches, uint64_t seed) {
  const int depth = model_.config().depth();
  bool asked = false;
  for (int l = 0; l < depth; ++l) asked = asked || model_.router(l).shares_matter();
  if (batches.size() < 2 || !asked) return {};
  const base::Scope scope(threads_, "count proposals");
  std::vector<moe::RoutingStats> stats(static_cast<size_t>(depth));
  const model::Observer count = [&](int l, const moe::Routing& routing) { stats[static_cast<size_t>(l)].add(routing); };
  for (size_t b = 0; b < batches.size(); ++b) {
    base::Frame frame(threads_);
    model::RoutingOptions routing = routing_of(config_, seed, b, batches[b], frame);
    routing.balancing = moe::Balancing::kOn;  // the products of the step itself, bit for bit
    model::forward_stream(model_, {batches[b].ids, batches[b].sequences}, {.observer = count, .routing = routing},
                          scratch_, threads_);
  }
  std::vector<std::vector<float>> result;
  for (const moe::RoutingStats& layer : stats) {
    std::vector<float>& f = result.emplace_back();
    for (const moe::ExpertStats& e : layer.experts)
      f.push_back(static_cast<float>(e.proposed) / static_cast<float>(std::max<int64_t>(1, layer.proposed())));
  }
  return result;
}

void Stepper::add_gradients(const TokenBatch& batch, const model::RoutingOptions& routing_options,
                            const model::LossScales& scales, Sums& sums) {
  model::TrainingBatch training{{batch.ids, batch.sequences}, batch.targets, routing_options};
  training.sums = sums.router_sums;
  if (teacher_) {
    const base::Scope scope(threads_, "teacher");
    sums.taught += teacher_->read(batch, threads_);
    training.teaching = {[&](int first, int rows) { return teacher_->logits(first, rows, threads_); },
                         static_cast<float>(config_.distillation.weight),
                         static_cast<float>(config_.distillation.temperature)};
  }
  const model::TrainingLoss loss =
      model::forward_backward(model_, training, scales, activations_, parameters_.gradients(), threads_);
  sums.loss += static_cast<double>(scales.tokens) * loss.cross_entropy;
  sums.distillation += static_cast<double>(scales.tokens) * loss.distillation;
  sums.passed.add(batch, model_.config());
  for (size_t l = 0; l < activations_.blocks.size(); ++l) {
    const moe::Routing& routing = activations_.blocks[l].moe.routing;
    sums.balance[l] += static_cast<double>(scales.balance) * routing.balance_loss;
    sums.passed.routing[l].add(routing);
    sums.local[l] += moe::local_pairs(routing.plan, routing_options.node, routing_options.nodes);
  }
}

// The routers' own numbers move once a step, behind the weights.
void Stepper::update_routers(const Sums& sums) {
  for (int l = 0; l < model_.config().depth(); ++l)
    if (!parameters_.state_frozen(l))
      model_.router(l).update(model_.config().layers[l].routed(), sums.router_sums[static_cast<size_t>(l)],
                              parameters_.state(l));
}

// FLOP of the products that were computed: multiply-adds of the forward, times 2, and 3 for forward and both backwards;
// once more for the sweep that counts, without the head; and the teacher's.
double Stepper::work(const Sums& sums) const {
  const double once = work_.multiply_adds(sums.passed);
  return 6 * once + (sums.swept ? 2 * (once - work_.head(sums.passed)) : 0) + sums.taught;
}

StepReport Stepper::report(const Sums& sums, const Progress& progress) const {
  StepReport report{.step = progress.step, .steps = config_.schedule.steps, .loss = sums.loss};
  if (teacher_) report.distill_loss = sums.distillation;
  report.tokens = progress.tokens;
  report.peak_memory = peak_memory();
  for (size_t l = 0; l < sums.passed.routing.size(); ++l) {
    const moe::RoutingStats& routing = sums.passed.routing[l];
    LayerReport& layer = report.layers.emplace_back(layer_report(routing));
    layer.balance_loss = sums.balance[l];
    layer.router_gradient_norm = sums.gates[l];
    if (config_.placement.nodes > 1)
      layer.local_share =
          static_cast<double>(sums.local[l]) / static_cast<double>(std::max<int64_t>(1, routing.kept()));
    report.balance_loss += layer.balance_loss;
  }
  sum_up(report);
  return report;
}

StepReport Stepper::step(std::span<const TokenBatch> batches, Progress& progress) {
  const base::Scope scope(threads_, "step");
  const base::Stopwatch watch;
  const uint64_t seed = config_.seed ^ static_cast<uint64_t>(progress.step + 1) << 32;
  Sums sums(model_);
  {
    const base::Operator op(threads_, "clear gradients", base::moved_bytes, parameters_.values().span().size_bytes());
    parameters_.clear_gradients();
  }
  int64_t counted = 0, tokens = 0;
  for (const TokenBatch& batch : batches) {
    counted += batch.counted();
    tokens += tokens_of(batch);
  }
  const std::vector<std::vector<float>> all = shares(batches, seed);
  sums.swept = !all.empty();
  for (size_t b = 0; b < batches.size(); ++b) {
    base::Frame frame(threads_);
    model::RoutingOptions routing = routing_of(config_, seed, b, batches[b], frame);
    routing.shares = all;
    add_gradients(batches[b], routing, {share(batches[b].counted(), counted), share(tokens_of(batches[b]), tokens)},
                  sums);
  }
  for (int l = 0; l < model_.config().depth(); ++l) sums.gates.push_back(parameters_.gate_gradient_norm(l, threads_));
  parameters_.drop_frozen_gradients();
  const double norm = parameters_.gradient_norm(threads_);
  ++progress.step;
  progress.tokens += sums.passed.tokens;
  StepReport result = report(sums, progress);
  result.gradient_norm = norm;
  result.learning_rate = config_.schedule.at(progress.step);
  if (result.finite()) {
    const double scale = norm > config_.gradient_clip ? config_.gradient_clip / norm : 1;
    parameters_.update(config_, {result.learning_rate, scale, progress.step}, threads_);
    update_routers(sums);
  }
  result.seconds = watch.seconds();
  result.tokens_per_second = static_cast<double>(sums.passed.tokens) / result.seconds;
  result.share_of_peak = work(sums) / result.seconds / peak_;
  return result;
}

}  // namespace choir::train
