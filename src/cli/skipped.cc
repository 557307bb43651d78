#include "cli/skipped.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace choir::cli {

model::Model skipping_as_asked(const std::string& skip, const model::Model& model) {
  if (skip.empty()) return model;
  try {
    return model.with_admission(skip == "none" ? "all" : "skip(" + skip + ")");
  } catch (const base::Error& error) {  // speaks of router expressions
    base::usage_error(error.message, "--skip " + skip,
                      "give none, count=2, tail=0.3, ser=0.2 or, with two experts a token, 0.5");
  }
}

void add_skipped(const model::Model& model, std::span<const model::ExpertCounts> counts, nlohmann::ordered_json& json) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const model::ExpertCounts& layer : counts)
    layers.push_back({{"layer", layers.size()},
                      {"experts_run", layer.run},
                      {"experts_skipped", layer.skipped},
                      {"skipped_share", layer.skipped_share()}});
  json["skipped_share"] = model::sum_of(counts).skipped_share();
  json["bytes_per_token"] = model::bytes_per_token(model, counts);
  json["layers"] = layers;
}

void tell_skipped(std::span<const model::ExpertCounts> layers) {
  const model::ExpertCounts sum = model::sum_of(layers);
  if (sum.skipped == 0) return;
  std::fprintf(stderr, "skipped %.1f %% of the experts; by layer", 100 * sum.skipped_share());
  for (const model::ExpertCounts& layer : layers) std::fprintf(stderr, " %.1f", 100 * layer.skipped_share());
  std::fputc('\n', stderr);
}

}  // namespace choir::cli
