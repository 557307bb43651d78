#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/rng.h"
#include "cli/inputs.h"
#include "cli/operator_table.h"
#include "cli/speed.h"
#include "cli/terminal.h"
#include "cli/tracing.h"
#include "moe/stats.h"
#include "runtime/session.h"

namespace choir::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Round {
  OperatorTable prefill, decode;
  runtime::Ceilings ceilings;
};

struct Results {
  OperatorTable prefill, decode;  // medians
  runtime::Ceilings ceilings;     // likewise
  double busiest = 0,
         even = 0;  // share of the pairs that the busiest expert of a layer has, and 1 / E; means of layers
};

std::vector<int32_t> random_ids(int count, int vocab, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocab)));
  return ids;
}

// The same with the numbers that were not given.
Bench complete(Bench o, const model::Model& model) {
  if (o.decode == 0) o.decode = std::clamp(model.positions() / 8, 1, 64);
  if (o.prefill == 0) o.prefill = std::clamp(model.positions() - o.decode, 1, 512);
  if (int64_t{o.prefill} + o.decode > model.positions())
    base::usage_error(fmt::format("{} tokens and {} after them", o.prefill, o.decode), "--prefill, --decode",
                      fmt::format("the model takes {} together", model.positions()));
  return o;
}

// What one round computes needs about so many spans.
size_t spans_of(const Bench& o, const model::Model& model) {
  const size_t forwards = static_cast<size_t>(o.prefill) / 128 + 1 + static_cast<size_t>(o.decode);
  return forwards * (static_cast<size_t>(model.config().depth()) * 128 + 64);
}

class Measurement {
 public:
  Measurement(const Bench& options, const model::Model& model, base::Threads& threads, uint64_t seed)
      : options_(options),
        threads_(threads),
        session_(model, threads, options.prefill + options.decode),
        ids_(random_ids(options.prefill + options.decode, model.config().vocab, seed)),
        routing_(model.config().layers.size()),
        profile_(threads, spans_of(options, model)) {
    session_.observe(
        [this](int layer, const moe::Routing& routing) { routing_[static_cast<size_t>(layer)].add(routing); });
  }

  // The first round warms up.
  Results results() {
    std::vector<Round> rounds;
    for (int r = 0; r <= options_.repeats; ++r) {
      Round round = measure();
      if (r > 0) rounds.push_back(std::move(round));
    }
    return summed_up(rounds);
  }

  const base::Profile& profile() const { return profile_; }

 private:
  void compute() {
    session_.rewind(0);  // the room that it has taken stays
    runtime::Sampler sampler({});
    const std::span<const int32_t> ids = ids_;
    {
      const base::Scope scope(threads_, "prefill");
      session_.feed(ids.first(static_cast<size_t>(options_.prefill)));
    }
    // The next token is chosen as a generation does, and a random one read in its place: a model with random weights
    // would say the same one again and again, and use the same experts.
    for (const int32_t& id : ids.subspan(static_cast<size_t>(options_.prefill))) {
      const base::Scope scope(threads_, "decode");
      const std::span<const float> logits = session_.feed({&id, 1});
      const base::Operator op(threads_, "sampler", base::moved_bytes, logits.size_bytes());
      sampler.pick(logits);
    }
  }

  Round measure() {
    const runtime::Ceilings ceilings = runtime::measure_ceilings(threads_);
    profile_.clear();
    routing_.assign(routing_.size(), {});
    compute();
    const std::vector<base::PhaseTotal> phases = base::summarize(profile_);
    CHOIR_CHECK(phases.size() == 2 && profile_.dropped() == 0, "the profile is too small");
    return {table_of(phases[0], ceilings, threads_.count()), table_of(phases[1], ceilings, threads_.count()), ceilings};
  }

  template <class Of>
  static OperatorTable median_table(const std::vector<Round>& rounds, const Of& of) {
    std::vector<OperatorTable> tables;
    for (const Round& round : rounds) tables.push_back(of(round));
    return median_of(tables);
  }

  static double median_ceiling(const std::vector<Round>& rounds, double runtime::Ceilings::*ceiling) {
    std::vector<double> values;
    for (const Round& round : rounds) values.push_back(round.ceilings.*ceiling);
    return median(std::move(values));
  }

