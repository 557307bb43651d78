#include "compress/choose_sets.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "compress/enumerate.h"
#include "compress/genetic.h"
#include "compress/observe.h"
#include "compress/search.h"
#include "compress/select.h"

namespace choir::compress {
namespace {

struct Named {
  const char* name;
  SetMethod method;
};
constexpr Named kMethods[] = {{"exact", SetMethod::kExact},
                              {"search", SetMethod::kSearch},
                              {"nested", SetMethod::kNested},
                              {"genetic", SetMethod::kGenetic},
                              {"sampled", SetMethod::kSampled}};

// Of kPublished none, which is all ones.
std::vector<double> weights_of(const LayerRecord& record, Objective objective, Threads& threads) {
  if (objective == Objective::kPublished) return {};
  return objective_weights(record, objective, threads);
}

// (C33)
double energy_of(const LayerRecord& record, Objective objective, std::span<const double> weight) {
  if (objective == Objective::kGradient) return std::max(1, record.tokens());  // its losses are in nats already
  const double energy =
      objective == Objective::kStream ? residual_energy(record, weight) : output_energy(record, weight);
  return energy > 0 ? energy : 1;  // a layer that answers nothing loses nothing
}

int64_t binomial(int n, int k) {
  int64_t count = 1;
  for (int i = 1; i <= k; ++i) count = count * (n - k + i) / i;
  return count;
}

int64_t possible(const LayerRecord& record, int keep) {
  int64_t count = 1;
  const int size = record.experts / record.rule.groups;
  for (int g = 0; g < record.rule.groups; ++g) {
    const auto pinned = static_cast<int>(std::ranges::count_if(record.pinned, [&](int e) { return e / size == g; }));
    count *= binomial(size - pinned, keep / record.rule.groups - pinned);
  }
  return count;
}

std::vector<int> complete(int experts) {
  std::vector<int> set(static_cast<size_t>(experts));
  std::iota(set.begin(), set.end(), 0);
  return set;
}

// One layer on its way to a choice.
class Chooser {
 public:
  Chooser(const LayerRecord& record, int layer, const SetOptions& options, Threads& threads)
      : record_(record),
        layer_(layer),
        options_(options),
        threads_(threads),
        weight_(weights_of(record, options.objective, threads)),
        replay_(record, weight_, threads) {}

  SetChoice choose(int keep);
  std::vector<ScoredSet> best(int keep, int sets);
  void measure(SetChoice& choice);
  std::vector<ScoredSet> nested(int least);

 private:
  std::vector<int> find(int keep, SetChoice& choice);
  void prove_best(SetChoice& choice);
  double energy() const { return energy_of(record_, options_.objective, weight_); }
  uint64_t seed() const { return options_.seed + static_cast<uint64_t>(layer_); }
  ScoredLayer scored() const {
    return {record_.rule, score_experts(record_, options_.criterion, layer_, options_.seed), record_.pinned};
  }

