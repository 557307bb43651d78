#include "cli/prune_call.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "cli/inputs.h"
#include "compress/enumerate.h"
#include "compress/kept_counts.h"

namespace choir::cli {
namespace {

using model::Config;

bool by_budget(const Prune& o) { return o.keep_total > 0 || !o.budget.empty(); }
bool calibrates(const Prune& o) { return !o.calibration.files.empty() || !o.calibration.ids.empty(); }

// The first option of those listed that was given; empty: none.
struct Given {
  const char* name;
  bool given;
};
std::string first_given(std::initializer_list<Given> options) {
  for (const Given& option : options)
    if (option.given) return option.name;
  return {};
}

void check_plan_call(const Prune& o) {
  const std::string other = first_given({{"--calibrate", !o.calibration.files.empty()},
                                         {"--ids", !o.calibration.ids.empty()},
                                         {"--capture", !o.capture.empty()},
                                         {"--keep-total", o.keep_total > 0},
                                         {"--budget", !o.budget.empty()},
                                         {"--method", !o.method.empty()},
                                         {"--objective", !o.objective.empty()},
                                         {"--prove", o.prove_nodes > 0},
                                         {"--block", o.block > 0},
                                         {"--pin-super", o.pin_super >= 0},
                                         {"--progressive", o.progressive},
                                         {"--all-losses", o.all_losses},
                                         {"--save-plan", !o.save_plan.empty()},
                                         {"--repair", !o.repair.empty()},
                                         {"--hold-out", o.hold_out >= 0},
                                         {"--neurons", o.neurons > 0},
                                         {"--memory", !o.memory.empty()},
                                         {"--enough", o.enough > 0}});
  if (!other.empty()) base::usage_error("--plan with " + other, o.plan, "a plan is applied without calibration");
  if (o.out.empty()) base::usage_error("no --out", "", "name the directory of the smaller model");
}

void check_capture_call(const Prune& o) {
  const std::string other = first_given({{"--out", !o.out.empty()},
                                         {"--keep", !o.keep.empty()},
                                         {"--keep-total", o.keep_total > 0},
                                         {"--budget", !o.budget.empty()},
                                         {"--save-plan", !o.save_plan.empty()},
                                         {"--pad", o.pad},
                                         {"--neurons", o.neurons > 0},
                                         {"--repair", !o.repair.empty()}});
  if (!other.empty())
    base::usage_error("--capture-only with " + other, o.capture, "a capture is made first and used by the next call");
}

void check_count_call(const Prune& o) {
  const int ways = !o.keep.empty() + (o.keep_total > 0) + !o.budget.empty();
  if (ways == 0 && o.neurons == 0)
    base::usage_error("nothing says how many experts stay", "",
                      "give --keep, --keep-total, --budget, --neurons or --plan");
  if (ways > 1) base::usage_error("more than one of --keep, --keep-total and --budget", "", "give one of them");
  if (o.uniform && !by_budget(o)) base::usage_error("--uniform without a budget", "", "give --keep-total or --budget");
  if (o.slack > 0 && !by_budget(o)) base::usage_error("--slack without a budget", "", "give --keep-total or --budget");
  if (o.share == "score" && (o.keep_total == 0 || o.uniform))
    base::usage_error(o.uniform ? "--share score with --uniform" : "--share score without --keep-total", "",
                      "one ranking over all layers says how many of --keep-total each keeps");
  if (o.out.empty() && o.save_plan.empty())
    base::usage_error("no --out", "", "name the directory of the smaller model");
  if (o.out.empty() && (!o.repair.empty() || o.neurons > 0 || o.pad))
    base::usage_error("--repair, --neurons or --pad without --out", "", "a plan has none of them: name a directory");
  if (o.neurons > 0 && (o.uniform || o.pad))
    base::usage_error("--neurons with --uniform or --pad", "", "experts of unequal widths are for Choir alone");
}

void check_progressive_call(const Prune& o) {
  const std::string other = first_given({{"--capture", !o.capture.empty()},
                                         {"--keep-total", o.keep_total > 0},
                                         {"--budget", !o.budget.empty()},
                                         {"--objective", !o.objective.empty()},
                                         {"--prove", o.prove_nodes > 0},
                                         {"--block", o.block > 0},
                                         {"--pin-super", o.pin_super > 0}});
  if (!other.empty())
    base::usage_error("--progressive with " + other, "", "a progressive search sees other inputs for every choice");
  if (!o.method.empty() && o.method != "exact" && o.method != "frequency" && o.method != "random")
    base::usage_error("--progressive with --method " + o.method, "", "it knows exact, frequency and random");
}

bool is_share(const std::string& text) { return text.find('.') != std::string::npos; }

double number_in(const std::string& text, const std::string& where, const char* hint) {
  double value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || end != text.data() + text.size() || !std::isfinite(value) || !(value > 0))
    base::usage_error("\"" + text + "\" is no number of experts", where, hint);
  return value;
}

int count_in(const std::string& text, const moe::SubsetRule& rule, int experts) {
  constexpr const char* hint = "give a whole number, or a share of them such as 0.75";
  const double value = number_in(text, "--keep", hint);
  if (is_share(text) && value <= 1) return compress::count_of_share(rule, experts, value);
  if (is_share(text) || value != std::floor(value) || value > 1e6)
    base::usage_error("\"" + text + "\" is no number of experts", "--keep", hint);
  return static_cast<int>(value);
}

moe::SubsetRule rule_of(const model::Model& model, int layer) { return *model.router(layer).subset_rule(); }

// Bytes of everything but the experts and their rows of the gate.
int64_t bytes_besides(const model::Model& model) {
  int64_t rest = model::bytes_of(model);
  for (const auto& block : model.tensors().blocks) {
    const auto& moe = block.moe;
    for (const auto* list : {&moe.w1, &moe.w2, &moe.w3, &moe.b1, &moe.b2, &moe.b3})
      for (const auto& weight : *list) rest -= static_cast<int64_t>(weight.bytes());
    for (const auto& gate : block.moe.gate) rest -= static_cast<int64_t>(gate.bytes());
  }
  return rest;
}

// What a layer keeps at least under a budget.
int least_with_slack(const moe::SubsetRule& rule, int experts, int slack) {
  int count = std::min(std::max(compress::least_count(rule, experts), rule.k + slack), experts);
  while (count < experts && !compress::misfit(rule, experts, count).empty()) ++count;
  return count;
}

}  // namespace

