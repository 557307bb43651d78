#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/exploration.h"
#include "cli/held_out.h"
#include "cli/terminal.h"
#include "compress/frontier.h"
#include "compress/plan.h"
#include "eval/choice.h"
#include "model/expert_counts.h"

namespace choir::cli {
namespace {

using Sets = std::vector<std::vector<int>>;

std::vector<int> counts_of(const model::Model& model) {
  std::vector<int> counts;
  for (const model::LayerConfig& layer : model.config().layers) counts.push_back(layer.experts);
  return counts;
}

double accuracy_of(const std::string& choices, const model::Model& model, const runtime::Bundle& bundle,
                   base::Threads& threads) {
  return eval::answer(model, bundle.tokenizer(), eval::read_questions(choices), threads).acc;
}

// One run of the verb: captures once, then measures one model after another.
class Explorer {
 public:
  Explorer(const Prune& options, const Common& common)
      : o_(options), common_(common), bundle_(options.model), threads_(common.threads, common.placement()) {}

  Exploration run();

 private:
  void show(const std::string& what, int done, int total) {
    progress_.show(fmt::format("{} {}/{}", what, done, total));
    if (interrupted())
      throw base::Error(base::Fault::kInterrupted, "interrupted", o_.model,
                        o_.capture.empty() ? "nothing was written" : "the capture stays");
  }
  compress::Progress shown(const std::string& what) {
    return [this, what](int done, int total) { show(what, done, total); };
  }
  double least_ratio() const;
  void capture();
  void measure_full();
  void measure(const model::Model& model, bool timed, ExploredModel& m);
  void prune();
  void skip(const model::Model& model, const compress::SkipStudy& study, const ExploredModel& like);

