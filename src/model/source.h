// A model on disk whose tensors are looked at one after another: for whoever must not have it in memory as a whole.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/load.h"

namespace choir::model {

// A directory or a GGUF file. One thread at a time.
class Source {
 public:
  // Reads descriptions, no weights. This and all else throws Error (input).
  explicit Source(const std::string& path);
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  const std::string& path() const { return path_; }
  // What the tensors of find() compute with: of a file whose heads turn neighbours, `pairs` says so.
  const Config& config() const { return config_; }
  const io::TensorDirectory& files() const { return *files_; }
  bool turns_neighbours() const { return turns_neighbours_; }

  // Every tensor of the model in the order of the forward.
  std::vector<TensorInfo> infos() const;

  // Its numbers, until the next drop(): a view of the file, or a copy where they do not compute as they lie there.
  Weight find(const TensorInfo& info);
  // Gives back the memory of all that was found since the last drop, the file's pages included.
  void drop();

  // After every tensor of the model was found: those that it does not need, each with the reason. Throws for one
  // without.
  std::vector<std::string> ignored() const;

 private:
  std::string path_;
  Config config_;
  std::shared_ptr<const io::TensorDirectory> files_;
  std::vector<std::string> passed_;  // on opening the file
  bool turns_neighbours_ = false;
  Owned owned_;
  std::vector<Weight> found_;
  std::unique_ptr<Loader> loader_;
};

}  // namespace choir::model