void check_call(const Prune& o) {
  if (!o.plan.empty()) {
    check_plan_call(o);
  } else if (o.capture_only) {
    check_capture_call(o);
  } else {
    check_count_call(o);
    if (o.progressive) check_progressive_call(o);
  }
  if (o.plan.empty() && o.capture.empty() && !calibrates(o))
    base::usage_error("nothing to calibrate on", "", "give --calibrate FILE... or --ids FILE");
  if ((!o.repair.empty() || o.hold_out > 0) && !calibrates(o))
    base::usage_error("no text to hold out", "", "give the text of the capture with --calibrate or --ids");
  if (o.objective == "gradient" && !calibrates(o))
    base::usage_error("--objective gradient without text", "", "gradients take a pass: give the text of the capture");
  if (o.neurons > 0 && !calibrates(o))
    base::usage_error("--neurons without text", "", "the layers are run again: give the text of the capture");
  if (!o.memory.empty()) parse_size(o.memory, "--memory");
  if (o.block > 0 && !calibrates(o))
    base::usage_error("--block without text", "", "its layers are run again: give the text of the capture");
  if ((o.enough > 0 || !o.memory.empty()) && !calibrates(o))
    base::usage_error(o.enough > 0 ? "--enough without text" : "--memory without text", "",
                      "a capture has what it has");
  if (!o.repair.empty()) repair_options(o);
  if (!o.out.empty()) check_model_output(o.out, o.model, o.force);
  if (!o.save_plan.empty()) base::check_output(o.save_plan, existing(o.force), base::Kind::kFile);
}

