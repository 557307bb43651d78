#include "moe/admit/amends.h"

#include <algorithm>

namespace choir::moe {

Amends Amends::read(Arguments& arguments) {
  Amends amends;
  amends.factors = arguments.flag("factors");
  if (!amends.factors && arguments.has("channels")) amends.channels = arguments.whole("channels", 1, 1 << 18);
  return amends;
}

std::string Amends::text() const {
  if (factors) return "factors";
  return unless("channels", static_cast<float>(channels), 0);
}

void Amends::initial(std::span<float> numbers) const {
  const auto width = static_cast<size_t>(row()), ones = factors ? 1 : width / 2;
  for (size_t at = 0; at < numbers.size(); at += width) {
    std::ranges::fill(numbers.subspan(at, ones), 1.0f);
    std::ranges::fill(numbers.subspan(at + ones, width - ones), 0.0f);
  }
}

const float* Amends::numbers_of(const Context& context, const Plan& plan, int token) const {
  const auto slots = plan.edge.begin() + static_cast<std::ptrdiff_t>(token) * plan.choices;
  const auto stay = std::count_if(slots, slots + plan.choices, [](int32_t edge) { return edge >= 0; });
  if (stay == 0 || stay == choices) return nullptr;
  return context.state.data() + (stay - 1) * row();
}

void Amends::forward(const Context& context, const Plan& plan, Matrix<float> y) const {
  each_token(context, [&](int t) {
    const float* own = numbers_of(context, plan, t);
    if (!own) return;
    for (int d = 0; d < y.cols; ++d) y[t][d] = factors ? *own * y[t][d] : own[d] * y[t][d] + own[channels + d];
  });
}

void Amends::backward(const Context& context, const Plan& plan, Matrix<float> rows) const {
  each_token(context, [&](int t) {
    const float* own = numbers_of(context, plan, t);
    for (int s = 0; own && s < plan.choices; ++s) {
      const int32_t edge =
          plan.edge[static_cast<size_t>(t) * static_cast<size_t>(plan.choices) + static_cast<size_t>(s)];
      for (int d = 0; edge >= 0 && d < rows.cols; ++d) rows[edge][d] *= factors ? *own : own[d];
    }
  });
}

}  // namespace choir::moe
