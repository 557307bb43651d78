// Where the records of a model's layers come from when somebody asks for them, perhaps more than once.
#pragma once

#include "compress/capture_directory.h"
#include "compress/criteria.h"

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

  // From now on records come with their super experts (C31) pinned; 0: none. Before the first question. kSuper unless
  // it is called.
  void pin_super_experts(double factor) { pin_ = factor; }

  // From now on records come with these slopes, [L][N]. Before the first question.
  void set_slopes(std::vector<std::vector<float>> slopes) { slopes_ = std::move(slopes); }

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
  double pin_ = kSuper;
  std::vector<std::vector<float>> slopes_;
  std::vector<LayerRecord> held_;
};

}  // namespace choir::compress
