// For tests that touch the disk or expect a refusal.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/atomic_output.h"
#include "base/error.h"

namespace choir::tests {

// A directory that vanishes with this object.
class TemporaryDirectory {
 public:
  TemporaryDirectory() : path_((std::filesystem::temp_directory_path() / "choir_XXXXXX").string()) {
    CHOIR_CHECK(::mkdtemp(path_.data()) != nullptr, path_);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }

  std::string file(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  void write(const std::string& name, const std::string& text) const {
    base::write_file(file(name), text, base::Existing::kReplace);
  }

 private:
  std::string path_;
};

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

}  // namespace choir::tests
