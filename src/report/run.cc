#include "report/run.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "io/json.h"
#include "report/lines.h"

namespace choir::report {
namespace {

namespace fs = std::filesystem;
using io::Json;

constexpr const char* kTotals[] = {"loss",        "balance_loss",      "gradient_norm",       "learning_rate",
                                   "seconds",     "tokens_per_second", "share_of_peak",       "max_over_mean_load",
                                   "peak_memory", "processed_share",   "dropped_token_share", "local_share"};
constexpr const char* kLayers[] = {
    "capacity",         "capacity_factor",      "log_min_capacity",  "processed_share", "dropped_token_share",
    "dead_experts",     "max_over_mean_load",   "load_entropy",      "balance_loss",    "affinity_kept",
    "affinity_dropped", "router_gradient_norm", "tokens_per_expert", "local_share"};
constexpr int64_t kMost = int64_t{1} << 60;
constexpr double kMostOfLayer = 1 << 20;  // experts; a model has 4096 at most

// Puts a value behind those of the lines before, of which some may have lacked the field.
void append(Column& column, size_t line, double value) {
  column.resize(line, NAN);
  column.push_back(value);
}

void add_layers(Steps& steps, const Json& layers, size_t line, const std::string& where) {
  if (!layers.is_object()) base::input_error("not a JSON object", where + ": field layers", "it must be { ... }");
  for (const char* field : kLayers) {
    const auto found = layers.find(field);
    if (found == layers.end()) continue;
    const Column values = numbers(*found, where + ": field layers." + field);
    Rows& rows = steps.layers[field];
    if (rows.size() < values.size()) rows.resize(values.size());
    for (size_t l = 0; l < values.size(); ++l) append(rows[l], line, values[l]);
  }
}

void add_line(Steps& steps, const Json& object, const std::string& where) {
  const io::Fields fields(object, where);
  const size_t line = steps.size();
  const auto step = static_cast<double>(fields.get_int("step", 0, kMost));
  if (line > 0 && step <= steps.step.back())
    base::input_error("steps do not rise", where, "the file holds lines of two runs; remove the older ones");
  if (!object.contains("loss")) base::input_error("a field is missing", where + ": field loss", "add it");
  steps.step.push_back(step);
  steps.tokens.push_back(number_or_nan(object, "tokens", where));
  for (const char* field : kTotals)
    if (object.contains(field)) append(steps.total[field], line, number_or_nan(object, field, where));
  if (const auto layers = object.find("layers"); layers != object.end()) add_layers(steps, *layers, line, where);
}

Column summed(const Column* seconds, size_t size) {
  Column elapsed(size, NAN);
  double sum = 0;
  for (size_t i = 0; seconds && i < size; ++i) elapsed[i] = sum += std::isfinite((*seconds)[i]) ? (*seconds)[i] : 0;
  return elapsed;
}

Steps read_steps(const std::string& path) {
  Steps steps;
  for_each_line(path, [&](const Json& object, const std::string& where) { add_line(steps, object, where); });
  for (auto& [field, column] : steps.total) column.resize(steps.size(), NAN);
  for (auto& [field, rows] : steps.layers)
    for (Column& column : rows) column.resize(steps.size(), NAN);
  steps.elapsed = summed(steps.find("seconds"), steps.size());
  return steps;
}

Domain read_domain(const Json& object, const std::string& where) {
  const io::Fields fields(object, where);
  Domain domain{fields.get_string("name"),
                number_or_nan(object, "tokens", where),
                number_or_nan(object, "loss", where),
                number_or_nan(object, "loss_training_rule", where),
                {},
                {}};
  if (fields.has("load")) domain.load = rows(object["load"], where + ": field load");
  if (fields.has("affinity")) domain.affinity = rows(object["affinity"], where + ": field affinity");
  return domain;
}

Evaluation read_evaluation(const Json& object, const std::string& where) {
  const io::Fields fields(object, where);
  const auto number = [&](const char* key) { return number_or_nan(object, key, where); };
  const auto is_null = [&](const char* key) { return object.contains(key) && object[key].is_null(); };
  Evaluation e{static_cast<double>(fields.get_int("step", 0, kMost)),
               number("tokens"),
               number("seconds"),
               number("loss"),
               number("loss_training_rule"),
               number("agreement"),
               {},
               {},
               {},
               is_null("loss") || is_null("loss_training_rule")};
  for (const char* key : {"domains", "expert_cosine"})
    if (fields.has(key) && !object[key].is_array())
      base::input_error("not an array", where + ": field " + key, "it must be [ ... ]");
  if (fields.has("domains"))
    for (const Json& domain : object["domains"]) e.domains.push_back(read_domain(domain, where + ": field domains"));
  if (fields.has("expert_cosine"))
    for (const Json& layer : object["expert_cosine"])
      e.expert_cosine.push_back(rows(layer, where + ": field expert_cosine"));
  if (fields.has("ch_index")) e.ch_index = numbers(object["ch_index"], where + ": field ch_index");
  return e;
}

// An array of whole numbers, one for each layer; none where the key is missing.
std::vector<int64_t> counts(const Json& object, const std::string& key, const std::string& where) {
  std::vector<int64_t> result;
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return result;
  for (const double n : numbers(*found, where + ": field " + key)) {
    if (!(n >= 1 && n <= kMostOfLayer && n == std::floor(n)))
      base::input_error("not one whole number a layer", where + ": field " + key,
                        "each is from 1 to " + std::to_string(static_cast<int64_t>(kMostOfLayer)));
    result.push_back(static_cast<int64_t>(n));
  }
  return result;
}

void read_about(Run& run, const std::string& path) {
  const Json json = io::read_json(path);
  const io::Fields fields(json, path);
  run.router = fields.get_string("router", "");
  run.title = fields.get_string("name", "");
  const auto count = [&](const char* key) -> std::optional<int64_t> {
    if (!fields.has(key)) return {};
    return fields.get_int(key, 0, kMost);
  };
  run.parameters = count("parameters");
  run.active_parameters = count("active_parameters");
  run.seed = count("seed");
  run.layer_experts = counts(json, "experts", path);
  run.layer_top_k = counts(json, "top_k", path);
}

void read_config(Run& run, const std::string& path) {
  const Json json = io::read_json(path);
  const io::Fields fields(json, path);
  // Families spell it in their own way.
  const char* experts = "num_local_experts";
  for (const char* key : {"num_experts", "n_routed_experts"})
    if (fields.has(key)) experts = key;
  run.experts = fields.get_int(experts, 0, kMost, 0);
  run.top_k = fields.get_int("num_experts_per_tok", 0, kMost, 0);
  if (!fields.has("choir")) return;
  (void)fields.get_object("choir");
  const std::string where = path + ": field choir";
  const auto take = [&](const char* key, std::vector<int64_t>& known) {
    std::vector<int64_t> told = counts(json["choir"], key, where);
    if (known.empty()) known = std::move(told);
  };
  take(experts, run.layer_experts);
  take("num_experts_per_tok", run.layer_top_k);
}

std::string name_of(const std::string& directory) {
  const fs::path whole = fs::absolute(directory).lexically_normal();
  return (whole.has_filename() ? whole : whole.parent_path()).filename().string();
}

bool exists(const std::string& path) {
  std::error_code none;  // a path that is too long is one that does not exist
  return fs::exists(path, none);
}

}  // namespace

const Column* Steps::find(const std::string& field) const {
  const auto found = total.find(field);
  return found == total.end() ? nullptr : &found->second;
}

const Rows* Steps::find_layers(const std::string& field) const {
  const auto found = layers.find(field);
  return found == layers.end() ? nullptr : &found->second;
}

int64_t Run::experts_of(int layer) const {
  const auto l = static_cast<size_t>(layer);
  if (l < layer_experts.size()) return layer_experts[l];
  if (!evaluations.empty() && !evaluations.back().domains.empty())
    if (const Rows& load = evaluations.back().domains.front().load; l < load.size())
      return static_cast<int64_t>(load[l].size());
  return experts;
}

int64_t Run::top_k_of(int layer) const {
  const auto l = static_cast<size_t>(layer);
  return l < layer_top_k.size() ? layer_top_k[l] : top_k;
}

bool is_run(const std::string& directory) { return exists(directory + "/metrics.jsonl"); }

namespace {

// The run as far as it is; without a step there is nothing else of it.
Run read_so_far(const std::string& directory) {
  Run run;
  run.directory = directory;
  run.name = name_of(directory);
  run.steps = read_steps(directory + "/metrics.jsonl");
  if (run.steps.size() == 0) return run;
  if (const std::string path = directory + "/run.json"; exists(path)) read_about(run, path);
  if (const std::string path = directory + "/config.json"; exists(path)) read_config(run, path);
  if (const std::string path = directory + "/evaluations.jsonl"; exists(path))
    for_each_line(path, [&](const Json& object, const std::string& where) {
      run.evaluations.push_back(read_evaluation(object, where));
    });
  return run;
}

}  // namespace

Run read_run(const std::string& directory) {
  if (!is_run(directory))
    base::input_error("no metrics.jsonl", directory, "name the directory that choir train --out wrote");
  Run run = read_so_far(directory);
  if (run.steps.size() == 0)
    base::input_error("no step in the metrics", directory + "/metrics.jsonl", "wait for the first step of the run");
  return run;
}

std::vector<Run> read_runs(const std::vector<std::string>& directories,
                           const std::function<void(const std::string&)>& passed_over) {
  std::vector<Run> runs;
  std::vector<std::string> waiting;
  std::set<std::string> taken;
  for (const std::string& directory : directories) {
    std::error_code none;
    const bool may_begin = !is_run(directory) && fs::is_directory(directory, none);
    Run run = may_begin ? Run() : is_run(directory) ? read_so_far(directory) : read_run(directory);
    if (run.steps.size() == 0) {
      waiting.push_back(directory);
      continue;
    }
    runs.push_back(std::move(run));
    const std::string name = runs.back().name;
    for (int n = 2; !taken.insert(runs.back().name).second; ++n)
      runs.back().name = name + " (" + std::to_string(n) + ")";
  }
  if (runs.empty() && !waiting.empty()) (void)read_run(waiting.front());  // says what is missing
  if (passed_over) std::ranges::for_each(waiting, passed_over);
  return runs;
}

}  // namespace choir::report
