// What every description of a model promises, whichever file it was read from.
#pragma once

#include <string>

#include "base/error.h"
#include "model/config.h"
#include "moe/router.h"

namespace choir::tests {

inline void check_sound(const model::Config& config) {
  const auto& a = config.attention;
  CHOIR_CHECK(config.width > 0 && config.vocab > 0 && config.depth() > 0 && config.rope.theta >= 1, config.family);
  CHOIR_CHECK(a.heads > 0 && a.kv_heads > 0 && a.heads % a.kv_heads == 0 && a.window >= 0, "attention");
  CHOIR_CHECK(config.rotary_width() > 0 && config.rotary_width() % 2 == 0 && a.values() > 0, "heads");
  CHOIR_CHECK(config.rope.kind == kernels::RopeSpec::Kind::kNone || config.rope.original_length > 0, "stretching");
  for (const model::LayerConfig& layer : config.layers) {
    CHOIR_CHECK(layer.dense() ? layer.shared_width > 0
                              : 1 <= layer.top_k && layer.top_k <= layer.routed() && layer.expert_width > 0,
                "layer");
    CHOIR_CHECK(layer.kept.empty() || static_cast<int>(layer.kept.size()) == layer.experts, "kept experts");
  }
  const model::ParameterCount count = model::count_parameters(config);
  CHOIR_CHECK(0 < count.total && 0 < count.active, std::to_string(count.total));
  const model::LayerConfig& layer = model::typical_layer(config);
  if (!layer.dense())
    moe::check_router(moe::parse_router(model::router_expression(config, layer)), layer.routed(), config.width,
                      "layer");
}

}  // namespace choir::tests
