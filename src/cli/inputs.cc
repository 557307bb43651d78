#include "cli/inputs.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "model/gguf_model.h"
#include "text/utf8.h"

namespace choir::cli {
namespace {

namespace fs = std::filesystem;

// A path that is too long is one that does not exist.
bool exists(const std::string& path) {
  std::error_code none;
  return fs::exists(path, none);
}

constexpr int kMostBlocks = 128;  // of calibration text, unless --sequences says otherwise (arXiv 2402.14800, table 7)

template <class Integer>
void take_ids(const io::Tensor& tensor, const std::string& where, std::vector<int32_t>& ids) {
  for (size_t i = 0; i < tensor.elements(); ++i) {
    Integer id;
    std::memcpy(&id, tensor.bytes.data() + i * sizeof id, sizeof id);
    if (id < 0 || id > INT32_MAX)
      base::input_error("token id " + std::to_string(id) + " at position " + std::to_string(i), where,
                        "ids are whole numbers from 0 on");
    ids.push_back(static_cast<int32_t>(id));
  }
}

std::vector<compress::CalibrationBatch> batches_of(const Ids& ids, const std::string& where) {
  if (ids.shape.size() < 2)
    base::input_error("the ids of a calibration are [B,T] or [S,B,T]", where, "this tensor has one dimension");
  const bool many = ids.shape.size() == 3;
  const int64_t batches = many ? ids.shape[0] : 1, sequences = ids.shape[many], length = ids.shape[many + 1];
  std::vector<compress::CalibrationBatch> result;
  for (int64_t s = 0; s < batches; ++s) {
    const auto first = ids.ids.begin() + s * sequences * length;
    result.push_back({{first, first + sequences * length}, static_cast<int>(sequences), static_cast<int>(length)});
  }
  return result;
}

// Of a few tokens that any vocabulary has.
std::vector<float> sample_logits(const model::Model& model) {
  const int rows = std::min(8, model.positions());
  std::vector<int32_t> ids;
  for (int i = 0; i < rows; ++i) ids.push_back(static_cast<int32_t>((7LL * i * i + 3 * i) % model.config().vocab));
  const std::vector<kernels::Sequence> sequences{{0, rows, 0, 0}};
  model::Scratch scratch;
  std::vector<float> logits(ids.size() * static_cast<size_t>(model.config().vocab));
  base::Threads threads(1);
  model::forward(model, {ids, sequences}, {}, scratch, {logits.data(), rows, model.config().vocab}, threads);
  return logits;
}

void check_written(const model::Model& model, const std::string& directory, const std::string& out) {
  const std::vector<float> given = sample_logits(model), written = sample_logits(model::Model(directory));
  if (given.size() != written.size() || std::memcmp(given.data(), written.data(), given.size() * sizeof(float)) != 0)
    base::input_error("what was written is not the model that was made", out, "check the disk, and report this");
}

}  // namespace

TensorPlace tensor_place(const std::string& argument, const std::string& otherwise) {
  const size_t colon = exists(argument) ? std::string::npos : argument.rfind(':');
  if (colon == std::string::npos) return {argument, otherwise};
  return {argument.substr(0, colon), argument.substr(colon + 1)};
}

runtime::Use use_for(bool exact) { return exact ? runtime::Use::kRows : runtime::Use::kRun; }

model::Model ready_to_run(const model::Model& model, bool exact, base::Threads& threads) {
  return exact ? model : model.packed(threads);
}

Ids read_ids(const std::string& argument) {
  const auto [path, name] = tensor_place(argument, "input_ids");
  const io::SafetensorsFile file(path);
  const io::Tensor* tensor = file.find(name);
  if (!tensor) base::input_error("no tensor " + name, path, "name one: FILE:TENSOR");
  Ids result{tensor->shape, {}};
  if (tensor->shape.empty() || tensor->shape.size() > 3 || tensor->elements() == 0 || tensor->elements() > INT32_MAX)
    base::input_error("tensor " + name + " is no batch of token ids", path, "its shape must be [B,T] or [S,B,T]");
  if (tensor->type == tensor::DType::kI64)
    take_ids<int64_t>(*tensor, argument, result.ids);
  else if (tensor->type == tensor::DType::kI32)
    take_ids<int32_t>(*tensor, argument, result.ids);
  else
    base::input_error("tensor " + name + " holds " + std::string(tensor::name_of(tensor->type)), path,
                      "token ids are I64 or I32");
  return result;
}

std::string read_text(const std::string& path) {
  std::string text = base::read_file(path);
  if (text.empty()) base::input_error("the text is empty", path, "give a file with text");
  const size_t at = std::min(text::valid_utf8_prefix(text), text.find('\0'));
  if (at < text.size())
    base::input_error("binary, not text: byte " + std::to_string(at) + " is a NUL or not UTF-8", path,
                      "give a file with text");
  return text;
}

std::vector<eval::Document> read_documents(const std::vector<std::string>& paths, const runtime::Bundle& bundle) {
  std::vector<eval::Document> documents;
  for (const std::string& path : paths) documents.push_back(eval::encode_document(bundle.tokenizer(), read_text(path)));
  return documents;
}

std::vector<compress::CalibrationBatch> calibration_batches(const Calibration& options, const runtime::Bundle& bundle) {
  if (!options.ids.empty()) return batches_of(read_ids(options.ids), options.ids);
  if (options.files.empty()) base::usage_error("nothing to calibrate on", "", "give --calibrate FILE... or --ids FILE");
  std::vector<int32_t> stream;
  const auto end = bundle.tokenizer().end_of_text();
  for (const std::string& path : options.files) {
    const std::vector<int32_t> ids = bundle.tokenizer().encode_ordinary(read_text(path));
    stream.insert(stream.end(), ids.begin(), ids.end());
    if (end) stream.push_back(*end);
  }
  const int length = std::min(options.length, bundle.model.positions());
  const int held = std::min(kMostBlocks, static_cast<int>(stream.size()) / length);
  return compress::cut_batches(stream, {.blocks = options.sequences > 0 ? options.sequences : std::max(1, held),
                                        .length = length,
                                        .batch = options.batch});
}

void check_model_output(const std::string& out, const std::string& source, bool force) {
  base::check_output(out, existing(force), base::Kind::kDirectory);
  std::error_code ignored;
  if (!exists(out)) return;
  if (!fs::is_empty(out, ignored) && !exists(out + "/config.json"))
    base::usage_error("the output is a directory that holds no model", out, "--force replaces models alone");
  const fs::path from = fs::canonical(source, ignored), to = fs::canonical(out, ignored);
  if (from != to && std::mismatch(to.begin(), to.end(), from.begin(), from.end()).first == to.end())
    base::usage_error("the output holds the model that is read", out, "choose another path");
}

void copy_companions(const std::string& source, const std::string& directory) {
  for (const char* name : {"tokenizer.json", "tokenizer.model", "added_tokens.json", "tokenizer_config.json",
                           "chat_template.jinja", "special_tokens_map.json", "generation_config.json"})
    if (exists(source + "/" + name))
      base::write_file(directory + "/" + name, base::read_file(source + "/" + name), base::Existing::kRefuse);
}

void write_model(const model::Model& model, const std::string& source, const std::string& out, bool force) {
  base::AtomicDirectory directory(out, existing(force));
  model.save(directory.path(), model::config_file_of(source));
  copy_companions(source, directory.path());
  check_written(model, directory.path(), out);
  directory.commit();
}

base::Existing existing(bool force) { return force ? base::Existing::kReplace : base::Existing::kRefuse; }

}  // namespace choir::cli
