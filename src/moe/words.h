// The five words of a router as data: score > propose > admit > weigh + balance. One small struct for each word, in a
// file of its own; registry.cc knows their names.
#pragma once

#include <variant>
#include <vector>

#include "moe/admit/all.h"
#include "moe/admit/skip.h"
#include "moe/balance/load.h"
#include "moe/propose/top_k.h"
#include "moe/score/linear.h"
#include "moe/weigh/chosen.h"

namespace choir::moe {

using Score = std::variant<LinearScore>;
using Propose = std::variant<TopK>;
using Admit = std::variant<AdmitAll, Skip>;
using Weigh = std::variant<ChosenWeights>;
using Balance = std::variant<LoadBalance>;

struct Words {
  Score score;
  Propose propose;
  Admit admit;
  Weigh weigh;
  std::vector<Balance> balance;
};

}  // namespace choir::moe
