// What becomes of the gains when experts are skipped: every way is tried, and a judge chooses.
#pragma once

#include "compress/repair.h"
#include "compress/skip_amends.h"
#include "compress/skip_budget.h"

namespace choir::compress {

struct GainTrial {
  Divisors divisors = Divisors::kLeastError;
  Amend amend = Amend::kNone;
  double kept_share = 1;  // of the evaluations of the calibration tokens
  double value = 0;       // the judge's
};

struct GainChoice {
  Model model;
  BudgetResult policy;            // of its divisors
  std::vector<GainTrial> trials;  // in the order in which they were tried
  size_t best = 0;                // of the least value, of equal ones the first
};

// Under each rule of divisors the policy of the budget, and on it each kind of amending numbers. budget.divisors is not
// read. The judge sees a dozen models. Throws as budget_skipping does.
GainChoice choose_gains(const Model& model, std::span<const CalibrationBatch> batches, const SkipBudget& budget,
                        const Judge& judge, Threads& threads, const Progress& progress = {});

}  // namespace choir::compress
