// How fast a model answers on this machine, beside another one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/threads.h"
#include "model/model.h"

namespace choir::cli {

// Of at least one value; between the middle two where they are even in number.
double median(std::vector<double> values);

// A run reads `prompt` tokens in one piece, then decodes `decode` tokens one by one.
struct SpeedRun {
  int rounds = 5, prompt = 128, decode = 64;
};

// Tokens a second: medians of the rounds. Ratios to the full model: medians of each round's own.
struct Speed {
  double prefill = 0, decode = 0, prefill_ratio = 1, decode_ratio = 1;
};

struct SpeedPair {
  Speed full, other;
};

// In every round the full model runs right before the other, after a round that is not counted, so that both meet the
// same machine. `ids` must hold the prompt; lengths are cut to what the models take.
SpeedPair compare_speed(const model::Model& full, const model::Model& other, std::span<const int32_t> ids,
                        const SpeedRun& plan, base::Threads& threads);

// Medians of each number; ratios of 1.
Speed median_of(std::span<const Speed> speeds);

// The plan for this model and text: shorter where it takes fewer tokens.
SpeedRun speed_run(const model::Model& model, std::span<const int32_t> ids, int rounds);

}  // namespace choir::cli
