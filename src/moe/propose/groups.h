// propose "groups(groups, keep, k)": the k best experts within a token's `keep` best groups of neighbouring experts.
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

// A group is worth its best expert (by=max: DeepSeek-V2, arXiv 2405.04434, section 2.2.2) or the sum of its two best
// (by=top2: DeepSeek-V3, arXiv 2412.19437, section 2.1.2). Experts of the other groups count as -infinity, as in the
// published inference code. Of equal groups the lower one stays.
struct Groups {
  static constexpr const char* kName = "groups";
  int groups = 1, keep = 1, k = 1;
  bool top_two = false;

  static Groups read(Arguments& arguments);
  std::string text() const;
  int choices(int) const { return k; }
  std::string misfit(int experts, int width) const;
  void propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const;
};

}  // namespace choir::moe
