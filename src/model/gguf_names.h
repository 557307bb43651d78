// Where the tensors of a family stand in a GGUF file (llama.cpp: gguf-py/gguf/constants.py, src/llama-arch.cpp).
#pragma once

#include <string>
#include <string_view>

#include "model/tensors.h"

namespace choir::model {

// How llama.cpp calls a family, and what it makes of it.
struct Architecture {
  const char* family;  // model_type
  const char* name;    // general.architecture
  // The rows of q and k stand in the order of heads that turn neighbours: row i and row i + W/2 of a head are 2i, 2i+1.
  bool neighbours = false;
  const char* mixture_norm = "ffn_norm";
};

const Architecture* architecture_of(std::string_view family);  // null when there is none

// The family of a file: several share an architecture. Throws Error (input) that names the known ones.
struct GgufKind {
  std::string_view architecture;
  bool experts = false, sigmoid = false;
};
const Architecture& architecture_of(const GgufKind& kind, const std::string& where);

// One tensor of a model in the file.
struct GgufPlace {
  std::string name;
  int slice = -1;      // of a tensor that holds this one of every expert; -1: the whole tensor
  int head_width = 0;  // rows in the order of neighbours within heads of so many; 0: as everywhere
};

GgufPlace place_in_gguf(const Config& config, const Architecture& architecture, const TensorInfo& info);

// The row of the family's order that stands in row `row` of neighbours' order, and the other way round.
int64_t row_of_neighbours(int64_t row, int head_width);
int64_t row_of_halves(int64_t row, int head_width);

}  // namespace choir::model
