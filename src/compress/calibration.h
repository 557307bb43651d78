// The tokens that a model is measured on before experts are taken from it.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/forward.h"

namespace choir::compress {

using base::Threads;
using model::Model;

// [sequences, length] token ids. Losses of pruning are norms over one batch, summed over the batches, so the split
// into batches is part of the data.
struct CalibrationBatch {
  std::vector<int32_t> ids;
  int sequences = 0, length = 0;
};

// The defaults of the published search (arXiv 2402.14800): 262,144 tokens in 16 batches.
struct CalibrationSize {
  int blocks = 128;   // sequences altogether
  int length = 2048;  // tokens of a sequence
  int batch = 8;      // sequences of a batch; the last one may be smaller
};

// Cuts a stream of concatenated documents into blocks, from its beginning; what is left over is not used. Throws Error
// (input) when the stream is too short for all blocks, (usage) for a size below 1.
std::vector<CalibrationBatch> cut_batches(std::span<const int32_t> stream, const CalibrationSize& size);

// Throws Error (input) when there is nothing to calibrate on or a batch is not the rectangle it says it is.
void check_batches(std::span<const CalibrationBatch> batches);

// Where the sequences of a batch stand in a call of the model.
std::vector<kernels::Sequence> sequences_of(const CalibrationBatch& batch);

// Called after each piece of work; `done` runs from 1 to `total`. May throw to stop the work.
using Progress = std::function<void(int done, int total)>;

}  // namespace choir::compress
