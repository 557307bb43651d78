#include "compress/ridge.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "compress/linear.h"

namespace choir::compress {
namespace {

using tensor::Buffer;
using tensor::Weight;

constexpr int kRows = 16;  // of one piece of a parallel sum

size_t area(int rows, int cols) { return static_cast<size_t>(rows) * static_cast<size_t>(cols); }

// One expert's tokens: what they meet, and what is wanted of it.
struct Share {
  std::vector<int> token;         // [n]
  std::vector<double> weight;     // [n] of the token
  std::vector<double> gain;       // [n] b
  int width = 0;                  // F
  moe::MoeTensors<Weight> alone;  // the expert
  Buffer<float> x;                // (n,D)
  moe::Plan plan;                 // all of them to it
  moe::MoeActivations activations;
  std::vector<double> target;  // [n*D] R

  int count() const { return static_cast<int>(token.size()); }
  const float* hidden(size_t i) const { return activations.hidden.data() + i * static_cast<size_t>(width); }
};

class DownRefit {
 public:
  DownRefit(const Model& model, int l, const LayerTarget& target, Threads& threads);

  void visit(size_t expert, double lambda);
  double loss() const { return loss_of(residual_, {}); }

  Mixture mixture;

 private:
  Share share_of(size_t expert);
  void answer(Share& share, const Weight& w2, double sign, std::vector<double>& to) const;
  std::vector<double> normal_matrix(const Share& share) const;
  std::vector<float> solution(const Share& share, std::span<const double> factor, double pull) const;
  double loss_of(const std::vector<double>& rows, std::span<const int> token) const;

