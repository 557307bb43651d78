// Files and directories that appear whole or not at all: written beside the target, synced, then renamed.
#pragma once

#include <cstddef>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace choir::base {

// What to do when the target exists.
enum class Existing { kRefuse, kReplace };

enum class Kind { kFile, kDirectory };

// Throws Error (usage) when `path` exists and may not be replaced or is of another kind, or when its parent directory
// is missing. Verbs call it before long work, so that a run is not lost at its end.
void check_output(const std::string& path, Existing existing, Kind kind);

// One file. Without commit() the destructor removes what was written. Throws Error (input) when the disk refuses.
class AtomicFile {
 public:
  AtomicFile(std::string path, Existing existing);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  // For whoever checks what was written before it appears: afterwards the file at partial() holds all of it.
  void flush();
  const std::string& partial() const { return beside_; }
  void commit();

 private:
  std::string path_, beside_;
  Existing existing_;
  std::unique_ptr<char[]> buffer_;
  std::FILE* file_ = nullptr;
};

// A directory of files: write them under path() with write_file or AtomicFile, then commit().
class AtomicDirectory {
 public:
  AtomicDirectory(std::string path, Existing existing);
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;
  ~AtomicDirectory();

  const std::string& path() const { return beside_; }
  void commit();

 private:
  std::string path_, beside_;
  Existing existing_;
  bool done_ = false;
};

void write_file(const std::string& path, std::string_view text, Existing existing);

// The whole file as a string. Throws Error (input).
std::string read_file(const std::string& path);

}  // namespace choir::base
