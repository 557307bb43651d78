// Any bytes are JSON that can be written and read again, or an input error; any field can be asked for in any type.
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "io/json.h"

namespace {

using namespace choir;

template <class Call>
bool refused(const Call& call) {
  try {
    call();
  } catch (const base::Error& error) {
    CHOIR_CHECK(error.fault == base::Fault::kInput && !error.where.empty() && !error.hint.empty(), error.message);
    return true;
  }
  return false;
}

void ask_every_field(const io::Json& json) {
  const io::Fields fields(json, "input");
  for (const auto& item : json.items()) {
    const std::string& key = item.key();
    refused([&] { CHOIR_CHECK(std::llabs(fields.get_int(key, -9, 9)) <= 9, key); });
    refused([&] { CHOIR_CHECK(std::isfinite(fields.get_number(key, -1e300, 1e300)), key); });
    refused([&] { fields.get_bool(key, true); });
    refused([&] { fields.get_string(key, ""); });
    refused([&] { fields.get_object(key); });
    CHOIR_CHECK(fields.has(key) == !item.value().is_null(), key);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  io::Json json;
  if (refused([&] { json = io::parse_json(text, "input"); })) return 0;
  CHOIR_CHECK(io::parse_json(json.dump(), "again") == json, json.dump());
  if (json.is_object()) ask_every_field(json);
  return 0;
}
