#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "cli/inputs.h"
#include "cli/prune_call.h"
#include "cli/prune_report.h"
#include "cli/terminal.h"
#include "compress/coverage.h"
#include "compress/fingerprint.h"
#include "compress/pad.h"
#include "compress/sensitivity.h"

namespace choir::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kHeldForRepairs = 0.1;

std::string fingerprint_of(const model::Model& model, base::Threads& threads) {
  return compress::fingerprint(model.with_admission("all"), threads);
}

// --plan: no calibration.
void apply_plan(const Prune& o, const Common& common, const runtime::Bundle& bundle, base::Threads& threads) {
  const base::Stopwatch watch;
  const compress::Plan plan = compress::read_plan(o.plan);
  if (o.pad) compress::check_paddable(bundle.model);
  compress::check_plan(plan, bundle.model, fingerprint_of(bundle.model, threads), o.plan);
  std::vector<int> counts;
  if (!o.keep.empty()) counts = counts_to_keep(o.keep, bundle.model);
  const std::vector<std::vector<int>> keep = compress::keep_lists(plan, counts);
  model::Model smaller = compress::planned_model(bundle.model, keep);
  std::vector<std::vector<int>> padding(keep.size());
  if (o.pad) {
    compress::Padded padded = compress::padded(bundle.model, smaller, keep);
    smaller = std::move(padded.model);
    padding = std::move(padded.experts);
  }
  write_model(smaller, o.model, o.out, o.force);
  Json layers = Json::array();
  for (size_t l = 0; l < keep.size(); ++l) {
    Json loss;
    for (const compress::PlanSet& set : plan.layers[l].sets)
      if (set.keep == keep[l] && set.loss) loss = *set.loss;
    layers.push_back({{"layer", l}, {"keep", keep[l]}, {"loss", loss}, {"candidates", 0}});
    if (o.pad) layers.back()["padding"] = padding[l];
    if (!common.json) fmt::print("layer {:3}  keeps {}\n", l, Json(keep[l]).dump());
  }
  if (common.json)
    print_json({{"layers", layers}, {"seconds", watch.seconds()}, {"objective", plan.objective}});
  else
    fmt::print("{}  ({:.1f} s)\n", o.out, watch.seconds());
}

// What a user would wait for in vain is refused here, and the counts are settled where they can be.
struct Asked {
  bool published = false;
  compress::SetOptions set;
  std::vector<int> counts;  // empty: a budget decides
};

Asked asked_of(const Prune& o, const Common& common, const model::Model& model) {
  compress::check_observable(model);
  Asked asked;
  asked.published = is_published(o, model.config());
  if (!asked.published) asked.set = set_options(o, common, model.config());
  if (o.keep_total == 0 && o.budget.empty()) {
    asked.counts = counts_to_keep(o.keep, model);
    if (asked.published) published_options(o, common, model.config(), asked.counts);
  } else {
    budget_of(o, model);
  }
  if (o.pad) compress::check_paddable(model);
  return asked;
}

// The ranks that the records of a pass must have.
compress::ObserveOptions ranks_for(const Prune& o, const Asked& asked) {
  compress::ObserveOptions options;
  const bool many =
      o.capture_only || !o.capture.empty() || asked.counts.empty() || (!o.save_plan.empty() && asked.set.nested());
  options.least_keep = o.capture_least;
  if (many) return options;
  options.least_keep = INT32_MAX;
  for (const int count : asked.counts)  // dense layers keep none of no experts
    if (count > 0) options.least_keep = std::min(options.least_keep, count);
  return options;
}

// The calibration, what is held out of it, and who is told how far it is.
struct Session {
  const Prune& o;
  const Common& common;
  const runtime::Bundle& bundle;
  const compress::ObserveOptions observing;
  base::Threads threads;
  ProgressLine line;
  Split text;
  std::vector<std::vector<float>> slopes;  // of --objective gradient
  const compress::Progress progress = [this](int done, int total) {
    line.show(fmt::format("calibrating {}/{}", done, total));
    if (interrupted())
      throw base::Error(base::Fault::kInterrupted, "interrupted", o.capture.empty() ? o.out : o.capture,
                        o.capture.empty() ? "nothing was written" : "its finished layers stay; the same call goes on");
  };

  Session(const Prune& options, const Common& c, const runtime::Bundle& b, const compress::ObserveOptions& ranks)
      : o(options), common(c), bundle(b), observing(ranks), threads(c.threads) {
    if (o.calibration.files.empty() && o.calibration.ids.empty()) return;
    text = hold_out(calibration_batches(o.calibration, bundle), o.hold_out >= 0    ? o.hold_out
                                                                : o.repair.empty() ? 0
                                                                                   : kHeldForRepairs);
    text.batches = at_most(std::move(text.batches), o.capture_tokens);
    if (!o.memory.empty()) fit_into_memory();
    if (o.enough > 0) shorten();
  }

