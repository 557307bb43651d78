#include "compress/merge.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace choir::compress {
namespace {

using tensor::Weight;

// Shortest augmenting paths with potentials u, v (Kuhn, 1955; in the form of Jonker and Volgenant, 1987): rows enter
// one after the other, and each finds the cheapest way to a free column.
class Assignment {
 public:
  Assignment(std::span<const double> likeness, size_t n)
      : likeness_(likeness), n_(n), u_(n + 1), v_(n + 1), row_(n + 1, 0), before_(n + 1) {
    for (size_t i = 1; i <= n; ++i) enter(i);
  }
  std::vector<int> columns() const {
    std::vector<int> column(n_);
    for (size_t j = 1; j <= n_; ++j) column[row_[j] - 1] = static_cast<int>(j - 1);
    return column;
  }

 private:
  // Rows and columns count from 1; 0 is none.
  double cost(size_t i, size_t j) const { return -likeness_[(i - 1) * n_ + j - 1] - u_[i] - v_[j]; }

  size_t nearest(size_t from, std::vector<double>& least, const std::vector<bool>& reached) {
    size_t best = 0;
    double distance = std::numeric_limits<double>::infinity();
    for (size_t j = 1; j <= n_; ++j) {
      if (reached[j]) continue;
      if (const double c = cost(row_[from], j); c < least[j]) {
        least[j] = c;
        before_[j] = from;
      }
      if (least[j] < distance) {
        distance = least[j];
        best = j;
      }
    }
    return best;
  }

  void enter(size_t i) {
    std::vector<double> least(n_ + 1, std::numeric_limits<double>::infinity());
    std::vector<bool> reached(n_ + 1, false);
    row_[0] = i;
    size_t at = 0;
    do {
      reached[at] = true;
      const size_t next = nearest(at, least, reached);
      const double step = least[next];
      for (size_t j = 0; j <= n_; ++j) {
        if (reached[j]) {
          u_[row_[j]] += step;
          v_[j] -= step;
        } else {
          least[j] -= step;
        }
      }
      at = next;
    } while (row_[at] != 0);
    for (; at != 0; at = before_[at]) row_[at] = row_[before_[at]];
  }

  std::span<const double> likeness_;
  size_t n_;
  std::vector<double> u_, v_;
  std::vector<size_t> row_, before_;  // of each column: who has it, and the column before it on the path
};

std::vector<int> pair_greedily(std::span<const double> likeness, size_t n) {
  std::vector<size_t> pairs(n * n);
  for (size_t i = 0; i < pairs.size(); ++i) pairs[i] = i;
  std::ranges::stable_sort(pairs, [&](size_t a, size_t b) { return likeness[a] > likeness[b]; });
  std::vector<int> column(n, -1);
  std::vector<bool> taken(n, false);
  for (const size_t pair : pairs) {
    if (column[pair / n] >= 0 || taken[pair % n]) continue;
    column[pair / n] = static_cast<int>(pair % n);
    taken[pair % n] = true;
  }
  return column;
}

// An expert's numbers, neuron after neuron.
struct Neurons {
  size_t width, d;
  std::vector<float> w1, w3;  // [F*D]
  std::vector<float> w2;      // [F*D], transposed

  Neurons(const moe::MoeTensors<Weight>& moe, size_t e)
      : width(static_cast<size_t>(moe.w1[e].rows)),
        d(static_cast<size_t>(moe.w1[e].cols)),
        w1(numbers_of(moe.w1[e])),
        w3(numbers_of(moe.w3[e])),
        w2(w1.size()) {
    const std::vector<float> down = numbers_of(moe.w2[e]);
    for (size_t k = 0; k < d; ++k)
      for (size_t f = 0; f < width; ++f) w2[f * d + k] = down[k * width + f];
  }
};

// Sum over the three projections of the cosines between neuron i of a and neuron j of b.
std::vector<double> likeness_of(const Neurons& a, const Neurons& b) {
  std::vector<double> likeness(a.width * b.width);
  for (const auto part : {&Neurons::w1, &Neurons::w3, &Neurons::w2}) {
    const auto dot = [&](const float* x, const float* y) {
      double sum = 0;
      for (size_t k = 0; k < a.d; ++k) sum += static_cast<double>(x[k]) * y[k];
      return sum;
    };
    const auto lengths = [&](const Neurons& n) {
      std::vector<double> length;
      for (size_t f = 0; f < n.width; ++f) {
        const float* row = (n.*part).data() + f * n.d;
        length.push_back(std::sqrt(dot(row, row)));
      }
      return length;
    };
    const std::vector<double> la = lengths(a), lb = lengths(b);
    for (size_t i = 0; i < a.width; ++i)
      for (size_t j = 0; j < b.width; ++j) {
        const double product = la[i] * lb[j];
        if (product > 0)
          likeness[i * b.width + j] += dot((a.*part).data() + i * a.d, (b.*part).data() + j * b.d) / product;
      }
  }
  return likeness;
}

// A mean that experts are added to, each neuron to the one it is paired with.
struct Mean {
  Neurons sum;
  double count;

