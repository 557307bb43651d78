#include "compress/merge_captures.h"

#include <algorithm>

#include "base/error.h"
#include "compress/fingerprint.h"

namespace choir::compress {
namespace {

template <class T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

// sum a_tj^2 over the tokens of each expert: what gained_mean was divided by.
std::vector<double> squared_gains(const LayerRecord& record) {
  std::vector<double> sum(static_cast<size_t>(record.experts), 0.0);
  for (int t = 0; t < record.tokens(); ++t) {
    const Choice own = own_choice(record, t);
    for (size_t i = 0; i < own.rank.size(); ++i)
      sum[static_cast<size_t>(record.ranking(t)[static_cast<size_t>(own.rank[i])])] += own.gain[i] * own.gain[i];
  }
  return sum;
}

// (C36) [E*D] mean = (w mean + v other) / (w + v).
void combine(std::vector<double>& mean, const std::vector<double>& other, const std::vector<double>& w,
             const std::vector<double>& v) {
  const size_t width = mean.size() / w.size();
  for (size_t e = 0; e < w.size(); ++e) {
    if (v[e] == 0) continue;  // then the other mean is of nothing
    const double share = v[e] / (w[e] + v[e]);
    for (size_t i = e * width; i < (e + 1) * width; ++i) mean[i] += share * (other[i] - mean[i]);
  }
}

std::vector<double> as_weights(const std::vector<int64_t>& counts) { return {counts.begin(), counts.end()}; }

void check_alike(const CaptureDirectory& first, const CaptureDirectory& other) {
  const CaptureInfo &a = first.info(), &b = other.info();
  const std::string both = first.path() + ", " + other.path();
  if (a.fingerprint != b.fingerprint)
    base::input_error("captures of different models", both, "merge captures of one model on different text");
  for (size_t l = 0; l < std::min(a.layers.size(), b.layers.size()); ++l)
    if (a.layers[l].ranks != b.layers[l].ranks)
      base::input_error("captures with " + std::to_string(a.layers[l].ranks) + " and " +
                            std::to_string(b.layers[l].ranks) + " ranks in layer " + std::to_string(l),
                        both, "capture both with the same ranks");
  if (a.layers != b.layers) base::input_error("captures of different layers", both, "one of them is damaged");
}

CaptureInfo merged_info(const std::vector<CaptureDirectory>& captures) {
  CaptureInfo info = captures.front().info();
  info.batches.clear();
  Hash calibration;
  std::vector<std::string> texts;
  for (const CaptureDirectory& capture : captures) {
    check_alike(captures.front(), capture);
    if (!capture.complete())
      base::input_error("the capture lacks layer " + std::to_string(capture.next_layer()), capture.path(),
                        "resume it, it was interrupted");
    const std::string& text = capture.info().calibration;
    if (std::ranges::find(texts, text) != texts.end())
      base::input_error("two captures saw the same text", capture.path(), "merge captures of different text");
    texts.push_back(text);
    calibration.add(text);
    append(info.batches, capture.info().batches);
  }
  if (info.tokens() > INT32_MAX)
    base::input_error("too many tokens: " + std::to_string(info.tokens()), captures.back().path(),
                      "merge fewer captures");
  info.calibration = calibration.text();
  return info;
}

}  // namespace

void append_record(LayerRecord& record, const LayerRecord& more) {
  CHOIR_CHECK(record.experts == more.experts && record.ranks == more.ranks && record.width == more.width,
              "records of one layer");
  combine(record.mean, more.mean, as_weights(record.coverage), as_weights(more.coverage));
  combine(record.gained_mean, more.gained_mean, squared_gains(record), squared_gains(more));
  for (size_t e = 0; e < record.coverage.size(); ++e) record.coverage[e] += more.coverage[e];
  const int32_t tokens = record.tokens();
  for (size_t s = 1; s < more.batch.size(); ++s) record.batch.push_back(tokens + more.batch[s]);
  append(record.key, more.key);
  append(record.p, more.p);
  append(record.order, more.order);
  append(record.gram, more.gram);
  append(record.residual, more.residual);
  append(record.turned, more.turned);
}

CaptureDirectory merge_captures(const std::vector<std::string>& from, const std::string& to) {
  if (from.empty()) base::usage_error("no captures to merge", "merge", "name two or more");
  std::vector<CaptureDirectory> captures;
  for (const std::string& path : from) captures.emplace_back(path);
  const CaptureDirectory merged = CaptureDirectory::begin(to, merged_info(captures));
  for (int l = merged.next_layer(); l < merged.info().depth(); ++l) {
    LayerRecord record = captures.front().load(l);
    for (size_t i = 1; i < captures.size(); ++i) append_record(record, captures[i].load(l));
    merged.store(l, record);
  }
  return merged;
}

}  // namespace choir::compress
