#include "cli/held_out.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"

namespace choir::cli {
namespace {

constexpr int kHeldOut = 5;  // one block in so many

void check_apart(const std::vector<std::string>& files, const std::vector<std::string>& held_out) {
  std::error_code unreadable;  // whoever reads the file says so
  for (const std::string& one : files)
    for (const std::string& other : held_out)
      if (std::filesystem::equivalent(one, other, unreadable))
        base::usage_error("a text to calibrate on is held out", other, "judge by text that did not calibrate");
}

// Blocks from the end of the batches, the last one first.
std::vector<eval::Document> taken_from(std::vector<compress::CalibrationBatch>& batches, int count) {
  std::vector<eval::Document> taken;
  for (; count > 0; --count) {
    compress::CalibrationBatch& last = batches.back();
    const auto first = last.ids.end() - last.length;
    taken.push_back({{first, last.ids.end()}, 0});
    last.ids.erase(first, last.ids.end());
    if (--last.sequences == 0) batches.pop_back();
  }
  return taken;
}

}  // namespace

Split split(const Calibration& options, const std::vector<std::string>& held_out, const runtime::Bundle& bundle) {
  check_apart(options.files, held_out);
  Split result{calibration_batches(options, bundle), {}};
  if (!held_out.empty()) {
    result.held_out = read_documents(held_out, bundle);
    return result;
  }
  int blocks = 0;
  for (const compress::CalibrationBatch& batch : result.calibration) blocks += batch.sequences;
  if (blocks < 2)
    base::input_error("one block of text, and nothing to hold out", "calibration",
                      "give more text, a smaller --length, or --held-out FILE");
  result.held_out = taken_from(result.calibration, std::max(1, blocks / kHeldOut));
  std::ranges::reverse(result.held_out);
  return result;
}

int64_t count_tokens(const std::vector<compress::CalibrationBatch>& batches) {
  int64_t tokens = 0;
  for (const compress::CalibrationBatch& batch : batches) tokens += static_cast<int64_t>(batch.ids.size());
  return tokens;
}

int64_t count_tokens(const std::vector<eval::Document>& documents) {
  int64_t tokens = 0;
  for (const eval::Document& document : documents) tokens += static_cast<int64_t>(document.ids.size());
  return tokens;
}

}  // namespace choir::cli
