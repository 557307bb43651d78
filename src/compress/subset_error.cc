#include "compress/subset_error.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace choir::compress {
namespace {

constexpr int kMostExperts = 16;
constexpr double kMostTable = 1 << 24;  // numbers: 128 megabytes

double binomial(int n, int k) {
  double result = 1;
  for (int i = 1; i <= k; ++i) result = result * (n - k + i) / i;
  return result;
}

// In double, because small errors are differences of these. The lanes let the compiler use vector registers.
double dot(const float* a, const float* b, int n) {
  constexpr int kLanes = 8;
  std::array<double, kLanes> sum{};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] += static_cast<double>(a[i + lane]) * b[i + lane];
  for (; i < n; ++i) sum[0] += static_cast<double>(a[i]) * b[i];
  return std::accumulate(sum.begin(), sum.end(), 0.0);
}

// Inner products of a token's answers, and of the target as the last row.
struct Gram {
  static constexpr int kSide = kMostExperts + 1;
  std::array<double, kSide * kSide> product;

  double at(int i, int j) const { return product[static_cast<size_t>(i * kSide + j)]; }
  Gram(const Capture& capture, Matrix<const float> target, int token) {
    std::array<const float*, kSide> vectors;
    for (int s = 0; s < capture.ranks; ++s) vectors[s] = capture.answer(token, s, target.cols);
    vectors[capture.ranks] = target[token];
    for (int i = 0; i <= capture.ranks; ++i)
      for (int j = 0; j <= i; ++j)
        product[i * kSide + j] = product[j * kSide + i] = dot(vectors[i], vectors[j], target.cols);
  }
};

// The softmax over the chosen ranks alone.
std::array<double, kMostExperts> gains(const Capture& capture, int token, const std::vector<int>& ranks) {
  const float* logits = capture.logits(token);
  const int32_t* order = capture.ranking(token);
  const double best = logits[order[ranks[0]]];
  std::array<double, kMostExperts> gain;
  double sum = 0;
  for (size_t i = 0; i < ranks.size(); ++i) sum += gain[i] = std::exp(logits[order[ranks[i]]] - best);
  for (size_t i = 0; i < ranks.size(); ++i) gain[i] /= sum;
  return gain;
}

}  // namespace

std::vector<std::vector<int>> combinations(int n, int k) {
  std::vector<std::vector<int>> result;
  std::vector<int> set(static_cast<size_t>(k));
  std::iota(set.begin(), set.end(), 0);
  while (true) {
    result.push_back(set);
    int i = k - 1;
    while (i >= 0 && set[i] == n - k + i) --i;
    if (i < 0) return result;
    std::iota(set.begin() + i, set.end(), set[i] + 1);
  }
}

bool SubsetErrors::fits(int experts, int top_k) {
  return experts <= kMostExperts && top_k <= experts && binomial(experts, top_k) * std::exp2(experts) <= kMostTable;
}

SubsetErrors::SubsetErrors(int experts, int top_k, int least_keep)
    : experts_(experts), top_k_(top_k), least_keep_(least_keep) {
  CHOIR_CHECK(fits(experts, top_k), "the table is too large");
  CHOIR_CHECK(top_k >= 1 && top_k <= least_keep && least_keep <= experts, "a set of kept experts is too small");
  ranks_ = top_k + experts - least_keep;  // so many ranks hold top_k kept experts, whichever are dropped
  rank_sets_ = combinations(ranks_, top_k);
  const size_t sets = size_t{1} << experts;
  index_.assign(sets, -1);
  for (const std::vector<int>& experts_of : combinations(experts, top_k)) {
    ExpertSet choice = 0;
    for (const int e : experts_of) choice |= ExpertSet{1} << e;
    index_[choice] = static_cast<int32_t>(choices_.size());
    choices_.push_back(choice);
  }
  table_.assign(choices_.size() * sets, 0);
  losses_.assign(sets, 0);
}

