#include "compress/record_file.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "compress/fingerprint.h"

namespace choir::compress {
namespace {

constexpr const char* kDamaged = "the file is damaged or belongs elsewhere; remove it and resume the capture";
constexpr const char* kContent = "content";

using tensor::DType;

constexpr DType type_of(float) { return DType::kF32; }
constexpr DType type_of(double) { return DType::kF64; }
constexpr DType type_of(int32_t) { return DType::kI32; }
constexpr DType type_of(int64_t) { return DType::kI64; }

// The one list of what a file holds: name, shape, numbers. Record is LayerRecord or const LayerRecord.
template <class Record, class Visitor>
void visit(Record& record, const Visitor& visitor) {
  const int64_t n = record.tokens(), e = record.experts, m = record.ranks, d = record.width;
  visitor("key", {n, e}, record.key);
  visitor("p", {n, e}, record.p);
  visitor("order", {n, m}, record.order);
  visitor("gram", {n, m * (m + 1) / 2}, record.gram);
  visitor("residual", {n}, record.residual);
  visitor("turned", {n}, record.turned);
  visitor("coverage", {e}, record.coverage);
  visitor("mean", {e, d}, record.mean);
  visitor("gained_mean", {e, d}, record.gained_mean);
}

using Shape = std::vector<int64_t>;

std::vector<io::Tensor> tensors_of(const LayerRecord& record) {
  std::vector<io::Tensor> tensors;
  visit(record, [&](const char* name, const Shape& shape, const auto& numbers) {
    tensors.push_back({name, type_of(numbers.empty() ? std::decay_t<decltype(numbers[0])>{} : numbers[0]), shape,
                       std::as_bytes(std::span(numbers))});
  });
  return tensors;
}

std::string content_of(const std::vector<io::Tensor>& tensors) {
  Hash hash;
  for (const io::Tensor& tensor : tensors) {
    hash.add(tensor.name);
    hash.add(tensor.bytes);
  }
  return hash.text();
}

[[noreturn]] void refuse(const std::string& what, const std::string& path, const std::string& tensor) {
  base::input_error(what, path + ": tensor \"" + tensor + '"', kDamaged);
}

void check_identity(const io::SafetensorsFile& file, const io::Metadata& identity) {
  for (const auto& [key, value] : identity) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end() || found->second != value)
      base::input_error("the record is of another " + key, file.path(), kDamaged);
  }
  if (file.metadata().size() != identity.size() + 1 || !file.metadata().contains(kContent))
    base::input_error("not the metadata of a record", file.path(), kDamaged);
}

template <class Number>
void copy(const io::SafetensorsFile& file, const char* name, const Shape& shape, std::vector<Number>& numbers) {
  const io::Tensor* found = file.find(name);
  if (!found) base::input_error(std::string("the tensor \"") + name + "\" is missing", file.path(), kDamaged);
  if (found->type != type_of(Number{}) || found->shape != shape)
    refuse("another format or shape than the capture's", file.path(), name);
  if (!io::all_finite(*found)) refuse("a NaN or an infinity", file.path(), name);
  numbers.resize(found->elements());
  if (!found->bytes.empty()) std::memcpy(numbers.data(), found->bytes.data(), found->bytes.size());
}

// Distinct experts, the best first, of equal keys the lower number first.
bool is_ranking(const LayerRecord& record, int token, std::vector<int>& seen) {
  const std::span<const int32_t> ranking = record.ranking(token);
  const float* key = record.keys(token);
  for (size_t r = 0; r < ranking.size(); ++r) {
    const int32_t e = ranking[r];
    if (e < 0 || e >= record.experts || seen[static_cast<size_t>(e)] == token + 1) return false;
    seen[static_cast<size_t>(e)] = token + 1;
    if (r == 0) continue;
    const int32_t before = ranking[r - 1];
    if (key[before] < key[e] || (key[before] == key[e] && before > e)) return false;
  }
  return true;
}

void check_numbers(const LayerRecord& record, const std::string& path) {
  std::vector<int> seen(static_cast<size_t>(record.experts), 0);
  for (int t = 0; t < record.tokens(); ++t) {
    if (!is_ranking(record, t, seen)) refuse("row " + std::to_string(t) + " is not a ranking", path, "order");
    for (int r = 0; r < record.ranks; ++r)
      if (record.product(t, r, r) < 0) refuse("a negative square in row " + std::to_string(t), path, "gram");
  }
  const auto negative = [](float v) { return v < 0; };
  if (std::ranges::any_of(record.p, negative)) refuse("a negative gain", path, "p");
  if (std::ranges::any_of(record.residual, negative)) refuse("a negative square", path, "residual");
  if (std::ranges::any_of(record.turned, negative)) refuse("a negative number", path, "turned");
  const auto possible = [&](int64_t count) { return count >= 0 && count <= record.tokens(); };
  const int64_t routed = static_cast<int64_t>(record.tokens()) * std::min(record.rule.k, record.experts);
  if (!std::ranges::all_of(record.coverage, possible) ||
      std::accumulate(record.coverage.begin(), record.coverage.end(), int64_t{0}) != routed)
    refuse("tokens that do not add up to " + std::to_string(routed), path, "coverage");
}

}  // namespace

bool all_finite(const LayerRecord& record) {
  return std::ranges::all_of(tensors_of(record), [](const io::Tensor& tensor) { return io::all_finite(tensor); });
}

void write_record(const std::string& path, const LayerRecord& record, const io::Metadata& identity) {
  const std::vector<io::Tensor> tensors = tensors_of(record);
  io::Metadata metadata = identity;
  metadata[kContent] = content_of(tensors);
  io::write_safetensors(path, tensors, metadata, base::Existing::kReplace);
}

LayerRecord read_record(const std::string& path, const RecordFrame& frame) {
  const io::SafetensorsFile file(path);
  check_identity(file, frame.identity);
  LayerRecord record;
  record.rule = frame.rule;
  record.experts = frame.experts;
  record.ranks = frame.ranks;
  record.width = frame.width;
  record.batch = frame.batch;
  size_t known = 0;
  visit(record, [&](const char* name, const Shape& shape, auto& numbers) {
    copy(file, name, shape, numbers);
    ++known;
  });
  if (file.tensors().size() != known) base::input_error("a tensor that no record has", path, kDamaged);
  check_numbers(record, path);
  if (file.metadata().at(kContent) != content_of(tensors_of(record)))
    base::input_error("the numbers are not those that were written", path, kDamaged);
  return record;
}

}  // namespace choir::compress
