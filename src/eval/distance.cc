#include "eval/distance.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace choir::eval {
namespace {

using Row = std::span<const float>;

size_t largest(Row logits) { return static_cast<size_t>(std::ranges::max_element(logits) - logits.begin()); }

double log_sum_exp(Row logits) {
  const auto top = static_cast<double>(*std::ranges::max_element(logits));
  double sum = 0;
  for (const float z : logits) sum += std::exp(static_cast<double>(z) - top);
  return top + std::log(sum);
}

struct TokenDistance {
  double kl = 0, nll = 0, nll_other = 0;
  bool same_choice = false;
};

// KL(p || q) = sum_v p_v (log p_v - log q_v).
TokenDistance compare(Row p, Row q, int32_t target) {
  const double norm_p = log_sum_exp(p), norm_q = log_sum_exp(q);
  TokenDistance result{0, norm_p - static_cast<double>(p[target]), norm_q - static_cast<double>(q[target]),
                       largest(p) == largest(q)};
  for (size_t v = 0; v < p.size(); ++v) {
    const double log_p = static_cast<double>(p[v]) - norm_p, log_q = static_cast<double>(q[v]) - norm_q;
    result.kl += std::exp(log_p) * (log_p - log_q);
  }
  return result;
}

Distance summary(const std::vector<TokenDistance>& rows) {
  Distance result;
  double nll = 0, nll_other = 0;
  std::vector<double> kl;
  for (const TokenDistance& row : rows) {
    kl.push_back(row.kl);
    result.kl_mean += row.kl;
    result.top1_agreement += row.same_choice;
    nll += row.nll;
    nll_other += row.nll_other;
  }
  const auto n = static_cast<double>(rows.size());
  result.tokens = static_cast<int64_t>(rows.size());
  result.kl_mean /= n;
  result.top1_agreement /= n;
  result.perplexity = std::exp(nll / n);
  result.perplexity_other = std::exp(nll_other / n);
  const auto rank = kl.begin() + static_cast<ptrdiff_t>((kl.size() * 99 + 99) / 100) - 1;  // ceil(0.99 n)
  std::ranges::nth_element(kl, rank);
  result.kl_p99 = *rank;
  return result;
}

}  // namespace

Distance distance(const Model& model, const Model& other, std::span<const Document> documents, Cut cut,
                  base::Threads& threads, const Observers& observers) {
  if (model.config().vocab != other.config().vocab)
    base::input_error("vocabularies of " + std::to_string(model.config().vocab) + " and " +
                          std::to_string(other.config().vocab) + " tokens",
                      "models", "only models with one vocabulary can be compared");
  const std::vector<Window> windows =
      cut_windows(model.positions() < other.positions() ? model : other, documents, cut);
  WindowRunner runner(model, documents, threads), other_runner(other, documents, threads);
  std::vector<TokenDistance> rows;
  for (std::span<const Window> rest = windows; !rest.empty();) {
    const auto batch = runner.next_batch(rest);
    rest = rest.subspan(batch.size());
    const auto p = runner.logits(batch, observers.model), q = other_runner.logits(batch, observers.other);
    const std::vector<int32_t> targets = targets_of(documents, batch);
    std::vector<TokenDistance> compared(targets.size());
    threads.for_each(p.rows, [&](int i) {
      if (targets[i] >= 0) compared[i] = compare(p.row(i), q.row(i), targets[i]);
    });
    for (size_t i = 0; i < targets.size(); ++i)
      if (targets[i] >= 0) rows.push_back(compared[i]);
  }
  for (const TokenDistance& row : rows) {
    if (!std::isfinite(row.nll)) model.refuse_result("the logits");
    if (!std::isfinite(row.nll_other) || !std::isfinite(row.kl)) other.refuse_result("the logits");
  }
  return summary(rows);
}

}  // namespace choir::eval
