// A family of checkpoints: its words in config.json, its names on disk, and what it computes.
#pragma once

#include <string>
#include <string_view>

namespace choir::model {

class Reader;

// How a family's files may hold the experts of a layer in two tensors, gate and up together.
struct Stacked {
  const char *gate_up = "experts.gate_up_proj", *down = "experts.down_proj";
  // No: [E,2F,D], gate rows first, and [E,D,F]. Yes: [E,D,2F] with gate and up in turn, and [E,F,D]; of MXFP4 blocks
  // [E,2F,..] and [E,D,..], gate and up rows in turn; biases [E,2F], likewise, and [E,D].
  bool interleaved = false;
  bool written = false;  // the family's own code reads this layout alone
};

// Names behind "model.layers.N.".
struct Names {
  const char* mixture = "mlp.";                                          // in front of the others
  const char* router = "gate";                                           // then what the tensor is
  const char *gate = "gate_proj", *up = "up_proj", *down = "down_proj";  // of an expert, behind "experts.E."
  const char* shared = "shared_expert.";                                 // then gate_proj, up_proj, down_proj
  const char* state = "router_state";                                    // a router's numbers outside the gradient
  Stacked stacked = {};
};

// Keys of config.json; the second of two is another spelling, or null.
struct Keys {
  const char *experts = nullptr, *other_experts = nullptr;
  const char *top_k = "num_experts_per_tok", *other_top_k = nullptr;
  const char* width = "intermediate_size";
  bool shared = false;  // the shared experts are as wide as the others, by the same key

  bool any() const { return experts; }  // a family of dense layers has none
};

struct Family {
  const char* name;  // model_type
  Keys keys;
  Names names;
  void (*read)(Reader&);
};

const Family* find_family(std::string_view name);  // null when there is none
// Throws Error (input) that names the known ones.
const Family& family_of(const std::string& name, const std::string& where);

extern const Family kMixtral, kMistral, kLlama;
extern const Family kQwen2, kQwen3, kQwen2Moe, kQwen3Moe, kOlmoe;
extern const Family kDeepseekV2, kDeepseekV3;
extern const Family kPhimoe, kGptOss, kGraniteMoe;

}  // namespace choir::model
