// The description of a model in a GGUF file: its metadata and config.json, each from the other.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "io/gguf_writer.h"
#include "model/gguf_names.h"

namespace choir::model {

inline constexpr const char* kExtensionKey = "choir.extension";  // the object "choir" of config.json, as a text

// The architecture that the metadata names.
const Architecture& architecture_of(const io::GgufFile& file);

// The config.json that a file stands for. Throws Error (input) that names the key that is missing or wrong.
nlohmann::json config_of_gguf(const io::GgufFile& file);

// Why llama.cpp cannot compute what this model computes; empty where it can.
std::string reason_against_gguf(const Config& config);

// Writes the keys that describe the model, those of its tokens aside. The model must have no reason against it.
void put_config(const Config& config, io::GgufHeader& header);

// Vectors of numbers that a file keeps as tensors, though they belong to the description: factors of the rotary
// frequencies. They are F32.
struct GgufVector {
  std::string name;
  std::vector<float> numbers;
};
std::vector<GgufVector> vectors_of(const Config& config);

}  // namespace choir::model