// |z - sum_i b_i f_i|^2 = <z,z> - 2 sum_i b_i <f_i,z> + sum_ij b_i b_j <f_i,f_j>  for each set of ranks.
void SubsetErrors::measure(const Capture& capture, Matrix<const float> target, int token) {
  const Gram gram(capture, target, token);
  const int z = ranks_;
  for (size_t u = 0; u < rank_sets_.size(); ++u) {
    const std::vector<int>& ranks = rank_sets_[u];
    const auto gain = gains(capture, token, ranks);
    double error = gram.at(z, z);
    for (int i = 0; i < top_k_; ++i) {
      double pull = -2 * gram.at(ranks[i], z);
      for (int j = 0; j < top_k_; ++j) pull += gain[j] * gram.at(ranks[i], ranks[j]);
      error += gain[i] * pull;
    }
    errors_[static_cast<size_t>(token) * rank_sets_.size() + u] = error < 0 ? 0 : error;  // a NaN stays
  }
}

void SubsetErrors::file(const Capture& capture, int token) {
  const int32_t* order = capture.ranking(token);
  std::array<ExpertSet, kMostExperts + 1> before{};  // before[s]: the experts of ranks 0 .. s-1
  for (int s = 0; s < ranks_; ++s) before[s + 1] = before[s] | ExpertSet{1} << order[s];
  for (size_t u = 0; u < rank_sets_.size(); ++u) {
    ExpertSet chosen = 0;
    for (const int s : rank_sets_[u]) chosen |= ExpertSet{1} << order[s];
    const ExpertSet dropped = before[rank_sets_[u].back()] & ~chosen;
    row(static_cast<size_t>(index_[chosen]))[dropped] += errors_[static_cast<size_t>(token) * rank_sets_.size() + u];
  }
}

// The errors of a token are independent of the other tokens; filing them in order keeps the sums the same for any
// number of threads.
void SubsetErrors::add(const Capture& capture, Matrix<const float> target, Threads& threads) {
  constexpr int kTokens = 16;  // of one piece
  CHOIR_CHECK(capture.ranks == ranks_ && capture.experts() == experts_, "the capture is of another layer or depth");
  const int tokens = capture.tokens();
  errors_.resize(static_cast<size_t>(tokens) * rank_sets_.size());
  threads.for_each((tokens + kTokens - 1) / kTokens, [&](int piece) {
    for (int t = piece * kTokens; t < std::min(tokens, (piece + 1) * kTokens); ++t) measure(capture, target, t);
  });
  for (int t = 0; t < tokens; ++t) file(capture, t);
}

// First every T[u][S] becomes the sum of T[u][B] over B inside S (one expert after the other), then each kept set
// collects the choices inside it.
void SubsetErrors::end_batch(Threads& threads) {
  const ExpertSet sets = all() + 1;
  threads.for_each(static_cast<int>(choices_.size()), [&](int u) {
    double* sums = row(static_cast<size_t>(u));
    for (ExpertSet expert = 1; expert < sets; expert <<= 1)
      for (ExpertSet set = 0; set < sets; ++set)
        if (set & expert) sums[set] += sums[set ^ expert];
  });
  std::vector<double> squares(sets, 0);
  for (size_t u = 0; u < choices_.size(); ++u)
    for (ExpertSet kept = 0; kept < sets; ++kept)
      if ((choices_[u] & ~kept) == 0) squares[kept] += row(u)[all() ^ kept];
  for (ExpertSet kept = 0; kept < sets; ++kept) losses_[kept] += std::sqrt(squares[kept]);
  std::ranges::fill(table_, 0.0);
}

double SubsetErrors::loss(ExpertSet kept) const {
  CHOIR_CHECK(std::popcount(kept) >= least_keep_ && kept <= all(), "this set was not measured");
  return losses_[kept];
}

}  // namespace choir::compress
