// Where the records of a model's layers come from when somebody asks for them, perhaps more than once.
#pragma once

#include "compress/capture_directory.h"

namespace choir::compress {

using VisitRecord = std::function<void(int layer, const LayerRecord& record)>;

class RecordSource {
 public:
  // The files of a capture, which must be finished.
  explicit RecordSource(CaptureDirectory capture) : capture_(std::move(capture)) {}

  // A pass over the tokens, made when records are asked for. What is given must outlive the source.
  RecordSource(const Model& model, std::span<const CalibrationBatch> batches, const ObserveOptions& options,
               Threads& threads, const Progress& progress)
      : model_(&model), batches_(batches), options_(options), threads_(&threads), progress_(&progress) {}

  // Layer after layer, one in memory at a time; a pass for each call, unless all() was called before. Throws Error
  // (input) as observe() and CaptureDirectory::load() do, and for answers that are not finite.
  void each(const VisitRecord& visit);

  // All layers' records, in memory from now on.
  const std::vector<LayerRecord>& all();

  // The files that the records come from; nothing for a source of its own pass.
  const std::optional<CaptureDirectory>& capture() const { return capture_; }

 private:
  void pass(const std::function<void(int, LayerRecord)>& take) const;

  std::optional<CaptureDirectory> capture_;
  const Model* model_ = nullptr;
  std::span<const CalibrationBatch> batches_;
  ObserveOptions options_;
  Threads* threads_ = nullptr;
  const Progress* progress_ = nullptr;
  std::vector<LayerRecord> held_;
};

}  // namespace choir::compress
