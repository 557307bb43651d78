// The k best experts of each token, chosen or not: what weights after a skip may be divided by the mass of.
#pragma once

#include <algorithm>
#include <optional>
#include <string>

#include "moe/propose/groups.h"
#include "moe/propose/top_k.h"

namespace choir::moe {

// By what the proposals compared; where the proposals stay within groups, from the groups of the token.
struct Best {
  int k = 0;                       // 0: none are asked for
  std::optional<Groups> within{};  // the router's proposals, which tell

  // Fills routing.best: [N*k], -1 where a token's groups hold fewer.
  void find(const Context& context, Routing& routing) const {
    const Matrix<const float> key = routing.compared(context.tokens.rows(), context.experts);
    if (within)
      widened().propose(context, key, routing.best);
    else
      TopK{k}.propose(context, key, routing.best);
  }

  std::string misfit(int experts) const {
    if (k == 0) return "";
    if (within && !widened().misfit(experts, 0).empty())
      return "the kept groups hold fewer than the " + std::to_string(k) + " best";
    return k > experts ? "the weights are divided by the " + std::to_string(k) + " best" : "";
  }

 private:
  Groups widened() const {
    Groups groups = *within;
    groups.k = k;
    return groups;
  }
};

}  // namespace choir::moe
