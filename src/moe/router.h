// A router: five words that turn tokens into a Plan, and the way back.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "moe/routing.h"
#include "moe/subset_rule.h"

namespace choir::moe {

struct Words;

enum class Balancing { kOff, kOn };  // the loss is computed for training only

// Immutable, cheap to copy; threads may share one. Everywhere E counts the experts without weights too.
class Router {
 public:
  explicit Router(Words words);
  // That of a dense layer, which has no routed experts: "none > all > all > identity". Its Plans have no choices.
  Router();

  // Reads x and the gate's tensors; gives the Plan. NaN scores give a Plan all the same; the loss will show them.
  // State, ids, nodes and padding have their sizes, the last three or none.
  void route(const Context& context, Balancing balancing, Routing& routing) const;

  struct Backward {
    std::span<const float> dweight;          // [M] of the plan
    float balance_scale;                     // of the gradient of the balance losses
    Matrix<float> dx;                        // (N,D) added to
    std::span<const Matrix<float>> tensors;  // added to
    Matrix<float> previous;                  // (N,E) gradient by the scores of the layer before; added to
    Matrix<const float> dscore;              // (N,E) what the layer behind has put there; may be empty
  };
  void backward(const Backward& step, const Context& context, const Routing& routing) const;

  // Changes the layer's output y (N,D) of tokens that go without experts, where the admission says so.
  void finish(const Context& context, const Plan& plan, Matrix<float> y) const;
  // The way back: rows (M,D) are the gradient of that output at the token of each edge.
  void finish_backward(const Context& context, const Plan& plan, Matrix<float> rows) const;

  // Name and value of each balance word, weights included.
  std::vector<std::pair<std::string, double>> losses(const Context& context, const Routing& routing) const;

  int choices(int experts) const;  // K: slots of a token
  std::string expression() const;  // written out in full
  // Whether a token's edges never depend on other tokens: training and decoding then follow one rule.
  bool causal() const;
  bool residual() const;  // the scores of the layer before are needed
  bool masks() const;     // some experts' scores are -infinity
  // Whether skip(beta) may stand in place of its admission: top_k(2) > all or skip, and weights that have a gain.
  bool skippable() const;
  std::optional<SubsetRule::Gain> gain() const;  // what its weights make of a logit before they divide
  std::string admission() const;                 // that word, written out
  // How it chooses and weighs, of a router that stays the same when experts are taken out: linear without residual,
  // top_k or groups, all or skip, and a weight for each expert by itself. Its numbers, if it has any, are one bias for
  // each expert. Nothing for other routers.
  std::optional<SubsetRule> subset_rule() const;
  // Whether a call that is a part of a step must know the proposals of the whole step: Context::shares.
  bool shares_matter() const;
  std::string misfit(int experts, int width) const;  // why it cannot work on so many; empty: it can

  std::vector<GateTensor> tensors(int experts, int width) const;

  // Numbers outside the gradient, one row for each layer. Read by route; after a training step, whose calls have all
  // been observed into zeroed sums, updated once.
  int state_size(int experts) const;
  void initial_state(int experts, std::span<float> state) const;
  int sums_size(int experts) const;
  // Adds to the sums. Capacities follow calls of the training rule alone.
  void observe(const Context& context, const Routing& routing, std::span<float> sums) const;
  void update(int experts, std::span<const float> sums, std::span<float> state) const;

 private:
  // body(name, loss) of each balance word.
  template <class Body>
  void each_loss(const Context& context, const Routing& routing, const Body& body) const;

  std::shared_ptr<const Words> words_;  // shared: a router is a value, its words never change
};

// Reads an expression or an alias. Throws Error (usage) that names the word.
Router parse_router(const std::string& expression);

// The expression with all or skip in place of its own all or skip, written out. With the skip goes what is there for it
// alone: over=k and kept of the weights. Throws Error (usage) for a router with another admission, or where the new one
// is not defined.
std::string with_admission(const std::string& expression, const std::string& admission);

// The expression with another weigh word. Throws Error (usage) where that does not go with the others.
std::string with_weights(const std::string& expression, const std::string& weights);

// Throws Error (input) when the router cannot work on that many experts and channels.
void check_router(const Router& router, int experts, int width, const std::string& where);

}  // namespace choir::moe
