// metrics.jsonl: one line a step.
#pragma once

#include <cstdio>
#include <string>

#include "train/trainer.h"

namespace choir::train {

std::string to_json(const StepReport& report);  // one line, no newline

// Appends to the file. Opening it for a run that stands at `step` drops later lines: they will be made again.
class MetricsFile {
 public:
  MetricsFile(std::string path, int step);
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;
  ~MetricsFile();

  void add(const StepReport& report);
  void flush();  // Throws Error (input) when the disk refuses

 private:
  std::string path_;
  std::FILE* file_;
};

}  // namespace choir::train
