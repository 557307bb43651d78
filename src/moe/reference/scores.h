// Scores of a whole batch as straight loops: z (N,E) from x (N,D), row-major. S is double, or std::complex<double> for
// the gradient test; each backward is written by hand in double. A zero vector has cosine 0 and gradient 0.
#pragma once

#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

#include "moe/reference/layer.h"

namespace choir::moe::reference {

// The channels of expert e: floor(eD/E) to floor((e+1)D/E), that is D/E each where E divides D (arXiv 2401.13920).
struct Block {
  size_t begin, end;
  size_t size() const { return end - begin; }
};
inline Block block(size_t e, size_t width, size_t experts) { return {e * width / experts, (e + 1) * width / experts}; }

template <class S>
S dot(const std::vector<S>& a, const std::vector<S>& b) {
  S sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// v / |v|; a zero vector stays zero.
template <class S>
std::vector<S> unit(std::vector<S> v) {
  const S square = dot(v, v);
  if (!(real_part(square) > 0)) return std::vector<S>(v.size(), S(0));
  for (S& c : v) c /= std::sqrt(square);
  return v;
}

// With u = v / |v|: dv = (du - (du . u) u) / |v|.
inline std::vector<double> unit_backward(std::vector<double> du, const std::vector<double>& v) {
  const double square = dot(v, v);
  if (!(square > 0)) return std::vector<double>(v.size());
  const std::vector<double> u = unit(v);
  const double along = dot(du, u);
  for (size_t i = 0; i < v.size(); ++i) du[i] = (du[i] - along * u[i]) / std::sqrt(square);
  return du;
}

template <class S>
S sigmoid(const S& v) {
  if (real_part(v) >= 0) return 1.0 / (1.0 + std::exp(-v));
  return std::exp(v) / (1.0 + std::exp(v));
}

inline double log_one_plus(double v) { return std::log1p(v); }
inline std::complex<double> log_one_plus(const std::complex<double>& v) {
  return {std::log1p(2 * v.real() + std::norm(v)) / 2, std::atan2(v.imag(), 1 + v.real())};
}

// ln(1 + e^v)
template <class S>
S softplus(const S& v) {
  return real_part(v) > 0 ? v + log_one_plus(S(std::exp(-v))) : log_one_plus(S(std::exp(v)));
}

template <class S>
S logsumexp(const std::vector<S>& z) {
  double most = -HUGE_VAL;
  for (const S& v : z) most = std::max(most, real_part(v));
  S sum = 0;
  for (const S& v : z) sum += std::exp(v - most);
  return most + std::log(sum);
}

struct ScoreGradients {
  std::vector<double> x, w;  // dx (N,D), dw as w
};

// y = x w^T: dx = dy w, dw = dy^T x.
inline ScoreGradients linear_backward(const std::vector<double>& dy, const std::vector<double>& x,
                                      const std::vector<double>& w, size_t cols) {
  const size_t n = x.size() / cols, rows = w.size() / cols;
  ScoreGradients d{std::vector<double>(x.size()), std::vector<double>(w.size())};
  for (size_t t = 0; t < n; ++t)
    for (size_t i = 0; i < rows * cols; ++i) {
      d.x[t * cols + i % cols] += dy[t * rows + i / cols] * w[i];
      d.w[i] += dy[t * rows + i / cols] * x[t * cols + i % cols];
    }
  return d;
}

// z_te = relu(mean of block e of x_t + eps) (arXiv 2401.13920, grouped average pooling).
template <class S>
std::vector<S> grap(const std::vector<S>& x, size_t width, size_t experts, double eps) {
  std::vector<S> z;
  for (size_t t = 0; t < x.size() / width; ++t)
    for (size_t e = 0; e < experts; ++e) {
      const Block b = block(e, width, experts);
      S sum = 0;
      for (size_t j = b.begin; j < b.end; ++j) sum += x[t * width + j];
      const S mean = sum / double(b.size()) + eps;
      z.push_back(real_part(mean) > 0 ? mean : S(0));
    }
  return z;
}

inline std::vector<double> grap_backward(const std::vector<double>& dz, const std::vector<double>& x, size_t width,
                                         size_t experts, double eps) {
  const std::vector<double> z = grap(x, width, experts, eps);
  std::vector<double> dx(x.size());
  for (size_t i = 0; i < z.size(); ++i) {
    const Block b = block(i % experts, width, experts);
    if (!(z[i] > 0)) continue;
    for (size_t j = b.begin; j < b.end; ++j) dx[i / experts * width + j] = dz[i] / double(b.size());
  }
  return dx;
}

// z_te = kappa (sum of block e of x_t) / (sqrt(b_e) |x_t|): the cosine of x_t and the block's indicator
// (arXiv 2406.00023, eq. 2-4).
template <class S>
std::vector<S> grap_cosine(const std::vector<S>& x, size_t width, size_t experts, double kappa) {
  std::vector<S> z;
  for (size_t t = 0; t < x.size() / width; ++t) {
    const std::vector<S> u = unit(row_of(x, t, width));
    for (size_t e = 0; e < experts; ++e) {
      const Block b = block(e, width, experts);
      S sum = 0;
      for (size_t j = b.begin; j < b.end; ++j) sum += u[j];
      z.push_back(kappa * sum / std::sqrt(double(b.size())));
    }
  }
  return z;
}

// With d_e = kappa dz_te: dx_j = (d_e(j) / sqrt(b_e(j)) - u_j sum_e d_e delta_e) / |x|.
inline std::vector<double> grap_cosine_backward(const std::vector<double>& dz, const std::vector<double>& x,
                                                size_t width, size_t experts, double kappa) {
  const std::vector<double> delta = grap_cosine(x, width, experts, 1.0);
  std::vector<double> dx(x.size());
  for (size_t t = 0; t < x.size() / width; ++t) {
    const std::vector<double> row = row_of(x, t, width), u = unit(row);
    const double length = std::sqrt(dot(row, row));
    if (!(length > 0)) continue;
    double along = 0;
    for (size_t e = 0; e < experts; ++e) along += kappa * dz[t * experts + e] * delta[t * experts + e];
    for (size_t e = 0; e < experts; ++e) {
      const Block b = block(e, width, experts);
      const double push = kappa * dz[t * experts + e] / std::sqrt(double(b.size()));
      for (size_t j = b.begin; j < b.end; ++j) dx[t * width + j] = (push - u[j] * along) / length;
    }
  }
  return dx;
}

// z_te = kappa cos(x_t, w_e), w (E,D).
template <class S>
std::vector<S> dense_cosine(const std::vector<S>& x, const std::vector<S>& w, size_t width, double kappa) {
  std::vector<S> z;
  for (size_t t = 0; t < x.size() / width; ++t)
    for (size_t e = 0; e < w.size() / width; ++e)
      z.push_back(kappa * dot(unit(row_of(x, t, width)), unit(row_of(w, e, width))));
  return z;
}

// du_t = kappa sum_e dz_te v_e and dv_e = kappa sum_t dz_te u_t for the unit rows u, v; then each row's length.
inline ScoreGradients dense_cosine_backward(const std::vector<double>& dz, const std::vector<double>& x,
                                            const std::vector<double>& w, size_t width, double kappa) {
  const size_t n = x.size() / width, experts = w.size() / width;
  std::vector<double> units_x, units_w;
  for (size_t t = 0; t < n; ++t)
    for (const double c : unit(row_of(x, t, width))) units_x.push_back(kappa * c);
  for (size_t e = 0; e < experts; ++e)
    for (const double c : unit(row_of(w, e, width))) units_w.push_back(kappa * c);
  ScoreGradients d = linear_backward(dz, units_x, units_w, width);
  ScoreGradients out;
  for (size_t t = 0; t < n; ++t)
    for (const double c : unit_backward(row_of(d.x, t, width), row_of(x, t, width))) out.x.push_back(c);
  for (size_t e = 0; e < experts; ++e)
    for (const double c : unit_backward(row_of(d.w, e, width), row_of(w, e, width))) out.w.push_back(c);
  return out;
}

// The block-diagonal matrix (E,D) of a learned GrAP: expert e has the numbers of w (D) in its block, else 0.
template <class S>
std::vector<S> spread(const std::vector<S>& w, size_t experts) {
  std::vector<S> wide(experts * w.size(), S(0));
  for (size_t e = 0; e < experts; ++e)
    for (size_t j = block(e, w.size(), experts).begin; j < block(e, w.size(), experts).end; ++j)
      wide[e * w.size() + j] = w[j];
  return wide;
}

// z_te = kappa (sum over block e of w_j x_tj) / (|w_e| |x_t|), w (D), w_e its block (arXiv 2406.00023, eq. 2-4).
template <class S>
std::vector<S> grap_learned(const std::vector<S>& x, const std::vector<S>& w, size_t experts, double kappa) {
  return dense_cosine(x, spread(w, experts), w.size(), kappa);
}

// Each dw_e restricted to its own block.
inline ScoreGradients grap_learned_backward(const std::vector<double>& dz, const std::vector<double>& x,
                                            const std::vector<double>& w, size_t experts, double kappa) {
  const size_t width = w.size();
  const ScoreGradients wide = dense_cosine_backward(dz, x, spread(w, experts), width, kappa);
  ScoreGradients d{wide.x, {}};
  for (size_t e = 0; e < experts; ++e)
    for (size_t j = block(e, width, experts).begin; j < block(e, width, experts).end; ++j)
      d.w.push_back(wide.w[e * width + j]);
  return d;
}

template <class S>
struct Projection {
  std::vector<S> p, s;  // (R,D), (E,R)
  S t = 0;
  size_t rank = 0;  // R
  size_t width() const { return p.size() / rank; }
};

inline constexpr double kMostScale = 100;

template <class S>
S projected_scale(const S& t) {
  return real_part(t) < std::log(kMostScale) ? S(std::exp(t)) : S(kMostScale);
}

// z_te = min(e^t, 100) cos(P x_t, S_e), as in the cosine gate of microsoft/tutel.
template <class S>
std::vector<S> projected_cosine(const std::vector<S>& x, const Projection<S>& w) {
  std::vector<S> z = dense_cosine(linear(x, w.p, w.width()), w.s, w.rank, 1.0);
  for (S& v : z) v *= projected_scale(w.t);
  return z;
}

struct ProjectionGradients {
  std::vector<double> x, p, s;
  double t = 0;
};

// dt = sum dz_te z_te below the limit, else 0.
inline ProjectionGradients projected_cosine_backward(const std::vector<double>& dz, const std::vector<double>& x,
                                                     const Projection<double>& w) {
  const std::vector<double> y = linear(x, w.p, w.width());
  const ScoreGradients cosine = dense_cosine_backward(dz, y, w.s, w.rank, projected_scale(w.t));
  const ScoreGradients down = linear_backward(cosine.x, x, w.p, w.width());
  const bool below = w.t < std::log(kMostScale);
  return {down.x, down.w, cosine.w, below ? dot(dz, projected_cosine(x, w)) : 0};
}

// z = x w^T + noise softplus(x wn^T) with given noise (N,E) (arXiv 1701.06538, eq. 4).
template <class S>
std::vector<S> noisy(const std::vector<S>& x, const std::vector<S>& w, const std::vector<S>& wn,
                     const std::vector<double>& noise, size_t width) {
  std::vector<S> z = linear(x, w, width);
  const std::vector<S> spread_by = linear(x, wn, width);
  for (size_t i = 0; i < z.size(); ++i) z[i] += noise[i] * softplus(spread_by[i]);
  return z;
}

struct NoisyGradients {
  std::vector<double> x, w, wn;
};

// softplus' = sigmoid.
inline NoisyGradients noisy_backward(const std::vector<double>& dz, const std::vector<double>& x,
                                     const std::vector<double>& w, const std::vector<double>& wn,
                                     const std::vector<double>& noise, size_t width) {
  std::vector<double> d = linear(x, wn, width);
  for (size_t i = 0; i < d.size(); ++i) d[i] = dz[i] * noise[i] * sigmoid(d[i]);
  ScoreGradients clean = linear_backward(dz, x, w, width);
  const ScoreGradients rough = linear_backward(d, x, wn, width);
  for (size_t i = 0; i < clean.x.size(); ++i) clean.x[i] += rough.x[i];
  return {clean.x, clean.w, rough.w};
}

}  // namespace choir::moe::reference
