#include "moe/propose/sinkhorn.h"

#include <algorithm>
#include <cmath>

#include "moe/propose/top_k.h"

namespace choir::moe {
namespace {

constexpr double kTolerance = 1e-4;
constexpr int kMostRounds = 1000;  // scores far apart converge slowly; what is reached by then is used
constexpr int kRows = 128;         // of one piece: sums are taken piece by piece, whatever the number of threads

class Balancer {
 public:
  Balancer(const Context& context, Matrix<const float> key, base::Frame& frame)
      : context_(context),
        rows_(key.rows),
        experts_(static_cast<size_t>(key.cols)),
        pieces_((key.rows + kRows - 1) / kRows),
        tokens_(context.tokens.counted()),
        cost_(frame.list<float>(context.pairs())),
        factor_(frame.list<double>(experts_, 1.0)),
        column_(frame.list<double>(experts_)),
        part_(frame.list<double>(static_cast<size_t>(pieces_) * experts_)) {
    each_counted([&](int t, double*) {
      float most = -HUGE_VALF;
      for (const float z : key.row(t)) most = std::max(most, z);
      for (int e = 0; e < key.cols; ++e) {
        const float p = std::exp(key[t][e] - most);
        row(t)[e] = std::isfinite(p) ? p : 0;
      }
    });
  }

  // v_e; 0 for an expert that no token may go to.
  std::span<const double> run() {
    double moved = HUGE_VAL;
    for (int round = 0; round < kMostRounds && moved > kTolerance; ++round) moved = this->round();
    return factor_;
  }

 private:
  float* row(int t) { return cost_.data() + static_cast<size_t>(t) * experts_; }

  // body(t, the sums of t's piece) for every token.
  template <class Body>
  void each_counted(const Body& body) {
    context_.threads.for_each(pieces_, [&](int piece) {
      double* sums = part_.data() + static_cast<size_t>(piece) * experts_;
      std::fill_n(sums, experts_, 0.0);
      for (int t = piece * kRows; t < std::min(rows_, (piece + 1) * kRows); ++t)
        if (context_.tokens.counts(t)) body(t, sums);
    });
  }

  // u_t = 1 / (N sum_e c_te v_e), then v_e = 1 / (E sum_t c_te u_t). Returns the mean change of v.
  double round() {
    each_counted([&](int t, double* sums) {
      const float* c = row(t);
      double sum = 0;
      for (size_t e = 0; e < experts_; ++e) sum += static_cast<double>(c[e]) * factor_[e];
      if (!(sum > 0)) return;
      const double u = 1 / (tokens_ * sum);
      for (size_t e = 0; e < experts_; ++e) sums[e] += static_cast<double>(c[e]) * u;
    });
    std::ranges::fill(column_, 0.0);
    for (size_t i = 0; i < part_.size(); ++i) column_[i % experts_] += part_[i];
    const auto open = static_cast<double>(std::ranges::count_if(column_, [](double sum) { return sum > 0; }));
    double moved = 0;
    for (size_t e = 0; e < experts_; ++e) {
      const double next = column_[e] > 0 ? 1 / (open * column_[e]) : 0;
      if (next > 0) moved += std::abs(next - factor_[e]) / open;
      factor_[e] = next;
    }
    return moved;
  }

  const Context& context_;
  int rows_;
  size_t experts_;
  int pieces_;
  double tokens_;
  std::span<float> cost_;              // [N*E] exp(z_te - max_e z_te)
  std::span<double> factor_, column_;  // [E] v, and sums
  std::span<double> part_;             // [pieces*E]
};

}  // namespace

Sinkhorn Sinkhorn::read(Arguments& arguments) { return {arguments.whole("k", 1, 4096)}; }

void Sinkhorn::propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const {
  if (context.rule == Rule::kDecode) {
    TopK{k}.propose(context, key, proposed);
    return;
  }
  base::Frame frame(context.threads);
  const std::span<const double> factor = Balancer(context, key, frame).run();
  const Matrix<float> balanced = matrix_in(frame, key.rows, key.cols);
  for (int e = 0; e < key.cols; ++e) {
    const double f = factor[static_cast<size_t>(e)];
    const auto shift = static_cast<float>(f > 0 ? std::log(f) : 0);
    for (int t = 0; t < key.rows; ++t) balanced[t][e] = key[t][e] + shift;
  }
  TopK{k}.propose(context, balanced, proposed);
}

}  // namespace choir::moe
