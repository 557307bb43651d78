#include "io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <optional>
#include <tuple>
#include <unordered_set>

#include "base/error.h"
#include "io/safetensors_header.h"

namespace choir::io {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are used as they lie in the file");

constexpr const char* kDamaged = "the file is damaged or cut short; fetch it again";

// In the order of the dimensions, as the reference reader does: a shape such as [2^40, 2^40, 0] is refused.
std::optional<size_t> bytes_of(const std::vector<int64_t>& shape, tensor::DType type) {
  size_t product = 1;
  for (int64_t dimension : shape)
    if (__builtin_mul_overflow(product, static_cast<size_t>(dimension), &product)) return std::nullopt;
  if (__builtin_mul_overflow(product, tensor::size_of(type), &product)) return std::nullopt;
  return product;
}

std::string_view header_of(std::span<const std::byte> file, const std::string& path) {
  if (file.size() < kLengthBytes)
    base::input_error("shorter than the 8 bytes of a header length", place_in(path, "", file.size()), kDamaged);
  uint64_t length = 0;
  std::memcpy(&length, file.data(), kLengthBytes);
  const std::string shows = "the header's length is " + std::to_string(length);
  if (length > kMostHeaderBytes)
    base::input_error(shows, place_in(path, "", 0), "at most 100000000 is allowed; is this a safetensors file?");
  if (length > file.size() - kLengthBytes)
    base::input_error(shows + ", longer than the file", place_in(path, "", 0), kDamaged);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, length);
  if (!text.starts_with('{'))
    base::input_error("the header does not begin with {", place_in(path, "", kLengthBytes),
                      "is this a safetensors file?");
  return text;
}

// Checks one entry by itself: its type is known, and its bytes are as many as its shape says and lie in the data.
Tensor tensor_of(HeaderEntry&& entry, std::span<const std::byte> data, const std::string& path) {
  const uint64_t begin = entry.data_offsets[0], end = entry.data_offsets[1];
  const std::string place = place_in(path, entry.name, entry.byte);
  const auto type = tensor::dtype_named(entry.type);
  if (!type)
    base::input_error("an unknown dtype: " + entry.type.substr(0, 20), place,
                      "F64, F32, F16, BF16, F8_E4M3, I64, I32, I16, I8, U8 and BOOL are known");
  if (end < begin) base::input_error("data_offsets run backwards", place, kDamaged);
  if (end > data.size()) base::input_error("data_offsets reach beyond the file", place, kDamaged);
  const auto bytes = bytes_of(entry.shape, *type);
  if (!bytes) base::input_error("the shape is too large for any memory", place, kDamaged);
  if (*bytes != end - begin)
    base::input_error(
        "the shape needs " + std::to_string(*bytes) + " bytes but data_offsets hold " + std::to_string(end - begin),
        place, kDamaged);
  return {std::move(entry.name), *type, std::move(entry.shape), data.subspan(begin, end - begin)};
}

// Whether some bits of each number, here those of the exponent, are never all set.
template <class Bits>
bool exponents_below(std::span<const std::byte> bytes, Bits all_ones) {
  bool bad = false;
  for (size_t i = 0; i < bytes.size(); i += sizeof(Bits)) {
    Bits value;
    std::memcpy(&value, bytes.data() + i, sizeof(Bits));
    bad |= (value & all_ones) == all_ones;
  }
  return !bad;
}

constexpr size_t kLine = 64;

std::vector<size_t> writing_order(std::span<const Tensor> tensors, Placing placing) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const auto broken = [&](const Tensor& t) { return placing == Placing::kLines && t.bytes.size() % kLine != 0; };
    const bool broken_a = broken(tensors[a]), broken_b = broken(tensors[b]);
    const size_t size_a = tensor::size_of(tensors[a].type), size_b = tensor::size_of(tensors[b].type);
    return std::tie(broken_a, size_b, tensors[a].name) < std::tie(broken_b, size_a, tensors[b].name);
  });
  return order;
}

std::string header_for(std::span<const Tensor> tensors, std::span<const size_t> order, const Metadata& metadata,
                       Placing placing) {
  std::vector<const Tensor*> in_order;
  for (const size_t i : order) in_order.push_back(&tensors[i]);
  return format_header(in_order, metadata, placing == Placing::kLines ? kLine : kLengthBytes);
}

void check_writable(std::span<const Tensor> tensors) {
  std::unordered_set<std::string_view> names{"__metadata__"};
  for (const Tensor& t : tensors) {
    CHOIR_CHECK(names.insert(t.name).second, "the tensor name " + t.name + " is taken");
    CHOIR_CHECK(!tensor::is_blocked(t.type), t.name + ": safetensors have no blocks");
    CHOIR_CHECK(std::all_of(t.shape.begin(), t.shape.end(), [](int64_t d) { return d >= 0; }), t.name);
    CHOIR_CHECK(t.shape.size() <= kMostDimensions && bytes_of(t.shape, t.type) == t.bytes.size(),
                t.name + ": " + std::to_string(t.bytes.size()) + " bytes do not fit the shape");
  }
}

}  // namespace

