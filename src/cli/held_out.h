// Text to calibrate on and text to judge by, which are never the same.
#pragma once

#include "cli/inputs.h"

namespace choir::cli {

struct Split {
  std::vector<compress::CalibrationBatch> calibration;
  std::vector<eval::Document> held_out;
};

// Held out are the files `held_out` or, where there are none, the last fifth of the calibration's blocks, one at least,
// which then are not calibrated on. Throws Error (usage) for a file that is both, (input) for a single block.
Split split(const Calibration& options, const std::vector<std::string>& held_out, const runtime::Bundle& bundle);

// Tokens of either.
int64_t count_tokens(const std::vector<compress::CalibrationBatch>& batches);
int64_t count_tokens(const std::vector<eval::Document>& documents);

}  // namespace choir::cli
