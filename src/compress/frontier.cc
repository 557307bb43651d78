#include "compress/frontier.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "base/error.h"
#include "compress/kept_counts.h"

namespace choir::compress {
namespace {

constexpr const char* kMethods[] = {"search", "uniform", "reap", "frequency", "random"};

// From a share of the experts upwards; of none none.
int least_allowed(const moe::SubsetRule& rule, int experts, double share) {
  if (experts == 0) return 0;
  int count = std::max(1, static_cast<int>(std::floor(share * experts + 1e-9)));
  while (count < experts && !misfit(rule, experts, count).empty()) ++count;
  return count;
}

int64_t bytes_of(const std::vector<int>& counts, std::span<const LayerCurve> curves) {
  int64_t sum = 0;
  for (size_t l = 0; l < counts.size(); ++l) sum += counts[l] * curves[l].bytes;
  return sum;
}

}  // namespace

std::vector<int> least_counts(const Model& model, double share) {
  check_observable(model);
  std::vector<int> counts;
  for (int l = 0; l < model.config().depth(); ++l) {
    const auto rule = model.router(l).subset_rule();  // none of a dense layer
    counts.push_back(
        least_allowed(rule.value_or(moe::SubsetRule{}), model.config().layers[static_cast<size_t>(l)].experts, share));
  }
  return counts;
}

PruningFrontier::PruningFrontier(RecordSource& records, const std::vector<int64_t>& bytes,
                                 const FrontierOptions& options, Threads& threads, const Progress& progress)
    : records_(records), options_(options), threads_(threads) {
  if (!(options.least > 0 && options.least <= 1))
    base::usage_error("a least share of " + std::to_string(options.least) + " of the experts", "frontier",
                      "above 0, at most 1");
  SetOptions nested = options_for("search");
  nested.method = SetMethod::kNested;
  records_.each([&](int l, const LayerRecord& record) {
    const int least = record.experts == 0
                          ? 0
                          : std::max(least_allowed(record.rule, record.experts, options_.least), least_served(record));
    LayerCurve& curve = curves_.emplace_back(curve_of(record, nested_sets(record, l, least, nested, threads_)));
    curve.bytes = bytes[static_cast<size_t>(l)];
    curve.least = least;
    if (progress) progress(l + 1, static_cast<int>(bytes.size()));
  });
}

SetOptions PruningFrontier::options_for(const std::string& method) const {
  SetOptions set;
  set.objective = options_.objective;
  set.seed = options_.seed;
  parse_method(method == "uniform" ? "search" : method, set);
  return set;
}

std::optional<std::vector<int>> PruningFrontier::counts_at(double ratio) const {
  std::vector<int> counts;
  for (const LayerCurve& curve : curves_) {
    const int count = count_of_share(curve.rule, curve.experts(), ratio);
    const bool dense = curve.experts() == 0;
    if (!dense && (count < curve.least || !misfit(curve.rule, curve.experts(), count).empty())) return {};
    counts.push_back(count);
  }
  return counts;
}

std::vector<int> PruningFrontier::counts_within(int64_t total, std::span<const int64_t> bytes) const {
  std::vector<LayerCurve> curves = curves_;
  for (size_t l = 0; l < curves.size(); ++l) curves[l].bytes = bytes[l];
  return allocate(curves, {Budget::Of::kBytes, total, 0});
}

// Fills in the kept experts of all that is wanted; what is wanted twice of a layer is worked out once.
void PruningFrontier::settle(std::vector<Wanted>& wanted, const Progress& progress) {
  records_.each([&](int l, const LayerRecord& record) {
    std::map<std::tuple<int, std::string, uint64_t>, SetChoice> found;
    for (Wanted& w : wanted) {
      const int count = w.counts[static_cast<size_t>(l)];
      const std::string method = w.choice.method == "uniform" ? "search" : w.choice.method;
      const auto [at, fresh] = found.try_emplace({count, method, w.set.seed});
      if (fresh) at->second = choose_set(record, l, count, w.set, threads_);
      w.choice.keep.push_back(at->second.keep);
      w.choice.loss += at->second.relative;
    }
    if (progress) progress(l + 1, static_cast<int>(curves_.size()));
  });
}

std::vector<std::vector<int>> PruningFrontier::searched(const std::vector<int>& counts, const Progress& progress) {
  std::vector<Wanted> wanted{{{"search"}, counts, options_for("search")}};
  settle(wanted, progress);
  return std::move(wanted.front().choice.keep);
}

std::vector<KeptChoice> PruningFrontier::choices(std::span<const double> ratios, const Progress& progress) {
  std::vector<int64_t> bytes;
  std::vector<std::vector<int>> seen(1);  // that keep all, or are of an earlier ratio
  for (const LayerCurve& curve : curves_) {
    bytes.push_back(curve.bytes);
    seen[0].push_back(curve.experts());
  }
  std::vector<Wanted> wanted;
  for (const double ratio : ratios) {
    const auto counts = counts_at(ratio);
    if (!counts || std::ranges::count(seen, *counts)) continue;
    seen.push_back(*counts);
    const std::vector<int> shared = counts_within(bytes_of(*counts, curves_), bytes);
    for (const std::string method : kMethods)
      for (int draw = 0; draw < (method == "random" ? options_.draws : 1); ++draw) {
        wanted.push_back({{method, ratio}, method == "search" ? shared : *counts, options_for(method)});
        wanted.back().set.seed += static_cast<uint64_t>(draw);
      }
  }
  if (!wanted.empty()) settle(wanted, progress);
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
