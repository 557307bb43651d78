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
  const Matrix<float> keys = capture.moe.routing.compared(x.rows, experts);
  capture.ranks = ranks;
  capture.order.resize(static_cast<size_t>(x.rows) * static_cast<size_t>(ranks));
  for (int t = 0; t < x.rows; ++t)
    kernels::top_k(keys.row(t),
                   std::span(capture.order).subspan(static_cast<size_t>(t) * ranks, static_cast<size_t>(ranks)));
  moe::build_plan(capture.order, x.rows, ranks, experts, capture.plan);
  moe::run_experts(capture.plan, layer.tensors, x, capture.moe, threads);
}

int Capture::rank_of(int token, int32_t expert) const {
  const int32_t* begin = ranking(token);
  const int32_t* found = std::find(begin, begin + ranks, expert);
  CHOIR_CHECK(found != begin + ranks, "the layer routes to an expert that was not run");
  return static_cast<int>(found - begin);
}

// z_t = sum over the routed experts, best first, of g_te f_te.
void own_output(const Capture& capture, Matrix<float> z, Threads& threads) {
  constexpr int kTokens = 32;  // of one piece
  const moe::Plan& routed = capture.moe.routing.plan;
  const auto combine = [&](int t) {
    std::ranges::fill(z.row(t), 0.0f);
    for (int s = 0; s < routed.choices; ++s) {
      const int32_t edge = routed.edge[static_cast<size_t>(t) * routed.choices + s];
      if (edge < 0) continue;
      const float gain = routed.weight[edge];
      const int32_t expert = capture.moe.routing.chosen[static_cast<size_t>(t) * routed.choices + s];
      const float* answer = capture.answer(t, capture.rank_of(t, expert), z.cols);
      for (int d = 0; d < z.cols; ++d) z[t][d] += gain * answer[d];
    }
  };
  threads.for_each((z.rows + kTokens - 1) / kTokens, [&](int piece) {
    for (int t = piece * kTokens; t < std::min(z.rows, (piece + 1) * kTokens); ++t) combine(t);
  });
}

}  // namespace choir::compress
