// The load loss by sequence, of sigmoids, with experts without weights, over parts of a step.
#include <numeric>

#include "moe/reference/balance_case.h"

namespace choir::moe {
namespace {

using doctest::Approx;
using reference::Batch;
using reference::check_balance;
using Reals = std::vector<double>;

constexpr int kTokens = 20, kExperts = 5, kChoices = 2;
constexpr double kAlpha = 0.25;
constexpr double kSize = kAlpha * kExperts / kTokens;  // of a gradient

LoadBalance word(bool sigmoid = false) {
  LoadBalance load;
  load.alpha = static_cast<float>(kAlpha);
  load.sigmoid = sigmoid;
  return load;
}

TEST_CASE("load: by sequence it is the mean of the losses of each, with and without padding") {
  for (const bool padded : {false, true}) {
    Batch b(kTokens, kExperts, kChoices, 2);
    b.sequence = {0, 3, 4, 11};
    reference::Load spec{size_t(kExperts), kAlpha, {}, {0, 3, 4, 11, kTokens}, {}};
    if (padded) {  // the second sequence has no token left
      spec.padded.assign(kTokens, 0);
      for (const int t : {1, 3, 18, 19}) spec.padded[size_t(t)] = 1;
      b.pad(spec.padded);
    }
    LoadBalance load = word();
    load.per_sequence = true;
    check_balance(load, b, 4 * kSize, [&](const auto& z) { return reference::load(z, b.proposed, spec); });
    CHECK(std::abs(load.loss(b.context(), b.routing) - word().loss(b.context(), b.routing)) > 1e-3);
  }
}

// p = s / sum s, s = sigmoid(z).
template <class S>
S sigmoid_load(const std::vector<S>& z, const Reals& f) {
  S loss = 0;
  const size_t n = z.size() / f.size();
  for (size_t t = 0; t < n; ++t) {
    S sum = 0, mean = 0;
    for (size_t e = 0; e < f.size(); ++e) {
      const S s = reference::sigmoid(z[t * f.size() + e]);
      sum += s;
      mean += f[e] * s;
    }
    loss += kAlpha * double(f.size()) / double(n) * mean / sum;
  }
  return loss;
}

TEST_CASE("load: of sigmoids, loss and gradient agree with the reference") {
  for (const double scale : {0.1, 1.0, 5.0, 20.0}) {
    Batch b(kTokens, kExperts, kChoices, scale);
    const Reals f = reference::shares(b.proposed, kExperts);
    check_balance(word(true), b, kSize, [&](const auto& z) { return sigmoid_load(z, f); });
  }
}

TEST_CASE("load: very negative scores do not lower it through a small constant in the denominator") {
  for (const bool sigmoid : {false, true})
    for (const double shift : {0.0, -30.0, -60.0, -200.0, -1e4}) {
      CAPTURE(shift);
      Batch b(kTokens, kExperts, kChoices, 0);
      for (double& z : b.z) z += shift;
      b.refresh();
      CHECK(word(sigmoid).loss(b.context(), b.routing) == Approx(kAlpha).epsilon(1e-5));
      for (const float d : reference::balance_gradient(word(sigmoid), b)) CHECK(std::isfinite(d));
    }
}

TEST_CASE("load: the weight of experts without weights multiplies their part") {
  Batch b(kTokens, kExperts, kChoices, 1);
  b.idle = 2;
  LoadBalance load = word();
  load.eta = 0.75f;
  const reference::Load spec{size_t(kExperts), kAlpha, {1, 1, 1, 0.75, 0.75}, {}, {}};
  check_balance(load, b, kSize, [&](const auto& z) { return reference::load(z, b.proposed, spec); });
  b.idle = 0;
  CHECK(load.loss(b.context(), b.routing) == word().loss(b.context(), b.routing));
}

TEST_CASE("load: equals 1 + E sum (f - 1/E)(P - 1/E) times alpha; K times as much where slots are summed") {
  Batch b(kTokens, kExperts, kChoices, 2);
  Reals p(kExperts), count(kExperts);
  for (size_t i = 0; i < b.z.size(); ++i) p[i % kExperts] += double(b.routing.probability[i]) / kTokens;
  for (const int32_t e : b.proposed) count[size_t(e)] += 1;
  double identity = 1, slots = 0, sum_p = 0, sum_f = 0;
  for (size_t e = 0; e < kExperts; ++e) {
    const double f = count[e] / (kTokens * kChoices);
    identity += kExperts * (f - 1.0 / kExperts) * (p[e] - 1.0 / kExperts);
    slots += kExperts * count[e] / kTokens * p[e];
    sum_p += p[e];
    sum_f += f;
  }
  const double loss = word().loss(b.context(), b.routing);
  CHECK(sum_p == Approx(1).epsilon(1e-6));
  CHECK(sum_f == Approx(1));
  CHECK(loss == Approx(kAlpha * identity).epsilon(1e-5));
  CHECK(kAlpha * slots == Approx(kChoices * loss).epsilon(1e-5));
}

TEST_CASE("load: padded rows change neither loss nor gradient and take none") {
  for (const bool sigmoid : {false, true}) {
    Batch b(kTokens, kExperts, kChoices, 1);
    const double loss = word(sigmoid).loss(b.context(), b.routing);
    const auto dz = reference::balance_gradient(word(sigmoid), b);
    Batch longer(kTokens + 3, kExperts, kChoices, 1);
    std::copy(b.z.begin(), b.z.end(), longer.z.begin());
    std::copy(b.proposed.begin(), b.proposed.end(), longer.proposed.begin());
    std::vector<uint8_t> mask(kTokens + 3);
    std::fill(mask.end() - 3, mask.end(), 1);
    longer.pad(mask);
    CHECK(word(sigmoid).loss(longer.context(), longer.routing) == loss);
    auto want = dz;
    want.resize(longer.z.size());
    CHECK(reference::balance_gradient(word(sigmoid), longer) == want);
  }
}

// The mean over the parts of a step is the loss of the step if all use the shares of the whole step.
TEST_CASE("load: a step in parts gives the loss and gradient of the whole, with the shares of the whole") {
  for (const bool sigmoid : {false, true}) {
    Batch whole(kTokens, kExperts, kChoices, 2);
    const double want = word(sigmoid).loss(whole.context(), whole.routing);
    const auto gradient = reference::balance_gradient(word(sigmoid), whole);
    std::vector<float> shares;
    for (const double f : reference::shares(whole.proposed, kExperts)) shares.push_back(static_cast<float>(f));
    double mean = 0, alone = 0;
    std::vector<float> parts;
    for (int part = 0; part < 4; ++part) {
      Batch b(kTokens / 4, kExperts, kChoices, 2);
      const auto z = whole.z.begin() + part * 5 * kExperts;
      b.z.assign(z, z + 5 * kExperts);
      const auto proposed = whole.proposed.begin() + part * 5 * kChoices;
      b.proposed.assign(proposed, proposed + 5 * kChoices);
      b.refresh();
      alone += word(sigmoid).loss(b.context(), b.routing) / 4;
      b.shares = shares;
      mean += word(sigmoid).loss(b.context(), b.routing) / 4;
      const auto dz = reference::balance_gradient(word(sigmoid), b, 0.25f);
      parts.insert(parts.end(), dz.begin(), dz.end());
    }
    CHECK(mean == Approx(want).epsilon(1e-6));
    CHECK(std::abs(alone - want) > 1e-3);  // without them it would not be
    CHECK(reference::error({gradient.begin(), gradient.end()}, parts) < 1e-5);
  }
}

}  // namespace
}  // namespace choir::moe
