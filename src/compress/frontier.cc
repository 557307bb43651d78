#include "compress/frontier.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "base/error.h"
#include "compress/criteria.h"
#include "compress/kept_counts.h"
#include "compress/select.h"

namespace choir::compress {
namespace {

constexpr Criterion kBaselines[] = {Criterion::kReap, Criterion::kFrequency, Criterion::kRandom};

// The most experts a layer can be left with, from `most` downwards and above `least`; 0: none.
int allowed_below(const LayerCurve& layer, int most) {
  for (int count = most; count >= layer.least; --count)
    if (misfit(layer.rule, layer.experts(), count).empty()) return count;
  return 0;
}

// The fewest, from a share of them upwards.
int least_allowed(const moe::SubsetRule& rule, int experts, double share) {
  int count = std::max(1, static_cast<int>(std::floor(share * experts + 1e-9)));
  while (count < experts && !misfit(rule, experts, count).empty()) ++count;
  return count;
}

LayerCurve curve_of(const LayerRecord& record, const Elimination& elimination, double energy, int64_t bytes) {
  LayerCurve curve;
  curve.rule = record.rule;
  curve.bytes = bytes;
  for (const double loss : elimination.loss)
    curve.loss.push_back(std::isnan(loss) ? std::numeric_limits<double>::infinity() : loss / energy);
  return curve;
}

}  // namespace

LoadRecord records_in(std::span<const LayerRecord> records) {
  return [records](int layer) {
    return std::shared_ptr<const LayerRecord>(std::shared_ptr<void>(), &records[static_cast<size_t>(layer)]);
  };
}

LoadRecord records_in(const CaptureDirectory& capture) {
  return [&capture](int layer) { return std::make_shared<const LayerRecord>(capture.load(layer)); };
}

std::vector<int> least_counts(const Model& model, double share) {
  check_observable(model);
  std::vector<int> counts;
  for (int l = 0; l < model.config().depth(); ++l)
    counts.push_back(
        least_allowed(*model.router(l).subset_rule(), model.config().layers[static_cast<size_t>(l)].experts, share));
  return counts;
}

PruningFrontier::PruningFrontier(LoadRecord load, std::vector<int64_t> bytes, const FrontierOptions& options,
                                 Threads& threads, const Progress& progress)
    : load_(std::move(load)), options_(options), threads_(threads) {
  if (!(options.least > 0 && options.least <= 1))
    base::usage_error("a least share of " + std::to_string(options.least) + " of the experts", "frontier",
                      "above 0, at most 1");
  const auto depth = static_cast<int>(bytes.size());
  for (int l = 0; l < depth; ++l) {
    const auto record = load_(l);
    const std::vector<double> weight = objective_weights(*record, options.objective, threads);
    Replay replay(*record, weight, threads);
    Layer& layer = layers_.emplace_back();
    const int least = least_allowed(record->rule, record->experts, options.least);
    layer.elimination = eliminate(replay, least);
    const double energy = residual_energy(*record, weight);
    if (energy > 0) layer.energy = energy;
    layer.curve = curve_of(*record, layer.elimination, layer.energy, bytes[static_cast<size_t>(l)]);
    layer.curve.least = least;
    for (const Criterion criterion : kBaselines)
      layer.score.push_back(score_experts(*record, criterion, l, options.search.seed));
    if (progress) progress(l + 1, depth);
  }
}

std::optional<std::vector<int>> PruningFrontier::counts_at(double ratio) const {
  std::vector<int> counts;
  for (const Layer& layer : layers_) {
    const int experts = layer.curve.experts();
    const int count = allowed_below(layer.curve, std::min(experts, static_cast<int>(ratio * experts + 1e-9)));
    if (count == 0) return {};
    counts.push_back(count);
  }
  return counts;
}

std::vector<int> PruningFrontier::counts_within(int64_t total, std::span<const int64_t> bytes) const {
  std::vector<LayerCurve> curves;
  for (size_t l = 0; l < layers_.size(); ++l) {
    curves.push_back(layers_[l].curve);
    curves.back().bytes = bytes[l];
  }
  return allocate(curves, {Budget::Of::kBytes, total, 0});
}

// Fills in the kept experts of one layer for all that is wanted; sets of one size are searched once.
void PruningFrontier::settle(int l, std::vector<Wanted>& wanted) const {
  const Layer& layer = layers_[static_cast<size_t>(l)];
  const auto record = load_(l);
  const std::vector<double> weight = objective_weights(*record, options_.objective, threads_);
  Replay replay(*record, weight, threads_);
  std::map<int, ScoredSet> found;
  for (Wanted& w : wanted) {
    const int count = w.counts[static_cast<size_t>(l)];
    ScoredSet set;
    if (w.baseline < 0) {
      if (!found.contains(count)) found[count] = search(replay, layer.elimination, count, options_.search).front();
      set = found[count];
    } else {
      set.kept = choose_by_score({record->rule, layer.score[static_cast<size_t>(w.baseline)]}, count);
      replay.keep(set.kept);
      set.loss = replay.loss();
    }
    w.choice.keep.push_back(set.kept);
    w.choice.loss += set.loss / layer.energy;
  }
}

void PruningFrontier::settle_all(std::vector<Wanted>& wanted, const Progress& progress) const {
  const auto depth = static_cast<int>(layers_.size());
  for (int l = 0; l < depth; ++l) {
    settle(l, wanted);
    if (progress) progress(l + 1, depth);
  }
}

std::vector<std::vector<int>> PruningFrontier::searched(const std::vector<int>& counts,
                                                        const Progress& progress) const {
  std::vector<Wanted> wanted{{{}, counts}};
  settle_all(wanted, progress);
  return std::move(wanted.front().choice.keep);
}

std::vector<KeptChoice> PruningFrontier::choices(std::span<const double> ratios, const Progress& progress) const {
  std::vector<int64_t> bytes;
  std::vector<std::vector<int>> seen(1);  // that keep all, or of an earlier ratio
  for (const Layer& layer : layers_) {
    bytes.push_back(layer.curve.bytes);
    seen[0].push_back(layer.curve.experts());
  }
  std::vector<Wanted> wanted;
  for (const double ratio : ratios) {
    const auto counts = counts_at(ratio);
    if (!counts || std::ranges::count(seen, *counts)) continue;
    seen.push_back(*counts);
    int64_t total = 0;
    for (size_t l = 0; l < layers_.size(); ++l) total += (*counts)[l] * bytes[l];
    wanted.push_back({{"search", ratio}, counts_within(total, bytes)});
    wanted.push_back({{"uniform", ratio}, *counts});
    for (size_t b = 0; b < std::size(kBaselines); ++b)
      wanted.push_back({{std::string(name_of(kBaselines[b])), ratio}, *counts, static_cast<int>(b)});
  }
  if (!wanted.empty()) settle_all(wanted, progress);
  std::vector<KeptChoice> choices;
  for (Wanted& w : wanted) choices.push_back(std::move(w.choice));
  return choices;
}

std::vector<SkippingChoice> skipping_choices(const SkipStudy& study, std::span<const double> shares) {
  std::vector<SkippingChoice> choices;
  for (const double share : shares)
    if (share < 1 && share >= study.least()) choices.push_back({share, study.at(share)});
  return choices;
}

}  // namespace choir::compress
