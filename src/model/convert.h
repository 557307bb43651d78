// A model in another file format or number format, made a piece at a time: what is in memory does not grow with it.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/atomic_output.h"
#include "base/threads.h"
#include "io/gguf_writer.h"
#include "model/source.h"

namespace choir::model {

struct Converted {
  int64_t tensors = 0;                                   // written
  int64_t bytes_in = 0, bytes_out = 0;                   // of tensors
  std::vector<std::string> ignored;                      // of the source, each with the reason
  std::vector<std::string> notes;                        // what was not written in the type that was asked for, and why
  std::unordered_map<std::string, tensor::DType> types;  // that the tensors of the model were rounded to
};

// Called when all is written, before it appears, with its path.
using Check = std::function<void(const std::string& path, const Converted& done)>;

// Both take the numbers over as they are where a type is not asked for or is what they have; else they are rounded as
// tensor::narrow does. Both throw Error (input) that names the tensor that holds a number without a finite
// counterpart.

// One GGUF file that llama.cpp loads. Vectors and routers become F32, as there; of q8_0 and q4_0, matrices whose rows
// are not whole blocks become F16, and with q4_0 the head q8_0. `put_more` adds the keys of the tokens. Throws Error
// (usage) with the reason where llama.cpp cannot compute the model.
struct GgufOutput {
  std::string path;
  base::Existing existing;
  std::function<void(io::GgufHeader&)> put_more;
  Check check;
};
Converted convert_to_gguf(Source& source, std::optional<tensor::DType> type, const GgufOutput& output);

// config.json and model.safetensors in an existing directory, as the family's own code reads them. `config_file` is the
// source's config.json. In panels: a packed directory, for Choir alone, whose tensors also may be blocks; of q8_0 and
// q4_0 the matrices as in GGUF, vectors and routers as they are.
Converted convert_to_safetensors(Source& source, std::optional<tensor::DType> type, tensor::Layout layout,
                                 const std::string& directory, nlohmann::json config_file);

// How far the answers to the same few ids are apart.
struct Verified {
  int ids = 0;
  double largest = 0;    // logit
  double fault = 0;      // between the result and the source with its numbers rounded alike: rounding of sums alone
  double drift = 0;      // between the result and the source as it is
  double agreement = 0;  // share of the ids whose likeliest successor is the same
};

// Runs the source, the source rounded and the result, a layer at a time. Throws Error (program) when the result does
// not compute what it should.
Verified verify(Source& source, const std::string& result, const Converted& done, base::Threads& threads);

}  // namespace choir::model
