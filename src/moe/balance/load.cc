#include "moe/balance/load.h"

#include <algorithm>
#include <cmath>

namespace choir::moe {
namespace {

void softmax(std::span<const float> z, std::span<float> p) {
  const float most = *std::ranges::max_element(z);
  float sum = 0;
  for (size_t e = 0; e < z.size(); ++e) sum += p[e] = std::exp(z[e] - most);
  for (float& v : p) v /= sum;
}

}  // namespace

// loss = alpha E / N sum_t sum_e f_e p_te, so d loss / d p_te = alpha E f_e / N, and through the softmax
// dz_te = alpha E / N p_te (f_e - sum_j f_j p_tj).
double LoadBalance::loss(tensor::Matrix<const float> z, const std::vector<int32_t>& chosen,
                         tensor::Matrix<float> dz) const {
  std::vector<float> f(static_cast<size_t>(z.cols)), p(f.size());
  const auto proposals = std::ranges::count_if(chosen, [](int32_t e) { return e >= 0; });
  if (proposals == 0) return 0;
  for (const int32_t e : chosen)
    if (e >= 0) f[e] += 1.0f / static_cast<float>(proposals);
  const float scale = alpha * static_cast<float>(z.cols) / static_cast<float>(z.rows);
  double total = 0;
  for (int t = 0; t < z.rows; ++t) {
    softmax(z.row(t), p);
    float mean = 0;
    for (int e = 0; e < z.cols; ++e) mean += f[e] * p[e];
    total += mean;
    if (dz.data)
      for (int e = 0; e < z.cols; ++e) dz[t][e] += scale * p[e] * (f[e] - mean);
  }
  return total * scale;
}

}  // namespace choir::moe
