#include "compress/calibration.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace choir::compress {

std::vector<CalibrationBatch> cut_batches(std::span<const int32_t> stream, const CalibrationSize& size) {
  if (size.blocks < 1 || size.length < 1 || size.batch < 1)
    base::usage_error("a calibration size below 1", "calibration", "blocks, length and batch count from 1");
  const auto length = static_cast<size_t>(size.length);
  if (stream.size() / length < static_cast<size_t>(size.blocks))
    base::input_error("too few tokens: " + std::to_string(stream.size()), "calibration text",
                      std::to_string(size.blocks) + " sequences of " + std::to_string(size.length) +
                          " tokens were asked for; give more text, or ask for fewer or shorter sequences");
  std::vector<CalibrationBatch> batches;
  for (int first = 0; first < size.blocks; first += size.batch) {
    const int count = std::min(size.batch, size.blocks - first);
    const auto ids = stream.subspan(static_cast<size_t>(first) * length, static_cast<size_t>(count) * length);
    batches.push_back({{ids.begin(), ids.end()}, count, size.length});
  }
  return batches;
}

void check_batches(std::span<const CalibrationBatch> batches) {
  if (batches.empty()) base::input_error("no tokens to calibrate on", "calibration", "give text or token ids");
  for (const CalibrationBatch& batch : batches) {
    const bool sound = batch.sequences >= 1 && batch.length >= 1 &&
                       batch.ids.size() == static_cast<size_t>(batch.sequences) * static_cast<size_t>(batch.length);
    if (!sound)
      base::input_error("a batch of " + std::to_string(batch.ids.size()) + " token ids", "calibration",
                        "its shape is [" + std::to_string(batch.sequences) + "," + std::to_string(batch.length) + "]");
  }
}

std::vector<kernels::Sequence> sequences_of(const CalibrationBatch& batch) {
  std::vector<kernels::Sequence> sequences;
  for (int i = 0; i < batch.sequences; ++i) sequences.push_back({i * batch.length, batch.length, 0, i * batch.length});
  return sequences;
}

}  // namespace choir::compress
