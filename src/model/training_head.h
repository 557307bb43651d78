// The linear map onto the vocabulary and the losses behind it, forward and backward in one sweep over the rows: what
// stands in memory are the logits of some rows, never of all.
#pragma once

#include "model/backward.h"

namespace choir::model {

struct HeadStep {
  const ForwardPass& pass;
  const TrainingBatch& batch;
  float scale;  // of the losses, which are means over the counted targets
};

struct HeadRows {
  Matrix<const float> normed;  // (N,D)
  Matrix<float> dnormed;       // (N,D), set
  HeadActivations& head;
  HeadRoom& room;
};

// The losses of the tokens; adds to the gradients of the head and its bias. Independent of the number of threads.
TrainingLoss head_losses(const Model& model, const HeadStep& step, const HeadRows& rows,
                         ModelTensors<Matrix<float>>& gradients, Threads& threads);

}  // namespace choir::model
