#include "compress/enumerate.h"

#include <algorithm>
#include <bit>
#include <string>

#include "base/error.h"
#include "compress/choose.h"

namespace choir::compress {
namespace {

using Over = moe::SubsetRule::Over;

constexpr size_t kHalf = 256;  // sets of eight experts

// One token, its ranks as bits. alpha and beta (C11) depend on the chosen ranks alone, and many kept sets choose the
// same ones: they are worked out once for each.
class TokenTable {
 public:
  explicit TokenTable(const LayerRecord& record, const Target& target)
      : record_(record), target_(target), known_(size_t{1} << record.ranks, -1), forms_(known_.size()) {}

  void begin(int token);
  double error(ExpertSet kept);

 private:
  struct Form {
    double alpha, beta, gains;  // gains: sum of p
  };
  const Form& form(uint32_t chosen);
  uint32_t ranks_of(ExpertSet kept) const { return ranks_[0][kept % kHalf] | ranks_[1][kept / kHalf]; }

  const LayerRecord& record_;
  const Target& target_;
  int token_ = -1;
  uint32_t ranks_[2][kHalf] = {};  // of the lower and of the upper eight experts
  double mass_[2][kHalf] = {};     // sum of p
  std::vector<int> known_;         // the token that the form of a set of ranks is of
  std::vector<Form> forms_;
};

void TokenTable::begin(int token) {
  token_ = token;
  uint32_t bit[2 * 8] = {};
  for (int r = 0; r < record_.ranks; ++r) bit[record_.ranking(token)[r]] = uint32_t{1} << r;
  for (size_t half = 0; half < 2; ++half)
    for (size_t set = 1; set < kHalf; ++set) {
      const size_t rest = set & (set - 1), e = half * 8 + static_cast<size_t>(std::countr_zero(set));
      ranks_[half][set] = ranks_[half][rest] | bit[e];
      mass_[half][set] = mass_[half][rest] + (static_cast<int>(e) < record_.experts ? record_.gains(token)[e] : 0);
    }
}

const TokenTable::Form& TokenTable::form(uint32_t chosen) {
  Form& form = forms_[chosen];
  if (known_[chosen] == token_) return form;
  known_[chosen] = token_;
  form = {};
  const auto gain = [&](int r) -> double { return record_.gains(token_)[record_.ranking(token_)[r]]; };
  for (uint32_t left = chosen; left; left &= left - 1) {
    const int r = std::countr_zero(left);
    const double p = gain(r);
    double pull = p * record_.product(token_, r, r);
    for (uint32_t before = chosen & ((uint32_t{1} << r) - 1); before; before &= before - 1) {
      const int q = std::countr_zero(before);
      pull += 2 * gain(q) * record_.product(token_, q, r);
    }
    form.alpha += p * target_.g[static_cast<size_t>(token_) * static_cast<size_t>(record_.ranks) + r];
    form.beta += p * pull;
    form.gains += p;
  }
  return form;
}

double TokenTable::error(ExpertSet kept) {
  uint32_t left = ranks_of(kept), chosen = 0;
  for (int i = 0; i < record_.rule.k && left; ++i) {
    chosen |= left & -left;
    left &= left - 1;
  }
  const Form& f = form(chosen);
  double divisor = f.gains;
  if (record_.rule.over == Over::kNothing) divisor = 1;
  if (record_.rule.over == Over::kAll) divisor = mass_[0][kept % kHalf] + mass_[1][kept / kHalf];
  return error_of(target_.zz[token_], f.alpha, f.beta, record_.rule.scale, divisor);
}

std::vector<std::vector<int>> possible_sets(const LayerRecord& record, int keep) {
  std::vector<std::vector<int>> sets;
  const int groups = record.rule.groups, size = record.experts / groups;
  for (const std::vector<int>& dropped : combinations(record.experts, record.experts - keep)) {
    std::vector<int> of_group(static_cast<size_t>(groups), 0);
    for (const int e : dropped) ++of_group[e / size];
    if (std::ranges::any_of(dropped, [&](int e) { return is_pinned(record, e); })) continue;
    if (std::ranges::count(of_group, of_group[0]) == groups) sets.push_back(others(dropped, record.experts));
  }
  return sets;
}

// Pieces of tokens are added up in order.
std::vector<double> table_losses(const LayerRecord& record, std::span<const double> weight,
                                 const std::vector<std::vector<int>>& sets, Threads& threads) {
  constexpr int kPiece = 256;  // tokens whose sums are made by one thread
  const int pieces = (record.tokens() + kPiece - 1) / kPiece;
  const Target target = target_of(record, threads);
  std::vector<ExpertSet> bits;
  for (const std::vector<int>& set : sets) bits.push_back(as_set(set));
  std::vector<std::vector<double>> parts(static_cast<size_t>(pieces));
  threads.for_each(pieces, [&](int piece) {
    std::vector<double>& part = parts[piece];
    part.assign(sets.size(), 0.0);
    TokenTable table(record, target);
    for (int t = piece * kPiece; t < std::min(record.tokens(), (piece + 1) * kPiece); ++t) {
      table.begin(t);
      const double w = weight.empty() ? 1 : weight[t];
      for (size_t i = 0; i < bits.size(); ++i) part[i] += w * table.error(bits[i]);
    }
  });
  std::vector<double> sum(sets.size(), 0.0);
  for (const std::vector<double>& part : parts)
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
  return sum;
}

}  // namespace

std::vector<ScoredSet> enumerate(const LayerRecord& record, std::span<const double> weight, int keep, int sets,
                                 Threads& threads) {
  check_keep(record, keep);
  if (record.experts > kMostEnumerated)
    base::usage_error("too many sets to try them all", "a layer of " + std::to_string(record.experts) + " experts",
                      "search layers of more than " + std::to_string(kMostEnumerated) + " by elimination and swaps");
  const std::vector<std::vector<int>> possible = possible_sets(record, keep);
  const std::vector<double> losses = record.rule.groups > 1 ? SetLoss(record, weight, threads).losses(possible)
                                                            : table_losses(record, weight, possible, threads);
  BestSets best(sets);
  for (size_t i = 0; i < possible.size(); ++i)
    if (best.wanted(losses[i])) best.offer({possible[i], losses[i]});
  return best.best();
}

}  // namespace choir::compress
