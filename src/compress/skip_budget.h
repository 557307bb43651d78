// Thresholds of skipping for all layers under one budget of expert evaluations, from exact errors (docs/compress.md,
// "Skipping under a budget").
#pragma once

#include "compress/calibration.h"
#include "compress/skip_error.h"
#include "moe/admit/skip.h"

namespace choir::compress {

// What one layer can do: for each threshold the evaluations it saves, for each gain rule the error it then makes.
struct SkipCurve {
  std::vector<float> threshold;  // [C] rising; the first, 0, skips nothing
  std::vector<int64_t> saved;    // [C] of the calibration tokens' evaluations, rising
  std::vector<GainRule> rules;   // [R]
  std::vector<double> error;  // [R*C] sum over tokens of |z - z'|^2 / (|h|^2 + |z|^2), h the stream that z is added to
  int64_t evaluations = 0;    // sum over tokens of the experts chosen
  int64_t tokens = 0;

  double error_of(size_t rule, size_t cut) const { return error[rule * threshold.size() + cut]; }
};

// Cuts between all different features, or where there are more, between `most` - 1 of them, evenly by evaluations.
// `by` is kRatio (top-2 alone), kTail or kBest; one expert a token always stays.
SkipCurve skip_curve(const LayerRecord& record, moe::Skip::By by, std::span<const GainRule> rules, int most = 1024);

struct SkipPlan {
  struct Point {
    size_t rule = 0, cut = 0;
  };
  std::vector<Point> layers;
  int64_t saved = 0;
  double error = 0;   // of all layers
  double lambda = 0;  // what an evaluation is worth
};

// Saves at least `target` evaluations. Every layer takes its least error - lambda saved, lambda by bisection; from the
// plans on both sides of the target one layer or two at a time then move to where it is met with less error. Throws
// Error (usage) when that many cannot be saved.
SkipPlan plan_skipping(std::span<const SkipCurve> curves, int64_t target);

// By what a layer's weights are divided when experts are skipped.
enum class Divisors {
  kLeastError,  // in each layer the rule with the least error of it
  kOwn,         // as the model has it
  kKept,        // the mass of what stays, where a weigh word can do that: the published way
};
inline constexpr Divisors kDivisors[] = {Divisors::kLeastError, Divisors::kOwn, Divisors::kKept};

const char* name_of(Divisors divisors);

struct SkipBudget {
  moe::Skip::By by = moe::Skip::By::kTail;
  double keep = 1;  // mean share of the evaluations that stay, at most
  Divisors divisors = Divisors::kLeastError;
};

struct LayerSaving {
  int layer = 0;
  float threshold = 0;
  int64_t evaluations = 0, saved = 0;  // of the calibration tokens, with every other layer at full work
  double skipped_share = 0;            // of those that could be skipped: all but the best of each token
  double error = 0;                    // mean over tokens, weighed as in a curve
  double own_error = 0;                // the same at this threshold with the layer's own weigh word; error for kKept
  std::string weights;                 // the weigh word
};

struct SkipFrontier {
  double keep = 0, error = 0;  // share of the evaluations, mean error of a token and layer
};

struct BudgetResult {
  std::vector<LayerSaving> layers;
  std::vector<SkipFrontier> frontier;  // of budgets from all evaluations down to one expert a token
  double kept_share = 1, lambda = 0;
  model::Config config;  // the given one with the policies as router expressions
};

// What skipping can do in every layer of a model, and the policies of any budget from that.
class SkipStudy {
 public:
  // With every expert at work: thresholds that the model has are left out. Throws Error (usage) for kRatio where a
  // layer is not top-2.
  SkipStudy(const Model& model, moe::Skip::By by, Divisors divisors = Divisors::kLeastError);

  double least() const;           // the share of the evaluations that always stays: one expert a token
  void check(double keep) const;  // throws Error (usage) for a share out of range

  // The record of the next layer, of a dense one that of no experts. Throws Error (input) where it is not finite.
  void add(const LayerRecord& record);
  // With a record of every layer; throws as check() does. The result has no frontier.
  BudgetResult at(double keep) const;
  std::vector<SkipFrontier> frontier() const;

 private:
  Model full_;
  moe::Skip::By by_;
  Divisors divisors_;
  int records_ = 0;                     // that it was given
  std::vector<SkipCurve> curves_;       // of layers with experts
  std::vector<moe::SubsetRule> kinds_;  // of the same
  std::vector<int> layers_;             // their numbers
};

// Adds to each study, of this model and without records, those of one pass over the batches.
void study_skipping(const Model& model, std::span<const CalibrationBatch> batches, std::span<SkipStudy> studies,
                    Threads& threads, const Progress& progress = {});

// Measures with every expert at work, as calibrate_skipping does. Throws Error (usage) for a budget that cannot be met
// or kRatio where a layer is not top-2, (input) for a router that is not one of pruning's.
BudgetResult budget_skipping(const Model& model, std::span<const CalibrationBatch> batches, const SkipBudget& budget,
                             Threads& threads, const Progress& progress = {});

// The model that `result` describes; shares the tensors of `model`.
Model skipping_model(const Model& model, const BudgetResult& result);

}  // namespace choir::compress
