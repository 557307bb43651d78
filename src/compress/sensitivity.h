// How much the loss of the model feels what each layer puts out, token by token.
#pragma once

#include "compress/calibration.h"

namespace choir::compress {

// [L][N] |g_t|^2 with g_t the gradient, by the output of layer l for token t, of the sum over the calibration's tokens
// of the cross entropy of the next one, in nats; tokens batch after batch. What a change of that output by e changes in
// the loss is at most |g_t| |e| to first order. One forward and backward of each sequence, every expert at work and
// routing held as it is. Memory: the model's numbers as floats, once more for their gradients, which nobody reads, and
// the activations of one sequence. Throws Error (input) where a gradient is not finite.
std::vector<std::vector<float>> loss_gradients(const Model& model, std::span<const CalibrationBatch> batches,
                                               Threads& threads, const Progress& progress = {});

}  // namespace choir::compress
