#include "moe/balance/load.h"

#include <algorithm>

#include "kernels/sigmoid.h"

namespace choir::moe {
namespace {

// The rows [begin, end) over which f and P are taken, with f already times eta.
struct Part {
  int begin, end, tokens;
  std::vector<float> f;
};

std::vector<Part> parts_of(const Context& context, const Routing& routing, const LoadBalance& word) {
  std::vector<int32_t> begin{0};
  if (word.per_sequence && !context.tokens.sequence.empty())
    begin.assign(context.tokens.sequence.begin(), context.tokens.sequence.end());
  begin.push_back(context.tokens.rows());
  const auto choices = static_cast<size_t>(routing.plan.choices);
  std::vector<Part> parts;
  for (size_t s = 0; s + 1 < begin.size(); ++s) {
    Part part{begin[s], begin[s + 1], 0, std::vector<float>(static_cast<size_t>(context.experts))};
    int64_t proposals = 0;
    for (int t = part.begin; t < part.end; ++t) part.tokens += context.tokens.counts(t);
    for (size_t i = static_cast<size_t>(part.begin) * choices; i < static_cast<size_t>(part.end) * choices; ++i)
      if (const int32_t e = routing.proposed[i]; e >= 0) {
        part.f[static_cast<size_t>(e)] += 1;
        ++proposals;
      }
    for (float& f : part.f) f = proposals > 0 ? f / static_cast<float>(proposals) : 0;
    if (!word.per_sequence && !context.shares.empty()) part.f.assign(context.shares.begin(), context.shares.end());
    for (int e = context.experts - context.idle; e < context.experts; ++e) part.f[static_cast<size_t>(e)] *= word.eta;
    const bool known = proposals > 0 || (!word.per_sequence && !context.shares.empty());
    if (part.tokens > 0 && known) parts.push_back(std::move(part));
  }
  return parts;
}

// body(part, t) for every token that counts, shared out over the threads.
template <class Body>
void each_counted(const Context& context, const std::vector<Part>& parts, const Body& body) {
  for (const Part& part : parts) {
    constexpr int kRows = 128;  // of one piece
    context.threads.for_each((part.end - part.begin + kRows - 1) / kRows, [&](int piece) {
      const int first = part.begin + piece * kRows;
      for (int t = first; t < std::min(part.end, first + kRows); ++t)
        if (context.tokens.counts(t)) body(part, t);
    });
  }
}

float mean_of(const Part& part, const float* p) {
  float mean = 0;
  for (size_t e = 0; e < part.f.size(); ++e) mean += part.f[e] * p[e];
  return mean;
}

// The probabilities: the routing's softmax, or the shares of the sigmoids.
class Probabilities {
 public:
  Probabilities(const Context& context, const Routing& routing, bool sigmoid)
      : p_(routing.probabilities(context.experts)) {
    if (!sigmoid) return;
    own_ = Buffer<float>(context.pairs());
    const Matrix<float> shares = own_.matrix(p_.rows, p_.cols);
    kernels::sigmoid_shares(routing.scores(context.experts), shares, context.threads);
    p_ = shares;
  }
  const float* operator[](int t) const { return p_[t]; }

 private:
  Buffer<float> own_;
  Matrix<const float> p_;
};

}  // namespace

LoadBalance LoadBalance::read(Arguments& arguments) {
  LoadBalance word;
  word.alpha = static_cast<float>(arguments.number("alpha", 0, 1000));
  word.per_sequence = arguments.name("scope", {"batch", "sequence"}) == "sequence";
  word.sigmoid = arguments.name("of", {"softmax", "sigmoid"}) == "sigmoid";
  word.eta = static_cast<float>(arguments.number("eta", 0, 1000, 1));
  return word;
}

std::string LoadBalance::text() const {
  return written(kName, {written(alpha), per_sequence ? "scope=sequence" : "", sigmoid ? "of=sigmoid" : "",
                         unless("eta", eta, 1)});
}

double LoadBalance::loss(const Context& context, const Routing& routing) const {
  const std::vector<Part> parts = parts_of(context, routing, *this);
  const Probabilities p(context, routing, sigmoid);
  std::vector<float> mean(static_cast<size_t>(context.tokens.rows()));
  each_counted(context, parts, [&](const Part& part, int t) { mean[static_cast<size_t>(t)] = mean_of(part, p[t]); });
  double total = 0;
  for (const Part& part : parts) {
    double sum = 0;
    for (int t = part.begin; t < part.end; ++t) sum += static_cast<double>(mean[static_cast<size_t>(t)]);
    total += sum / part.tokens;
  }
  return parts.empty() ? 0 : total * static_cast<double>(alpha) * context.experts / static_cast<double>(parts.size());
}

// loss = alpha E / S sum over parts 1/n sum_t sum_e f_e p_te, so d loss / d p_te = alpha E f_e / (S n), and through the
// softmax dz_te = alpha E / (S n) p_te (f_e - sum_j f_j p_tj). With sigmoids that is the gradient by log s_te, and
// d log s / dz = 1 - s.
void LoadBalance::backward(const Context& context, const Routing& routing, const BalanceGradient& gradient) const {
  const std::vector<Part> parts = parts_of(context, routing, *this);
  const Probabilities p(context, routing, sigmoid);
  Buffer<float> logistic;
  if (sigmoid) {
    logistic = Buffer<float>(context.pairs());
    kernels::sigmoid_forward(routing.scores(context.experts), logistic.matrix(context.tokens.rows(), context.experts),
                             context.threads);
  }
  const size_t experts = static_cast<size_t>(context.experts);
  each_counted(context, parts, [&](const Part& part, int t) {
    const float scale = gradient.scale * alpha * static_cast<float>(context.experts) /
                        (static_cast<float>(parts.size()) * static_cast<float>(part.tokens));
    const float mean = mean_of(part, p[t]);
    float* dz = gradient.dz[t];
    for (size_t e = 0; e < experts; ++e) {
      const float d = scale * p[t][e] * (part.f[e] - mean);
      dz[e] += sigmoid ? d * (1 - logistic[static_cast<size_t>(t) * experts + e]) : d;
    }
  });
}

}  // namespace choir::moe
