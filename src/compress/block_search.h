// Which of each layer's best few sets stay, by what runs of consecutive layers put out together: the second half of the
// search of MoE-I2 (arXiv 2411.01016).
#pragma once

#include "compress/calibration.h"
#include "compress/set_loss.h"
#include "compress/sets.h"

namespace choir::compress {

struct BlockOptions {
  int layers = 3;  // of a block; the last one of a model may have fewer
  Objective objective = Objective::kPublished;
  std::span<const std::vector<float>> slopes = {};  // [L][N] of loss_gradients(), for kGradient
};

struct BlockChoice {
  int first = 0, layers = 0;
  double loss = 0, greedy = 0;  // of the choice; of the first candidate of every layer, which is never better
  int tried = 0;
  std::vector<std::vector<int>> keep = {};  // [layers]
};

// Every combination of a block's candidates is run through its layers, attention and all, on what the full model puts
// into the block; the first least loss wins (docs/compress.md, C25). candidates [L], one or more of each layer, the
// best first. Memory holds layers + 3 residual streams of all tokens. Blocks are independent of one another. Throws
// Error (usage) for a block of no layers, (input) where the loss of the first candidates is not a number.
std::vector<BlockChoice> choose_in_blocks(const Model& model, std::span<const CalibrationBatch> batches,
                                          std::span<const std::vector<ScoredSet>> candidates,
                                          const BlockOptions& options, Threads& threads, const Progress& progress = {});

}  // namespace choir::compress