  const Prune& o_;
  const Common& common_;
  const runtime::Bundle bundle_;
  base::Threads threads_;
  ProgressLine progress_;
  std::optional<model::Model> full_;  // with every expert at work
  Split split_;
  std::optional<compress::RecordSource> records_;
  const compress::Progress calibrating_ = shown("calibrating");
  std::vector<int32_t> prompt_;
  std::vector<Speed> full_speeds_;
  std::vector<double> keep_ratios_, skip_shares_;
  Exploration result_;
};

// A layer may keep fewer than the ratio where others keep more.
double Explorer::least_ratio() const { return std::min(0.25, std::ranges::min(keep_ratios_)); }

// The one pass over the text, into memory or into a directory.
void Explorer::capture() {
  int least = INT32_MAX;
  for (const model::LayerConfig& layer : full_->config().layers)
    if (!layer.dense()) least = std::min(least, std::max(1, static_cast<int>(least_ratio() * layer.experts + 1e-9)));
  const compress::ObserveOptions options{.least_keep = least};
  if (o_.capture.empty())
    records_.emplace(*full_, split_.batches, options, threads_, calibrating_);
  else
    records_.emplace(compress::use_capture(o_.capture, bundle_.model, split_.batches, options, threads_, calibrating_));
  if (o_.pin_super >= 0) records_->pin_super_experts(o_.pin_super);
  if (o_.capture.empty()) records_->all();
}

void Explorer::measure_full() {
  ExploredModel& full = result_.full;
  full.method = "full";
  full.experts = counts_of(*full_);
  full.bytes = full_->file_bytes();
  const eval::Cut cut{.context = o_.explore.context};
  const eval::Perplexity p = eval::perplexity(*full_, split_.held_out, cut, threads_);
  full.distance = {p.tokens, 0, 0, 1, p.perplexity(), p.perplexity()};
  full.token_bytes = static_cast<double>(model::bytes_per_token(*full_));
  result_.held_out_tokens = p.tokens;
  if (!o_.explore.choices.empty()) full.accuracy = accuracy_of(o_.explore.choices, *full_, bundle_, threads_);
}

void Explorer::measure(const model::Model& model, bool timed, ExploredModel& m) {
  m.experts = counts_of(model);
  m.bytes = model.file_bytes();
  std::vector<model::ExpertCounts> counts(model.config().layers.size());
  m.distance = eval::distance(*full_, model, split_.held_out, {.context = o_.explore.context}, threads_,
                              {.other = model::counting(counts)});
  m.skipped_share = model::sum_of(counts).skipped_share();
  m.token_bytes = model::bytes_per_token(model, counts);
  if (!o_.explore.choices.empty()) m.accuracy = accuracy_of(o_.explore.choices, model, bundle_, threads_);
  if (!timed || result_.speed_run.rounds == 0) return;
  const SpeedPair pair = compare_speed(*full_, model, prompt_, result_.speed_run, threads_);
  m.speed = pair.other;
  full_speeds_.push_back(pair.full);
}

void Explorer::prune() {
  std::vector<int64_t> bytes;
  for (int l = 0; l < full_->config().depth(); ++l) bytes.push_back(compress::expert_bytes(*full_, l));
  compress::FrontierOptions options;
  options.least = least_ratio();
  options.seed = common_.seed;
  options.draws = o_.explore.draws;
  compress::PruningFrontier frontier(*records_, bytes, options, threads_, shown("eliminating"));
  const auto choices = frontier.choices(keep_ratios_, shown("searching"));
  std::map<Sets, ExploredModel> measured;  // what several methods choose alike is measured once
  std::vector<ExploredModel> draws;
  for (size_t i = 0; i < choices.size(); ++i) {
    show("measuring pruned models", static_cast<int>(i) + 1, static_cast<int>(choices.size()));
    const compress::KeptChoice& choice = choices[i];
    const auto [at, fresh] = measured.try_emplace(choice.keep);
    if (fresh) measure(compress::planned_model(*full_, choice.keep), draws.empty(), at->second);
    ExploredModel& m = draws.emplace_back(at->second);
    m.method = choice.method;
    m.keep_ratio = choice.ratio;
    m.loss = choice.loss;
    if (i + 1 < choices.size() && choices[i + 1].method == choice.method && choices[i + 1].ratio == choice.ratio)
      continue;
    result_.models.push_back(mean_of(draws));
    draws.clear();
  }
  if (!o_.explore.combine) return;
  for (const compress::KeptChoice& choice : choices) {
    if (choice.method != "search") continue;
    const model::Model pruned = compress::planned_model(*full_, choice.keep);
    compress::SkipStudy study(pruned, moe::Skip::By::kTail);
    compress::study_skipping(pruned, split_.batches, {&study, 1}, threads_, shown("calibrating skipping"));
    ExploredModel like;
    like.method = "search + skip";
    like.keep_ratio = choice.ratio;
    skip(pruned, study, like);
  }
}

void Explorer::skip(const model::Model& model, const compress::SkipStudy& study, const ExploredModel& like) {
  const auto choices = compress::skipping_choices(study, skip_shares_);
  for (size_t i = 0; i < choices.size(); ++i) {
    show("measuring skipping models", static_cast<int>(i) + 1, static_cast<int>(choices.size()));
    ExploredModel m = like;
    m.skip_share = choices[i].share;
    m.evaluations = choices[i].policy.kept_share;
    measure(compress::skipping_model(model, choices[i].policy), true, m);
    result_.models.push_back(std::move(m));
  }
}

// The numbers asked for, or the usual ones.
template <class List>
std::vector<double> asked_or(const std::vector<double>& asked, const List& usual) {
  return asked.empty() ? std::vector<double>(std::begin(usual), std::end(usual)) : asked;
}

Exploration Explorer::run() {
  compress::check_observable(bundle_.model);
  bundle_.model.check_finite();
  full_ = bundle_.model.with_admission("all");
  keep_ratios_ = asked_or(o_.explore.keep_ratios, compress::kKeepRatios);
  skip_shares_ = asked_or(o_.explore.skip_shares, compress::kSkipShares);
  const double share = o_.hold_out > 0 ? o_.hold_out : kHeldOut;
  split_ = split_text(o_.calibration, o_.explore.held_out, share, bundle_);
  for (const eval::Document& document : split_.held_out)
    if (document.ids.size() > prompt_.size()) prompt_ = document.ids;
  result_.model = o_.model;
  result_.held_out = o_.explore.held_out.empty()
                         ? fmt::format("the last {:.4g} % of the calibration's sequences", 100 * share)
                         : fmt::format("{}", fmt::join(o_.explore.held_out, ", "));
  result_.calibration_tokens = count_tokens(split_.batches);
  result_.seed = common_.seed;
  result_.threads = threads_.count();
  result_.speed_run = speed_run(*full_, prompt_, o_.explore.rounds);
  measure_full();
  capture();
  prune();
  compress::SkipStudy study(*full_, moe::Skip::By::kTail);
  records_->each([&](int, const compress::LayerRecord& record) { study.add(record); });
  ExploredModel like;
  like.method = "skip";
  skip(*full_, study, like);
  if (!full_speeds_.empty()) result_.full.speed = median_of(full_speeds_);
  mark_knees(result_);
  return std::move(result_);
}

}  // namespace

void explore(const Prune& o, const Common& common) {
  if (!o.explore.page.empty()) base::check_output(o.explore.page, existing(o.force), base::Kind::kFile);
  const Exploration result = Explorer(o, common).run();
  if (!o.explore.page.empty()) base::write_file(o.explore.page, page_of(result), existing(o.force));
  if (common.json) return print_json(json_of(result));
  fmt::print("{}", table_of(result));
}

}  // namespace choir::cli
