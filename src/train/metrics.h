// metrics.jsonl and evaluations.jsonl: one line a step, one line an evaluation.
#pragma once

#include <cstdio>
#include <string>

#include "train/evaluation.h"
#include "train/report.h"

namespace choir::train {

// One line, no newline. What is not known or not finite is null.
std::string to_json(const StepReport& report);
std::string to_json(const Evaluation& evaluation);

// Appends to the file. Opening it for a run that stands at `step` drops later lines: they will be made again.
class MetricsFile {
 public:
  MetricsFile(std::string path, int step);
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;
  ~MetricsFile();

  void add(const std::string& line);           // an object with "step"
  void flush();                                // Throws Error (input) when the disk refuses
  void sync();                                 // flushes onto the disk itself
  double seconds() const { return seconds_; }  // of the steps that were there when it was opened

 private:
  std::string path_;
  double seconds_ = 0;
  std::FILE* file_;
};

}  // namespace choir::train
