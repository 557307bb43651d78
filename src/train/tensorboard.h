// Event files that TensorBoard reads: scalars over steps.
#pragma once

#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "train/evaluation.h"
#include "train/report.h"

namespace choir::train {

// CRC-32 with the polynomial of Castagnoli; of "123456789" it is 0xe3069283.
uint32_t crc32c(std::string_view bytes);

struct Scalar {
  std::string tag;
  double value;
};

std::vector<Scalar> scalars(const StepReport& report);
std::vector<Scalar> scalars(const Evaluation& evaluation);

// A new file DIR/events.out.tfevents.TIME.HOST of a run that stands at `step`; TensorBoard then drops what an earlier
// file of the directory says about later steps. Throws Error (input) when the disk refuses.
class EventFile {
 public:
  EventFile(const std::string& directory, int step);
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;
  ~EventFile();

  void add(int64_t step, std::span<const Scalar> values);
  void flush();

 private:
  void write(const std::string& event);

  std::string path_;
  std::FILE* file_;
};

}  // namespace choir::train