  Results summed_up(const std::vector<Round>& rounds) const {
    using runtime::Ceilings;
    Results results{median_table(rounds, [](const Round& round) { return round.prefill; }),
                    median_table(rounds, [](const Round& round) { return round.decode; }),
                    {median_ceiling(rounds, &Ceilings::operations), median_ceiling(rounds, &Ceilings::byte_operations),
                     median_ceiling(rounds, &Ceilings::read_bytes)}};
    int layers = 0;
    for (const moe::RoutingStats& layer : routing_) {
      if (layer.proposed() == 0) continue;  // dense
      const auto experts = static_cast<double>(layer.experts.size());
      results.busiest += layer.max_over_mean_load() / experts;
      results.even += 1 / experts;
      ++layers;
    }
    results.busiest /= std::max(1, layers);
    results.even /= std::max(1, layers);
    return results;
  }

  const Bench& options_;
  base::Threads& threads_;
  runtime::Session session_;
  std::vector<int32_t> ids_;
  std::vector<moe::RoutingStats> routing_;  // [L] of the last round
  base::Profile profile_;
};

double prefill_rate(const Bench& o, const Results& r) { return o.prefill / r.prefill.all.seconds; }
double decode_rate(const Results& r) { return 1 / r.decode.all.seconds; }
double weight_bandwidth(const Results& r) { return r.decode.all.weight_bytes / r.decode.all.seconds; }

void print_text(const Bench& o, const Results& r, int threads) {
  fmt::print("{} {}: {:.0f} GFLOP/s of multiply-adds, {:.0f} Gop/s of bytes, {:.1f} GB/s read from memory\n", threads,
             threads == 1 ? "thread" : "threads", r.ceilings.operations / 1e9, r.ceilings.byte_operations / 1e9,
             r.ceilings.read_bytes / 1e9);
  fmt::print("prefill of {} tokens: {:.1f} tokens/s; decode of {} more: {:.1f} tokens/s\n", o.prefill,
             prefill_rate(o, r), o.decode, decode_rate(r));
  if (r.even > 0)
    fmt::print("routing: the busiest expert of a layer has {:.1f}% of its pairs, {:.1f}% would be even\n",
               100 * r.busiest, 100 * r.even);
  fmt::print("\n{}\n{}", text_of(r.prefill), text_of(r.decode));
}

Json json_of(const Bench& o, const Results& r, int threads) {
  Json json{{"prefill_tokens_per_second", prefill_rate(o, r)},
            {"decode_tokens_per_second", decode_rate(r)},
            {"bytes_per_token", static_cast<int64_t>(r.decode.all.weight_bytes + 0.5)},
            {"share_of_bandwidth", weight_bandwidth(r) / r.ceilings.read_bytes},
            {"share_of_peak", r.prefill.all.share_of_peak},
            {"prefill", o.prefill},
            {"decode", o.decode},
            {"repeats", o.repeats},
            {"threads", threads},
            {"gflops", r.ceilings.operations / 1e9},
            {"byte_gops", r.ceilings.byte_operations / 1e9},
            {"read_gb_per_second", r.ceilings.read_bytes / 1e9}};
  if (r.even > 0) {
    json["busiest_expert_share"] = r.busiest;
    json["even_share"] = r.even;
  }
  json["operators"] = {{"prefill", cli::json_of(r.prefill)}, {"decode", cli::json_of(r.decode)}};
  return json;
}

}  // namespace

void run(const Bench& asked, const Common& common) {
  check_trace(asked.trace);
  base::Threads threads(common.threads, common.placement());
  const model::Model model =
      ready_to_run(runtime::Bundle(asked.model, use_for(asked.exact)).model, asked.exact, threads);
  const Bench o = complete(asked, model);
  Measurement measurement(o, model, threads, common.seed);
  const Results results = measurement.results();
  write_trace(o.trace, measurement.profile());
  if (common.json)
    print_json(json_of(o, results, threads.count()));
  else
    print_text(o, results, threads.count());
}

}  // namespace choir::cli
