// A chat template, or an input error that names a line; so is what it makes of a conversation.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace choir;
  static const auto kVariables = nlohmann::ordered_json::parse(R"({"messages": [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "<think>x</think> Hi", "tool_calls": [{"function": {"name": "f", "arguments":
    {"a": [1, 2.5, null, true, "é"]}}}]}], "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>"})");
  try {
    const text::ChatTemplate chat(std::string_view(reinterpret_cast<const char*>(data), size), "input");
    const std::string first = chat.render(kVariables);
    CHOIR_CHECK(first.size() <= size_t{16} << 20, "output");
    if (std::string_view(reinterpret_cast<const char*>(data), size).find("now") == std::string_view::npos)
      CHOIR_CHECK(first == chat.render(kVariables), "twice");
  } catch (const base::Error& error) {
    CHOIR_CHECK(error.fault == base::Fault::kInput && !error.hint.empty() && error.where.starts_with("input"),
                error.message);
  }
  return 0;
}
