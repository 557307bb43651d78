#include "moe/propose/assignment.h"

#include <algorithm>
#include <cmath>

#include "moe/propose/top_k.h"
#include "moe/propose/transport.h"

namespace choir::moe {
namespace {

constexpr double kUnit = 0x1p37;  // of the largest score; with the NaN below, 4096 experts keep within 2^50 / E

// The experts that some token may go to.
std::vector<int32_t> open_experts(Matrix<const float> key) {
  std::vector<int32_t> open;
  for (int e = 0; e < key.cols; ++e) {
    bool masked = true;
    for (int t = 0; t < key.rows && masked; ++t) masked = key[t][e] == -HUGE_VALF;
    if (!masked) open.push_back(e);
  }
  return open;
}

double largest(Matrix<const float> key) {
  float most = 0;
  for (int t = 0; t < key.rows; ++t)
    for (const float z : key.row(t))
      if (std::isfinite(z)) most = std::max(most, std::abs(z));
  return most > 0 ? static_cast<double>(most) : 1;
}

int64_t rounded(float z, double unit) {
  if (!std::isfinite(z)) return static_cast<int64_t>(z > 0 ? kUnit : -2 * kUnit);
  return std::llround(static_cast<double>(z) * unit);
}

}  // namespace

void Assignment::propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const {
  if (context.rule == Rule::kDecode) {
    TopK{1}.propose(context, key, proposed);
    return;
  }
  proposed.assign(static_cast<size_t>(key.rows), -1);
  const std::vector<int32_t> open = open_experts(key);
  std::vector<int32_t> tokens;
  for (int t = 0; t < key.rows; ++t)
    if (context.tokens.counts(t)) tokens.push_back(t);
  if (open.empty() || tokens.empty()) return;
  const double unit = kUnit / largest(key);
  std::vector<int64_t> gain;
  gain.reserve(tokens.size() * open.size());
  for (const int32_t t : tokens)
    for (const int32_t e : open) gain.push_back(rounded(key[t][e], unit));
  const std::vector<int32_t> sinks = assign_evenly(gain, static_cast<int>(open.size()));
  for (size_t i = 0; i < tokens.size(); ++i)
    proposed[static_cast<size_t>(tokens[i])] = open[static_cast<size_t>(sinks[i])];
}

}  // namespace choir::moe
