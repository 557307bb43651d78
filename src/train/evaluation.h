// What a model knows of held-out tokens in the middle of a run, under the rule of use and the rule of training.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "train/data.h"

namespace choir::train {

struct DomainEvaluation {
  std::string name;
  int64_t tokens = 0;                                        // counted targets
  double loss = 0, loss_training_rule = 0;                   // NaN without tokens
  std::vector<std::vector<double>> load;                     // [L][E] shares of the computed pairs
  std::vector<std::vector<std::optional<double>>> affinity;  // [L][E] mean of the proposals; none without one
};

struct Evaluation {
  int step = 0;
  int64_t tokens = 0;
  double seconds = 0;             // of training before it
  double loss = 0;                // nats a token under the decode rule: causal, the honest one
  double loss_training_rule = 0;  // may look ahead
  double agreement = 0;           // share of (token, slot, layer) on whose expert both rules agree, if any has one
  std::vector<DomainEvaluation> domains;
  std::vector<std::vector<std::vector<double>>> expert_cosine;  // [L][E][E] of the experts' answers to the same tokens
  std::vector<std::optional<double>> ch_index;                  // [L] of inputs grouped by their main expert
};

struct HeldOut {
  std::vector<std::string> names;   // of the domains
  std::vector<TokenBatch> batches;  // of the training shape; may be empty
};

struct EvaluationRules {
  Placement placement;
  uint64_t seed = 0;  // for routers that draw
};

// Forward only; changes nothing. Load, affinity, cosines and index are those of the decode rule.
Evaluation evaluate(const model::Model& model, const HeldOut& held_out, const EvaluationRules& rules,
                    base::Threads& threads);

}  // namespace choir::train
