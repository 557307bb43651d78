#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/held_out.h"
#include "cli/prune_call.h"
#include "cli/terminal.h"
#include "compress/expert_type.h"
#include "compress/frontier.h"
#include "compress/plan.h"
#include "compress/repair.h"
#include "eval/distance.h"

namespace choir::cli {
namespace {

using Json = nlohmann::ordered_json;
using Sets = std::vector<std::vector<int>>;

// A model of the size, measured.
struct Fitted {
  std::string type;  // of the experts' numbers
  std::vector<int> experts;
  std::vector<std::string> repairs;
  int64_t bytes = 0;
  eval::Distance distance;

  std::string name(size_t all) const {
    int64_t kept = 0;
    for (const int count : experts) kept += count;
    std::string text = kept == static_cast<int64_t>(all) ? "all experts" : fmt::format("{} of {} experts", kept, all);
    text += " in " + type;
    if (!repairs.empty()) text += fmt::format(", repaired: {}", fmt::join(repairs, ", "));
    return text;
  }
};

// The whole model with experts of one format.
struct Whole {
  std::string type;
  model::Model model;
};

// Bytes, or a share of the present ones: a number up to 1 without a unit.
int64_t budget_bytes(const std::string& text, int64_t present) {
  double share = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), share);
  const bool whole = failure == std::errc() && end == text.data() + text.size();
  if (whole && share > 0 && share <= 1) return static_cast<int64_t>(share * static_cast<double>(present));
  return parse_size(text, "--budget");
}

// Experts of no consequence: as many of each group.
Sets some_sets(const model::Model& model, const std::vector<int>& counts) {
  Sets keep;
  for (int l = 0; l < model.config().depth(); ++l) {
    const int experts = model.config().layers[static_cast<size_t>(l)].experts;
    if (experts == 0) {
      keep.emplace_back();
      continue;
    }
    const int groups = model.router(l).subset_rule()->groups, size = experts / groups;
    std::vector<int>& kept = keep.emplace_back();
    for (int e = 0; e < experts; ++e)
      if (e % size < counts[static_cast<size_t>(l)] / groups) kept.push_back(e);
  }
  return keep;
}

int64_t bytes_with(const model::Model& whole, const std::vector<int>& counts) {
  return compress::planned_model(whole, some_sets(whole, counts)).file_bytes();
}

// What an expert of each layer takes in the file, its part of the header included, never too little by the mean.
std::vector<int64_t> costs_of(const model::Model& whole, const std::vector<int>& least) {
  std::vector<int64_t> costs;
  int64_t more = 0, numbers = 0;
  for (size_t l = 0; l < least.size(); ++l) {
    costs.push_back(compress::expert_bytes(whole, static_cast<int>(l)));
    const int dropped = whole.config().layers[l].experts - least[l];
    more += dropped;
    numbers += dropped * costs.back();
  }
  if (more == 0) return costs;
  const int64_t header = (whole.file_bytes() - bytes_with(whole, least) - numbers + more - 1) / more;
  for (int64_t& cost : costs) cost += std::max<int64_t>(0, header);
  return costs;
}

std::vector<eval::Document> part_of(const std::vector<eval::Document>& documents, bool first) {
  std::vector<eval::Document> part;
  for (const eval::Document& document : documents) {
    const auto half = document.ids.begin() + static_cast<std::ptrdiff_t>(document.ids.size() / 2);
    part.push_back(
        {first ? std::vector<int32_t>(document.ids.begin(), half) : std::vector<int32_t>(half, document.ids.end()), 0});
  }
  return part;
}

class Fitter {
 public:
  Fitter(const Fit& options, const Common& common)
      : o_(options),
        common_(common),
        bundle_(options.model, runtime::Use::kWrite),
        threads_(common.threads, common.placement()) {}

  void run();

 private:
  void find_formats();
  void find_least();
  void capture();
  std::optional<std::vector<int>> counts_for(const compress::PruningFrontier& frontier, const Whole& whole) const;
  void try_format(compress::PruningFrontier& frontier, const Whole& whole);
  void measure(const Whole& whole, model::Model model, std::vector<std::string> repairs);
  double judge(const model::Model& model);
  void write() const;
  void print() const;
  Json json() const;
  void show(const std::string& what) {
    progress_.show(what);
    if (interrupted()) throw base::Error(base::Fault::kInterrupted, "interrupted", o_.model, "nothing was written");
  }

