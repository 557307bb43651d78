// A model that training may start from: its tensors, whatever their layout on disk.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "io/json.h"
#include "model/load.h"

namespace choir::train {

// What a model computes with besides its tensors.
struct Trait {
  const char* key;
  double value;
  bool shapes;  // the same numbers in another shape are another thing
};

std::vector<Trait> traits_of(const model::Config& config);

// Everything throws Error (input).
class WarmSource {
 public:
  struct Entry {
    std::string name;
    tensor::Weight weight;  // as stored, or widened to float
    bool vector = false;
  };

  // The directory's safetensors, and its config.json where there is one. Without, or of a family that is not known,
  // tensors are looked for under the names that `target` would give them, and a dense feed-forward part under Llama's.
  WarmSource(const std::string& directory, const model::Config& target);

  const std::optional<model::Config>& config() const { return config_; }  // of a known family
  // What its config.json says of `target`'s traits.
  const std::vector<Trait>& traits() const { return traits_; }
  const Entry* find(const std::string& name) const;  // null where there is none
  // Of a layer; a dense feed-forward part is one expert.
  int experts(int layer) const;
  const Entry* expert(int layer, int expert, model::TensorInfo::Part part) const;
  bool has_own_head() const;  // unlike its embedding

 private:
  void read_config(const std::string& path, const model::Config& target);
  void read_known();
  void read_unknown(const model::Config& target);
  bool take(const std::string& name);
  void take_more(const model::TensorInfo& last);

  io::TensorDirectory files_;
  std::string directory_;
  std::optional<model::Config> config_;
  std::vector<Trait> traits_;
  model::Owned copies_;
  std::map<std::string, Entry> entries_;
  std::map<std::array<int, 3>, std::string> experts_;  // names by layer, expert and part
};

}  // namespace choir::train
