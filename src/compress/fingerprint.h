// Numbers that tell one model, one calibration text, one file from another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "compress/calibration.h"

namespace choir::compress {

// 64 bits of what was added, in order; some GB a second. Two inputs that differ in one number of eight bytes never
// have the same hash; others do by a chance of 2^-64. Not made to withstand somebody who wants two to agree.
class Hash {
 public:
  void add(std::span<const std::byte> bytes);  // and how many they are
  void add(uint64_t number);
  void add(const std::string& text);

  uint64_t value() const { return state_; }
  std::string text() const;  // 16 hexadecimal digits

 private:
  uint64_t state_ = 0x6a09e667f3bcc908;
};

// Of all that the model computes with: sizes, attention, angles, norms, every layer's router, and every byte of every
// tensor with its name, format and shape. Thresholds of skipping, end tokens and the numbers that experts had before an
// earlier pruning are not in it. Norms count as float, whatever their format on disk. Reads every weight once.
std::string fingerprint(const Model& model, Threads& threads);

// Of the token ids and how they are split into batches and sequences.
std::string calibration_hash(std::span<const CalibrationBatch> batches);

}  // namespace choir::compress
