#include "eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace choir::eval {

double Perplexity::perplexity() const { return std::exp(nll / static_cast<double>(tokens)); }

std::optional<double> Perplexity::bits_per_byte() const {
  if (bytes == 0) return {};
  return nll / static_cast<double>(bytes) / std::numbers::ln2;
}

Perplexity perplexity(const Model& model, std::span<const Document> documents, const Cut& cut, base::Threads& threads) {
  const std::vector<Window> windows = cut_windows(model, documents, cut);
  Perplexity result;
  for (const double nll : negative_log_likelihoods(model, documents, windows, threads)) result.nll += nll;
  for (const Window& w : windows) result.tokens += w.count - w.skipped;
  const auto scored = [](const Document& d) { return d.ids.size() > 1; };
  // Half a number would look like a whole one.
  if (std::ranges::any_of(documents, [&](const Document& d) { return scored(d) && d.bytes == 0; })) return result;
  for (const Document& d : documents) result.bytes += scored(d) ? d.bytes : 0;
  return result;
}

}  // namespace choir::eval
