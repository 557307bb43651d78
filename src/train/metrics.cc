#include "train/metrics.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/atomic_output.h"
#include "base/error.h"

namespace choir::train {
namespace {

using Json = nlohmann::ordered_json;

// The lines of whole steps up to `step`; a line cut by a crash is not one.
std::string kept_lines(const std::string& path, int step) {
  std::string kept;
  if (!std::filesystem::exists(path)) return kept;
  const std::string text = base::read_file(path);
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const Json line = Json::parse(text.substr(begin, end - begin), nullptr, false);
    const auto number = line.is_object() ? line.find("step") : line.end();
    if (number != line.end() && number->is_number_integer() && *number <= step)
      kept += text.substr(begin, end - begin + 1);
  }
  return kept;
}

}  // namespace

std::string to_json(const StepReport& r) {
  return Json{{"step", r.step},
              {"loss", r.loss},
              {"balance_loss", r.balance_loss},
              {"gradient_norm", r.gradient_norm},
              {"learning_rate", r.learning_rate},
              {"tokens", r.tokens},
              {"seconds", r.seconds},
              {"tokens_per_second", r.tokens_per_second},
              {"share_of_peak", r.share_of_peak},
              {"max_over_mean_load", r.max_over_mean_load}}
      .dump();
}

MetricsFile::MetricsFile(std::string path, int step) : path_(std::move(path)) {
  base::write_file(path_, kept_lines(path_, step), base::Existing::kReplace);
  file_ = std::fopen(path_.c_str(), "ab");
  if (!file_) base::input_error("cannot write", path_, std::strerror(errno));
}

MetricsFile::~MetricsFile() { std::fclose(file_); }

void MetricsFile::add(const StepReport& report) {
  const std::string line = to_json(report) + "\n";
  std::fwrite(line.data(), 1, line.size(), file_);
}

void MetricsFile::flush() {
  if (std::fflush(file_) != 0 || std::ferror(file_)) base::input_error("cannot write", path_, std::strerror(errno));
}

}  // namespace choir::train
