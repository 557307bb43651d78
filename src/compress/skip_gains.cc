#include "compress/skip_gains.h"

#include <optional>

namespace choir::compress {

GainChoice choose_gains(const Model& model, std::span<const CalibrationBatch> batches, const SkipBudget& budget,
                        const Judge& judge, Threads& threads, const Progress& progress) {
  const Model full = model.with_admission("all");
  std::vector<SkipStudy> studies;
  for (const Divisors divisors : kDivisors) studies.emplace_back(model, budget.by, divisors);
  studies.front().check(budget.keep);
  study_skipping(model, batches, studies, threads, progress);
  std::vector<GainTrial> trials;
  std::optional<GainChoice> best;
  for (size_t i = 0; i < studies.size(); ++i) {
    BudgetResult policy = studies[i].at(budget.keep);
    policy.frontier = studies[i].frontier();
    const SkipAmends amends(full, skipping_model(model, policy), batches, threads, progress);
    for (const Amend amend : {Amend::kNone, Amend::kFactors, Amend::kMoments, Amend::kLinear}) {
      Model candidate = amends.model(amend);
      const double value = judge(candidate);
      trials.push_back({kDivisors[i], amend, policy.kept_share, value});
      if (!best || value < trials[best->best].value) best = {std::move(candidate), policy, {}, trials.size() - 1};
    }
  }
  best->trials = std::move(trials);
  return std::move(*best);
}

}  // namespace choir::compress
