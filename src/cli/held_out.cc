#include "cli/held_out.h"

#include <filesystem>

#include "base/error.h"

namespace choir::cli {

Split split_text(const Calibration& options, const std::vector<std::string>& held_out, double share,
                 const runtime::Bundle& bundle) {
  std::error_code unreadable;  // whoever reads the file says so
  for (const std::string& one : options.files)
    for (const std::string& other : held_out)
      if (std::filesystem::equivalent(one, other, unreadable))
        base::usage_error("a text to calibrate on is held out", other, "judge by text that did not calibrate");
  Split split = hold_out(calibration_batches(options, bundle), held_out.empty() ? share : 0);
  if (!held_out.empty()) split.held_out = read_documents(held_out, bundle);
  return split;
}

int64_t count_tokens(const std::vector<compress::CalibrationBatch>& batches) {
  int64_t tokens = 0;
  for (const compress::CalibrationBatch& batch : batches) tokens += static_cast<int64_t>(batch.ids.size());
  return tokens;
}

}  // namespace choir::cli
