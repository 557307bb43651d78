#include "moe/score/cosine.h"

#include <algorithm>

#include "kernels/gemm.h"
#include "moe/lengths.h"

namespace choir::moe {
namespace {

constexpr int kRows = 64;  // of one piece

size_t pieces_of(int rows) { return static_cast<size_t>((rows + kRows - 1) / kRows); }

// body(piece, t) for every row, the pieces shared out.
template <class Body>
void each_piece(int rows, Threads& threads, const Body& body) {
  threads.for_each(static_cast<int>(pieces_of(rows)), [&](int piece) {
    for (int t = piece * kRows; t < std::min(rows, (piece + 1) * kRows); ++t) body(piece, t);
  });
}

}  // namespace

std::optional<float> read_kappa(Arguments& arguments, const char* word) {
  const Phrase* kappa = arguments.phrase("kappa");
  if (!kappa || is_name(*kappa, "sqrt_d")) return {};
  const Phrase alone{"", word, {*kappa}};
  return static_cast<float>(Arguments(alone).number("kappa", 1e-6, 1e6));
}

std::string written_kappa(std::optional<float> kappa) { return "kappa=" + (kappa ? written(*kappa) : "sqrt_d"); }

void cosine_forward(Matrix<const float> x, const Weight& w, float scale, Matrix<float> z, Threads& threads) {
  kernels::gemm_forward(x, w, z, threads);
  base::Frame frame(threads);
  const std::span<const float> ix = inverse_lengths(x, frame, threads), iw = inverse_lengths(w, frame, threads);
  each_piece(z.rows, threads, [&](int, int t) {
    const float row = scale * ix[static_cast<size_t>(t)];
    for (int e = 0; e < z.cols; ++e) z[t][e] *= row * iw[static_cast<size_t>(e)];
  });
}

// With s_te = scale dz_te / (|x_t| |w_e|):
//   dx_t += sum_e s_te w_e - x_t / |x_t|^2 sum_e dz_te z_te,   dw_e += sum_t s_te x_t - w_e / |w_e|^2 sum_t dz_te z_te.
// A masked expert has z = -infinity and dz = 0.
void cosine_backward(const CosineBackward& step, Threads& threads) {
  const Matrix<const float> x = step.x, w = step.w, z = step.z, dz = step.dz;
  base::Frame frame(threads);
  const std::span<const float> ix = inverse_lengths(x, frame, threads), iw = inverse_lengths(w, frame, threads);
  const Matrix<float> s = matrix_in(frame, dz.rows, dz.cols);
  // Sums are taken piece by piece.
  const std::span<double> part = frame.list<double>(pieces_of(dz.rows) * static_cast<size_t>(dz.cols));
  each_piece(dz.rows, threads, [&](int piece, int t) {
    double* turn = part.data() + static_cast<size_t>(piece) * static_cast<size_t>(dz.cols);
    const float inverse = ix[static_cast<size_t>(t)], row = step.scale * inverse;
    float along = 0;
    for (int e = 0; e < dz.cols; ++e) {
      s[t][e] = row * dz[t][e] * iw[static_cast<size_t>(e)];
      const float product = dz[t][e] != 0 ? dz[t][e] * z[t][e] : 0;
      along += product;
      turn[e] += static_cast<double>(product);
    }
    const float pull = along * inverse * inverse;
    for (int j = 0; j < x.cols; ++j) step.dx[t][j] -= pull * x[t][j];
  });
  threads.for_each(dz.cols, [&](int e) {
    double turn = 0;
    for (size_t i = static_cast<size_t>(e); i < part.size(); i += static_cast<size_t>(dz.cols)) turn += part[i];
    const float inverse = iw[static_cast<size_t>(e)], pull = static_cast<float>(turn) * inverse * inverse;
    for (int j = 0; j < w.cols; ++j) step.dw[e][j] -= pull * w[e][j];
  });
  kernels::gemm_backward_input(s, w, step.dx, kernels::Write::kAdd, threads);
  kernels::gemm_backward_weight(s, x, step.dw, threads);
}

}  // namespace choir::moe
