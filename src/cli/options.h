// What a user asked for: one struct for each verb, filled by arguments.cc and read by the verb's own file.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/threads.h"

namespace choir::cli {

struct Common {
  int threads = 0;  // 0: all processors
  bool pin = false;
  uint64_t seed = 1;
  bool seed_given = false;
  bool json = false;

  base::Placement placement() const { return pin ? base::Placement::kPinned : base::Placement::kFree; }
};

// --trace FILE, of verbs that compute.
struct TraceFile {
  std::string path;  // empty: none
  bool force = false;
};

struct Inspect {
  std::string model;
};

struct Forward {
  std::string model, ids, out;  // ids: FILE[:TENSOR]
  bool trace = false, force = false;
};

struct Generate {
  std::string model, prompt, skip;  // skip: in place of the model's own; none: every chosen expert works
  std::vector<int> ids;
  int count = 64;
  double temperature = 0, top_p = 1, min_p = 0;
  int top_k = 0;
  bool ignore_end = false, exact = false;
  TraceFile trace;
};

struct Bench {
  std::string model;
  int prefill = 0, decode = 0;  // 0: 512 and 64, or what the model takes
  int repeats = 5;
  bool exact = false;
  TraceFile trace;
};

struct Eval {
  std::string model, choices, against, router, skip;  // the last two: in place of the model's own
  bool exact = false;
  std::vector<std::string> text;
  int context = 0;  // tokens of a window; 0: the model's own length, at most 512
};

// Text or ids to calibrate on.
struct Calibration {
  std::vector<std::string> files;
  std::string ids;                             // FILE[:TENSOR]
  int sequences = 0, length = 256, batch = 8;  // of text: blocks (0: up to 128), their tokens, blocks of a batch
};

// The frontier of a model instead of one smaller model: choir prune --explore.
struct Explore {
  bool asked = false, combine = false;
  std::vector<double> keep_ratios, skip_shares;  // none: the usual ones
  std::vector<std::string> held_out;             // none: the last fifth of the calibration's blocks
  std::string choices, page;
  int context = 0, rounds = 5;  // tokens of a window; timed runs of each model, 0: none
  int draws = 20;               // of the random baseline
};

struct Prune {
  std::string model, out, method, objective;  // no method: exact where it fits, else search
  std::vector<std::string> keep;              // numbers of experts, or shares of them: 6, or 0.75
  int64_t keep_total = 0;                     // experts of all layers together; 0: not asked for
  std::string budget;                         // bytes of the model, such as 6GB
  std::string share = "loss";                 // how a total is shared by the layers: loss or score
  Calibration calibration;
  std::string capture, plan, save_plan;
  std::string repair;     // true: all; or names with commas
  double pin_super = -1;  // how far beyond the others an expert's answers go that is pinned; -1: as usual, 0: none
  double neurons = 0;     // share of the hidden neurons that stay; 0: all
  std::string memory;     // bytes that calibrating may take, such as 2GB; empty: any
  double hold_out = -1;   // share of the calibration text; -1: none, a tenth for repairs
  int64_t prove_nodes = 0, capture_tokens = 0, least_tokens = 16, enough = 0;  // enough: tokens of every expert
  int samples = 1000, capture_least = 0, slack = 0;
  int block = 0, candidates = 3;  // layers that choose together, 0: none; sets of each
  bool uniform = false, pad = false, capture_only = false, progressive = false, all_losses = false, force = false;
  Explore explore;
};

struct Fit {
  std::string model, budget, out;  // budget: 6GB, 900MB or a share of the present size; no out: nothing is written
  std::vector<std::string> held_out;
  Calibration calibration;
  int context = 0;
  bool force = false;
};

struct MergeCaptures {
  std::vector<std::string> from;
  std::string out;
};

struct Skip {
  std::string model, out, method;     // no method: median, with a budget tail
  double budget = 0;                  // 0: none
  std::vector<std::string> held_out;  // to choose the gains by
  double hold_out = 0;                // the same as a share of the calibration; 0: none
  Calibration calibration;
  int context = 0;  // tokens of a window of held-out text
  bool own_gains = false, force = false;
};

// Another file format, another number format, or both.
struct Convert {
  std::string model, out, to, type;  // no `to`: what the end of `out` says; no type: as they are
  bool packed = false, force = false;
};

struct Train {
  std::string config, out, data;
  bool resume = false;
  TraceFile trace;
};

struct Route {
  std::string router, x, ids, nodes, out;  // FILE[:TENSOR] each but the first and last
  std::vector<std::string> gate;           // one for each tensor of the router
  int experts = 0;                         // 0: as many as the gate has rows
  int settle = 0;                          // steps that move the router's own numbers before the one that is written
  bool decode = false, force = false;
};

struct Report {
  std::vector<std::string> runs;
  std::string out;
  bool force = false;
};

struct Doctor {
  std::string path;  // a run, a model or both; empty: the machine
};

using Verb = std::variant<Inspect, Forward, Generate, Bench, Eval, Prune, Fit, MergeCaptures, Skip, Convert, Train,
                          Route, Report, Doctor>;

struct Call {
  Common common;
  Verb verb;
};

// Each runs one verb; results go to stdout, all else to stderr. Throws base::Error.
void run(const Inspect& options, const Common& common);
void run(const Forward& options, const Common& common);
void run(const Generate& options, const Common& common);
void run(const Bench& options, const Common& common);
void run(const Eval& options, const Common& common);
void run(const Prune& options, const Common& common);
void run(const Fit& options, const Common& common);
void run(const MergeCaptures& options, const Common& common);
void run(const Skip& options, const Common& common);
void run(const Convert& options, const Common& common);
void run(const Train& options, const Common& common);
void run(const Route& options, const Common& common);
void run(const Report& options, const Common& common);
void run(const Doctor& options, const Common& common);

void explore(const Prune& options, const Common& common);

}  // namespace choir::cli
