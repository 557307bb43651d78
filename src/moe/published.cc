#include "moe/published.h"

#include "base/error.h"
#include "moe/parse.h"
#include "moe/router.h"

namespace choir::moe {
namespace {

using Published = PublishedRouter;

Propose proposals_of(const Published& router) {
  if (router.groups == 1) return TopK{router.k};
  return Groups{router.groups, router.keep, router.k, router.by_top_two};
}

Weigh weights_of(const Published& router) {
  const bool normalised = router.weights == Published::Weights::kNormalised;
  if (router.weights == Published::Weights::kSparseMixer) return SparseMixer{router.eps};
  if (router.score == Published::Score::kSigmoid)
    return normalised ? Weigh(SigmoidNormWeights{router.scale}) : SigmoidWeights{router.scale};
  if (normalised && router.scale == 1) return ChosenWeights{};
  SoftmaxWeights softmax;
  softmax.renorm = normalised;
  softmax.scale = router.scale;
  return softmax;
}

}  // namespace

std::string expression_of(const Published& router) {
  const bool sigmoid = router.score == Published::Score::kSigmoid;
  if (router.weights == Published::Weights::kSparseMixer && (router.scale != 1 || sigmoid || router.selection_bias))
    base::usage_error("a sparse mixer weighs by softmax, unscaled, what has the largest logits", "router",
                      "leave scale, sigmoid and selection bias out");
  LinearScore score;
  if (sigmoid) score.select_by = SelectBy::kSigmoid;
  score.bias = router.gate_bias;
  Words words{score, proposals_of(router), AdmitAll{}, weights_of(router), {}};
  if (router.selection_bias) words.balance.push_back(BiasBalance{});
  LoadBalance load;
  load.alpha = router.load;
  load.sigmoid = sigmoid;
  load.per_sequence = router.load_by_sequence;
  if (router.load > 0) words.balance.push_back(load);
  return parse_router(write_out(words)).expression();
}

}  // namespace choir::moe
