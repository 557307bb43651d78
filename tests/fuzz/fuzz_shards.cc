// Any bytes as an index of shards: a directory whose tensors are those of the files beside it, or an input error.
#include <unistd.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "base/error.h"
#include "io/shard_index.h"

namespace {

using namespace choir;
namespace fs = std::filesystem;

constexpr std::array<float, 2> kNumbers{1, 2};

void write_shard(const fs::path& path, const std::vector<std::string>& names) {
  std::vector<io::Tensor> tensors;
  for (const std::string& name : names)
    tensors.push_back({name, tensor::DType::kF32, {2}, std::as_bytes(std::span(kNumbers))});
  io::write_safetensors(path.string(), tensors, {}, base::Existing::kReplace);
}

// A model directory with shards, and a file outside that no index may reach.
class Place {
 public:
  // In memory where the system has such a place: a disk would take most of the time.
  Place()
      : root_((fs::exists("/dev/shm") ? fs::path("/dev/shm") : fs::temp_directory_path()) /
              ("choir_fuzz_shards_" + std::to_string(::getpid()))) {
    fs::create_directories(model());
    write_shard(model() / "a.safetensors", {"x", "y"});
    write_shard(model() / "b.safetensors", {"z"});
    write_shard(model() / "c.safetensors", {"x"});  // a name that a.safetensors has too
    write_shard(root_ / "outside.safetensors", {"secret"});
  }
  ~Place() { fs::remove_all(root_); }

  fs::path model() const { return root_ / "model"; }
  void write_index(const uint8_t* data, size_t size) const {
    std::ofstream file(model() / "model.safetensors.index.json", std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  }

 private:
  fs::path root_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Place place;
  place.write_index(data, size);
  try {
    const io::TensorDirectory directory(place.model().string());
    std::set<std::string> names;
    for (const io::Tensor& t : directory.tensors()) {
      CHOIR_CHECK(names.insert(t.name).second, "a name twice: " + t.name);
      CHOIR_CHECK(directory.find(t.name) && io::all_finite(t), t.name);
      CHOIR_CHECK(t.name == "x" || t.name == "y" || t.name == "z", "not beside the index: " + t.name);
    }
    CHOIR_CHECK(!names.empty(), "no tensors");
  } catch (const base::Error& error) {
    CHOIR_CHECK(error.fault == base::Fault::kInput && !error.where.empty() && !error.hint.empty(), error.what());
  }
  return 0;
}
