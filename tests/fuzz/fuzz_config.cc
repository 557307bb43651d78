// Any JSON is a config whose sizes can be computed with and which survives being written, or an input error.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "io/json.h"
#include "tests/fuzz/sound_config.h"

using namespace choir;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const io::Json json = io::parse_json({reinterpret_cast<const char*>(data), size}, "input");
    const model::Config config = model::parse_config(json, "input");
    tests::check_sound(config);
    const std::string written = model::config_json(config, json).dump();
    const model::Config again = model::parse_config(io::parse_json(written, "again"), "again");
    CHOIR_CHECK(again.layers == config.layers && again.width == config.width, written);
  } catch (const base::Error& error) {
    CHOIR_CHECK(error.fault == base::Fault::kInput && error.where != "again" && !error.hint.empty(), error.what());
  }
  return 0;
}
