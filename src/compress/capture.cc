#include "compress/capture.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/top_k.h"

namespace choir::compress {

void run_capture(const LayerView& layer, Matrix<const float> x, int ranks, Capture& capture, Threads& threads) {
  const int experts = layer.tensors.experts();
  moe::MoeStep step;
  step.tokens.x = x;
  layer.router.route(moe::context_of(layer.tensors, step, threads), moe::Balancing::kOff, capture.moe.routing);
  const Matrix<float> logits = capture.moe.routing.scores(experts);
  capture.ranks = ranks;
  capture.order.resize(static_cast<size_t>(x.rows) * static_cast<size_t>(ranks));
  for (int t = 0; t < x.rows; ++t)
    kernels::top_k(logits.row(t),
                   std::span(capture.order).subspan(static_cast<size_t>(t) * ranks, static_cast<size_t>(ranks)));
  moe::build_plan(capture.order, x.rows, ranks, experts, capture.plan);
  moe::run_experts(capture.plan, layer.tensors, x, capture.moe, threads);
}

// z_t = sum over the routed experts, best first, of g_te f_te. The router proposes in order of rank, so slot s is rank
// s.
void own_output(const Capture& capture, Matrix<float> z, Threads& threads) {
  constexpr int kTokens = 32;  // of one piece
  const moe::Plan& routed = capture.moe.routing.plan;
  CHOIR_CHECK(routed.choices <= capture.ranks, "the layer routes to experts that were not run");
  const auto combine = [&](int t) {
    std::ranges::fill(z.row(t), 0.0f);
    for (int s = 0; s < routed.choices; ++s) {
      const int32_t edge = routed.edge[static_cast<size_t>(t) * routed.choices + s];
      if (edge < 0) continue;
      const float gain = routed.weight[edge];
      const float* answer = capture.answer(t, s, z.cols);
      for (int d = 0; d < z.cols; ++d) z[t][d] += gain * answer[d];
    }
  };
  threads.for_each((z.rows + kTokens - 1) / kTokens, [&](int piece) {
    for (int t = piece * kTokens; t < std::min(z.rows, (piece + 1) * kTokens); ++t) combine(t);
  });
}

}  // namespace choir::compress
