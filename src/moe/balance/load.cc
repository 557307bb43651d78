#include "moe/balance/load.h"

#include <algorithm>

#include "kernels/sigmoid.h"

namespace choir::moe {
namespace {

// The rows [begin, end) over which f and P are taken, with f already times eta.
struct Part {
  int begin, end, tokens;
  std::span<float> f;
};

int counted(const Context& context, int begin, int end) {
  int count = 0;
  for (int t = begin; t < end; ++t) count += context.tokens.counts(t);
  return count;
}

std::span<const Part> parts_of(const Context& context, const Routing& routing, const LoadBalance& word,
                               base::Frame& frame) {
  const int32_t whole[] = {0};
  const std::span<const int32_t> begin =
      word.per_sequence && !context.tokens.sequence.empty() ? context.tokens.sequence : whole;
  const auto choices = static_cast<size_t>(routing.plan.choices);
  const std::span<Part> parts = frame.list<Part>(begin.size());
  size_t count = 0;
  for (size_t s = 0; s < begin.size(); ++s) {
    const int32_t end = s + 1 < begin.size() ? begin[s + 1] : context.tokens.rows();
    const Part part{begin[s], end, counted(context, begin[s], end),
                    frame.list<float>(static_cast<size_t>(context.experts))};
    int64_t proposals = 0;
    for (size_t i = static_cast<size_t>(part.begin) * choices; i < static_cast<size_t>(part.end) * choices; ++i)
      if (const int32_t e = routing.proposed[i]; e >= 0) {
        part.f[static_cast<size_t>(e)] += 1;
        ++proposals;
      }
    for (float& f : part.f) f = proposals > 0 ? f / static_cast<float>(proposals) : 0;
    if (!word.per_sequence && !context.shares.empty()) std::ranges::copy(context.shares, part.f.begin());
    for (int e = context.experts - context.idle; e < context.experts; ++e) part.f[static_cast<size_t>(e)] *= word.eta;
    const bool known = proposals > 0 || (!word.per_sequence && !context.shares.empty());
    if (part.tokens > 0 && known) parts[count++] = part;
  }
  return parts.first(count);
}

// body(part, t) for every token that counts, shared out over the threads.
template <class Body>
void each_counted(const Context& context, std::span<const Part> parts, const Body& body) {
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
Matrix<const float> probabilities(const Context& context, const Routing& routing, bool sigmoid, base::Frame& frame) {
  if (!sigmoid) return routing.probabilities(context.experts);
  const Matrix<float> shares = matrix_in(frame, context.tokens.rows(), context.experts);
  kernels::sigmoid_shares(routing.scores(context.experts), shares, context.threads);
  return shares;
}

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
  base::Frame frame(context.threads);
  const std::span<const Part> parts = parts_of(context, routing, *this, frame);
  const Matrix<const float> p = probabilities(context, routing, sigmoid, frame);
  const std::span<float> mean = frame.list<float>(static_cast<size_t>(context.tokens.rows()));
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
  base::Frame frame(context.threads);
  const std::span<const Part> parts = parts_of(context, routing, *this, frame);
  const Matrix<const float> p = probabilities(context, routing, sigmoid, frame);
  Matrix<float> logistic;
  if (sigmoid) {
    logistic = matrix_in(frame, context.tokens.rows(), context.experts);
    kernels::sigmoid_forward(routing.scores(context.experts), logistic, context.threads);
  }
  each_counted(context, parts, [&](const Part& part, int t) {
    const float scale = gradient.scale * alpha * static_cast<float>(context.experts) /
                        (static_cast<float>(parts.size()) * static_cast<float>(part.tokens));
    const float mean = mean_of(part, p[t]);
    float* dz = gradient.dz[t];
    for (size_t e = 0; e < part.f.size(); ++e) {
      const float d = scale * p[t][e] * (part.f[e] - mean);
      dz[e] += sigmoid ? d * (1 - logistic[t][e]) : d;
    }
  });
}

}  // namespace choir::moe