  const Fit& o_;
  const Common& common_;
  const runtime::Bundle bundle_;
  base::Threads threads_;
  ProgressLine progress_;
  std::vector<Whole> wholes_;  // the first: as it is, with every expert at work
  int64_t present_ = 0, budget_ = 0;
  double least_share_ = 0.25;
  size_t experts_ = 0;
  Split split_;
  std::vector<eval::Document> for_repairs_, for_choice_;
  std::optional<compress::RecordSource> records_;
  const compress::Progress calibrating_ = [this](int done, int total) {
    show(fmt::format("calibrating {}/{}", done, total));
  };
  std::vector<Fitted> fitted_;
  size_t best_ = 0;
  std::optional<model::Model> best_model_;
};

void Fitter::find_formats() {
  compress::check_observable(bundle_.model);
  const model::Model full = bundle_.model.with_admission("all");
  for (const model::LayerConfig& layer : full.config().layers) experts_ += static_cast<size_t>(layer.experts);
  present_ = full.file_bytes();
  budget_ = budget_bytes(o_.budget, present_);
  if (budget_ >= present_)
    base::usage_error(fmt::format("the weights take {} bytes, the budget is {}", present_, budget_), "--budget",
                      "nothing to do: the model fits as it is");
  const auto type = compress::expert_type(full);
  std::string name = "their formats";
  for (const compress::ExpertType& row : compress::kExpertTypes)
    if (type == row.type) name = row.name;
  wholes_.push_back({name, full});
  for (const compress::ExpertType& row : compress::kExpertTypes) {
    const auto other = compress::with_expert_type(full, row.type);
    if (other && model::bytes_of(*other) < model::bytes_of(full)) wholes_.push_back({std::string(row.name), *other});
  }
}

// Down to a quarter of the experts, or where the budget asks for it to fewer.
void Fitter::find_least() {
  int64_t least = 0;
  for (;; least_share_ /= 2) {
    const std::vector<int> counts = compress::least_counts(wholes_[0].model, least_share_);
    least = present_;
    for (const Whole& whole : wholes_) least = std::min(least, bytes_with(whole.model, counts));
    if (least <= budget_) return;
    if (counts == compress::least_counts(wholes_[0].model, 1e-9)) break;
  }
  base::usage_error(fmt::format("a budget of {} bytes", budget_), "--budget",
                    fmt::format("with the fewest experts of the fewest bits the model takes {}", least));
}

void Fitter::capture() {
  split_ = split_text(o_.calibration, o_.held_out, kHeldOut, bundle_);
  for_repairs_ = part_of(split_.held_out, true);
  for_choice_ = part_of(split_.held_out, false);
  const model::Model& full = wholes_[0].model;
  const std::vector<int> counts = compress::least_counts(full, least_share_);
  records_.emplace(full, split_.batches, compress::ObserveOptions{.least_keep = std::ranges::min(counts)}, threads_,
                   calibrating_);
  records_->all();
}

double Fitter::judge(const model::Model& model) {
  show("repairing");
  if (model.file_bytes() > budget_) return HUGE_VAL;
  return eval::distance(wholes_[0].model, model, for_repairs_, {.context = o_.context}, threads_).kl_mean;
}

void Fitter::measure(const Whole& whole, model::Model model, std::vector<std::string> repairs) {
  Fitted f{whole.type, {}, std::move(repairs), model.file_bytes(), {}};
  show("measuring " + whole.type);
  for (const model::LayerConfig& layer : model.config().layers) f.experts.push_back(layer.experts);
  f.distance = eval::distance(wholes_[0].model, model, for_choice_, {.context = o_.context}, threads_);
  if (!best_model_ || f.distance.kl_mean < fitted_[best_].distance.kl_mean) {
    best_ = fitted_.size();
    best_model_ = std::move(model);
  }
  fitted_.push_back(std::move(f));
}

// Costs are means, so what comes out is weighed again.
std::optional<std::vector<int>> Fitter::counts_for(const compress::PruningFrontier& frontier,
                                                   const Whole& whole) const {
  const std::vector<int> least = compress::least_counts(wholes_[0].model, least_share_);
  const std::vector<int64_t> costs = costs_of(whole.model, least);
  int64_t fewest = 0;
  for (size_t l = 0; l < least.size(); ++l) fewest += least[l] * costs[l];
  int64_t total = budget_ - bytes_with(whole.model, least) + fewest;
  while (total >= fewest) {
    const std::vector<int> counts = frontier.counts_within(total, costs);
    const int64_t bytes = bytes_with(whole.model, counts);
    if (bytes <= budget_) return counts;
    total -= bytes - budget_;
  }
  return {};
}