size_t Tensor::elements() const {
  const tensor::Block block = tensor::block_of(type);
  return bytes.size() / block.bytes * block.numbers;
}

Safetensors parse_safetensors(std::span<const std::byte> file, const std::string& path) {
  const std::string_view text = header_of(file, path);
  const auto data = file.subspan(kLengthBytes + text.size());
  Header header = parse_header(text, path);
  auto& entries = header.entries;
  std::sort(entries.begin(), entries.end(), [](const HeaderEntry& a, const HeaderEntry& b) {
    return std::tie(a.data_offsets, a.name) < std::tie(b.data_offsets, b.name);
  });

  Safetensors contents{{}, std::move(header.metadata)};
  uint64_t covered = 0;
  for (HeaderEntry& entry : entries) {
    if (entry.data_offsets[0] != covered)
      base::input_error("the bytes begin at " + std::to_string(entry.data_offsets[0]) + " of the data, not at " +
                            std::to_string(covered) + " where the tensor before ends",
                        place_in(path, entry.name, entry.byte), kDamaged);
    covered = entry.data_offsets[1];
    contents.tensors.push_back(tensor_of(std::move(entry), data, path));
  }
  if (covered != data.size())
    base::input_error(std::to_string(data.size() - covered) + " bytes belong to no tensor",
                      place_in(path, "", kLengthBytes + text.size() + covered), kDamaged);
  return contents;
}

SafetensorsFile::SafetensorsFile(const std::string& path)
    : file_(path), contents_(parse_safetensors(file_.bytes(), path)) {
  for (size_t i = 0; i < contents_.tensors.size(); ++i) index_.emplace(contents_.tensors[i].name, i);
}

const Tensor* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &contents_.tensors[found->second];
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::span<const Tensor> tensors, const Metadata& metadata,
                                     base::Existing existing, Placing placing)
    : file_(path, existing) {
  check_writable(tensors);
  order_ = writing_order(tensors, placing);
  const std::string header = header_for(tensors, order_, metadata, placing);
  const uint64_t length = header.size();
  if (length > kMostHeaderBytes)
    base::input_error("the header would be too long for any reader", path, "write fewer tensors into one file");
  file_.write(std::as_bytes(std::span(&length, 1)));
  file_.write(header);
  for (const Tensor& t : tensors) left_ += t.bytes.size();
}

void SafetensorsWriter::write(std::span<const std::byte> piece) {
  CHOIR_CHECK(piece.size() <= left_, "more bytes than were declared");
  file_.write(piece);
  left_ -= piece.size();
}

void SafetensorsWriter::commit() {
  CHOIR_CHECK(left_ == 0, std::to_string(left_) + " bytes are missing");
  file_.commit();
}

void write_safetensors(const std::string& path, std::span<const Tensor> tensors, const Metadata& metadata,
                       base::Existing existing) {
  SafetensorsWriter writer(path, tensors, metadata, existing);
  for (const size_t i : writer.order()) writer.write(tensors[i].bytes);
  writer.commit();
}

size_t safetensors_size(std::span<const Tensor> tensors, const Metadata& metadata) {
  const auto order = writing_order(tensors, Placing::kReference);
  size_t size = kLengthBytes + header_for(tensors, order, metadata, Placing::kReference).size();
  for (const Tensor& t : tensors) size += t.bytes.size();
  return size;
}

// A number is a NaN or an infinity exactly when all bits of its exponent are set; asking the bits works at any address.
bool all_finite(const Tensor& tensor) {
  switch (tensor.type) {
    case tensor::DType::kF64: return exponents_below<uint64_t>(tensor.bytes, 0x7ff0'0000'0000'0000);
    case tensor::DType::kF32: return exponents_below<uint32_t>(tensor.bytes, 0x7f80'0000);
    case tensor::DType::kBF16: return exponents_below<uint16_t>(tensor.bytes, 0x7f80);
    case tensor::DType::kF16: return exponents_below<uint16_t>(tensor.bytes, 0x7c00);
    case tensor::DType::kF8E4M3: return exponents_below<uint8_t>(tensor.bytes, 0x7f);  // its only NaN
    default: return true;
  }
}

bool is_aligned(const Tensor& tensor) {
  if (tensor::is_blocked(tensor.type)) return true;  // blocks are read byte by byte
  return reinterpret_cast<uintptr_t>(tensor.bytes.data()) % tensor::size_of(tensor.type) == 0;
}

}  // namespace choir::io
