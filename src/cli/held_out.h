// Text to calibrate on and text to judge by, which are never the same.
#pragma once

#include "cli/inputs.h"
#include "cli/prune_repair.h"

namespace choir::cli {

constexpr double kHeldOut = 0.2;  // of the calibration's sequences, where no other text is given

// Held out are the files `held_out` or, where there are none, `share` of the calibration's sequences. Throws Error
// (usage) for a file that is both, (input) as hold_out() does.
Split split_text(const Calibration& options, const std::vector<std::string>& held_out, double share,
                 const runtime::Bundle& bundle);

int64_t count_tokens(const std::vector<compress::CalibrationBatch>& batches);

}  // namespace choir::cli