  Mean(Neurons first, double weight) : sum(std::move(first)), count(weight) {}

  // Running mean: equal numbers stay what they are, bit for bit.
  void add(const Neurons& other, const std::vector<int>& pair, double weight) {
    if (!(weight > 0)) return;
    count += weight;
    const auto share = static_cast<float>(weight / count);
    for (const auto part : {&Neurons::w1, &Neurons::w3, &Neurons::w2})
      for (size_t f = 0; f < sum.width; ++f)
        for (size_t k = 0; k < sum.d; ++k) {
          float& v = (sum.*part)[f * sum.d + k];
          v += share * ((other.*part)[static_cast<size_t>(pair[f]) * sum.d + k] - v);
        }
  }

  std::vector<float> down() const {
    std::vector<float> w2(sum.w2.size());
    for (size_t k = 0; k < sum.d; ++k)
      for (size_t f = 0; f < sum.width; ++f) w2[k * sum.width + f] = sum.w2[f * sum.d + k];
    return w2;
  }
};

}  // namespace

PairMoments pair_moments(const LayerRecord& record) {
  const size_t size = static_cast<size_t>(record.experts) * static_cast<size_t>(record.experts);
  PairMoments m{record.experts, std::vector<double>(size), std::vector<double>(size), std::vector<double>(size)};
  for (int t = 0; t < record.tokens(); ++t) {
    const Choice own = own_choice(record, t);
    const std::span<const int32_t> ranking = record.ranking(t);
    for (size_t s = 0; s < own.rank.size(); ++s) {
      const int from = own.rank[s], j = ranking[static_cast<size_t>(from)];
      const double square = own.gain[s] * own.gain[s];
      for (int r = 0; r < record.ranks; ++r) {
        const size_t at = m.at(j, ranking[static_cast<size_t>(r)]);
        m.cross[at] += square * record.product(t, from, r);
        m.square[at] += square * record.product(t, r, r);
        m.own[at] += square * record.product(t, from, from);
      }
    }
  }
  return m;
}

std::vector<int> pair_neurons(std::span<const double> likeness, int n) {
  const auto size = static_cast<size_t>(n);
  CHOIR_CHECK(likeness.size() == size * size, "a likeness of each pair");
  return n <= kWidestExact ? Assignment(likeness, size).columns() : pair_greedily(likeness, size);
}

std::vector<int> merge_targets(const PairMoments& moments, std::span<const uint8_t> kept) {
  std::vector<int> target(kept.size(), -1);
  for (int j = 0; j < moments.experts; ++j) {
    if (kept[static_cast<size_t>(j)]) target[static_cast<size_t>(j)] = j;
    double most = -std::numeric_limits<double>::infinity();
    for (int i = 0; i < moments.experts && !kept[static_cast<size_t>(j)]; ++i) {
      const size_t at = moments.at(j, i);
      const double lengths = moments.square[at] * moments.own[at];
      if (!kept[static_cast<size_t>(i)] || !(lengths > 0)) continue;
      const double cosine = moments.cross[at] / std::sqrt(lengths);
      if (cosine <= most) continue;
      most = cosine;
      target[static_cast<size_t>(j)] = i;
    }
  }
  return target;
}

Model with_merged(const Model& full, const Model& pruned, int l, const MergePlan& plan) {
  const auto& from = full.tensors().blocks[static_cast<size_t>(l)].moe;
  Mixture mixture(pruned, l);
  auto& to = mixture.tensors;
  CHOIR_CHECK(plan.kept.size() == to.w1.size() && plan.target.size() == from.w1.size(), "a plan of these experts");
  for (size_t i = 0; i < plan.kept.size(); ++i) {
    const auto own = static_cast<size_t>(plan.kept[i]);
    // Counted once more, so that an expert without tokens has a share.
    Mean mean(Neurons(from, own), static_cast<double>(plan.coverage[own]) + 1);
    bool merged = false;
    for (size_t j = 0; j < plan.target.size(); ++j) {
      const bool fits = from.w1[j].rows == from.w1[own].rows;
      if (j == own || plan.target[j] != plan.kept[i] || !fits) continue;
      const Neurons other(from, j);
      const Neurons kept(from, own);  // pairs are of the kept expert, not of the mean so far
      mean.add(other, pair_neurons(likeness_of(kept, other), static_cast<int>(kept.width)),
               static_cast<double>(plan.coverage[j]));
      merged = true;
    }
    if (!merged) continue;
    to.w1[i] = mixture.renewed(to.w1[i], mean.sum.w1);
    to.w3[i] = mixture.renewed(to.w3[i], mean.sum.w3);
    to.w2[i] = mixture.renewed(to.w2[i], mean.down());
  }
  return mixture.in(pruned, l);
}

}  // namespace choir::compress
