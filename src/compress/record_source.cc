#include "compress/record_source.h"

#include <string>

#include "compress/record_file.h"

namespace choir::compress {

void RecordSource::pass(const TakeRecord& taker) const {
  const auto take = [&](int layer, LayerRecord record) {
    if (pin_ > 0) record.pinned = super_experts(record, pin_);
    if (!slopes_.empty()) record.slope = slopes_[static_cast<size_t>(layer)];
    taker(layer, std::move(record));
  };
  if (capture_) {
    for (int l = 0; l < capture_->info().depth(); ++l) take(l, capture_->load(l));
    return;
  }
  const auto checked = [&](int layer, LayerRecord record) {
    if (!all_finite(record)) model_->refuse_result("the answers of layer " + std::to_string(layer));
    take(layer, std::move(record));
  };
  observe(*model_, batches_, options_, checked, *threads_, *progress_);
}

void RecordSource::each(const VisitRecord& visit) {
  if (held_.empty()) return pass([&](int layer, LayerRecord record) { visit(layer, record); });
  for (size_t l = 0; l < held_.size(); ++l) visit(static_cast<int>(l), held_[l]);
}

const std::vector<LayerRecord>& RecordSource::all() {
  if (held_.empty()) {
    std::vector<LayerRecord> records;
    pass([&](int, LayerRecord record) { records.push_back(std::move(record)); });
    held_ = std::move(records);
  }
  return held_;
}

}  // namespace choir::compress
