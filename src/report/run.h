// A training run as its files tell it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace choir::report {

using Column = std::vector<double>;  // NaN: not a number, not known or, for a capacity, no limit
using Rows = std::vector<Column>;

// metrics.jsonl by columns: one entry for each line. A field that no line has is not in the maps.
struct Steps {
  Column step, tokens, elapsed;         // elapsed: seconds of training so far
  std::map<std::string, Column> total;  // "loss", "seconds" and so on, as the file names them
  std::map<std::string, Rows> layers;   // [layer][line], all rows of one length

  size_t size() const { return step.size(); }
  const Column* find(const std::string& field) const;       // null where there is none
  const Rows* find_layers(const std::string& field) const;  // the same
};

struct Domain {
  std::string name;
  double tokens, loss, loss_training_rule;
  Rows load, affinity;  // [layer][expert]
};

// One line of evaluations.jsonl. `tokens` are the held-out ones; `seconds` those of training so far.
struct Evaluation {
  double step, tokens, seconds, loss, loss_training_rule, agreement;
  std::vector<Domain> domains;
  std::vector<Rows> expert_cosine;  // [layer][expert][expert]
  Column ch_index;                  // [layer]
  bool null_loss = false;           // a loss is there and is no number
};

struct Run {
  std::string directory, name;  // name: of the directory
  std::string title, router;    // from run.json; empty where it does not say
  std::optional<int64_t> parameters, active_parameters, seed;
  std::vector<int64_t> layer_experts, layer_top_k;  // E and K by layer, as run.json has them, or config.json
  int64_t experts = 0, top_k = 0;                   // of all other layers; 0: not known
  Steps steps;
  std::vector<Evaluation> evaluations;

  int64_t experts_of(int layer) const;  // 0: not known
  int64_t top_k_of(int layer) const;    // the same
};

bool is_run(const std::string& directory);  // it has a metrics.jsonl

// Throws Error (input) naming the file when metrics.jsonl is missing or empty, or a file of the run is damaged. A last
// line cut by a crash is passed over.
Run read_run(const std::string& directory);

// All of them that have a step, with names that differ. A directory without one, of a run that has just begun, is
// handed to `passed_over`; there is an error only where none is left.
std::vector<Run> read_runs(const std::vector<std::string>& directories,
                           const std::function<void(const std::string& directory)>& passed_over = {});

}  // namespace choir::report
