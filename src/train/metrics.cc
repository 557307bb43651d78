#include "train/metrics.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/atomic_output.h"
#include "base/error.h"

namespace choir::train {
namespace {

using Json = nlohmann::ordered_json;

struct Kept {
  std::string lines;
  double seconds = 0;
};

// The lines of whole steps up to `step`; a line cut by a crash is not one.
Kept kept_lines(const std::string& path, int step) {
  Kept kept;
  if (!std::filesystem::exists(path)) return kept;
  const std::string text = base::read_file(path);
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const Json line = Json::parse(text.substr(begin, end - begin), nullptr, false);
    const auto number = line.is_object() ? line.find("step") : line.end();
    if (number == line.end() || !number->is_number_integer() || *number > step) continue;
    kept.lines += text.substr(begin, end - begin + 1);
    if (line.contains("seconds") && line["seconds"].is_number()) kept.seconds += line["seconds"].get<double>();
  }
  return kept;
}

template <class T>
Json json_of(const T& value) {
  return value;
}

template <class T>
Json json_of(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

template <class T>
Json json_of(const std::vector<std::optional<T>>& values) {
  Json array = Json::array();
  for (const std::optional<T>& value : values) array.push_back(json_of(value));
  return array;
}

template <class T>
Json json_of(const std::vector<std::vector<std::optional<T>>>& rows) {
  Json array = Json::array();
  for (const auto& row : rows) array.push_back(json_of(row));
  return array;
}

// An array of one entry for each layer.
template <class T>
Json column(const std::vector<LayerReport>& layers, T LayerReport::*member) {
  Json array = Json::array();
  for (const LayerReport& layer : layers) array.push_back(json_of(layer.*member));
  return array;
}

Json layers_json(const std::vector<LayerReport>& layers) {
  using R = LayerReport;
  Json json{{"capacity", column(layers, &R::capacity)},
            {"capacity_factor", column(layers, &R::capacity_factor)},
            {"log_min_capacity", column(layers, &R::log_min_capacity)},
            {"processed_share", column(layers, &R::processed_share)},
            {"dropped_token_share", column(layers, &R::dropped_token_share)},
            {"max_over_mean_load", column(layers, &R::max_over_mean_load)},
            {"dead_experts", column(layers, &R::dead_experts)},
            {"load_entropy", column(layers, &R::load_entropy)},
            {"balance_loss", column(layers, &R::balance_loss)},
            {"router_gradient_norm", column(layers, &R::router_gradient_norm)},
            {"affinity_kept", column(layers, &R::affinity_kept)},
            {"affinity_dropped", column(layers, &R::affinity_dropped)},
            {"tokens_per_expert", column(layers, &R::tokens_per_expert)},
            {"mean_gate", column(layers, &R::mean_gate)}};
  if (!layers.empty() && layers.front().local_share) json["local_share"] = column(layers, &R::local_share);
  return json;
}

}  // namespace

std::string to_json(const StepReport& r) {
  Json json{{"step", r.step},
            {"loss", r.loss},
            {"balance_loss", r.balance_loss},
            {"gradient_norm", r.gradient_norm},
            {"learning_rate", r.learning_rate},
            {"tokens", r.tokens},
            {"seconds", r.seconds},
            {"tokens_per_second", r.tokens_per_second},
            {"share_of_peak", r.share_of_peak},
            {"max_over_mean_load", r.max_over_mean_load},
            {"processed_share", r.processed_share},
            {"dropped_token_share", r.dropped_token_share},
            {"peak_memory", r.peak_memory}};
  if (r.local_share) json["local_share"] = *r.local_share;
  if (r.distill_loss) json["distill_loss"] = *r.distill_loss;
  json["layers"] = layers_json(r.layers);
  return json.dump();
}

std::string to_json(const Evaluation& e) {
  Json domains = Json::array();
  for (const DomainEvaluation& d : e.domains)
    domains.push_back(Json{{"name", d.name},
                           {"tokens", d.tokens},
                           {"loss", d.loss},
                           {"loss_training_rule", d.loss_training_rule},
                           {"load", d.load},
                           {"affinity", json_of(d.affinity)}});
  return Json{{"step", e.step},
              {"tokens", e.tokens},
              {"seconds", e.seconds},
              {"loss", e.loss},
              {"loss_training_rule", e.loss_training_rule},
              {"agreement", e.agreement},
              {"domains", domains},
              {"expert_cosine", e.expert_cosine},
              {"ch_index", json_of(e.ch_index)}}
      .dump();
}

MetricsFile::MetricsFile(std::string path, int step) : path_(std::move(path)) {
  const Kept kept = kept_lines(path_, step);
  seconds_ = kept.seconds;
  base::write_file(path_, kept.lines, base::Existing::kReplace);
  file_ = std::fopen(path_.c_str(), "ab");
  if (!file_) base::input_error("cannot write", path_, std::strerror(errno));
}

MetricsFile::~MetricsFile() { std::fclose(file_); }

void MetricsFile::add(const std::string& line) {
  std::fwrite(line.data(), 1, line.size(), file_);
  std::fputc('\n', file_);
}

void MetricsFile::flush() {
  if (std::fflush(file_) != 0 || std::ferror(file_)) base::input_error("cannot write", path_, std::strerror(errno));
}

void MetricsFile::sync() {
  flush();
  if (::fsync(::fileno(file_)) != 0) base::input_error("cannot write", path_, std::strerror(errno));
}

}  // namespace choir::train
