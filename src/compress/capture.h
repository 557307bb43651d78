// What the best-ranked experts of each token answer: one run of the experts that serves every set of kept ones.
#pragma once

#include "moe/layer.h"

namespace choir::compress {

using base::Threads;
using tensor::Matrix;
using tensor::Weight;

struct LayerView {
  const moe::Router& router;
  const moe::MoeTensors<Weight>& tensors;
};

// Buffers of one block of N tokens and m ranks; they grow as needed.
struct Capture {
  int ranks = 0;               // m
  std::vector<int32_t> order;  // [N*m] experts of each token, the best first; of equal keys the lower number first
  moe::Plan plan;              // token t's expert of rank s is slot s; without weights
  moe::MoeActivations moe;     // routing: of the layer as it is; out: the answer of every (token, rank)

  int tokens() const { return plan.tokens; }
  int experts() const { return plan.experts(); }
  const int32_t* ranking(int token) const { return order.data() + static_cast<size_t>(token) * ranks; }
  const float* logits(int token) const { return moe.routing.scores(experts())[token]; }
  int rank_of(int token, int32_t expert) const;  // which must be among them
  const float* answer(int token, int rank, int width) const {
    return moe.out.data() + static_cast<size_t>(plan.edge[static_cast<size_t>(token) * ranks + rank]) * width;
  }
};

// Routes x (N,D) and runs the `ranks` best experts of each token, by what its proposals compare.
void run_capture(const LayerView& layer, Matrix<const float> x, int ranks, Capture& capture, Threads& threads);

// z (N,D): the layer's own output, from the answers of the experts that it routes to, which must have been run.
void own_output(const Capture& capture, Matrix<float> z, Threads& threads);

}  // namespace choir::compress
