#include "model/source.h"

#include "model/gguf_model.h"
#include "model/gguf_names.h"

namespace choir::model {

Source::Source(const std::string& path) : path_(path) {
  if (is_gguf(path)) {
    GgufModel file = open_gguf(path, RowOrder::kFile);
    config_ = std::move(file.config);
    files_ = std::move(file.tensors);
    passed_ = std::move(file.ignored);
    turns_neighbours_ = architecture_of(config_.family)->neighbours;
    if (turns_neighbours_) config_.pairs = kernels::Pairs::kNeighbours;
  } else {
    config_ = read_config(path + "/config.json");
    files_ = std::make_shared<const io::TensorDirectory>(path);
  }
  loader_ = std::make_unique<Loader>(config_, *files_, path_, owned_);
}

std::vector<TensorInfo> Source::infos() const {
  std::vector<TensorInfo> infos;
  ModelTensors<Weight> places;
  visit_tensors(config_, places, [&](const TensorInfo& info, Weight&) { infos.push_back(info); });
  return infos;
}

Weight Source::find(const TensorInfo& info) {
  found_.push_back(loader_->find(info));
  return found_.back();
}

void Source::drop() {
  for (const Weight& weight : found_) files_->forget({static_cast<const std::byte*>(weight.data), weight.bytes()});
  found_.clear();
  owned_.clear();
}

std::vector<std::string> Source::ignored() const {
  std::vector<std::string> result = loader_->check_rest();
  result.insert(result.end(), passed_.begin(), passed_.end());
  return result;
}

}  // namespace choir::model
