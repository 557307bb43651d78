#include "compress/set_loss.h"

#include <algorithm>

#include "base/error.h"

namespace choir::compress {

Target target_of(const LayerRecord& record, Threads& threads) {
  constexpr int kPiece = 64;  // tokens of one piece
  const auto m = static_cast<size_t>(record.ranks);
  Target target{std::vector<double>(static_cast<size_t>(record.tokens()) * m, 0.0),
                std::vector<double>(static_cast<size_t>(record.tokens()), 0.0)};
  threads.for_each((record.tokens() + kPiece - 1) / kPiece, [&](int piece) {
    for (int t = piece * kPiece; t < std::min(record.tokens(), (piece + 1) * kPiece); ++t) {
      const Choice own = own_choice(record, t);
      const std::span<double> g = std::span(target.g).subspan(static_cast<size_t>(t) * m, m);
      for (size_t i = 0; i < own.rank.size(); ++i) record.add_products(t, own.rank[i], own.gain[i], g);
      for (size_t i = 0; i < own.rank.size(); ++i) target.zz[t] += own.gain[i] * g[own.rank[i]];
    }
  });
  return target;
}

double error_of(double zz, double alpha, double beta, double scale, double divisor) {
  if (divisor <= 0) return zz;
  const double gain = scale / divisor;
  return std::max(zz - 2 * alpha * gain + beta * gain * gain, 0.0);
}

std::vector<double> inverse_norms(std::vector<double> norm) {
  constexpr double kFloor = 0.01;
  std::vector<double> sorted = norm;
  std::erase_if(sorted, [](double v) { return !(v > 0); });
  if (sorted.empty()) return std::vector<double>(norm.size(), 1.0);
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::ranges::nth_element(sorted, middle);
  for (double& v : norm) v = 1 / std::max(v, kFloor * *middle);
  return norm;
}

std::vector<double> objective_weights(const LayerRecord& record, Objective objective, Threads& threads) {
  if (objective == Objective::kPublished) return std::vector<double>(static_cast<size_t>(record.tokens()), 1.0);
  if (objective == Objective::kGradient) {
    CHOIR_CHECK(static_cast<int>(record.slope.size()) == record.tokens(), "a slope for each token");
    return {record.slope.begin(), record.slope.end()};
  }
  if (objective == Objective::kOutput) return inverse_norms(target_of(record, threads).zz);
  return inverse_norms({record.residual.begin(), record.residual.end()});
}

SetLoss::SetLoss(const LayerRecord& record, std::span<const double> weight, Threads& threads)
    : record_(record), weight_(weight), threads_(threads), target_(target_of(record, threads)) {
  CHOIR_CHECK(weight.empty() || static_cast<int>(weight.size()) == record.tokens(), "one weight for each token");
}

double SetLoss::error(int t, std::span<const uint8_t> kept, std::span<int> room) const {
  const auto rank = room.first(chosen_ranks(record_, t, kept, room));
  const std::span<const int32_t> ranking = record_.ranking(t);
  const auto p = [&](int r) -> double { return record_.gains(t)[ranking[static_cast<size_t>(r)]]; };
  const double* g = target_.g.data() + static_cast<size_t>(t) * static_cast<size_t>(record_.ranks);
  double alpha = 0, beta = 0;
  for (size_t i = 0; i < rank.size(); ++i) {
    double pull = 0;
    for (size_t j = 0; j < i; ++j) pull += p(rank[j]) * record_.product(t, rank[j], rank[i]);
    const double own = p(rank[i]);
    alpha += own * g[rank[i]];
    beta += own * (2 * pull + own * record_.product(t, rank[i], rank[i]));
  }
  return error_of(target_.zz[t], alpha, beta, record_.rule.scale, divisor(record_, t, kept, rank));
}

double SetLoss::loss(const std::vector<int>& kept) const {
  std::vector<uint8_t> there(static_cast<size_t>(record_.experts), 0);
  for (const int e : kept) there[static_cast<size_t>(e)] = 1;
  std::vector<int> room(static_cast<size_t>(record_.rule.k));
  double sum = 0;
  for (int t = 0; t < record_.tokens(); ++t) sum += (weight_.empty() ? 1 : weight_[t]) * error(t, there, room);
  return sum;
}

std::vector<double> SetLoss::losses(std::span<const std::vector<int>> sets) const {
  std::vector<double> result(sets.size());
  threads_.for_each(static_cast<int>(sets.size()), [&](int i) { result[i] = loss(sets[i]); });
  return result;
}

}  // namespace choir::compress
