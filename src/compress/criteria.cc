#include "compress/criteria.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/rng.h"

namespace choir::compress {
namespace {

struct Name {
  Criterion criterion;
  std::string_view name;
};

constexpr Name kNames[] = {
    {Criterion::kRandom, "random"}, {Criterion::kFrequency, "frequency"}, {Criterion::kMass, "mass"},
    {Criterion::kEan, "ean"},       {Criterion::kReap, "reap"},           {Criterion::kMan, "man"},
    {Criterion::kMsan, "msan"},     {Criterion::kSeer, "seer"},           {Criterion::kEasyEp, "easy_ep"}};

// One use of an expert by a token.
struct Use {
  int token;
  size_t expert;
  double gain;  // a_tj
  double norm;  // |f_tj|
};

template <class Function>
void each_use(const LayerRecord& record, const Function& function) {
  const std::vector<uint8_t> all(static_cast<size_t>(record.experts), 1);
  for (int t = 0; t < record.tokens(); ++t) {
    const Choice choice = choose(record, t, all);
    for (size_t i = 0; i < choice.rank.size(); ++i) {
      const int rank = choice.rank[i];
      const double square = record.product(t, rank, rank);
      function(Use{t, static_cast<size_t>(record.ranking(t)[static_cast<size_t>(rank)]), choice.gain[i],
                   std::sqrt(std::max(square, 0.0))});
    }
  }
}

// What the router gave expert e before the rule divides: its share of a softmax over all experts, or its sigmoid or
// root of a softplus.
double router_score(const LayerRecord& record, const Use& use) {
  const float* p = record.gains(use.token);
  if (record.rule.gain != moe::SubsetRule::Gain::kSoftmax) return p[use.expert];
  double sum = 0;
  for (int e = 0; e < record.experts; ++e) sum += p[e];
  return p[use.expert] / sum;
}

// (C30) one term of the sum.
double term(const LayerRecord& record, Criterion criterion, const Use& use) {
  switch (criterion) {
    case Criterion::kMass: return use.gain;
    case Criterion::kEan:
    case Criterion::kMan: return use.norm;
    case Criterion::kReap: return use.gain * use.norm;
    case Criterion::kMsan: return use.norm * use.norm;
    case Criterion::kSeer: return router_score(record, use);
    case Criterion::kEasyEp: return use.gain * use.norm * record.turned[static_cast<size_t>(use.token)];
    case Criterion::kRandom:
    case Criterion::kFrequency: break;
  }
  return 1;
}

bool is_mean(Criterion criterion) {
  return criterion == Criterion::kReap || criterion == Criterion::kMan || criterion == Criterion::kMsan;
}

// Layers of one seed, and seeds of one layer, draw apart.
std::vector<double> random_scores(int experts, int layer, uint64_t seed) {
  constexpr uint64_t kMostLayers = 4096;
  base::Rng rng(seed * kMostLayers + static_cast<uint64_t>(layer));
  std::vector<double> scores;
  for (int e = 0; e < experts; ++e) scores.push_back(rng.uniform());
  return scores;
}

}  // namespace

std::string_view name_of(Criterion criterion) { return std::ranges::find(kNames, criterion, &Name::criterion)->name; }

std::string criterion_names() {
  std::string list;
  for (const Name& name : kNames) list += (list.empty() ? "" : ", ") + std::string(name.name);
  return list;
}

Criterion parse_criterion(std::string_view name) {
  const auto* found = std::ranges::find(kNames, name, &Name::name);
  if (found == std::end(kNames))
    base::usage_error("an unknown criterion: " + std::string(name), "criterion", "known: " + criterion_names());
  return found->criterion;
}

std::vector<double> score_experts(const LayerRecord& record, Criterion criterion, int layer, uint64_t seed) {
  if (criterion == Criterion::kRandom) return random_scores(record.experts, layer, seed);
  std::vector<double> scores(static_cast<size_t>(record.experts), 0.0), tokens = scores;
  each_use(record, [&](const Use& use) {
    scores[use.expert] += term(record, criterion, use);
    tokens[use.expert] += 1;
  });
  for (size_t e = 0; e < scores.size(); ++e) {
    if (is_mean(criterion) && tokens[e] > 0) scores[e] /= tokens[e];
    if (!std::isfinite(scores[e]))
      base::input_error("the score of expert " + std::to_string(e) + " is not finite", "layer " + std::to_string(layer),
                        "a weight is damaged, or activations overflow on this text");
  }
  return scores;
}

std::vector<int> super_experts(const LayerRecord& record, double factor) {
  std::vector<double> peak(static_cast<size_t>(record.experts), 0.0);
  each_use(record, [&](const Use& use) { peak[use.expert] = std::max(peak[use.expert], use.norm); });
  return super_experts(peak, record.coverage, factor);
}

std::vector<int> super_experts(const std::vector<double>& peak, const std::vector<int64_t>& tokens, double factor) {
  std::vector<double> seen;
  for (size_t e = 0; e < peak.size(); ++e)
    if (tokens[e] > 0) seen.push_back(peak[e]);
  if (seen.size() < 3) return {};
  std::ranges::sort(seen);
  const double median = (seen[seen.size() / 2] + seen[(seen.size() - 1) / 2]) / 2;
  std::vector<int> found;
  for (size_t e = 0; e < peak.size(); ++e)
    if (peak[e] > factor * median) found.push_back(static_cast<int>(e));
  return found;
}

}  // namespace choir::compress
