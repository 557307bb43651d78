// What a whole model did with the calibration tokens, on disk: a file for each layer, and one that says what they are.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "compress/observe.h"

namespace choir::compress {

struct CaptureLayer {
  std::string router;  // the expression in full, without a threshold of skipping
  int experts = 0, ranks = 0, width = 0;

  bool operator==(const CaptureLayer&) const = default;
};

// What is known of a capture before its first layer, and the same for all of them.
struct CaptureInfo {
  std::string fingerprint;   // of the model
  std::string calibration;   // of the token ids
  std::vector<int> batches;  // tokens of each
  std::vector<CaptureLayer> layers;

  bool operator==(const CaptureInfo&) const = default;
  int depth() const { return static_cast<int>(layers.size()); }
  int64_t tokens() const;
};

// Throws Error (input) for a router that experts cannot be taken from, and for batches that are none.
CaptureInfo describe_capture(const Model& model, std::span<const CalibrationBatch> batches,
                             const ObserveOptions& options, Threads& threads);

// The directory: capture.json and layer-0000.safetensors, ... (docs/formats.md). A file appears when its layer is done,
// whole; what a killed run left half-written has another name, is never read, and is removed by begin(). Holds no
// record in memory. Threads may load at the same time.
class CaptureDirectory {
 public:
  // Opens what is there. Throws Error (input) for a directory that is no capture.
  explicit CaptureDirectory(std::string path);

  // Creates the directory, or goes on with one that holds the beginning of the very same capture. Throws Error (usage)
  // where something else is.
  static CaptureDirectory begin(const std::string& path, const CaptureInfo& info);

  const std::string& path() const { return path_; }
  const CaptureInfo& info() const { return info_; }
  int next_layer() const;  // the first that is missing; depth() where none is
  bool complete() const { return next_layer() == info_.depth(); }

  void store(int layer, const LayerRecord& record) const;
  // Throws Error (input) naming the file, and the tensor where it is one's fault, also when the layer is missing.
  LayerRecord load(int layer) const;

  // Throws Error (input) when the capture is of another model.
  void check_model(const std::string& fingerprint) const;

 private:
  CaptureDirectory(std::string path, CaptureInfo info);
  std::string file_of(int layer) const;
  io::Metadata identity(int layer) const;

  std::string path_;
  CaptureInfo info_;
};

// Observes the model into the directory, or the layers that are still missing there; a run that is stopped goes on with
// the layer it was at. Throws as describe_capture, begin and observe do.
CaptureDirectory capture_to(const std::string& path, const Model& model, std::span<const CalibrationBatch> batches,
                            ObserveOptions options, Threads& threads, const Progress& progress = {});

// The capture at `path`: opened where it is finished, otherwise made, or gone on with. A finished one needs no batches,
// and its ranks may be others than the options ask for. Throws Error (input) when it is of another model or text, or of
// no text and not finished, (usage) when there is none and no text either, and as capture_to does.
CaptureDirectory use_capture(const std::string& path, const Model& model, std::span<const CalibrationBatch> batches,
                             const ObserveOptions& options, Threads& threads, const Progress& progress = {});

}  // namespace choir::compress