bool has_shares(const std::vector<std::string>& keep) { return std::ranges::any_of(keep, is_share); }

std::string told(const std::vector<int>& counts, const Config& config) {
  std::string kept, there;
  for (size_t l = 0; l < counts.size(); ++l) {
    kept += fmt::format("{} ", counts[l]);
    there += fmt::format("{} ", config.layers[l].experts);
  }
  return kept + "of " + there + "experts";
}

std::vector<int> counts_to_keep(const std::vector<std::string>& keep, const model::Model& model) {
  const Config& config = model.config();
  if (keep.empty()) {
    std::vector<int> all;
    for (const model::LayerConfig& layer : config.layers) all.push_back(layer.experts);
    return all;
  }
  if (keep.size() != 1 && static_cast<int>(keep.size()) != config.depth())
    base::usage_error(std::to_string(keep.size()) + " numbers of experts to keep", "keep",
                      "give one, or one for each of the " + std::to_string(config.depth()) + " layers");
  std::vector<int> counts;
  bool pruned = false;
  for (int l = 0; l < config.depth(); ++l) {
    if (config.layers[l].dense()) {
      counts.push_back(0);
      continue;
    }
    const int experts = config.layers[l].experts;
    const std::string& text = keep[keep.size() == 1 ? 0 : static_cast<size_t>(l)];
    counts.push_back(count_in(text, rule_of(model, l), experts));
    pruned = pruned || counts.back() < experts;
    if (const std::string fault = compress::misfit(rule_of(model, l), experts, counts.back()); !fault.empty())
      base::usage_error(fault, "--keep " + text + ": layer " + std::to_string(l),
                        "the least is " + std::to_string(compress::least_count(rule_of(model, l), experts)) + " of " +
                            std::to_string(experts));
  }
  if (!pruned && has_shares(keep))
    base::usage_error("this share would prune no expert", "--keep: " + told(counts, config),
                      "shares are rounded to the nearest number: give a smaller one");
  return counts;
}

int64_t parse_size(const std::string& text, const std::string& option) {
  constexpr const char* hint = "such as 6GB, 500MiB or 1500000";
  const size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
  std::string unit = text.substr(std::min(text.find_first_not_of(' ', digits), text.size()));
  double factor = 1;
  if (unit.size() > 1) {
    const size_t power = std::string("kMGT").find(unit[0] == 'K' ? 'k' : unit[0]);
    if (power == std::string::npos) base::usage_error("\"" + text + "\" is no size", option, hint);
    factor = std::pow(unit.substr(1) == "iB" ? 1024 : 1000, static_cast<double>(power + 1));
    unit = unit.substr(1) == "iB" ? "B" : unit.substr(1);
  }
  double value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + digits, value);
  const bool sound = failure == std::errc() && end == text.data() + digits && value > 0 && value * factor < 1e18;
  if (!sound || (!unit.empty() && unit != "B")) base::usage_error("\"" + text + "\" is no size", option, hint);
  return static_cast<int64_t>(value * factor);
}

compress::Budget budget_of(const Prune& o, const model::Model& model) {
  int64_t experts = 0, expert_bytes = 0;
  for (int l = 0; l < model.config().depth(); ++l) {
    if (model.config().layers[l].dense()) continue;
    const int least = least_with_slack(rule_of(model, l), model.config().layers[l].experts, o.slack);
    experts += least;
    expert_bytes += least * compress::expert_bytes(model, l);
  }
  if (o.keep_total > 0) {
    if (o.keep_total < experts)
      base::usage_error("keep " + std::to_string(o.keep_total) + " experts in all layers together", "--keep-total",
                        "the layers need " + std::to_string(experts) + " at least");
    return {compress::Budget::Of::kExperts, o.keep_total, o.slack};
  }
  const int64_t size = parse_size(o.budget, "--budget"), rest = bytes_besides(model);
  if (size < rest + expert_bytes)
    base::usage_error("a budget of " + std::to_string(size) + " bytes", "--budget",
                      "the smallest model has " + std::to_string(rest + expert_bytes) + ", " + std::to_string(rest) +
                          " of them besides the experts");
  return {compress::Budget::Of::kBytes, size - rest, o.slack};
}