  const LayerTarget& target_;
  Threads& threads_;
  int d_;
  moe::Routing routing_;
  std::vector<double> residual_;  // [N*D] z - z'
};

DownRefit::DownRefit(const Model& model, int l, const LayerTarget& target, Threads& threads)
    : mixture(model, l), target_(target), threads_(threads), d_(target.x.cols) {
  const Buffer<float> other(area(target.x.rows, d_));
  run_layer(model, l, target.x, other.matrix(target.x.rows, d_), threads);
  for (int t = 0; t < target.x.rows; ++t)
    for (int i = 0; i < d_; ++i)
      residual_.push_back(static_cast<double>(target.z[t][i]) - other.matrix(target.x.rows, d_)[t][i]);
  moe::MoeStep step;
  step.tokens.x = target.x;
  model.router(l).route(moe::context_of(mixture.tensors, step, threads), moe::Balancing::kOff, routing_);
}

Share DownRefit::share_of(size_t expert) {
  const moe::Plan& plan = routing_.plan;
  const auto& all = mixture.tensors;
  Share share;
  share.width = all.w1[expert].rows;
  share.alone.add(all, expert);
  share.alone.activation = all.activation;
  for (auto edge = static_cast<size_t>(plan.offset[expert]); edge < static_cast<size_t>(plan.offset[expert + 1]);
       ++edge) {
    share.token.push_back(plan.token[edge]);
    share.weight.push_back(target_.weight_of(plan.token[edge]));
    share.gain.push_back(plan.weight[edge]);
  }
  share.x = Buffer<float>(area(share.count(), d_));
  share.target.resize(share.x.size());
  for (int i = 0; i < share.count(); ++i) {
    const int t = share.token[static_cast<size_t>(i)];
    std::copy_n(target_.x[t], d_, share.x.data() + area(i, d_));
    std::copy_n(residual_.data() + area(t, d_), d_, share.target.data() + area(i, d_));
  }
  moe::build_plan(std::vector<int32_t>(share.token.size(), 0), share.count(), 1, 1, share.plan);
  answer(share, all.w2[expert], 1, share.target);
  return share;
}

// to += sign b f, with this projection.
void DownRefit::answer(Share& share, const Weight& w2, double sign, std::vector<double>& to) const {
  share.alone.w2 = {w2};
  moe::run_experts(share.plan, share.alone, share.x.matrix(share.count(), d_), share.activations, threads_);
  const float* f = share.activations.out.data();
  for (size_t at = 0; at < to.size(); ++at) to[at] += sign * share.gain[at / static_cast<size_t>(d_)] * f[at];
}

// sum weight b^2 h h^T, the lower triangle.
std::vector<double> DownRefit::normal_matrix(const Share& share) const {
  const auto f = static_cast<size_t>(share.width);
  std::vector<double> matrix(f * f);
  threads_.for_each((share.width + kRows - 1) / kRows, [&](int piece) {
    const size_t begin = static_cast<size_t>(piece) * kRows, end = std::min(f, begin + kRows);
    for (size_t t = 0; t < share.gain.size(); ++t) {
      const float* h = share.hidden(t);
      for (size_t i = begin; i < end; ++i) {
        const double factor = share.weight[t] * share.gain[t] * share.gain[t] * h[i];
        for (size_t j = 0; j <= i; ++j) matrix[i * f + j] += factor * h[j];
      }
    }
  });
  return matrix;
}

// W of the expert, row by row: `factor` is that of the matrix, `pull` what W_0 counts.
std::vector<float> DownRefit::solution(const Share& share, std::span<const double> factor, double pull) const {
  const auto f = static_cast<size_t>(share.width), d = static_cast<size_t>(d_);
  std::vector<float> w2 = numbers_of(share.alone.w2[0]);
  threads_.for_each((d_ + kRows - 1) / kRows, [&](int piece) {
    std::vector<double> row(f);
    for (size_t k = static_cast<size_t>(piece) * kRows; k < std::min(d, (static_cast<size_t>(piece) + 1) * kRows);
         ++k) {
      for (size_t j = 0; j < f; ++j) row[j] = pull * w2[k * f + j];
      for (size_t t = 0; t < share.gain.size(); ++t) {
        const double by = share.weight[t] * share.gain[t] * share.target[t * d + k];
        for (size_t j = 0; j < f; ++j) row[j] += by * share.hidden(t)[j];
      }
      solve(factor, share.width, row);
      for (size_t j = 0; j < f; ++j) w2[k * f + j] = static_cast<float>(row[j]);
    }
  });
  return w2;
}

void DownRefit::visit(size_t expert, double lambda) {
  Share share = share_of(expert);
  std::vector<double> matrix = normal_matrix(share);
  const auto f = static_cast<size_t>(share.width);
  double diagonal = 0;
  for (size_t i = 0; i < f; ++i) diagonal += matrix[i * f + i] / static_cast<double>(f);
  for (size_t i = 0; i < f; ++i) matrix[i * f + i] += lambda * diagonal;
  if (!factorize(matrix, share.width)) return;  // no token, or none that counts
  Weight& w2 = mixture.tensors.w2[expert];
  const Weight fresh = mixture.renewed(w2, solution(share, matrix, lambda * diagonal));
  std::vector<double> left = share.target, old = share.target;
  answer(share, fresh, -1, left);
  for (int i = 0; i < share.count(); ++i)
    std::copy_n(residual_.data() + area(share.token[static_cast<size_t>(i)], d_), d_, old.data() + area(i, d_));
  if (!(loss_of(left, share.token) < loss_of(old, share.token))) return;
  w2 = fresh;
  for (int i = 0; i < share.count(); ++i)
    std::copy_n(left.data() + area(i, d_), d_, residual_.data() + area(share.token[static_cast<size_t>(i)], d_));
}

// Weighted square of rows (n,D), which belong to these tokens, or to all in order.
double DownRefit::loss_of(const std::vector<double>& rows, std::span<const int> token) const {
  const size_t d = static_cast<size_t>(d_), count = rows.size() / d;
  double sum = 0;
  for (size_t i = 0; i < count; ++i) {
    double error = 0;
    for (size_t k = 0; k < d; ++k) error += rows[i * d + k] * rows[i * d + k];
    sum += target_.weight_of(token.empty() ? static_cast<int>(i) : token[i]) * error;
  }
  return sum;
}

}  // namespace

RidgeRefit refit_down(const Model& model, int l, const LayerTarget& target, const RidgeOptions& options,
                      Threads& threads) {
  const std::string where = fmt::format("ridge refit of layer {}", l);
  if (!(options.lambda > 0) || options.sweeps < 1)
    base::usage_error(fmt::format("lambda {}, {} sweeps", options.lambda, options.sweeps), where,
                      "lambda must be above 0, and sweeps count from 1");
  if (const int width = model.config().layers[static_cast<size_t>(l)].expert_width; width > kWidestRidge)
    base::usage_error(fmt::format("an expert of width {}", width), where,
                      fmt::format("its equations are solved directly, up to width {}", kWidestRidge));
  DownRefit refit(model, l, target, threads);
  const double before = refit.loss();
  for (int sweep = 0; sweep < options.sweeps; ++sweep)
    for (size_t e = 0; e < refit.mixture.tensors.w2.size(); ++e) refit.visit(e, options.lambda);
  const double after = refit.loss();
  return {refit.mixture.in(model, l), before, after};
}

}  // namespace choir::compress
