#include "compress/repair.h"

#include <algorithm>

#include "base/error.h"
#include "compress/merge.h"
#include "compress/refit.h"

namespace choir::compress {
namespace {

constexpr const char* kNames[] = {"drop", "novice", "merge", "scalar", "ridge"};

class Repairs {
 public:
  Repairs(const RepairCalibration& calibration, const RepairOptions& options, const Judge& judge, Threads& threads)
      : c_(calibration), options_(options), judge_(judge), threads_(threads), full_(c_.full.with_admission("all")) {
    for (const std::vector<int>& kept : c_.keep) layers_.push_back({kept, GainPolicy::kReroute, {}});
  }

  RepairResult run();

 private:
  bool attempt(RepairResult& result, const std::string& name, Model candidate);
  void try_policies(RepairResult& result);
  void refit(RepairResult& result);
  Model scaled(Model model) const;
  // Each layer through `change`, then its down projections anew; in one pass.
  template <class Change>
  Model refitted(Model model, const Change& change) const;
  Model merged(const Model& model) const;
  Model ridge(const Model& model) const {
    return refitted(model, [](const Model& m, int) { return m; });
  }

  bool wanted(const std::string& name) const {
    return options_.only.empty() || std::ranges::count(options_.only, name) > 0;
  }
  bool loses(size_t l) const { return static_cast<int>(layers_[l].kept.size()) < c_.records[l].experts; }
  bool cut() const { return !c_.neurons.empty(); }
  bool may_stay(size_t l) const { return loses(l) && c_.records[l].rule.groups == 1; }
  // Both see an expert as its three matrices.
  bool matrices_fit() const {
    return !full_.config().expert_bias &&
           std::ranges::all_of(full_.config().layers,
                               [](const model::LayerConfig& layer) { return layer.expert_width <= kWidestRidge; });
  }

  const RepairCalibration& c_;
  const RepairOptions& options_;
  const Judge& judge_;
  Threads& threads_;
  const Model full_;
  std::vector<KeptLayer> layers_;
};

bool Repairs::attempt(RepairResult& result, const std::string& name, Model candidate) {
  const RepairStep& last = result.steps.back();
  const double before = last.kept ? last.after : last.before, after = judge_(candidate);
  result.steps.push_back({name, before, after, after < before});
  if (after < before) result.model = std::move(candidate);
  return after < before;
}

void Repairs::try_policies(RepairResult& result) {
  for (const GainPolicy policy : {GainPolicy::kDrop, GainPolicy::kNovice}) {
    const char* name = policy == GainPolicy::kDrop ? "drop" : "novice";
    if (!wanted(name)) continue;
    std::vector<KeptLayer> other = layers_;
    bool differs = false;
    for (size_t l = 0; l < other.size(); ++l) {
      if (!may_stay(l)) continue;
      const LayerRecord& record = c_.records[l];
      const std::vector<uint8_t> kept = flags_of(other[l].kept, record.experts);
      if (policy == GainPolicy::kDrop && !(policy_loss({record, kept, policy}) < policy_loss({record, kept}))) continue;
      other[l].policy = policy;
      other[l].constants = record.gained_mean;
      differs = true;
    }
    if (differs && attempt(result, name, with_neurons(with_policies(full_, other), c_.neurons))) layers_ = other;
  }
}

Model Repairs::scaled(Model model) const {
  for (size_t l = 0; l < layers_.size(); ++l) {
    if (!loses(l) || layers_[l].policy == GainPolicy::kNovice) continue;
    const std::vector<uint8_t> kept = flags_of(layers_[l].kept, c_.records[l].experts);
    const ScalarRefit refit = refit_scales({c_.records[l], kept, layers_[l].policy}, options_.scalar_lambda);
    std::vector<double> scale;
    for (const int e : layers_[l].kept) scale.push_back(refit.scale[static_cast<size_t>(e)]);
    model = with_scales(model, static_cast<int>(l), scale);
  }
  return model;
}

template <class Change>
Model Repairs::refitted(Model model, const Change& change) const {
  layer_inputs(
      full_, c_.batches,
      [&](int l, Matrix<const float> x) {
        if (!loses(static_cast<size_t>(l)) && !cut()) return;
        const tensor::Buffer<float> z(static_cast<size_t>(x.rows) * static_cast<size_t>(x.cols));
        run_layer(full_, l, x, z.matrix(x.rows, x.cols), threads_);
        model = refit_down(change(model, l), l, {x, z.matrix(x.rows, x.cols)}, options_.ridge, threads_).model;
      },
      threads_);
  return model;
}

Model Repairs::merged(const Model& model) const {
  return refitted(model, [&](const Model& pruned, int l) {
    const LayerRecord& record = c_.records[static_cast<size_t>(l)];
    const std::vector<int>& kept = layers_[static_cast<size_t>(l)].kept;
    const std::vector<int> target = merge_targets(pair_moments(record), flags_of(kept, record.experts));
    return with_merged(full_, pruned, l, {kept, target, record.coverage});
  });
}

void Repairs::refit(RepairResult& result) {
  const auto scalable = [](const KeptLayer& layer) { return layer.policy != GainPolicy::kNovice; };
  if (!cut() && wanted("scalar") && std::ranges::any_of(layers_, scalable))
    attempt(result, "scalar", scaled(result.model));
  if (matrices_fit() && wanted("ridge")) attempt(result, "ridge", ridge(result.model));
}

RepairResult Repairs::run() {
  const Model pruned = with_neurons(with_policies(full_, layers_), c_.neurons);
  const double value = judge_(pruned);
  RepairResult result{pruned, {{"pruned", value, value, true}}};
  bool any = cut();
  for (size_t l = 0; l < layers_.size(); ++l) any = any || loses(l);
  if (!any) return result;
  try_policies(result);
  const bool fits = matrices_fit();
  const bool merged_in = fits && !cut() && wanted("merge") && attempt(result, "merge", merged(result.model));
  if (!merged_in) refit(result);
  // Answers that stay where experts went leave the refit less to do, but on its own it may do more.
  const bool alone = std::ranges::none_of(std::span(result.steps).subspan(1),
                                          [](const RepairStep& step) { return step.kept && step.name != "ridge"; });
  if (fits && wanted("ridge") && !alone) attempt(result, "ridge alone", ridge(pruned));
  return result;
}

}  // namespace

void check_repairs(const RepairOptions& options) {
  std::string names;
  for (const char* name : kNames) names += (names.empty() ? "" : ", ") + std::string(name);
  for (const std::string& name : options.only)
    if (!std::ranges::count(kNames, name))
      base::usage_error("no repair is called " + name, "repair", "there are " + names);
}

RepairResult repair(const RepairCalibration& calibration, const RepairOptions& options, const Judge& judge,
                    Threads& threads) {
  const auto depth = static_cast<size_t>(calibration.full.config().depth());
  CHOIR_CHECK(calibration.keep.size() == depth && calibration.records.size() == depth, "one entry for each layer");
  check_batches(calibration.batches);
  check_repairs(options);
  return Repairs(calibration, options, judge, threads).run();
}

}  // namespace choir::compress
