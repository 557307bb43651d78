#include "compress/capture_directory.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "compress/fingerprint.h"
#include "compress/record_file.h"
#include "compress/strict_json.h"

namespace choir::compress {
namespace {

namespace fs = std::filesystem;
using io::Json;

constexpr int kVersion = 1;
constexpr int kMost = 1 << 18, kMostExperts = 4096;  // as in a model's config

std::string description(const std::string& directory) { return directory + "/capture.json"; }

std::string text_of(const CaptureInfo& info) {
  nlohmann::ordered_json json{{"choir_capture", kVersion},
                              {"fingerprint", info.fingerprint},
                              {"calibration", info.calibration},
                              {"batches", info.batches},
                              {"layers", nlohmann::ordered_json::array()}};
  for (const CaptureLayer& layer : info.layers)
    json["layers"].push_back(nlohmann::ordered_json{
        {"router", layer.router}, {"experts", layer.experts}, {"ranks", layer.ranks}, {"width", layer.width}});
  return json.dump(2) + "\n";
}

// The rule of a router that a file names, so that its faults are the file's.
moe::SubsetRule rule_of(const CaptureLayer& layer, const std::string& where) {
  try {
    const moe::Router router = moe::parse_router(layer.router);
    moe::check_router(router, layer.experts, layer.width, where);
    if (const auto rule = router.subset_rule()) return *rule;
  } catch (const base::Error& error) {
    base::input_error(error.message, where + ": field \"router\"", error.hint);
  }
  base::input_error("the router is not one that experts can be taken from: " + layer.router, where, "capture anew");
}

CaptureLayer layer_of(const Json& json, const std::string& where) {
  only_keys(json, {"router", "experts", "ranks", "width"}, where);
  const io::Fields fields(json, where);
  CaptureLayer layer;
  layer.router = fields.get_string("router");
  layer.experts = static_cast<int>(fields.get_int("experts", 0, kMostExperts));
  layer.ranks = static_cast<int>(fields.get_int("ranks", std::min(1, layer.experts), layer.experts));
  layer.width = static_cast<int>(fields.get_int("width", 1, kMost));
  if (layer.experts == 0) return layer;  // a dense layer
  const moe::SubsetRule rule = rule_of(layer, where);
  if (layer.ranks < (rule.groups > 1 ? layer.experts : rule.k))
    base::input_error(std::to_string(layer.ranks) + " ranks are too few for " + layer.router, where, "capture anew");
  return layer;
}

CaptureInfo read_info(const std::string& path) {
  const Json json = io::read_json(path);
  only_keys(json, {"choir_capture", "fingerprint", "calibration", "batches", "layers"}, path);
  const io::Fields fields(json, path);
  fields.get_int("choir_capture", kVersion, kVersion);
  CaptureInfo info;
  info.fingerprint = fields.get_string("fingerprint");
  info.calibration = fields.get_string("calibration");
  info.batches = numbers_at(json, "batches", 1, INT32_MAX, path);
  for (const Json& layer : array_at(json, "layers", path))
    info.layers.push_back(layer_of(layer, path + ": layers[" + std::to_string(info.layers.size()) + "]"));
  if (info.layers.empty() || info.batches.empty() || info.tokens() > INT32_MAX)
    base::input_error("no layers, or no tokens, or too many", path, "capture anew");
  return info;
}

// What differs, in a word.
std::string difference(const CaptureInfo& a, const CaptureInfo& b) {
  if (a.fingerprint != b.fingerprint) return "model";
  if (a.calibration != b.calibration) return "calibration text";
  return "size: other ranks, batches or layers";
}

bool is_half_written(const fs::path& path) {
  const std::string name = path.filename().string();
  return (name.starts_with("layer-") || name.starts_with("capture.json")) && name.find(".partial.") != name.npos;
}

void remove_half_written(const std::string& directory) {
  std::error_code failure;
  std::vector<fs::path> found;
  for (fs::directory_iterator it(directory, failure), end; !failure && it != end; it.increment(failure))
    if (is_half_written(it->path())) found.push_back(it->path());
  for (const fs::path& path : found)
    if (!failure) fs::remove(path, failure);
  if (failure) base::input_error("cannot remove half a file", directory, failure.message());
}

std::vector<int32_t> bounds_of(const std::vector<int>& batches) {
  std::vector<int32_t> bounds{0};
  for (const int tokens : batches) bounds.push_back(bounds.back() + tokens);
  return bounds;
}

}  // namespace

int64_t CaptureInfo::tokens() const {
  int64_t sum = 0;
  for (const int count : batches) sum += count;
  return sum;
}

CaptureInfo describe_capture(const Model& given, std::span<const CalibrationBatch> batches,
                             const ObserveOptions& options, Threads& threads) {
  check_batches(batches);
  check_observable(given);
  const Model model = given.with_admission("all");
  CaptureInfo info;
  for (const CalibrationBatch& batch : batches) info.batches.push_back(static_cast<int>(batch.ids.size()));
  if (info.tokens() > INT32_MAX)
    base::input_error("too many tokens: " + std::to_string(info.tokens()), "calibration",
                      "capture less text at a time and merge the captures");
  info.calibration = calibration_hash(batches);
  info.fingerprint = fingerprint(model, threads);
  for (int l = 0; l < model.config().depth(); ++l)
    info.layers.push_back({model.router(l).expression(), model.config().layers[static_cast<size_t>(l)].experts,
                           observed_ranks(model, l, options), model.config().width});
  return info;
}

CaptureDirectory::CaptureDirectory(std::string path, CaptureInfo info)
    : path_(std::move(path)), info_(std::move(info)) {}

CaptureDirectory::CaptureDirectory(std::string path) : path_(std::move(path)), info_(read_info(description(path_))) {}

CaptureDirectory CaptureDirectory::begin(const std::string& path, const CaptureInfo& info) {
  std::error_code failure;
  if (!fs::is_directory(path, failure)) {
    base::check_output(path, base::Existing::kRefuse, base::Kind::kDirectory);
    fs::create_directory(path, failure);
    if (failure) base::input_error("cannot create the output directory", path, failure.message());
  }
  remove_half_written(path);
  if (!fs::exists(description(path), failure)) {
    if (!fs::is_empty(path, failure))
      base::usage_error("the output exists and is no capture", path, "name an empty or a new directory");
    base::write_file(description(path), text_of(info), base::Existing::kRefuse);
  }
  CaptureDirectory capture(path);
  if (capture.info_ != info)
    base::usage_error("the directory holds a capture of another " + difference(capture.info_, info), path,
                      "name another directory, or remove this one");
  return capture;
}

std::string CaptureDirectory::file_of(int layer) const {
  const std::string number = std::to_string(layer);
  return path_ + "/layer-" + std::string(number.size() < 4 ? 4 - number.size() : 0, '0') + number + ".safetensors";
}

io::Metadata CaptureDirectory::identity(int layer) const {
  return {{"format", "choir layer record " + std::to_string(kVersion)},
          {"model", info_.fingerprint},
          {"calibration", info_.calibration},
          {"layer", std::to_string(layer)},
          {"router", info_.layers[static_cast<size_t>(layer)].router}};
}

int CaptureDirectory::next_layer() const {
  std::error_code ignored;
  int layer = 0;
  const auto done = [&](int l) {
    return info_.layers[static_cast<size_t>(l)].experts == 0 || fs::is_regular_file(file_of(l), ignored);
  };
  while (layer < info_.depth() && done(layer)) ++layer;
  return layer;
}

void CaptureDirectory::store(int layer, const LayerRecord& record) const {
  const CaptureLayer& own = info_.layers[static_cast<size_t>(layer)];
  if (own.experts == 0) return;
  CHOIR_CHECK(record.experts == own.experts && record.ranks == own.ranks && record.width == own.width &&
                  record.batch == bounds_of(info_.batches),
              "the record of layer " + std::to_string(layer) + " has the capture's sizes");
  write_record(file_of(layer), record, identity(layer));
}

LayerRecord CaptureDirectory::load(int layer) const {
  CHOIR_CHECK(layer >= 0 && layer < info_.depth(), "a layer of the capture");
  if (info_.layers[static_cast<size_t>(layer)].experts == 0) return {};
  const std::string path = file_of(layer);
  std::error_code ignored;
  if (!fs::exists(path, ignored))
    base::input_error("the capture lacks layer " + std::to_string(layer), path, "resume it, it was interrupted");
  const CaptureLayer& own = info_.layers[static_cast<size_t>(layer)];
  return read_record(
      path, {rule_of(own, path), own.experts, own.ranks, own.width, bounds_of(info_.batches), identity(layer)});
}

void CaptureDirectory::check_model(const std::string& fingerprint) const {
  if (info_.fingerprint != fingerprint)
    base::input_error("the capture is of another model: fingerprint " + info_.fingerprint.substr(0, 40), path_,
                      "this model has " + fingerprint + "; capture anew");
}

CaptureDirectory capture_to(const std::string& path, const Model& model, std::span<const CalibrationBatch> batches,
                            ObserveOptions options, Threads& threads, const Progress& progress) {
  const CaptureDirectory capture = CaptureDirectory::begin(path, describe_capture(model, batches, options, threads));
  options.first_layer = capture.next_layer();
  if (capture.complete()) return capture;
  const auto take = [&](int layer, const LayerRecord& record) {
    if (!all_finite(record)) model.refuse_result("the answers of layer " + std::to_string(layer));
    capture.store(layer, record);
  };
  observe(model, batches, options, take, threads, progress);
  return capture;
}

CaptureDirectory use_capture(const std::string& path, const Model& model, std::span<const CalibrationBatch> batches,
                             const ObserveOptions& options, Threads& threads, const Progress& progress) {
  std::error_code ignored;
  if (fs::exists(description(path), ignored)) {
    CaptureDirectory found(path);
    check_observable(model);
    found.check_model(fingerprint(model.with_admission("all"), threads));
    if (!batches.empty() && found.info().calibration != calibration_hash(batches))
      base::input_error("the capture is of another text", path, "give the text that it was made from, or none");
    if (found.complete()) return found;
    if (batches.empty())
      base::input_error("the capture is not finished: layer " + std::to_string(found.next_layer()) + " is missing",
                        path, "give the text that it was made from, and it goes on");
  }
  if (batches.empty())
    base::usage_error("no capture is there, and no text to make one from", path, "give text or token ids");
  return capture_to(path, model, batches, options, threads, progress);
}

}  // namespace choir::compress
