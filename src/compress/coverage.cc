#include "compress/coverage.h"

#include <algorithm>
#include <tuple>

namespace choir::compress {

std::vector<RareExpert> rarely_seen(const CoverageTable& table, int64_t least) {
  std::vector<RareExpert> rare;
  for (size_t l = 0; l < table.tokens.size(); ++l)
    for (size_t e = 0; e < table.tokens[l].size(); ++e)
      if (table.tokens[l][e] < least) rare.push_back({static_cast<int>(l), static_cast<int>(e), table.tokens[l][e]});
  std::ranges::sort(rare, {}, [](const RareExpert& r) { return std::tuple(r.tokens, r.layer, r.expert); });
  return rare;
}

namespace {

// Adds the tokens of one sequence of a batch: routed[l] is the expert of each of its uses, by token.
struct Routed {
  std::vector<int32_t> expert, token;
};

void add_sequence(const std::vector<Routed>& routed, int sequence, int length, CoverageTable& table) {
  for (size_t l = 0; l < routed.size(); ++l)
    for (size_t i = 0; i < routed[l].token.size(); ++i)
      if (routed[l].token[i] / length == sequence) ++table.tokens[l][static_cast<size_t>(routed[l].expert[i])];
}

Routed uses_of(const moe::Plan& plan) {
  Routed routed;
  for (int e = 0; e < plan.experts(); ++e)
    for (int i = plan.offset[static_cast<size_t>(e)]; i < plan.offset[static_cast<size_t>(e) + 1]; ++i) {
      routed.expert.push_back(e);
      routed.token.push_back(plan.token[static_cast<size_t>(i)]);
    }
  return routed;
}

}  // namespace

bool enough(const CoverageTable& table, int64_t least) {
  return !table.tokens.empty() && rarely_seen(table, least).empty();
}

EnoughText enough_text(const Model& given, std::span<const CalibrationBatch> batches, int64_t least, Threads& threads,
                       const Progress& progress) {
  check_batches(batches);
  const Model model = given.with_admission("all");
  CoverageTable table;
  for (const model::LayerConfig& layer : model.config().layers)
    table.tokens.emplace_back(static_cast<size_t>(layer.routed()), 0);
  model::Scratch scratch;
  tensor::Buffer<float> logits;
  std::vector<Routed> routed(table.tokens.size());
  EnoughText result{0, enough(table, least)};
  int done = 0;
  for (const CalibrationBatch& batch : batches) {
    const auto sequences = sequences_of(batch);
    logits.reserve(sequences.size() * static_cast<size_t>(model.config().vocab));
    const auto observer = [&](int l, const moe::Routing& routing) {
      routed[static_cast<size_t>(l)] = uses_of(routing.plan);
    };
    model::forward(model, {batch.ids, sequences}, {.rows = model::Rows::kLast, .observer = observer}, scratch,
                   logits.matrix(batch.sequences, model.config().vocab), threads);
    if (progress) progress(++done, static_cast<int>(batches.size()));
    for (int s = 0; s < batch.sequences && !result.reached; ++s) {
      add_sequence(routed, s, batch.length, table);
      ++result.sequences;
      result.reached = enough(table, least);
    }
    if (result.reached) return result;
  }
  return result;
}

}  // namespace choir::compress
