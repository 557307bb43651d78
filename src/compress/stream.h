// A batch of calibration tokens on its way through the layers of a model.
#pragma once

#include "compress/calibration.h"

namespace choir::compress {

struct Stream {
  std::vector<kernels::Sequence> sequences;
  model::ForwardPass pass;
  tensor::Buffer<float> h;  // (N,D) the residual stream

  // Begins with the embeddings. The model, batch and threads must outlive it.
  Stream(const Model& model, const CalibrationBatch& batch, Threads& threads)
      : sequences(sequences_of(batch)),
        pass(model, {batch.ids, sequences}, threads),
        h(static_cast<size_t>(pass.rows()) * static_cast<size_t>(model.config().width)) {
    pass.embed(matrix());
  }

  tensor::Matrix<float> matrix() const {
    return h.matrix(pass.rows(), static_cast<int>(h.size() / static_cast<size_t>(pass.rows())));
  }
};

}  // namespace choir::compress
