// score "linear": the affinity of token t for expert e is the logit z_te = x_t . w_e, with a bias z_te = x_t . w_e +
// b_e.
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

// Where a score's gradient goes; all are added to.
struct ScoreGradient {
  Matrix<float> dx;                        // (N,D)
  std::span<const Matrix<float>> tensors;  // of the score's tensors
  Matrix<float> previous;                  // (N,E) of the scores of the layer before, where the score reads them
};

// The way back of z = x w^T, w the score's tensor number `gate`: dx += dz w, dw += dz^T x.
void gate_backward(const Context& context, size_t gate, Matrix<const float> dz, const ScoreGradient& gradient);

// What proposals compare, where it is not the logit itself: matters only beside a selection bias.
enum class SelectBy { kLogit, kSigmoid, kSqrtSoftplus };

struct LinearScore {
  static constexpr const char* kName = "linear";
  SelectBy select_by = SelectBy::kLogit;
  float jitter = 0;       // training sees x_tj u with u uniform in 1 -+ jitter (arXiv 2101.03961, section 2.2)
  bool bias = false;      // a tensor gate.bias (1,E) behind gate.weight (gpt-oss)
  bool residual = false;  // z^l += W_g z^(l-1) (arXiv 2410.07348, eq. 8)
  // Training starts from w_e at right angles, as BASE's centroids do (arXiv 2103.16716, in the published code).
  bool orthogonal = false;

  bool reads_previous() const { return residual; }
  bool is_cosine() const { return !residual && !bias; }  // times lengths

  std::string misfit(int experts, int width) const;
  static LinearScore read(Arguments& arguments);
  std::string text() const;
  std::vector<GateTensor> tensors(int experts, int width) const;
  void forward(const Context& context, Matrix<float> z) const;
  void backward(const Context& context, const Routing& routing, Matrix<const float> dz,
                const ScoreGradient& gradient) const;
  // 1 / |w_e|: z / (|w_e| |x_t|) is the cosine.
  std::span<const float> inverse_lengths(const Context& context, base::Frame& frame) const;
  // key = what proposals compare, from z; the two may not overlap.
  bool selects() const { return select_by != SelectBy::kLogit; }
  void select(const Context& context, Matrix<const float> z, Matrix<float> key) const;
};

}  // namespace choir::moe
