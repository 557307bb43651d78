// Latent attention against plain loops in double, in both of its forms, and its backward against the complex step.
#include "nn/latent_attention.h"

#include <doctest/doctest.h>

#include <numeric>

#include "kernels/reference/compare.h"
#include "kernels/reference/rms_norm.h"
#include "kernels/reference/softmax.h"
#include "tests/gradients/complex_step.h"

namespace choir::nn {
namespace {

namespace reference = kernels::reference;
using kernels::Pairs;

constexpr int kWidth = 7;
constexpr double kTheta = 100, kEpsilon = 1e-5;

struct Case {
  LatentShape shape{.heads = 3, .nope = 5, .rotary = 4, .value = 6, .q_rank = 0, .kv_rank = 8};
  std::vector<int> lengths{6};  // of the sequences
  bool biases = false;
  Pairs pairs = Pairs::kNeighbours;
  double latent_epsilon = 1e-6;  // of the reference; the layer has its own

  int tokens() const { return std::accumulate(lengths.begin(), lengths.end(), 0); }
};

// A tensor and its place among the tensors of a layer.
template <class T>
struct Slot {
  T LatentTensors<T>::*place;
  int rows, cols;
  int size() const { return rows * cols; }
};

template <class T>
std::vector<Slot<T>> slots(const Case& c) {
  using All = LatentTensors<T>;
  const LatentShape& s = c.shape;
  std::vector<Slot<T>> list{{&All::norm, 1, kWidth},
                            {&All::kv_a, s.cached(), kWidth},
                            {&All::kv_a_norm, 1, s.kv_rank},
                            {&All::kv_b, s.heads * (s.nope + s.value), s.kv_rank},
                            {&All::o, kWidth, s.heads * s.value}};
  if (s.q_rank == 0) {
    list.push_back({&All::q, s.heads * s.key(), kWidth});
  } else {
    list.push_back({&All::q_a, s.q_rank, kWidth});
    list.push_back({&All::q_a_norm, 1, s.q_rank});
    list.push_back({&All::q_b, s.heads * s.key(), s.q_rank});
  }
  if (!c.biases) return list;
  list.push_back({&All::kv_a_bias, 1, s.cached()});
  list.push_back({&All::o_bias, 1, kWidth});
  if (s.q_rank > 0) list.push_back({&All::q_a_bias, 1, s.q_rank});
  return list;
}

// What the reference takes for a tensor: numbers of one scalar.
template <class S>
struct Numbers {
  std::vector<S> data;
  size_t cols = 0;
};

template <class S>
std::vector<S> linear(const std::vector<S>& x, const Numbers<S>& w, const Numbers<S>& bias) {
  std::vector<S> y;
  for (size_t r = 0; r < w.data.size() / w.cols; ++r) {
    y.push_back(bias.data.empty() ? S(0) : bias.data[r]);
    for (size_t i = 0; i < w.cols; ++i) y.back() += w.data[r * w.cols + i] * x[i];
  }
  return y;
}

template <class S>
std::vector<S> piece(const std::vector<S>& x, int begin, int count) {
  return {x.begin() + begin, x.begin() + begin + count};
}

template <class S>
std::vector<S> turned(const std::vector<S>& x, size_t position, Pairs pairs) {
  std::vector<S> y(x.size());
  const size_t half = x.size() / 2;
  for (size_t i = 0; i < half; ++i) {
    const double angle =
        static_cast<double>(position) * std::pow(kTheta, -2.0 * static_cast<double>(i) / static_cast<double>(x.size()));
    const size_t a = pairs == Pairs::kHalves ? i : 2 * i, b = pairs == Pairs::kHalves ? i + half : 2 * i + 1;
    y[a] = x[a] * std::cos(angle) - x[b] * std::sin(angle);
    y[b] = x[a] * std::sin(angle) + x[b] * std::cos(angle);
  }
  return y;
}

template <class S>
struct Token {
  std::vector<S> query, key, value;  // of all heads
};

// The names and the order of the steps are those of section 2.1 of arXiv 2405.04434.
template <class S>
Token<S> token(const Case& c, const LatentTensors<Numbers<S>>& w, const std::vector<S>& x, size_t position) {
  const LatentShape& s = c.shape;
  const std::vector<S> h = reference::rms_norm(x, w.norm.data, kEpsilon);
  const std::vector<S> joint = linear(h, w.kv_a, w.kv_a_bias);
  const std::vector<S> latent = reference::rms_norm(piece(joint, 0, s.kv_rank), w.kv_a_norm.data, c.latent_epsilon);
  const std::vector<S> up = linear(latent, w.kv_b, {});
  const std::vector<S> rope = turned(piece(joint, s.kv_rank, s.rotary), position, c.pairs);
  const std::vector<S> q =
      s.q_rank == 0
          ? linear(h, w.q, {})
          : linear(reference::rms_norm(linear(h, w.q_a, w.q_a_bias), w.q_a_norm.data, c.latent_epsilon), w.q_b, {});
  Token<S> t;
  const auto append = [](std::vector<S>& to, const std::vector<S>& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  for (int head = 0; head < s.heads; ++head) {
    append(t.query, piece(q, head * s.key(), s.nope));
    append(t.query, turned(piece(q, head * s.key() + s.nope, s.rotary), position, c.pairs));
    append(t.key, piece(up, head * (s.nope + s.value), s.nope));
    append(t.key, rope);
    append(t.value, piece(up, head * (s.nope + s.value) + s.nope, s.value));
  }
  return t;
}

// What the last of some tokens of a sequence makes of them.
template <class S>
std::vector<S> mix(const Case& c, const std::vector<Token<S>>& tokens) {
  const LatentShape& s = c.shape;
  const double scale = s.scale != 0 ? static_cast<double>(s.scale) : 1 / std::sqrt(static_cast<double>(s.key()));
  std::vector<S> mixed;
  for (int head = 0; head < s.heads; ++head) {
    std::vector<S> scores, sum(static_cast<size_t>(s.value));
    for (const Token<S>& t : tokens) {
      scores.emplace_back(0);
      for (int i = head * s.key(); i < (head + 1) * s.key(); ++i) scores.back() += tokens.back().query[i] * t.key[i];
      scores.back() *= scale;
    }
    const std::vector<S> p = reference::softmax(scores).p;
    for (size_t j = 0; j < tokens.size(); ++j)
      for (int i = 0; i < s.value; ++i) sum[i] += p[j] * tokens[j].value[head * s.value + i];
    mixed.insert(mixed.end(), sum.begin(), sum.end());
  }
  return mixed;
}

// The variables are the input, then the tensors in the order of the slots.
template <class S>
std::vector<S> layer(const Case& c, const std::vector<S>& variables) {
  LatentTensors<Numbers<S>> w;
  int next = c.tokens() * kWidth;
  for (const auto& slot : slots<Numbers<S>>(c)) {
    w.*slot.place = {piece(variables, next, slot.size()), static_cast<size_t>(slot.cols)};
    next += slot.size();
  }
  std::vector<S> y;
  for (const int length : c.lengths) {
    std::vector<Token<S>> tokens;
    for (int t = 0; t < length; ++t) {
      const std::vector<S> x = piece(variables, static_cast<int>(y.size()), kWidth);
      tokens.push_back(token(c, w, x, static_cast<size_t>(t)));
      const std::vector<S> out = linear(mix(c, tokens), w.o, w.o_bias);
      for (size_t d = 0; d < kWidth; ++d) y.push_back(x[d] + out[d]);
    }
  }
  return y;
}

std::vector<double> random_variables(const Case& c) {
  int size = c.tokens() * kWidth;
  for (const auto& slot : slots<Weight>(c)) size += slot.size();
  return reference::random(static_cast<size_t>(size), 0.7, 3);
}

// The layer over a flat list of variables.
template <class T>
LatentTensors<T> tensors_over(const Case& c, std::vector<float>& all) {
  LatentTensors<T> tensors;
  float* next = all.data() + c.tokens() * kWidth;
  for (const auto& slot : slots<T>(c)) {
    const Matrix<float> m(next, slot.rows, slot.cols);
    if constexpr (std::is_same_v<T, Weight>)
      tensors.*slot.place = T(Matrix<const float>(m));
    else
      tensors.*slot.place = m;
    next += slot.size();
  }
  return tensors;
}

struct Call {
  LatentForm form = LatentForm::kNaive;
  kernels::Sums sums = kernels::Sums::kLanes;
  int threads = 2;
};

struct Run {
  const Case& c;
  base::Threads threads;
  std::vector<Sequence> sequences;
  std::vector<int> positions;
  Buffer<float> table{static_cast<size_t>(64 * 16)};
  LatentContext context;
  LatentActivations activations;

  Run(const Case& of, const Call& call) : c(of), threads(call.threads) {
    for (const int length : c.lengths) {
      const int row = static_cast<int>(positions.size());
      sequences.push_back({row, length, 0, row});
      for (int i = 0; i < length; ++i) positions.push_back(i);
    }
    const Matrix<float> rope = table.matrix(64, c.shape.rotary);
    kernels::RopeSpec spec;
    spec.theta = kTheta;
    kernels::rope_table(kernels::rope_frequencies(spec, c.shape.rotary, 64), rope);
    context = {c.shape, static_cast<float>(kEpsilon), rope, c.pairs, positions, sequences, call.form, call.sums};
  }

  std::vector<float> forward(const LatentTensors<Weight>& weights, std::vector<float>& x) {
    std::vector<float> y(static_cast<size_t>(c.tokens() * kWidth));
    latent_attention_forward(context, weights, {{x.data(), c.tokens(), kWidth}, {y.data(), c.tokens(), kWidth}, {}},
                             activations, threads);
    return y;
  }

  // After the forward, in the order of the variables.
  std::vector<float> backward(std::vector<float>& all, const std::vector<double>& dy) {
    std::vector<float> gradient(all.size(), 1.0f);
    std::ranges::copy(dy, gradient.begin());
    LatentScratch scratch;
    latent_attention_backward(context, tensors_over<Weight>(c, all), activations,
                              {{all.data(), c.tokens(), kWidth}, {gradient.data(), c.tokens(), kWidth}, scratch},
                              tensors_over<Matrix<float>>(c, gradient), threads);
    for (size_t i = dy.size(); i < gradient.size(); ++i) gradient[i] -= 1;  // gradients add to what is there
    return gradient;
  }
};

std::vector<float> output(const Case& c, const std::vector<double>& variables, const Call& call) {
  auto all = reference::narrow(variables);
  return Run(c, call).forward(tensors_over<Weight>(c, all), all);
}

void check_forward(const Case& c) {
  const auto variables = random_variables(c);
  const auto want = layer(c, variables);
  reference::for_each_isa([&](kernels::Isa) {
    CHECK(reference::error(want, output(c, variables, {})) < 1e-5);
    CHECK(reference::error(want, output(c, variables, {.sums = kernels::Sums::kPacked})) < 1e-5);
    CHECK(reference::error(want, output(c, variables, {.form = LatentForm::kAbsorbed})) < 1e-5);
  });
}

void check_backward(const Case& c) {
  const auto variables = random_variables(c);
  const auto dy = reference::random(static_cast<size_t>(c.tokens() * kWidth), 1, 77);
  auto all = reference::narrow(variables);
  Run run(c, {.sums = kernels::Sums::kPacked});  // as training does
  run.forward(tensors_over<Weight>(c, all), all);
  const auto got = run.backward(all, dy);
  const auto want = complex_step(variables, [&](const std::vector<std::complex<double>>& z) {
    const auto y = layer(c, z);
    std::complex<double> loss = 0;
    for (size_t i = 0; i < y.size(); ++i) loss += dy[i] * y[i];
    return loss;
  });
  int next = c.tokens() * kWidth;
  CHECK(reference::error(piece(want, 0, next), piece(got, 0, next)) < 1e-5);
  for (const auto& slot : slots<Weight>(c)) {
    CAPTURE(next);
    CHECK(reference::error(piece(want, next, slot.size()), piece(got, next, slot.size())) < 1e-5);
    next += slot.size();
  }
}

// Without and with a query latent, with biases, both pairings, a scale of its own, one head, values wider than keys.
std::vector<Case> cases() {
  std::vector<Case> list(6);
  list[1].shape.q_rank = 6;
  list[1].biases = true;
  list[1].lengths = {5, 1, 4};
  list[2].pairs = Pairs::kHalves;
  list[2].biases = true;
  list[3].shape.scale = 0.9f;
  list[4].shape = {.heads = 1, .nope = 3, .rotary = 2, .value = 11, .q_rank = 4, .kv_rank = 5};
  list[5].shape = {.heads = 2, .nope = 14, .rotary = 6, .value = 11, .q_rank = 0, .kv_rank = 22};
  list[5].lengths = {3, 2};
  return list;
}

TEST_CASE("latent attention: the output of both forms agrees with the reference") {
  for (const Case& c : cases()) check_forward(c);
}

TEST_CASE("latent attention: every gradient agrees with the complex step") {
  for (const Case& c : cases()) check_backward(c);
}

TEST_CASE("latent attention: both forms agree over many keys and for weights of every format") {
  const Case c{.shape = {.heads = 4, .nope = 16, .rotary = 8, .value = 20, .q_rank = 12, .kv_rank = 40},
               .lengths = {60, 9, 50}};
  auto variables = reference::narrow(random_variables(c));
  for (const auto type : {tensor::DType::kF32, tensor::DType::kBF16, tensor::DType::kF16}) {
    CAPTURE(tensor::name_of(type));
    std::vector<uint16_t> half;
    for (const float v : variables)
      half.push_back(type == tensor::DType::kBF16 ? tensor::BF16::from(v).bits : tensor::F16::from(v).bits);
    auto weights = tensors_over<Weight>(c, variables);
    auto rounded = variables;
    if (type != tensor::DType::kF32)
      for (auto place : {&LatentTensors<Weight>::q_a, &LatentTensors<Weight>::q_b, &LatentTensors<Weight>::kv_a,
                         &LatentTensors<Weight>::kv_b, &LatentTensors<Weight>::o}) {
        Weight& w = weights.*place;
        const auto at = static_cast<const float*>(w.data) - variables.data();
        w = {half.data() + at, type, w.rows, w.cols};
        tensor::widen(w, std::span(rounded).subspan(static_cast<size_t>(at), w.size()));
      }
    const auto want = layer(c, std::vector<double>(rounded.begin(), rounded.end()));
    CHECK(reference::error(want, Run(c, {}).forward(weights, variables)) < 1e-5);
    CHECK(reference::error(want, Run(c, {.form = LatentForm::kAbsorbed}).forward(weights, variables)) < 1e-5);
  }
}

TEST_CASE("latent attention: the pairing of the model is kept to, on both sides of the product") {
  Case c;
  const auto variables = random_variables(c);
  const auto neighbours = output(c, variables, {});
  c.pairs = Pairs::kHalves;
  CHECK(reference::error(layer(c, variables), neighbours) > 1e-2);
  // Halves of a permuted head are neighbours: what transformers makes of V3 (the rotary rows of both weights change
  // places) is the same attention.
  auto permuted = variables;
  int next = c.tokens() * kWidth;
  const auto move = [&](int begin, int cols) {
    const std::vector<double> rows(variables.begin() + begin, variables.begin() + begin + c.shape.rotary * cols);
    for (int i = 0; i < c.shape.rotary; ++i)
      std::copy_n(rows.begin() + i * cols, cols,
                  permuted.begin() + begin + (i % 2 * c.shape.rotary / 2 + i / 2) * cols);
  };
  for (const auto& slot : slots<Weight>(c)) {
    if (slot.place == &LatentTensors<Weight>::kv_a) move(next + c.shape.kv_rank * kWidth, kWidth);
    if (slot.place == &LatentTensors<Weight>::q)
      for (int h = 0; h < c.shape.heads; ++h) move(next + (h * c.shape.key() + c.shape.nope) * kWidth, kWidth);
    next += slot.size();
  }
  const auto halves = output(c, permuted, {});
  CHECK(reference::error(std::vector<double>(neighbours.begin(), neighbours.end()), halves) < 1e-5);
}

TEST_CASE("latent attention: the norms of the latents have an epsilon of 1e-6, whatever that of the block") {
  Case c;
  c.shape.q_rank = 6;
  auto variables = random_variables(c);
  int next = c.tokens() * kWidth;
  for (const auto& slot : slots<Weight>(c)) {  // latents of about 1e-3: there the epsilon decides
    const bool squeezes = slot.place == &LatentTensors<Weight>::kv_a || slot.place == &LatentTensors<Weight>::q_a;
    for (int i = 0; i < slot.size() && squeezes; ++i) variables[static_cast<size_t>(next + i)] *= 1e-3;
    next += slot.size();
  }
  const auto want = layer(c, variables);
  for (const auto form : {LatentForm::kNaive, LatentForm::kAbsorbed})
    CHECK(reference::error(want, output(c, variables, {.form = form})) < 1e-5);
  c.latent_epsilon = kEpsilon;
  CHECK(reference::error(layer(c, variables), output(c, variables, {})) > 1e-3);
}

TEST_CASE("latent attention: the scale has YaRN's m squared, as in DeepSeek's code for V2 and V3") {
  kernels::RopeSpec rope;
  rope.factor = 40;
  const auto growth = [&](double mscale_all_dim) {
    rope.mscale = rope.mscale_all_dim = mscale_all_dim;
    return latent_scale(192, rope) * std::sqrt(192.0f);
  };
  CHECK(growth(1) == doctest::Approx(1));  // nothing is stretched
  rope.kind = kernels::RopeSpec::Kind::kYarn;
  CHECK(growth(0) == doctest::Approx(1));                         // the key is missing
  CHECK(growth(0.707) == doctest::Approx(1.5896).epsilon(1e-4));  // V2-Lite: (0.1 * 0.707 ln 40 + 1)^2
  CHECK(growth(1) == doctest::Approx(1.8739).epsilon(1e-4));      // V3: (0.1 ln 40 + 1)^2
}

TEST_CASE("latent attention: the same bits for any number of threads") {
  const Case c{.shape = {.heads = 3, .nope = 5, .rotary = 4, .value = 6, .q_rank = 6, .kv_rank = 8},
               .lengths = {33, 20},
               .biases = true};
  const auto variables = random_variables(c);
  const auto dy = reference::random(static_cast<size_t>(c.tokens() * kWidth), 1, 77);
  auto all = reference::narrow(variables);
  Run one(c, {.threads = 1}), three(c, {.threads = 3});
  CHECK(one.forward(tensors_over<Weight>(c, all), all) == three.forward(tensors_over<Weight>(c, all), all));
  CHECK(one.backward(all, dy) == three.backward(all, dy));
  CHECK(output(c, variables, {.form = LatentForm::kAbsorbed, .threads = 1}) ==
        output(c, variables, {.form = LatentForm::kAbsorbed, .threads = 3}));
}

}  // namespace
}  // namespace choir::nn
