// How many calibration tokens each expert has seen: what the judgement on it rests on.
#pragma once

#include <cstdint>
#include <vector>

#include "compress/calibration.h"

namespace choir::compress {

// A row for each layer, added in order: the tokens routed to each of its experts.
struct CoverageTable {
  std::vector<std::vector<int64_t>> tokens;  // [L][E]
};

struct RareExpert {
  int layer, expert;
  int64_t tokens;

  bool operator==(const RareExpert&) const = default;
};

// Experts with fewer tokens than `least`, the rarest first, then by layer and number.
std::vector<RareExpert> rarely_seen(const CoverageTable& table, int64_t least);

// Whether every expert of every layer has `least` tokens: more text would only sharpen what is known. False without a
// layer.
bool enough(const CoverageTable& table, int64_t least);

struct EnoughText {
  int64_t sequences;  // from the beginning
  bool reached;       // false: all of them, and still some expert lacks tokens
};

// The fewest sequences that give every expert `least` tokens. A forward of the whole model for each batch, until it is
// so: nothing else tells what the last layer sees. A model that skips is looked at without its thresholds.
EnoughText enough_text(const Model& model, std::span<const CalibrationBatch> batches, int64_t least, Threads& threads,
                       const Progress& progress = {});

}  // namespace choir::compress
