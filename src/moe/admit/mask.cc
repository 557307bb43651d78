#include "moe/admit/mask.h"

#include <algorithm>
#include <cmath>

namespace choir::moe {

Mask Mask::read(Arguments& arguments) {
  Mask word;
  do word.experts.push_back(arguments.whole("expert", 0, 4095));
  while (arguments.has_more());
  std::ranges::sort(word.experts);
  if (std::ranges::adjacent_find(word.experts) != word.experts.end()) arguments.refuse("an expert is named twice");
  return word;
}

std::string Mask::text() const {
  std::string all;
  for (const int e : experts) all += (all.empty() ? "" : ", ") + std::to_string(e);
  return written(kName, {all});
}

std::string Mask::misfit(int all, int) const {
  if (experts.back() >= all) return "there is no expert " + std::to_string(experts.back()) + " to mask";
  if (static_cast<int>(experts.size()) == all) return "all experts are masked";
  return "";
}

void Mask::forbid(const Context&, Matrix<float> z) const {
  for (int t = 0; t < z.rows; ++t)
    for (const int e : experts) z[t][e] = -HUGE_VALF;
}

}  // namespace choir::moe
