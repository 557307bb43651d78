#include "moe/weigh/norm.h"

#include "moe/weigh/slots.h"

namespace choir::moe {
namespace {

// The experts of each token that the weights are divided by.
struct Divisors {
  const std::vector<int32_t>& list;
  int choices;

  template <class Function>
  float sum(const float* z, int t) const {
    float sum = 1e-20f;  // of the published normaliser
    each_slot(list, choices, t, [&](int, int32_t e) { sum += Function::value(z[e]); });
    return sum;
  }
};

template <class Word>
Divisors divisors_of(const Word& word, const Routing& routing) {
  if (word.over.k > 0) return {routing.best, word.over.k};
  return {word.kept ? routing.chosen : routing.proposed, routing.plan.choices};
}

}  // namespace

template <class Function>
NormWeights<Function> NormWeights<Function>::read(Arguments& arguments) {
  NormWeights word;
  word.kept = arguments.flag("kept");
  word.scale = static_cast<float>(arguments.number("scale", 1e-6, 1e6, 1));
  if (!word.kept && arguments.has("over")) word.over.k = arguments.whole("over", 1, 4096);
  return word;
}

// g_e = scale s_e / (sum over the divisors of s_j + 1e-20).
template <class Function>
void NormWeights<Function>::forward(const Context& context, Routing& routing) const {
  if (over.k > 0) over.find(context, routing);
  const Divisors divisors = divisors_of(*this, routing);
  each_token(context, [&](int t) {
    const float* z = routing.scores(context.experts)[t];
    const float factor = scale / divisors.template sum<Function>(z, t);
    each_edge(routing, t, [&](int32_t i, int32_t e) { routing.plan.weight[i] = factor * Function::value(z[e]); });
  });
}

// ds_e = (scale dg_e [kept] - sum_j g_j dg_j [among the divisors]) / sum; dz = ds s'.
template <class Function>
void NormWeights<Function>::backward(const Context& context, const Routing& routing, std::span<const float> dweight,
                                     Matrix<float> dz) const {
  const Divisors divisors = divisors_of(*this, routing);
  each_token(context, [&](int t) {
    const float* z = routing.scores(context.experts)[t];
    float mean = 0;
    each_edge(routing, t, [&](int32_t i, int32_t) { mean += routing.plan.weight[i] * dweight[i]; });
    const float sum = divisors.template sum<Function>(z, t);
    const auto add = [&](int32_t e, float ds) { dz[t][e] += ds / sum * Function::slope(z[e]); };
    each_edge(routing, t, [&](int32_t i, int32_t e) { add(e, scale * dweight[i]); });
    each_slot(divisors.list, divisors.choices, t, [&](int, int32_t e) { add(e, -mean); });
  });
}

template struct NormWeights<Sigmoid>;
template struct NormWeights<SqrtSoftplus>;

}  // namespace choir::moe
