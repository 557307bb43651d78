#include "train/run_directory.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/atomic_output.h"
#include "base/error.h"

namespace choir::train {
namespace {

namespace fs = std::filesystem;

std::vector<fs::directory_entry> entries(const std::string& directory) {
  std::vector<fs::directory_entry> all;
  std::error_code failure;
  for (fs::directory_iterator it(directory, failure), end; !failure && it != end; it.increment(failure))
    all.push_back(*it);
  if (failure) base::input_error("cannot read the directory", directory, failure.message());
  return all;
}

bool is_leftover(const fs::directory_entry& entry) {
  const std::string name = entry.path().filename().string(), mark = ".partial.";
  const size_t at = name.find(mark);
  if (at == std::string::npos) return false;
  const std::string file = name.substr(0, at), digits = name.substr(at + mark.size());
  const auto ours = {"tokenizer.json",         "run.json",    "metrics.jsonl",    "evaluations.jsonl",
                     "checkpoint.safetensors", "config.json", "model.safetensors"};
  std::error_code ignored;
  return std::ranges::find(ours, file) != ours.end() && !digits.empty() &&
         digits.find_first_not_of("0123456789") == std::string::npos && !entry.is_symlink(ignored) &&
         entry.is_regular_file(ignored);
}

}  // namespace

void check_resumable(const std::string& directory) {
  const std::vector<fs::directory_entry> all = entries(directory);
  const bool run = std::ranges::any_of(all, [](const fs::directory_entry& entry) {
    return entry.path().filename() == "run.json" || entry.path().filename() == "checkpoint.safetensors";
  });
  if (!run && !std::ranges::all_of(all, is_leftover))
    base::usage_error("not the directory of a run", directory, "it has neither run.json nor checkpoint.safetensors");
}

void remove_leftovers(const std::string& directory) {
  for (const fs::directory_entry& entry : entries(directory)) {
    std::error_code failure;
    if (is_leftover(entry) && !fs::remove(entry.path(), failure) && failure)
      base::input_error("cannot remove half a file", entry.path().string(), failure.message());
  }
}

void write_beginning(const std::string& directory, const TrainConfig& config, const model::Config& model_config,
                     const text::Tokenizer& tokenizer, const MemoryPlan& memory) {
  const auto count = model::count_parameters(model_config);
  nlohmann::ordered_json json{{"router", model::router_expression(model_config, model::typical_layer(model_config))},
                              {"experts", nullptr},
                              {"top_k", nullptr},
                              {"parameters", count.total},
                              {"active_parameters", count.active},
                              {"seed", config.seed}};
  for (const model::LayerConfig& layer : model_config.layers) {
    json["experts"].push_back(layer.routed());
    json["top_k"].push_back(layer.top_k);
  }
  for (const auto& [part, bytes] : memory.parts) json["memory"][part] = bytes;
  // run.json first: with it a run that is killed in between can be resumed.
  base::write_file(directory + "/run.json", json.dump(2) + "\n", base::Existing::kReplace);
  std::error_code ignored;
  const std::string saved = directory + "/tokenizer.json";
  if (!fs::exists(saved, ignored)) text::write_tokenizer_json(tokenizer, saved, base::Existing::kRefuse);
}

}  // namespace choir::train
