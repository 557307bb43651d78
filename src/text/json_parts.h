// The parts of a tokenizer.json, each read by itself; tokenizer_json.h puts them together.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "io/json.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/token_model.h"

namespace choir::text {

// Both throw Error (input).
[[noreturn]] void unsupported_part(const std::string& part, const std::string& where);
[[noreturn]] void damaged_part(const std::string& what, const std::string& where);

// Each takes the value under its key, null for an absent one, and names `where` in errors.
Normalizer read_normalizer(const io::Json& part, const std::string& where);
Pretokenizer read_pretokenizer(const io::Json& part, const std::string& where);
Decoder read_decoder(const io::Json& part, const std::string& where);

// The ids that a post-processor puts around one text.
struct Frame {
  std::vector<int32_t> before, after;
};
Frame read_frame(const io::Json& part, const std::string& where);

struct ModelPart {
  std::unique_ptr<const TokenModel> model;
  std::vector<std::string> names;  // by id; empty where no token of the model has the id
};
ModelPart read_model(const io::Json& part, bool byte_level, const std::string& where);

// Puts one of `count` names at its id. Throws Error (input) when the id is taken, or so large that most ids would have
// no token.
void place_name(int64_t id, const std::string& name, size_t count, std::vector<std::string>& names,
                const std::string& where);

}  // namespace choir::text