  const LayerRecord& record_;
  const int layer_;
  const SetOptions& options_;
  Threads& threads_;
  const std::vector<double> weight_;
  Replay replay_;
};

std::vector<ScoredSet> Chooser::best(int keep, int sets) {
  check_keep(record_, keep);
  if (keep == record_.experts) return {{complete(keep), 0}};
  if (options_.method == SetMethod::kExact) return enumerate(record_, weight_, keep, sets, threads_);
  if (options_.method == SetMethod::kGenetic)
    return breed(SetLoss(record_, weight_, threads_), keep, {.seed = seed(), .sets = sets});
  if (options_.method != SetMethod::kSearch)
    base::usage_error("a method that finds one set of a layer alone", "method", "take exact, search or genetic");
  const Elimination elimination = eliminate(replay_, keep);
  return search(replay_, elimination, keep, {.seed = seed(), .sets = sets});
}

std::vector<int> Chooser::find(int keep, SetChoice& choice) {
  switch (options_.method) {
    case SetMethod::kNested: return eliminate(replay_, keep).kept(keep);
    case SetMethod::kSampled:
      choice.candidates = options_.samples;
      return choose_sampled(record_, keep, options_.samples, seed(), threads_).keep;
    case SetMethod::kScore: choice.candidates = 1; return choose_by_score(scored(), keep);
    case SetMethod::kExact: choice.candidates = possible(record_, keep); break;
    case SetMethod::kSearch:
    case SetMethod::kGenetic: break;
  }
  return best(keep, 1).at(0).kept;
}

void Chooser::prove_best(SetChoice& choice) {
  choice.proof = prove(replay_, LossBound(record_, weight_, threads_), choice.keep, options_.prove_nodes);
  choice.keep = choice.proof->best.kept;
}

SetChoice Chooser::choose(int keep) {
  check_keep(record_, keep);
  SetChoice choice;
  if (keep == record_.experts) {
    choice.candidates = 1;
    choice.keep = complete(keep);
    return choice;
  }
  choice.keep = find(keep, choice);
  if (options_.prove_nodes > 0) prove_best(choice);
  measure(choice);
  return choice;
}

void Chooser::measure(SetChoice& choice) {
  replay_.keep(choice.keep);
  choice.objective = replay_.loss();
  choice.relative = choice.objective / energy();
  choice.short_of = replay_.short_of();
  choice.loss = replay_.batched_norms();
  if (!weight_.empty()) {
    Replay plain(record_, {}, threads_);
    plain.keep(choice.keep);
    choice.loss = plain.batched_norms();
  }
  if (!std::isfinite(choice.objective) || !std::isfinite(choice.loss))
    base::input_error("the loss is not a number", "layer " + std::to_string(layer_),
                      "check the weights and the calibration text");
  std::ranges::set_difference(super_experts(record_, kSuper), choice.keep, std::back_inserter(choice.super));
}

std::vector<ScoredSet> Chooser::nested(int least) {
  least = least_count(record_, least);
  std::vector<ScoredSet> sets;
  const bool by_score = options_.method == SetMethod::kScore;
  const Elimination elimination = by_score ? Elimination{} : eliminate(replay_, least);
  const ScoredLayer layer = by_score ? scored() : ScoredLayer{};
  for (int count = least; count <= record_.experts; ++count) {
    if (!misfit(record_, count).empty()) continue;
    ScoredSet set;
    set.kept = by_score ? choose_by_score(layer, count) : elimination.kept(count);
    if (by_score) replay_.keep(set.kept);
    set.loss = (by_score ? replay_.loss() : elimination.loss[static_cast<size_t>(count)]) / energy();
    sets.push_back(std::move(set));
  }
  return sets;
}

}  // namespace

std::string method_names() {
  std::string names;
  for (const Named& known : kMethods) names += std::string(known.name) + ", ";
  return names + criterion_names();
}

void parse_method(const std::string& name, SetOptions& options) {
  for (const Named& known : kMethods)
    if (name == known.name) {
      options.method = known.method;
      return;
    }
  try {
    options.criterion = parse_criterion(name);
  } catch (const base::Error&) {
    base::usage_error("no method is called " + name, "method", "there are " + method_names());
  }
  options.method = SetMethod::kScore;
}

// A dense layer keeps none of no experts.
SetChoice choose_set(const LayerRecord& record, int layer, int keep, const SetOptions& options, Threads& threads) {
  if (record.experts == 0) return {};
  return Chooser(record, layer, options, threads).choose(keep);
}

std::vector<ScoredSet> best_sets(const LayerRecord& record, int layer, int keep, int sets, const SetOptions& options,
                                 Threads& threads) {
  if (record.experts == 0) return {ScoredSet{}};
  return Chooser(record, layer, options, threads).best(keep, sets);
}

SetChoice measure_set(const LayerRecord& record, int layer, const std::vector<int>& keep, const SetOptions& options,
                      Threads& threads) {
  SetChoice choice;
  if (record.experts == 0) return choice;
  choice.keep = keep;
  Chooser(record, layer, options, threads).measure(choice);
  return choice;
}

std::vector<ScoredSet> nested_sets(const LayerRecord& record, int layer, int least, const SetOptions& options,
                                   Threads& threads) {
  if (record.experts == 0) return {ScoredSet{}};
  return Chooser(record, layer, options, threads).nested(least);
}

LayerCurve curve_of(const LayerRecord& record, const std::vector<ScoredSet>& sets) {
  LayerCurve curve;
  curve.rule = record.rule;
  curve.loss.assign(static_cast<size_t>(record.experts) + 1, std::numeric_limits<double>::infinity());
  for (const ScoredSet& set : sets) curve.loss[set.kept.size()] = set.loss;
  return curve;
}

int least_served(const LayerRecord& record) {
  int count = least_count(record);
  while (count < record.experts && record.ranks < record.experts &&
         ranks_for(record.experts, record.rule.k, count) > record.ranks)
    ++count;
  return count;
}

}  // namespace choir::compress
