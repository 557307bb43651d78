// Any keys and tensors of a GGUF file are a description that computes, is written and read again as the same, or an
// input error. An input is lines, of which those that cannot stand in a file are passed over:
//   u KEY 12   i KEY -3   f KEY 0.5   b KEY 1   s KEY TEXT   t TENSOR 4 8
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "io/json.h"
#include "model/gguf_config.h"
#include "tests/fuzz/sound_config.h"

namespace {

using namespace choir;

// The header of a file and how many bytes of zeros its tensors take.
class Sheet {
 public:
  explicit Sheet(const std::string& text) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line);
      std::string kind, name;
      words >> kind >> name;
      if (kind.size() != 1 || name.empty() || name.size() > 60 || !printable(name)) continue;
      if (kind == "t")
        tensor(name, words);
      else if (taken_.insert(name).second)
        key(kind.front(), name, words);
    }
  }

  void put(const io::GgufEntry& entry) { header_.put(entry); }
  io::GgufHeader& header() { return header_; }
  const std::vector<io::Tensor>& tensors() const { return tensors_; }

 private:
  static bool printable(const std::string& name) {
    for (const char c : name)
      if (c <= 0x20 || c >= 0x7f) return false;
    return true;
  }

  void key(char kind, const std::string& name, std::istringstream& words) {
    long long whole = 0;
    double real = 0;
    std::string text;
    if (kind == 's') std::getline(words >> std::ws, text);
    if (kind == 'f') words >> real;
    if (kind == 'u' || kind == 'i' || kind == 'b') words >> whole;
    if (kind == 's') header_.put(name, text);
    if (kind == 'f') header_.put(name, static_cast<float>(real));
    if (kind == 'b') header_.put(name, whole != 0);
    if (kind == 'u') header_.put(name, static_cast<uint32_t>(whole));
    if (kind == 'i')
      header_.put(io::GgufEntry{name, io::GgufType::kI64, false, 1, std::as_bytes(std::span(&whole, 1)), 0});
  }

  void tensor(const std::string& name, std::istringstream& words) {
    std::vector<int64_t> shape;
    int64_t elements = 1;
    for (int64_t size; shape.size() < 4 && words >> size;) shape.push_back(size);
    for (const int64_t size : shape) {
      if (size < 0 || size > 4096) return;
      elements *= size;
      if (elements > 4096) return;
    }
    if (tensors_.size() == 64 || !names_.insert(name).second) return;
    header_.declare(name, tensor::DType::kF32, shape);
    tensors_.push_back({name, tensor::DType::kF32, shape, {}});
  }

  io::GgufHeader header_;
  std::set<std::string> taken_, names_;
  std::vector<io::Tensor> tensors_;
};

// A file of a header and tensors of zeros.
io::GgufFile file_of(const io::GgufHeader& header) {
  static const std::string path =
      (std::filesystem::temp_directory_path() / ("choir_fuzz_" + std::to_string(::getpid()) + ".gguf")).string();
  std::string bytes = header.bytes();
  for (const size_t size : header.sizes())
    bytes.resize((bytes.size() + size + io::kGgufAlignment - 1) / io::kGgufAlignment * io::kGgufAlignment, '\0');
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  io::GgufFile file(path);
  std::filesystem::remove(path);  // it stays mapped
  return file;
}

// What the keys that are written for a description say, with the same tensors.
model::Config again(const model::Config& config, const Sheet& sheet) {
  io::GgufHeader header;
  model::put_config(config, header);
  std::set<std::string> names;
  for (const model::GgufVector& vector : model::vectors_of(config)) {
    header.declare(vector.name, tensor::DType::kF32, std::vector<int64_t>{std::ssize(vector.numbers)});
    names.insert(vector.name);
  }
  for (const io::Tensor& t : sheet.tensors())
    if (names.insert(t.name).second) header.declare(t.name, t.type, t.shape);
  return model::parse_config(model::config_of_gguf(file_of(header)), "again");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Sheet sheet({reinterpret_cast<const char*>(data), size});
  try {
    const io::Json json = model::config_of_gguf(file_of(sheet.header()));
    const model::Config config = model::parse_config(json, "input");
    tests::check_sound(config);
    if (!model::reason_against_gguf(config).empty()) return 0;
    const model::Config same = again(config, sheet);
    CHOIR_CHECK(same.layers == config.layers && same.width == config.width && same.vocab == config.vocab &&
                    same.attention.heads == config.attention.heads && same.max_positions == config.max_positions,
                json.dump());
  } catch (const base::Error& error) {
    CHOIR_CHECK(error.fault == base::Fault::kInput && error.where != "again" && !error.hint.empty(), error.what());
  }
  return 0;
}
