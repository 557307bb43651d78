#include "io/gguf.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <tuple>
#include <unordered_set>

#include "base/error.h"
#include "io/json_cursor.h"

namespace choir::io {
namespace {

using tensor::DType;

constexpr const char* kDamaged = "the file is damaged or cut short; fetch it again";
constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr size_t kMostKeyBytes = 65535, kMostNameBytes = 64, kMostDimensions = 4, kMostDepth = 8;
constexpr uint64_t kMostAlignment = 1 << 20;

// The numbers of the types (ggml: enum ggml_type).
constexpr std::array kTypes{std::pair{0u, DType::kF32},   std::pair{1u, DType::kF16},   std::pair{2u, DType::kQ4_0},
                            std::pair{8u, DType::kQ8_0},  std::pair{12u, DType::kQ4_K}, std::pair{14u, DType::kQ6_K},
                            std::pair{24u, DType::kI8},   std::pair{25u, DType::kI16},  std::pair{26u, DType::kI32},
                            std::pair{27u, DType::kI64},  std::pair{28u, DType::kF64},  std::pair{30u, DType::kBF16},
                            std::pair{39u, DType::kMXFP4}};

std::optional<DType> type_numbered(uint32_t number) {
  for (const auto& [n, type] : kTypes)
    if (n == number) return type;
  return std::nullopt;
}

// Bytes of one value of the metadata; 0 for those that have no fixed size.
size_t size_of(GgufType type) {
  constexpr std::array<size_t, 13> kSizes{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return kSizes[static_cast<size_t>(type)];
}

// Reads a file from front to back and never beyond its end.
class Cursor {
 public:
  Cursor(std::span<const std::byte> file, const std::string& path) : file_(file), path_(path) {}

  size_t at() const { return at_; }
  size_t left() const { return file_.size() - at_; }
  void name(std::string subject) { subject_ = std::move(subject); }  // of the errors that follow

  template <class T>
  T take(const char* what) {
    T value;
    std::memcpy(&value, take_bytes(sizeof value, what).data(), sizeof value);
    return value;
  }

  std::span<const std::byte> take_bytes(uint64_t count, const char* what) {
    if (count > left())
      refuse(std::string(what) + " of " + std::to_string(count) + " bytes reaches beyond the file", kDamaged);
    at_ += count;
    return file_.subspan(at_ - count, count);
  }

  std::string_view take_string(const char* what) {
    const auto length = take<uint64_t>(what);
    const auto text = take_bytes(length, what);
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }

  [[noreturn]] void refuse(const std::string& problem, const std::string& hint) const {
    base::input_error(problem, path_ + (subject_.empty() ? "" : ": " + subject_) + ": byte " + std::to_string(at_),
                      hint);
  }

 private:
  std::span<const std::byte> file_;
  const std::string& path_;
  std::string subject_;
  size_t at_ = 0;
};

GgufType take_type(Cursor& cursor) {
  const auto number = cursor.take<uint32_t>("a type");
  if (number > static_cast<uint32_t>(GgufType::kF64))
    cursor.refuse("an unknown type of metadata: " + std::to_string(number), kDamaged);
  return static_cast<GgufType>(number);
}

void skip_bools(Cursor& cursor, uint64_t count) {
  for (const std::byte b : cursor.take_bytes(count, "truth values"))
    if (b > std::byte{1}) cursor.refuse("a truth value that is neither 0 nor 1", kDamaged);
}

// Walks past `count` values of one type. Every element takes at least one byte, so a count beyond the rest of the file
// is refused before anything is done that often.
void skip_values(Cursor& cursor, GgufType type, uint64_t count, size_t depth) {
  if (count > cursor.left())
    cursor.refuse("an array of " + std::to_string(count) + " elements, more than the file has bytes", kDamaged);
  if (type == GgufType::kBool) return skip_bools(cursor, count);
  if (const size_t size = size_of(type); size > 0) {
    if (count > cursor.left() / size) cursor.refuse("an array reaches beyond the file", kDamaged);
    cursor.take_bytes(count * size, "a value");
    return;
  }
  for (uint64_t i = 0; i < count && type == GgufType::kString; ++i) cursor.take_string("a string");
  if (type == GgufType::kString) return;
  if (depth == kMostDepth) cursor.refuse("arrays nested too deep", "at most 8 levels are read");
  for (uint64_t i = 0; i < count; ++i) {
    const GgufType inner = take_type(cursor);
    skip_values(cursor, inner, cursor.take<uint64_t>("a count"), depth + 1);
  }
}

// Segments of lower-case letters, digits and underscores between dots. Real files also have hyphens (of architectures)
// and capitals, so that only what could not be printed is refused.
void check_key(const Cursor& cursor, std::string_view key) {
  const bool printable = std::all_of(key.begin(), key.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  if (key.empty() || key.size() > kMostKeyBytes || !printable)
    cursor.refuse("not a key: " + shown(key), "keys are ASCII, 1 to 65535 bytes");
}

std::vector<GgufEntry> take_entries(Cursor& cursor, uint64_t count, std::span<const std::byte> file) {
  std::vector<GgufEntry> entries;
  std::unordered_set<std::string_view> keys;
  for (uint64_t i = 0; i < count; ++i) {
    GgufEntry entry;
    cursor.name("key " + std::to_string(i));
    entry.key = cursor.take_string("a key");
    check_key(cursor, entry.key);
    cursor.name("key " + shown(entry.key));
    if (!keys.insert(entry.key).second) cursor.refuse("a key that stands twice", kDamaged);
    entry.type = take_type(cursor);
    entry.is_array = entry.type == GgufType::kArray;
    if (entry.is_array) {
      entry.type = take_type(cursor);
      entry.count = cursor.take<uint64_t>("a count");
    }
    entry.byte = cursor.at();
    skip_values(cursor, entry.type, entry.count, 1);
    entry.bytes = file.subspan(entry.byte, cursor.at() - entry.byte);
    entries.push_back(entry);
  }
  cursor.name("");
  return entries;
}

// One tensor before its bytes are known to be there.
struct Info {
  Tensor tensor;
  uint64_t offset = 0, bytes = 0;
  size_t byte = 0;  // of the file, where its description ends
};

uint64_t bytes_of(const Cursor& cursor, const Tensor& t) {
  const tensor::Block block = tensor::block_of(t.type);
  const auto row = static_cast<uint64_t>(t.shape.empty() ? 1 : t.shape.back());
  if (row % block.numbers != 0)
    cursor.refuse(
        "rows of " + std::to_string(row) + " numbers are not whole blocks of " + std::string(tensor::name_of(t.type)),
        kDamaged);
  uint64_t bytes = row / block.numbers;
  bool fits = !__builtin_mul_overflow(bytes, block.bytes, &bytes);
  for (size_t d = 0; d + 1 < t.shape.size(); ++d)
    fits = fits && !__builtin_mul_overflow(bytes, static_cast<uint64_t>(t.shape[d]), &bytes);
  if (!fits) cursor.refuse("the shape is too large for any memory", kDamaged);
  return bytes;
}

Info take_info(Cursor& cursor, uint64_t alignment) {
  Info info;
  const std::string_view name = cursor.take_string("a name");
  cursor.name("tensor " + shown(name));
  if (name.empty() || name.size() > kMostNameBytes) cursor.refuse("not a tensor's name", "1 to 64 bytes");
  info.tensor.name = name;
  const auto dimensions = cursor.take<uint32_t>("a number of dimensions");
  if (dimensions > kMostDimensions) cursor.refuse(std::to_string(dimensions) + " dimensions", "a tensor has at most 4");
  for (uint32_t d = 0; d < dimensions; ++d) {
    const auto size = cursor.take<uint64_t>("a dimension");
    if (size > static_cast<uint64_t>(INT64_MAX)) cursor.refuse("a dimension is beyond 63 bits", kDamaged);
    info.tensor.shape.insert(info.tensor.shape.begin(), static_cast<int64_t>(size));
  }
  const auto number = cursor.take<uint32_t>("a type");
  const auto type = type_numbered(number);
  if (!type)
    cursor.refuse("a tensor of type " + std::to_string(number),
                  "F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K, MXFP4 and whole numbers are known");
  info.tensor.type = *type;
  info.bytes = bytes_of(cursor, info.tensor);
  info.offset = cursor.take<uint64_t>("an offset");
  info.byte = cursor.at();
  if (info.offset % alignment != 0)
    cursor.refuse("the offset " + std::to_string(info.offset) + " is no multiple of the alignment", kDamaged);
  return info;
}

std::vector<Info> take_infos(Cursor& cursor, uint64_t count, uint64_t alignment) {
  std::vector<Info> infos;
  std::unordered_set<std::string> names;
  for (uint64_t i = 0; i < count; ++i) {
    cursor.name("tensor " + std::to_string(i));
    infos.push_back(take_info(cursor, alignment));
    if (!names.insert(infos.back().tensor.name).second) cursor.refuse("a name that stands twice", kDamaged);
  }
  cursor.name("");
  return infos;
}

// Cuts the data into the tensors. All numbers are below 2^63 or checked against the file first.
void place(std::vector<Info>& infos, std::span<const std::byte> data, uint64_t alignment, const std::string& path) {
  std::sort(infos.begin(), infos.end(), [](const Info& a, const Info& b) {
    return std::tie(a.offset, a.bytes, a.tensor.name) < std::tie(b.offset, b.bytes, b.tensor.name);
  });
  const auto padded = [&](uint64_t end) { return (end + alignment - 1) / alignment * alignment; };
  uint64_t end = 0;
  for (Info& info : infos) {
    const std::string where = path + ": tensor " + shown(info.tensor.name) + ": byte " + std::to_string(info.byte);
    if (info.offset != padded(end))
      base::input_error("the bytes begin at " + std::to_string(info.offset) + " of the data, not at " +
                            std::to_string(padded(end)) + " where the tensor before ends",
                        where, kDamaged);
    if (info.offset > data.size() || info.bytes > data.size() - info.offset)
      base::input_error("its " + std::to_string(info.bytes) + " bytes reach beyond the file", where, kDamaged);
    info.tensor.bytes = data.subspan(info.offset, info.bytes);
    end = info.offset + info.bytes;
  }
  if (padded(end) < data.size())
    base::input_error(std::to_string(data.size() - padded(end)) + " bytes belong to no tensor", path, kDamaged);
}

void check_version(const Cursor& cursor, uint32_t version) {
  if (version == 2 || version == 3) return;
  const bool swapped = version % 65536 == 0;
  cursor.refuse("GGUF of version " + std::to_string(version),
                swapped ? "the file is for machines of the other byte order" : "versions 2 and 3 are known");
}

}  // namespace

std::optional<uint32_t> gguf_number_of(DType type) {
  for (const auto& [number, t] : kTypes)
    if (t == type) return number;
  return std::nullopt;
}

Gguf parse_gguf(std::span<const std::byte> file, const std::string& path) {
  Cursor cursor(file, path);
  if (cursor.left() < sizeof kMagic || cursor.take<uint32_t>("the mark") != kMagic)
    cursor.refuse("the file does not begin with GGUF", "is this a GGUF file?");
  Gguf contents;
  contents.version = cursor.take<uint32_t>("the version");
  check_version(cursor, contents.version);
  const auto tensors = cursor.take<uint64_t>("a count"), entries = cursor.take<uint64_t>("a count");
  contents.metadata = GgufMetadata(take_entries(cursor, entries, file), path);
  const auto alignment = static_cast<uint64_t>(contents.metadata.get_int("general.alignment", 8, kMostAlignment, 32));
  if (alignment % 8 != 0)
    base::input_error("an alignment of " + std::to_string(alignment), path + ": key \"general.alignment\"",
                      "it must be a multiple of 8");
  std::vector<Info> infos = take_infos(cursor, tensors, alignment);
  const uint64_t begin = (cursor.at() + alignment - 1) / alignment * alignment;
  if (begin > file.size() && !infos.empty()) cursor.refuse("the file ends before its tensors", kDamaged);
  place(infos, file.subspan(std::min(begin, file.size())), alignment, path);
  for (Info& info : infos) contents.tensors.push_back(std::move(info.tensor));
  return contents;
}

}  // namespace choir::io
