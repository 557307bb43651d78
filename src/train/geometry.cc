#include "train/geometry.h"

#include <algorithm>
#include <cmath>

namespace choir::train {
namespace {

double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

// A plan in which every expert takes every row: edge e * rows + t.
moe::Plan everybody(int rows, int experts) {
  std::vector<int32_t> chosen;
  for (int t = 0; t < rows; ++t)
    for (int e = 0; e < experts; ++e) chosen.push_back(e);
  moe::Plan plan;
  moe::build_plan(chosen, rows, experts, experts, plan);
  return plan;
}

// The expert of largest weight among those that take the row; -1 where none does.
int32_t main_expert(const moe::Routing& routing, int row) {
  const moe::Plan& plan = routing.plan;
  int32_t main = -1;
  float most = 0;
  for (int s = 0; s < plan.choices; ++s) {
    const size_t i = static_cast<size_t>(row) * static_cast<size_t>(plan.choices) + static_cast<size_t>(s);
    if (plan.edge[i] < 0) continue;
    const float weight = plan.weight[static_cast<size_t>(plan.edge[i])];
    if (main >= 0 && weight <= most) continue;
    main = routing.chosen[i];
    most = weight;
  }
  return main;
}

}  // namespace

LayerGeometry::LayerGeometry(int experts, int width)
    : experts_(experts),
      width_(width),
      count_(static_cast<size_t>(experts)),
      sum_(static_cast<size_t>(experts) * static_cast<size_t>(width)),
      cosine_(static_cast<size_t>(experts), std::vector<double>(static_cast<size_t>(experts))) {}

void LayerGeometry::add_inputs(Matrix<const float> x, const moe::Routing& routing) {
  for (int t = 0; t < x.rows; ++t) {
    const int32_t main = main_expert(routing, t);
    if (main < 0) continue;
    ++count_[static_cast<size_t>(main)];
    double* sum = sum_.data() + static_cast<ptrdiff_t>(main) * width_;
    for (int i = 0; i < width_; ++i) sum[i] += static_cast<double>(x[t][i]);
    square_ += dot(x.row(t), x.row(t));
  }
}

// With the mean m of all and m_e of a group: between = sum n_e |m_e|^2 - N |m|^2, within = sum |x|^2 - sum n_e |m_e|^2.
std::optional<double> LayerGeometry::ch_index() const {
  std::vector<double> all(static_cast<size_t>(width_));
  double groups = 0, centre = 0;
  int64_t rows = 0, filled = 0;
  for (int e = 0; e < experts_; ++e) {
    const int64_t n = count_[static_cast<size_t>(e)];
    if (n == 0) continue;
    rows += n;
    ++filled;
    for (int i = 0; i < width_; ++i) {
      const double s = sum_[static_cast<size_t>(e) * static_cast<size_t>(width_) + static_cast<size_t>(i)];
      groups += s * s / static_cast<double>(n);
      all[static_cast<size_t>(i)] += s;
    }
  }
  for (const double s : all) centre += s * s / static_cast<double>(std::max<int64_t>(1, rows));
  const double within = square_ - groups;
  if (filled < 2 || rows <= filled || within <= 0) return {};
  return (groups - centre) / static_cast<double>(filled - 1) / (within / static_cast<double>(rows - filled));
}

void LayerGeometry::add_answers(Matrix<const float> x, const moe::MoeTensors<tensor::Weight>& weights,
                                base::Threads& threads) {
  constexpr int kRows = 64;  // bounds the answers that are kept
  for (int begin = 0; begin < x.rows; begin += kRows) {
    const int rows = std::min(kRows, x.rows - begin);
    const moe::Plan plan = everybody(rows, experts_);
    moe::run_experts(plan, weights, x.slice_rows(begin, rows), activations_, threads);
    const Matrix<const float> out = activations_.out.matrix(plan.edges(), width_);
    std::vector<double> length(static_cast<size_t>(plan.edges()));
    for (int i = 0; i < plan.edges(); ++i) length[static_cast<size_t>(i)] = std::sqrt(dot(out.row(i), out.row(i)));
    const auto cosine = [&](int a, int b) {
      const double lengths = length[static_cast<size_t>(a)] * length[static_cast<size_t>(b)];
      return lengths > 0 ? dot(out.row(a), out.row(b)) / lengths : 0;
    };
    threads.for_each(experts_, [&](int i) {
      for (int j = 0; j < experts_; ++j)
        for (int t = 0; t < rows; ++t)
          cosine_[static_cast<size_t>(i)][static_cast<size_t>(j)] += cosine(i * rows + t, j * rows + t);
    });
    answered_ += rows;
  }
}

std::vector<std::vector<double>> LayerGeometry::cosines() const {
  std::vector<std::vector<double>> result = cosine_;
  for (std::vector<double>& row : result)
    for (double& c : row) c /= static_cast<double>(std::max<int64_t>(1, answered_));
  return result;
}

}  // namespace choir::train
