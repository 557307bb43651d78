// Routers as the configurations of published models describe them.
#pragma once

#include <string>

namespace choir::moe {

// The keys of a config.json that say how a token's experts are chosen and weighed (docs/routing.md, "Published
// models").
struct PublishedRouter {
  enum class Score { kSoftmax, kSigmoid };
  enum class Weights {
    kRaw,          // the score of each chosen expert
    kNormalised,   // over the sum of the chosen: norm_topk_prob, or a softmax of the chosen logits
    kSparseMixer,  // two rounds, each a softmax over the logits near its best (Phi); k is 2
  };

  int k = 2;  // num_experts_per_tok
  Score score = Score::kSoftmax;
  Weights weights = Weights::kNormalised;
  float scale = 1;                // routed_scaling_factor, of the weights; DeepSeek-V2 has norm_topk_prob or a scale
  int groups = 1, keep = 1;       // n_group, topk_group: chosen within the best groups; one group: among all
  bool by_top_two = false;        // a group is worth the sum of its two best, not its best
  bool gate_bias = false;         // the gate has a bias: a tensor gate.bias (1,E) behind gate.weight
  bool selection_bias = false;    // e_score_correction_bias, which is the router's state (1,E)
  float eps = 0.01f;              // router_jitter_noise of kSparseMixer
  float load = 0;                 // of the balance loss in training; 0: none
  bool load_by_sequence = false;  // seq_aux
};

// The router's expression. Throws Error (usage) where no router does that, such as a scaled sparse mixer.
std::string expression_of(const PublishedRouter& router);

}  // namespace choir::moe