  // As many sequences as --memory holds. Repairs and neurons hold a layer's inputs and outputs besides.
  void fit_into_memory() {
    compress::CalibrationNeeds needs;
    needs.all_records = o.capture.empty() && (o.keep.empty() || !o.repair.empty() || o.block > 0);
    if (!o.repair.empty() || o.neurons > 0) needs.streams = 3;
    if (o.block > 0) needs.streams = std::max(needs.streams, o.block + 3);
    for (const compress::CalibrationBatch& batch : text.batches)
      needs.batch_tokens = std::max(needs.batch_tokens, static_cast<int>(batch.ids.size()));
    const int64_t bytes = parse_size(o.memory, "--memory"), before = sequences_in(text.batches);
    const compress::CalibrationCost cost = compress::calibration_cost(bundle.model, observing, needs);
    const int64_t sequence = text.batches.front().length * cost.per_token;
    if (bytes < cost.fixed + sequence)
      base::usage_error(fmt::format("{} bytes hold no sequence", bytes), "--memory",
                        fmt::format("one takes {}; raise it, or shorten --length or --batch", cost.fixed + sequence));
    text.batches = first_sequences(std::move(text.batches), (bytes - cost.fixed) / sequence);
    fmt::print(stderr, "{} of {} sequences fit into {} bytes\n", sequences_in(text.batches), before, bytes);
  }

  // No more text than gives every expert enough tokens.
  void shorten() {
    const int64_t all = sequences_in(text.batches);
    const compress::EnoughText found = compress::enough_text(bundle.model, text.batches, o.enough, threads, progress);
    text.batches = first_sequences(std::move(text.batches), found.sequences);
    if (found.reached)
      fmt::print(stderr, "{} of {} sequences give every expert {} tokens\n", found.sequences, all, o.enough);
    else
      fmt::print(stderr, "all {} sequences leave experts with fewer than {} tokens\n", all, o.enough);
  }

  PruneWork work() { return {o, common, bundle.model, text.batches, threads, progress, slopes}; }
  compress::RecordSource records() {
    compress::RecordSource source =
        o.capture.empty() ? compress::RecordSource(bundle.model, text.batches, observing, threads, progress)
                          : compress::RecordSource(compress::use_capture(o.capture, bundle.model, text.batches,
                                                                         observing, threads, progress));
    if (o.pin_super >= 0) source.pin_super_experts(o.pin_super);
    return source;
  }
};

void capture_alone(Session& session) {
  const base::Stopwatch watch;
  compress::RecordSource source = session.records();
  const compress::CaptureInfo& info = source.capture()->info();
  Pruning seen;
  source.each([&](int, const compress::LayerRecord& record) {
    seen.layers.emplace_back();
    seen.layers.back().coverage = record.coverage;
    seen.layers.back().pinned = record.pinned;
  });
  warn(seen, session.o);
  if (!session.common.json)
    return void(fmt::print("{}  {} tokens, {} layers  ({:.1f} s)\n", session.o.capture, info.tokens(), info.depth(),
                           watch.seconds()));
  Json layers = Json::array();
  for (size_t l = 0; l < seen.layers.size(); ++l)
    layers.push_back({{"layer", l},
                      {"ranks", info.layers[l].ranks},
                      {"coverage", seen.layers[l].coverage},
                      {"pinned", seen.layers[l].pinned}});
  print_json({{"layers", layers}, {"tokens", info.tokens()}, {"seconds", watch.seconds()}});
}

void save_plan(const Prune& o, const Pruning& pruning, const PruneWork& work) {
  compress::Plan plan = compress::empty_plan(work.model, fingerprint_of(work.model, work.threads));
  plan.calibration = pruning.calibration;
  plan.tokens = pruning.tokens;
  plan.criterion = pruning.method;
  plan.objective = pruning.objective;
  plan.seed = work.common.seed;
  plan.nested = pruning.nested;
  for (size_t l = 0; l < plan.layers.size(); ++l) {
    plan.counts.push_back(static_cast<int>(pruning.layers[l].keep.size()));
    plan.layers[l].sets = pruning.sets[l];
  }
  compress::write_plan(o.save_plan, plan, existing(o.force));
}

void prune_and_write(Session& session, const Asked& asked) {
  const base::Stopwatch watch;
  if (session.o.objective == "gradient")
    session.slopes =
        compress::loss_gradients(session.bundle.model, session.text.batches, session.threads, session.progress);
  const PruneWork work = session.work();
  compress::RecordSource source = session.records();
  source.set_slopes(session.slopes);
  const Pruning pruning = asked.published ? prune_as_published(work, asked.counts)
                                          : prune_on_records(work, asked.set, asked.counts, source);
  const Repaired result = smaller_model(work, pruning, source, session.text.held_out);
  std::optional<eval::Distance> held_out;
  if (!session.text.held_out.empty())
    held_out = eval::distance(work.model.with_admission("all"), result.model, session.text.held_out, {}, work.threads);
  const PruneReport report{pruning, result, held_out, watch.seconds()};
  if (!session.o.out.empty()) write_model(result.model, session.o.model, session.o.out, session.o.force);
  if (!session.o.save_plan.empty()) save_plan(session.o, pruning, work);
  warn(pruning, session.o);
  if (session.common.json)
    print_json(json_of(report, session.o));
  else
    print_text(report, session.o);
}

}  // namespace

void run(const Prune& o, const Common& common) {
  if (o.explore.asked) return explore(o, common);
  check_call(o);
  const runtime::Bundle bundle(o.model, o.out.empty() ? runtime::Use::kRows : runtime::Use::kWrite);
  if (!o.plan.empty()) {
    base::Threads threads(common.threads, common.placement());
    return apply_plan(o, common, bundle, threads);
  }
  Asked asked;
  if (!o.capture_only) asked = asked_of(o, common, bundle.model);
  bundle.model.check_finite();
  Session session(o, common, bundle, ranks_for(o, asked));
  if (o.capture_only) return capture_alone(session);
  if (has_shares(o.keep)) fmt::print(stderr, "shares rounded: keeps {}\n", told(asked.counts, bundle.model.config()));
  prune_and_write(session, asked);
}

}  // namespace choir::cli
