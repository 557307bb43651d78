#include "io/shard_index.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_set>

#include "base/error.h"
#include "io/json.h"
#include "io/json_cursor.h"

namespace choir::io {
namespace fs = std::filesystem;
namespace {

constexpr const char* kMixed = "the index and the shards belong to different models";

// The index comes with the model and must not reach for files elsewhere.
void check_plain_name(const std::string& file, const std::string& where) {
  const bool plain = !file.empty() && file.find('/') == std::string::npos && file.find('\\') == std::string::npos &&
                     file.find('\0') == std::string::npos && file.find("..") == std::string::npos && file != ".";
  if (!plain) base::input_error("not a plain file name: " + shown(file), where, "shards lie beside their index");
}

// The map from tensor names to the files that hold them.
Json weight_map_of(const std::string& index_path) {
  Json index = read_json(index_path);
  const std::string where = index_path + ": weight_map";
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object() || map->empty())
    base::input_error("no map from tensor names to files", where, "fetch the index again");
  for (const auto& [name, file] : map->items()) {
    const std::string entry = where + ": tensor " + shown(name);
    if (!file.is_string()) base::input_error("not a file name", entry, "fetch the index again");
    check_plain_name(file.get_ref<const std::string&>(), entry);
  }
  return std::move(*map);
}

// Every tensor of the shard must be mapped, and to this shard; so no name can stand in two shards.
void check_shard(const SafetensorsFile& shard, const std::string& file, const Json& map) {
  for (const Tensor& t : shard.tensors()) {
    const auto mapped = map.find(t.name);
    const std::string where = shard.path() + ": tensor " + shown(t.name);
    if (mapped == map.end()) base::input_error("a tensor that the index does not know", where, kMixed);
    if (*mapped != file)
      base::input_error(
          "a tensor that the index puts into another file, " + shown(mapped->get_ref<const std::string&>()), where,
          kMixed);
  }
}

}  // namespace

TensorDirectory::TensorDirectory(const std::string& dir) {
  const std::string single = (fs::path(dir) / "model.safetensors").string();
  const std::string index_path = (fs::path(dir) / "model.safetensors.index.json").string();
  std::error_code ignored;
  if (fs::exists(single, ignored))
    open(single);
  else if (fs::exists(index_path, ignored))
    open_shards(dir, index_path);
  else
    base::input_error("no model.safetensors and no model.safetensors.index.json", dir,
                      "give the directory of a model with safetensors weights");
  metadata_ = files_.front().metadata();
  make_index();
}

TensorDirectory::TensorDirectory(std::vector<Tensor> tensors,
                                 std::vector<std::shared_ptr<const base::MappedFile>> files,
                                 std::vector<std::shared_ptr<const tensor::Buffer<std::byte>>> memory)
    : others_(std::move(files)), memory_(std::move(memory)), tensors_(std::move(tensors)) {
  make_index();
  CHOIR_CHECK(index_.size() == tensors_.size(), "two tensors of one name");
}

void TensorDirectory::make_index() {
  for (size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

void TensorDirectory::forget(std::span<const std::byte> bytes) const {
  for (const auto& file : others_)
    if (file->holds(bytes)) return file->forget(bytes);
  for (const SafetensorsFile& shard : files_)
    if (shard.file().holds(bytes)) return shard.file().forget(bytes);
}

void TensorDirectory::open(const std::string& file) {
  const auto& tensors = files_.emplace_back(file).tensors();
  tensors_.insert(tensors_.end(), tensors.begin(), tensors.end());
}

void TensorDirectory::open_shards(const std::string& dir, const std::string& index_path) {
  const Json map = weight_map_of(index_path);
  std::set<std::string> shards;
  for (const Json& file : map) shards.insert(file.get_ref<const std::string&>());
  std::unordered_set<std::string_view> held;
  for (const std::string& shard : shards) {
    open((fs::path(dir) / shard).string());
    check_shard(files_.back(), shard, map);
    for (const Tensor& t : files_.back().tensors()) held.insert(t.name);
  }
  for (const auto& [name, file] : map.items())
    if (!held.contains(name))
      base::input_error("the index names a tensor that is not there: " + shown(name),
                        (fs::path(dir) / file.get_ref<const std::string&>()).string(), kMixed);
}

const Tensor* TensorDirectory::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

}  // namespace choir::io