void Fitter::try_format(compress::PruningFrontier& frontier, const Whole& whole) {
  if (whole.model.file_bytes() <= budget_) return measure(whole, whole.model, {});
  const auto counts = counts_for(frontier, whole);
  if (!counts) return;
  const Sets keep = frontier.searched(*counts);
  measure(whole, compress::planned_model(whole.model, keep), {});
  compress::RepairResult repaired = compress::repair(
      {whole.model, keep, records_->all(), split_.batches}, {}, [&](const model::Model& model) { return judge(model); },
      threads_);
  std::vector<std::string> repairs;
  for (size_t i = 1; i < repaired.steps.size(); ++i)
    if (repaired.steps[i].kept) repairs.push_back(repaired.steps[i].name);
  if (!repairs.empty() && repairs.back() == "ridge alone") repairs = {"ridge alone"};
  if (!repairs.empty()) measure(whole, std::move(repaired.model), std::move(repairs));
}

void Fitter::write() const {
  write_model(*best_model_, o_.model, o_.out, o_.force);
  const auto bytes = std::filesystem::file_size(o_.out + "/model.safetensors");
  CHOIR_CHECK(static_cast<int64_t>(bytes) <= budget_, "within the budget");
}

Json Fitter::json() const {
  Json models = Json::array();
  for (size_t i = 0; i < fitted_.size(); ++i) {
    const Fitted& f = fitted_[i];
    models.push_back({{"type", f.type},
                      {"experts", f.experts},
                      {"repairs", f.repairs},
                      {"bytes", f.bytes},
                      {"kl_mean", f.distance.kl_mean},
                      {"kl_p99", f.distance.kl_p99},
                      {"perplexity", f.distance.perplexity_other},
                      {"top1_agreement", f.distance.top1_agreement},
                      {"best", i == best_}});
  }
  return {{"budget", budget_},
          {"present", present_},
          {"perplexity", fitted_[best_].distance.perplexity},
          {"calibration_tokens", count_tokens(split_.batches)},
          {"held_out_tokens", fitted_[best_].distance.tokens},
          {"models", models},
          {"out", o_.out.empty() ? Json(nullptr) : Json(o_.out)}};
}

void Fitter::print() const {
  fmt::print("{} bytes of {}; the full model's perplexity is {:.2f} on {} held-out tokens\n", budget_, present_,
             fitted_[best_].distance.perplexity, fitted_[best_].distance.tokens);
  size_t width = 0;
  for (const Fitted& f : fitted_) width = std::max(width, f.name(experts_).size());
  for (size_t i = 0; i < fitted_.size(); ++i) {
    const Fitted& f = fitted_[i];
    fmt::print("{:{}}  {:9.2f} MB  KL {:.5f}  p99 {:.4f}  perplexity {:.2f}  top-1 {:.1f} %{}\n", f.name(experts_),
               width, static_cast<double>(f.bytes) / 1e6, f.distance.kl_mean, f.distance.kl_p99,
               f.distance.perplexity_other, 100 * f.distance.top1_agreement, i == best_ ? "  <- best" : "");
  }
  if (!o_.out.empty()) fmt::print("{}\n", o_.out);
}

void Fitter::run() {
  if (!o_.out.empty()) check_model_output(o_.out, o_.model, o_.force);
  find_formats();
  find_least();
  bundle_.model.check_finite();
  capture();
  std::vector<int64_t> bytes;
  for (int l = 0; l < bundle_.model.config().depth(); ++l) bytes.push_back(compress::expert_bytes(bundle_.model, l));
  compress::FrontierOptions options;
  options.least = least_share_;
  options.seed = common_.seed;
  compress::PruningFrontier frontier(*records_, bytes, options, threads_, [&](int, int) { show("eliminating"); });
  for (const Whole& whole : wholes_) try_format(frontier, whole);
  if (!o_.out.empty()) write();
  if (common_.json) return print_json(json());
  print();
}

}  // namespace

void run(const Fit& o, const Common& common) { Fitter(o, common).run(); }

}  // namespace choir::cli