bool is_published(const Prune& o, const Config& config) {
  if (o.progressive) return true;
  const bool exact = o.method.empty() || o.method == "exact";
  const bool plain = o.objective.empty() || o.objective == "published";
  return exact && plain && o.capture.empty() && !by_budget(o) && o.prove_nodes == 0 && o.block == 0 &&
         o.pin_super <= 0 && compress::exact_fits(config);
}

compress::PruneOptions published_options(const Prune& o, const Common& common, const Config& config,
                                         const std::vector<int>& counts) {
  compress::PruneOptions options;
  options.keep = counts;
  options.progressive = o.progressive;
  options.all_losses = o.all_losses;
  options.seed = common.seed;
  options.few_tokens = o.least_tokens;
  if (o.method == "random") options.method = compress::Method::kRandom;
  if (o.method == "frequency") options.method = compress::Method::kFrequency;
  compress::check_prune(config, options);
  return options;
}

compress::RepairOptions repair_options(const Prune& o) {
  compress::RepairOptions options;
  if (o.repair == "true" && o.pad) options.only = {"merge", "scalar", "ridge"};
  if (o.repair == "true") return options;
  for (size_t begin = 0; begin <= o.repair.size();) {
    const size_t end = std::min(o.repair.find(',', begin), o.repair.size());
    options.only.push_back(o.repair.substr(begin, end - begin));
    begin = end + 1;
  }
  compress::check_repairs(options);
  for (const std::string& name : options.only)
    if (o.pad && (name == "drop" || name == "novice"))
      base::usage_error("--repair=" + name + " with --pad", "", "such experts are for Choir alone");
  return options;
}

compress::SetOptions set_options(const Prune& o, const Common& common, const Config& config) {
  compress::SetOptions options;
  options.seed = common.seed;
  options.samples = o.samples;
  options.prove_nodes = o.prove_nodes;
  if (o.objective == "output") options.objective = compress::Objective::kOutput;
  if (o.objective == "stream") options.objective = compress::Objective::kStream;
  if (o.objective == "gradient") options.objective = compress::Objective::kGradient;
  int most = 0;
  for (const model::LayerConfig& layer : config.layers) most = std::max(most, layer.experts);
  const bool fits = most <= compress::kMostEnumerated;
  parse_method(!o.method.empty() ? o.method : fits && o.prove_nodes == 0 ? "exact" : "search", options);
  using compress::SetMethod;
  if (options.method == SetMethod::kExact && !fits)
    base::usage_error("an exact search over " + std::to_string(most) + " experts", "--method",
                      "it takes up to " + std::to_string(compress::kMostEnumerated) + "; use --method search");
  if (o.share == "score" && options.method != SetMethod::kScore)
    base::usage_error("--share score without a score", "--method", "give one, such as seer or reap");
  if (o.prove_nodes > 0 && options.method != SetMethod::kSearch && options.method != SetMethod::kGenetic)
    base::usage_error("--prove with --method " + o.method, "", "a proof goes with search and genetic");
  const bool several = options.method == SetMethod::kExact || options.method == SetMethod::kSearch ||
                       options.method == SetMethod::kGenetic;
  if (o.block > 0 && !several)
    base::usage_error("--block with --method " + o.method, "",
                      "exact, search and genetic give several sets of a layer");
  if (o.block > 0 && o.prove_nodes > 0)
    base::usage_error("--block with --prove", "", "what is proved is the best set of a layer by itself");
  if (options.method == SetMethod::kSampled && options.objective != compress::Objective::kPublished)
    base::usage_error("--method sampled with --objective " + o.objective, "", "it knows the published loss alone");
  if (o.all_losses)
    base::usage_error(
        "--all-losses without the published exact search", "",
        "it goes with --method exact and --keep, where two experts for each token are chosen of up to 16");
  return options;
}

}  // namespace choir::cli
