// Helpers of this room's tests.
#pragma once

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "io/safetensors.h"

namespace choir::io {

// A directory that vanishes with this object.
class TemporaryDirectory {
 public:
  TemporaryDirectory() : path_((std::filesystem::temp_directory_path() / "choir_io_XXXXXX").string()) {
    CHOIR_CHECK(::mkdtemp(path_.data()) != nullptr, path_);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }

  std::string file(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

template <class T>
Tensor tensor_over(const std::string& name, tensor::DType type, std::vector<int64_t> shape,
                   const std::vector<T>& data) {
  return {name, type, std::move(shape), std::as_bytes(std::span(data))};
}

// The text of the input error that `call` throws; empty when it throws none.
template <class Call>
std::string refusal_of(const Call& call) {
  try {
    call();
  } catch (const base::Error& error) {
    return error.fault == base::Fault::kInput ? error.what() : "";
  }
  return "";
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace choir::io
