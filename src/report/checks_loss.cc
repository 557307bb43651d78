#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/checks.h"
#include "report/thin.h"

namespace choir::report {
namespace {

// The first steps, which the last are compared with. A loss falls fast at first, so they must be few.
constexpr double kFirstPart = 0.02;
constexpr size_t kLeastFirst = 5;

// Medians of the first and last losses of a run that learns nothing differ by the luck of batches. Of n values with a
// spread s the median has the deviation 1.25 s / sqrt(n), and three deviations are seldom luck. For normal numbers s is
// 1.48 times the median distance from the centre.
constexpr double kDeviations = 3, kOfMedian = 1.25, kOfDistance = 1.4826;

// Above its own best by this much is more than a late rise of the learning rate explains.
constexpr double kRise = 0.10;

// Cross-entropies of different batches differ in the third digit; equality in the sixth means that no batch was read.
constexpr double kSameLoss = 1e-6;

// Below this, two rules of routing differ by the noise of the tokens evaluated. Above it, the training rule has seen
// what decoding cannot: the other tokens of the batch.
constexpr double kLeak = 0.02;

// Machines shared with others vary by some 10 %. A quarter is a leak of memory, or a machine that throttles.
constexpr double kSlower = 1.25;

constexpr size_t kWindows = 20;  // medians over twentieths of a run are smooth, and short against a divergence

Column first_part(const Column& column) {
  const auto share = static_cast<size_t>(kFirstPart * static_cast<double>(column.size()));
  const size_t taken = std::min(column.size(), std::max(share, kLeastFirst));
  return {column.begin(), column.begin() + static_cast<std::ptrdiff_t>(taken)};
}

// By how much two medians, of the first and the last part, may differ by luck. The spread is that of the last part, in
// which a loss falls least.
double luck(const Column& loss) {
  const Column first = first_part(loss), last = last_part(loss);
  Column distance;
  const double centre = median(last);
  for (const double v : last) distance.push_back(std::fabs(v - centre));
  const double spread = kOfDistance * median(distance);
  const auto part = [](const Column& column) { return 1 / static_cast<double>(column.size()); };
  const double deviation = kOfMedian * spread * std::sqrt(part(first) + part(last));
  return std::max(kDeviations * deviation, kSameLoss * std::fabs(median(first)));
}

double best_window(const Column& column) {
  double best = NAN;
  for (size_t w = 0; w < kWindows; ++w) {
    const auto at = [&](size_t i) {
      return column.begin() + static_cast<std::ptrdiff_t>(i * column.size() / kWindows);
    };
    best = std::fmin(best, median(Column(at(w), at(w + 1))));
  }
  return best;
}

bool weights_move(const Run& run) {
  for (const char* field : {"learning_rate", "gradient_norm"}) {
    const Column* column = run.steps.find(field);
    if (!column || !(median(last_part(*column)) > 0)) return false;
  }
  return true;
}

bool constant(const Column& values) {
  return std::all_of(values.begin(), values.end(), [&](double v) { return v == values.front(); });
}

}  // namespace

void check_numbers(const Run& run, std::vector<Finding>& findings) {
  Check check("numbers", findings);
  for (const char* field : {"loss", "gradient_norm"}) {
    const Column* column = run.steps.find(field);
    if (!column) continue;
    const auto bad = std::find_if(column->begin(), column->end(), [](double v) { return !std::isfinite(v); });
    if (bad == column->end()) continue;
    const auto count = std::count_if(column->begin(), column->end(), [](double v) { return !std::isfinite(v); });
    check.fault(-1,
                fmt::format("{} is not a number in {} of {} steps, first in step {:.0f}: lower the learning rate, "
                            "and start again from before that step",
                            field, count, column->size(), run.steps.step[static_cast<size_t>(bad - column->begin())]));
  }
  for (const Evaluation& e : run.evaluations)
    if (e.null_loss)
      check.fault(-1, fmt::format("a loss of the evaluation after step {:.0f} is not a number: the weights are spoilt; "
                                  "start again from before that step",
                                  e.step));
  check.otherwise_ok(fmt::format("loss and gradient norm are numbers in all {} steps", run.steps.size()));
}

void check_divergence(const Run& run, std::vector<Finding>& findings) {
  Check check("divergence", findings);
  const Column& loss = *run.steps.find("loss");
  const double first = median(first_part(loss)), last = median(last_part(loss)), best = best_window(loss);
  if (last > first + luck(loss))
    check.fault(-1, fmt::format("the loss ends at {:.3f}, above the {:.3f} that it began with: lower the learning "
                                "rate, or lengthen the warm-up",
                                last, first));
  else if (last > best * (1 + kRise))
    check.warning(-1, fmt::format("the loss ends at {:.3f} after a best of {:.3f}: look at the curve of the gradient "
                                  "norm where it turns",
                                  last, best));
  check.otherwise_ok(fmt::format("loss {:.3f} at the beginning, {:.3f} at the end", first, last));
}

void check_constant_loss(const Run& run, std::vector<Finding>& findings) {
  Check check("constant loss", findings);
  const Column& loss = *run.steps.find("loss");
  const Column part = last_part(loss);
  const auto [least, most] = std::minmax_element(part.begin(), part.end());
  const double first = median(first_part(loss)), last = median(part);
  if (*most - *least <= kSameLoss * std::fabs(last))
    check.fault(-1, fmt::format("the loss is {:.6f} in each of the last {} steps: batches or weights do not reach it",
                                last, part.size()));
  else if (std::fabs(last - first) <= luck(loss))
    check.warning(-1, fmt::format("the loss has not moved: {:.3f} at the beginning, {:.3f} at the end, and the luck of "
                                  "batches makes {:.3f}; is the learning rate too low?",
                                  first, last, luck(loss)));
  check.otherwise_ok("the loss moves");
}

void check_constant_balance(const Run& run, std::vector<Finding>& findings) {
  Check check("constant balance loss", findings);
  const auto judge = [&](const Column& column, int layer) {
    const Column part = last_part(column);
    if (constant(part) && std::isfinite(part.front()) && part.front() != 0)
      check.fault(layer,
                  fmt::format("the balance loss is {} to the last bit in each of the last {} steps while weights "
                              "move: it does not see the router",
                              part.front(), part.size()));
  };
  const Rows* layers = run.steps.find_layers("balance_loss");
  const Column* total = run.steps.find("balance_loss");
  if (!layers && !total) return check.note("the run has no balance loss");
  const bool all_experts =
      run.top_k_of(0) > 0 && run.top_k_of(0) == run.experts_of(0);  // then the loads are constant by nature
  if (weights_move(run) && !all_experts) {
    if (layers)
      for (size_t l = 0; l < layers->size(); ++l) judge((*layers)[l], static_cast<int>(l));
    else
      judge(*total, -1);
  }
  check.otherwise_ok(total && median(last_part(*total)) == 0 ? "no balance loss is in use" : "the balance loss moves");
}

void check_leak(const Run& run, std::vector<Finding>& findings) {
  Check check("rule gap", findings);
  if (run.evaluations.empty()) return check.note("no evaluation yet: the two rules of routing are not compared");
  const Evaluation& e = run.evaluations.back();
  const double gap = e.loss / e.loss_training_rule - 1;
  if (!std::isfinite(gap)) return check.note("the last evaluation lacks a loss: the two rules are not compared");
  const std::string figures =
      fmt::format("loss {:.4f} under the decode rule, {:.4f} under the training rule ({:+.1f} %)", e.loss,
                  e.loss_training_rule, 100 * gap);
  if (gap > kLeak)
    check.fault(-1, figures +
                        ": the training rule sees what decoding cannot; believe the first figure, and choose a "
                        "proposal that looks at one token");
  else if (gap < -kLeak)
    check.note(figures + ": what capacity drops in training is missed there; a larger capacity closes the gap");
  check.otherwise_ok(figures);
}

void check_step_time(const Run& run, std::vector<Finding>& findings) {
  Check check("step time", findings);
  const Column* seconds = run.steps.find("seconds");
  if (!seconds) return check.note("the run has no times");
  // From a tenth on: the first steps fill caches and are slow for another reason.
  const auto at = [&](size_t tenth) {
    return seconds->begin() + static_cast<std::ptrdiff_t>(tenth * seconds->size() / 10);
  };
  const double early = median(Column(at(1), at(3))), late = median(last_part(*seconds));
  if (late > early * kSlower)
    check.warning(-1,
                  fmt::format("a step takes {:.3f} s at the end, {:.3f} s early on ({:.2f} times): look at memory, at "
                              "the load of the busiest expert, and at what else runs on the machine",
                              late, early, late / early));
  check.otherwise_ok(fmt::format("{:.3f} s a step early on, {:.3f} s at the end", early, late));
}

}  // namespace choir::report
