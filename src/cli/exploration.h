// What choir prune --explore has measured, and the ways to show it.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/speed.h"
#include "eval/distance.h"

namespace choir::cli {

// One model of the frontier beside the full one.
struct ExploredModel {
  std::string method;                            // full, a method of pruning, skip, or search + skip
  std::optional<double> keep_ratio, skip_share;  // asked for
  std::vector<int> experts;                      // [L] that are there
  double evaluations = 1;                        // share of the expert evaluations of the calibration text that stay
  double skipped_share = 0;                      // of the experts, counted on the held-out text
  double token_bytes = 0;                        // mean weight bytes that a token of it reads
  int64_t bytes = 0;                             // of the file of weights
  std::optional<double> loss;                    // on the calibration text, what the search makes small
  eval::Distance distance;                       // from the full model on the held-out text
  int draws = 1;                                 // of which this is the mean
  double kl_spread = 0;                          // half the range of their KL
  std::optional<double> accuracy;                // of the choices
  std::optional<Speed> speed;
  bool knee = false;

  std::string name() const;  // "search, 75 % of the experts"
};

struct Exploration {
  std::string model, held_out;  // held_out: which text, in words
  int64_t calibration_tokens = 0, held_out_tokens = 0;
  uint64_t seed = 1;
  SpeedRun speed_run;
  int threads = 1;
  ExploredModel full;
  std::vector<ExploredModel> models;

  std::string timing() const;  // how speeds were measured; empty where they were not
};

// Draws of one method at one ratio as one model: the means of what was measured; counts, bytes and speed of the first.
ExploredModel mean_of(const std::vector<ExploredModel>& draws);

// Marks the knees: of the searched models KL against bytes, of the skipping ones KL against their evaluations; both
// lines end with the full model.
void mark_knees(Exploration& exploration);

nlohmann::ordered_json json_of(const Exploration& exploration);
std::string table_of(const Exploration& exploration);
std::string page_of(const Exploration& exploration);

}  // namespace choir::cli
