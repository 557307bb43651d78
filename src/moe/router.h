// A router: five words that turn tokens into a Plan, and the way back.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "base/threads.h"
#include "moe/plan.h"
#include "tensor/buffer.h"

namespace choir::moe {

struct Words;

// What a routing leaves behind: the Plan, and what the backward, the statistics and the calibration read. Grows as
// needed; reuse it from call to call.
struct Routing {
  tensor::Buffer<float> score;    // [N*E] affinities or logits
  std::vector<int32_t> proposed;  // [N*K] before admission
  std::vector<int32_t> chosen;    // [N*K] after it, -1 where an expert refused or was skipped
  Plan plan;
  double balance_loss = 0;  // of this layer, weights included; 0 where the caller asked for none

  tensor::Matrix<float> scores(int experts) const { return score.matrix(plan.tokens, experts); }
};

enum class Balancing { kOff, kOn };  // the loss is computed for training only

// Immutable, cheap to copy; threads may share one.
class Router {
 public:
  explicit Router(Words words);

  // x (N,D) and the gate (E,D) give the routing. NaN scores give a Plan all the same; the loss will show them.
  void route(tensor::Matrix<const float> x, const tensor::Weight& gate, Balancing balancing, Routing& routing,
             base::Threads& threads) const;

  struct Backward {
    std::span<const float> dweight;   // [M] of the plan
    float balance_scale;              // of the gradient of the balance losses
    tensor::Matrix<float> dx, dgate;  // (N,D), (E,D); added to
  };
  void backward(const Backward& step, tensor::Matrix<const float> x, const tensor::Weight& gate, const Routing& routing,
                base::Threads& threads) const;

  int choices() const;             // K
  std::string expression() const;  // written out in full

 private:
  std::shared_ptr<const Words> words_;  // shared: a router is a value, its words never change
};

// Reads "linear > top_k(2) > all > chosen + load(0.01)" or an alias ("mixtral"). Throws Error (usage) that names the
// word. A router for one layer may not choose more experts than there are: see check_router.
Router parse_router(const std::string& expression);

// Throws Error (input) when the router cannot work on that many experts.
void check_router(const Router& router, int experts, const std::string& where);

}  // namespace choir::moe
