// Any JSON is a config whose sizes can be computed with and which survives being written, or an input error.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "io/json.h"
#include "model/config.h"
#include "moe/router.h"

namespace {

using namespace choir;

void check_sound(const model::Config& config) {
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

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const io::Json json = io::parse_json({reinterpret_cast<const char*>(data), size}, "input");
    const model::Config config = model::parse_config(json, "input");
    check_sound(config);
    const std::string written = model::config_json(config, json).dump();
    const model::Config again = model::parse_config(io::parse_json(written, "again"), "again");
    CHOIR_CHECK(again.layers == config.layers && again.width == config.width, written);
  } catch (const base::Error& error) {
    CHOIR_CHECK(error.fault == base::Fault::kInput && error.where != "again" && !error.hint.empty(), error.what());
  }
  return 0;
}
