#include "base/atomic_output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/mapped_file.h"

namespace choir::base {
namespace fs = std::filesystem;
namespace {

// The file is written by huge pages: file systems with large folios may then keep it in such, for whoever maps it.
constexpr size_t kBuffer = size_t{2} << 20;

std::string beside(const std::string& path) { return path + ".partial." + std::to_string(::getpid()); }

[[noreturn]] void disk_error(const char* what, const std::string& path) {
  input_error(what, path, std::strerror(errno));
}

std::string trimmed(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

void sync_directory(const fs::path& directory) {
  const int fd = ::open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

// Moves `from` onto `to`. A directory in the way is first set aside, and removed only once the new one stands.
void put_in_place(const std::string& from, const std::string& to) {
  const std::string aside = from + ".old";
  const bool was_there = fs::is_directory(to);
  if (was_there && ::rename(to.c_str(), aside.c_str()) != 0) disk_error("cannot replace the output", to);
  if (::rename(from.c_str(), to.c_str()) != 0) {
    const int failure = errno;
    if (was_there && ::rename(aside.c_str(), to.c_str()) != 0) errno = failure;
    disk_error("cannot put the output in place", to);
  }
  sync_directory(fs::path(to).parent_path());
  std::error_code ignored;
  if (was_there) fs::remove_all(aside, ignored);
}

}  // namespace

void check_output(const std::string& path, Existing existing, Kind kind) {
  if (path.empty()) usage_error("the output path is empty", "--out", "name a file or directory");
  std::error_code ignored;
  const bool there = fs::exists(fs::symlink_status(path, ignored));
  if (existing == Existing::kRefuse && there)
    usage_error("the output exists", path, "choose another path, or replace it with --force");
  if (there && fs::is_directory(path, ignored) != (kind == Kind::kDirectory))
    usage_error(kind == Kind::kFile ? "the output is a directory" : "the output is a file", path,
                "choose another path");
  const fs::path parent = fs::path(trimmed(path)).parent_path();
  if (!parent.empty() && !fs::is_directory(parent, ignored))
    usage_error("the directory of the output does not exist", parent.string(), "create it first");
}

AtomicFile::AtomicFile(std::string path, Existing existing)
    : path_(std::move(path)), beside_(beside(path_)), existing_(existing), buffer_(new char[kBuffer]) {
  check_output(path_, existing_, Kind::kFile);
  file_ = std::fopen(beside_.c_str(), "wb");
  if (!file_) disk_error("cannot create the output", path_);
  std::setvbuf(file_, buffer_.get(), _IOFBF, kBuffer);
}

AtomicFile::~AtomicFile() {
  if (!file_) return;
  std::fclose(file_);
  ::unlink(beside_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  if (!bytes.empty() && std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size())
    disk_error("cannot write the output", path_);
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

void AtomicFile::flush() {
  if (std::fflush(file_) != 0 || ::fsync(::fileno(file_)) != 0) disk_error("cannot write the output", path_);
}

void AtomicFile::commit() {
  check_output(path_, existing_, Kind::kFile);
  flush();
  if (::rename(beside_.c_str(), path_.c_str()) != 0) disk_error("cannot put the output in place", path_);
  std::fclose(file_);
  file_ = nullptr;
  sync_directory(fs::path(path_).parent_path());
}

AtomicDirectory::AtomicDirectory(std::string path, Existing existing)
    : path_(trimmed(std::move(path))), beside_(beside(path_)), existing_(existing) {
  check_output(path_, existing_, Kind::kDirectory);
  std::error_code failure;
  fs::create_directory(beside_, failure);
  if (failure) input_error("cannot create the output directory", path_, failure.message());
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!done_) fs::remove_all(beside_, ignored);
}

void AtomicDirectory::commit() {
  check_output(path_, existing_, Kind::kDirectory);
  sync_directory(beside_);
  put_in_place(beside_, path_);
  done_ = true;
}

void write_file(const std::string& path, std::string_view text, Existing existing) {
  AtomicFile file(path, existing);
  file.write(text);
  file.commit();
}

std::string read_file(const std::string& path) {
  const MappedFile file(path);
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

}  // namespace choir::base
