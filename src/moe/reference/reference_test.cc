// The references themselves: each backward against the complex step, and what the formulas promise.
#include <doctest/doctest.h>

#include "moe/reference/data.h"
#include "moe/reference/losses.h"
#include "moe/reference/scores.h"
#include "moe/reference/selection.h"
#include "moe/reference/weights.h"
#include "tests/gradients/complex_step.h"

namespace choir::moe {
namespace {

using doctest::Approx;
using reference::at_slots;
using Reals = std::vector<double>;
using Complexes = std::vector<std::complex<double>>;

constexpr size_t kTokens = 8, kExperts = 6, kChoices = 3, kWidth = 16;
constexpr double kScales[] = {1e-3, 0.1, 1, 5, 20};

Reals random(size_t size, double scale, uint64_t seed) { return reference::random(size, scale, seed); }

Reals joined(const std::vector<Reals>& parts) {
  Reals all;
  for (const Reals& p : parts) all.insert(all.end(), p.begin(), p.end());
  return all;
}

template <class S>
std::vector<S> part(const std::vector<S>& all, size_t begin, size_t size) {
  return {all.begin() + std::ptrdiff_t(begin), all.begin() + std::ptrdiff_t(begin + size)};
}

std::complex<double> times(const Reals& d, const Complexes& v) {
  std::complex<double> sum = 0;
  for (size_t i = 0; i < d.size(); ++i) sum += d[i] * v[i];
  return sum;
}

template <class Loss>
void check_backward(const Reals& at, const Reals& backward, const Loss& loss) {
  CHECK(reference::error(complex_step(at, loss), backward) < 1e-12);
}

TEST_CASE("reference scores without weights: the backward agrees with the complex step") {
  for (const double scale : kScales)
    for (const size_t experts : {kExperts, size_t(1), size_t(4), kWidth}) {
      CAPTURE(scale);
      CAPTURE(experts);
      const Reals x = random(kTokens * kWidth, scale, 1), d = random(kTokens * experts, 1, 2);
      check_backward(x, reference::grap_backward(d, x, kWidth, experts, 0.01),
                     [&](const Complexes& v) { return times(d, reference::grap(v, kWidth, experts, 0.01)); });
      check_backward(x, reference::grap_cosine_backward(d, x, kWidth, experts, 4),
                     [&](const Complexes& v) { return times(d, reference::grap_cosine(v, kWidth, experts, 4)); });
    }
}

TEST_CASE("reference scores with weights: the backward agrees with the complex step") {
  const Reals dz = random(kTokens * kExperts, 1, 2);
  const size_t nx = kTokens * kWidth, nw = kExperts * kWidth;
  for (const double scale : kScales) {
    CAPTURE(scale);
    const Reals x = random(nx, scale, 1), w = random(nw, 0.5, 3), wn = random(nw, 0.3, 4);
    const auto dense = reference::dense_cosine_backward(dz, x, w, kWidth, 4);
    check_backward(joined({x, w}), joined({dense.x, dense.w}), [&](const Complexes& v) {
      return times(dz, reference::dense_cosine(part(v, 0, nx), part(v, nx, nw), kWidth, 4));
    });
    const Reals narrow = part(w, 0, kWidth);
    const auto learned = reference::grap_learned_backward(dz, x, narrow, kExperts, 4);
    check_backward(joined({x, narrow}), joined({learned.x, learned.w}), [&](const Complexes& v) {
      return times(dz, reference::grap_learned(part(v, 0, nx), part(v, nx, kWidth), kExperts, 4.0));
    });
    const Reals noise = random(kTokens * kExperts, 1, 5);
    const auto noisy = reference::noisy_backward(dz, x, w, wn, noise, kWidth);
    check_backward(joined({x, w, wn}), joined({noisy.x, noisy.w, noisy.wn}), [&](const Complexes& v) {
      return times(dz, reference::noisy(part(v, 0, nx), part(v, nx, nw), part(v, nx + nw, nw), noise, kWidth));
    });
  }
}

TEST_CASE("reference projected_cosine: the backward agrees with the complex step, below and above the limit") {
  const size_t rank = 5, nx = kTokens * kWidth, np = rank * kWidth, ns = kExperts * rank;
  const Reals dz = random(kTokens * kExperts, 1, 2);
  for (const double scale : kScales)
    for (const double t : {-1.0, std::log(2.0), 4.6, 5.0}) {
      CAPTURE(scale);
      CAPTURE(t);
      const Reals x = random(nx, scale, 1), p = random(np, 0.5, 3), s = random(ns, 0.5, 4);
      const auto d = reference::projected_cosine_backward(dz, x, {p, s, t, rank});
      check_backward(joined({x, p, s, {t}}), joined({d.x, d.p, d.s, {d.t}}), [&](const Complexes& v) {
        return times(dz, reference::projected_cosine(part(v, 0, nx),
                                                     {part(v, nx, np), part(v, nx + np, ns), v[nx + np + ns], rank}));
      });
    }
}

reference::Choices some_choices(double dropped) {
  const auto proposed = reference::random_choices(kTokens, kChoices, kExperts, 0.1, 7);
  reference::Choices c{proposed, proposed, kExperts, kChoices};
  base::Rng rng(8);
  for (int32_t& e : c.chosen) e = rng.uniform() < dropped ? -1 : e;
  return c;
}

template <class Weights, class Backward>
void check_weights(const Weights& weights, const Backward& backward) {
  const Reals dg = random(kTokens * kChoices, 1, 3);
  for (const double scale : kScales)
    for (const double dropped : {0.0, 0.4}) {
      CAPTURE(scale);
      CAPTURE(dropped);
      const reference::Choices c = some_choices(dropped);
      const Reals z = random(kTokens * kExperts, scale, 1);
      check_backward(z, backward(dg, z, c), [&](const Complexes& v) { return times(dg, weights(v, c)); });
    }
}

TEST_CASE("reference weights: the backward agrees with the complex step, with and without dropped choices") {
  check_weights([](const auto& z, const auto& c) { return reference::softmax_weights(z, c); },
                reference::softmax_weights_backward);
  check_weights([](const auto& z, const auto& c) { return reference::renormalised_weights(z, c); },
                reference::renormalised_weights_backward);
  check_weights([](const auto& z, const auto& c) { return reference::sigmoid_weights(z, c); },
                reference::sigmoid_weights_backward);
  check_weights([](const auto& z, const auto& c) { return reference::sigmoid_norm_weights(z, c, 2.5); },
                [](const auto& dg, const auto& z, const auto& c) {
                  return reference::sigmoid_norm_weights_backward(dg, z, c, 2.5);
                });
  check_weights([](const auto& z, const auto& c) { return reference::sqrt_softplus_norm_weights(z, c, 1.5); },
                [](const auto& dg, const auto& z, const auto& c) {
                  return reference::sqrt_softplus_norm_weights_backward(dg, z, c, 1.5);
                });
  check_weights([](const auto& z, const auto& c) { return reference::identity_weights(z, c); },
                [](const auto& dg, const auto&, const auto& c) { return reference::identity_weights_backward(dg, c); });
}

TEST_CASE("reference weights: a dropped choice leaves the other gates as they were") {
  const reference::Choices all = some_choices(0), some = some_choices(0.4);
  const Reals z = random(kTokens * kExperts, 1, 1);
  const auto renormalised = reference::renormalised_weights(z, all);
  const auto kept = reference::renormalised_weights(z, some), norm = reference::sigmoid_norm_weights(z, some, 2.5);
  for (size_t i = 0; i < kept.size(); ++i) {
    CHECK(kept[i] == (some.chosen[i] < 0 ? 0 : renormalised[i]));
    CHECK(norm[i] == (some.chosen[i] < 0 ? 0 : reference::sigmoid_norm_weights(z, all, 2.5)[i]));
  }
  for (size_t t = 0; t < kTokens; ++t) {
    double sum = 0, scaled = 0;
    for (size_t s = t * kChoices; s < (t + 1) * kChoices; ++s) {
      sum += renormalised[s];
      scaled += reference::sigmoid_norm_weights(z, all, 2.5)[s];
    }
    CHECK(sum == Approx(1).epsilon(1e-12));
    CHECK(scaled == Approx(2.5).epsilon(1e-12));
  }
}

TEST_CASE("reference weights: very negative logits show the 1e-20 of the normaliser") {
  const reference::Choices c{{0, 1}, {0, 1}, 2, 2};
  const auto g = reference::sigmoid_norm_weights(Reals{-50, -60}, c, 1);
  const double a = std::exp(-50.0), b = std::exp(-60.0);
  CHECK(g[0] == Approx(a / (a + b + 1e-20)).epsilon(1e-12));
  CHECK(g[0] + g[1] < 0.02);
}

struct Batch {
  Reals z;
  std::vector<int32_t> proposed = reference::random_choices(kTokens, kChoices, kExperts, 0.1, 7);
  reference::Mask padded;
  explicit Batch(double scale, bool masked = false) : z(random(kTokens * kExperts, scale, 1)) {
    if (masked) padded = {0, 1, 0, 0, 1, 0, 0, 1};
  }
  reference::Load load(std::vector<size_t> offsets = {}, Reals eta = {}) const {
    return {kExperts, 0.7, std::move(eta), std::move(offsets), padded};
  }
  reference::Locality locality() const {
    return {kExperts, 3, {0, 0, 0, 1, 1, 2, 2, 2}, {0, 0, 0, 2, 2, 0}, 0.01, 0.7, padded};  // no expert on node 1
  }
};

TEST_CASE("reference losses: the backward agrees with the complex step, with and without padding") {
  for (const double scale : kScales)
    for (const bool masked : {false, true}) {
      CAPTURE(scale);
      CAPTURE(masked);
      const Batch b(scale, masked);
      for (const auto& spec : {b.load(), b.load({0, 3, 5, kTokens}), b.load({}, {1, 1, 1, 0.75, 0.75, 0.5})})
        check_backward(b.z, reference::load_backward(b.z, b.proposed, spec),
                       [&](const Complexes& z) { return reference::load(z, b.proposed, spec); });
      check_backward(b.z, reference::z_loss_backward(b.z, kExperts, 0.7, b.padded),
                     [&](const Complexes& z) { return reference::z_loss(z, kExperts, 0.7, b.padded); });
      check_backward(b.z, reference::locality_backward(b.z, b.locality()),
                     [&](const Complexes& z) { return reference::locality(z, b.locality()); });
      check_backward(b.z, reference::entropy_backward(b.z, kExperts, 0.7, b.padded),
                     [&](const Complexes& z) { return reference::entropy(z, kExperts, 0.7, b.padded); });
      check_backward(b.z, reference::l1_backward(b.z, b.proposed, kExperts, 0.7, b.padded),
                     [&](const Complexes& z) { return reference::l1(z, b.proposed, kExperts, 0.7, b.padded); });
      Reals g = reference::softmax_rows(b.z, kExperts);
      check_backward(g, reference::cv2_backward(g, kExperts, 0.7, b.padded),
                     [&](const Complexes& v) { return reference::cv2(v, kExperts, 0.7, b.padded); });
      check_backward(b.z, reference::ortho_backward(b.z, kTokens, 0.7),
                     [&](const Complexes& w) { return reference::ortho(w, kTokens, 0.7); });
    }
}

// All losses and gradients of a batch, so that two batches can be compared.
std::vector<Reals> all_losses(const Batch& b, const reference::Locality& l) {
  const Reals p = reference::softmax_rows(b.z, kExperts);
  return {{reference::load(b.z, b.proposed, b.load())},
          {reference::z_loss(b.z, kExperts, 1, b.padded)},
          {reference::cv2(p, kExperts, 1, b.padded)},
          {reference::locality(b.z, l)},
          {reference::entropy(b.z, kExperts, 1, b.padded)},
          {reference::l1(b.z, b.proposed, kExperts, 1, b.padded)},
          reference::load_backward(b.z, b.proposed, b.load()),
          reference::z_loss_backward(b.z, kExperts, 1, b.padded),
          reference::cv2_backward(p, kExperts, 1, b.padded),
          reference::locality_backward(b.z, l),
          reference::entropy_backward(b.z, kExperts, 1, b.padded),
          reference::l1_backward(b.z, b.proposed, kExperts, 1, b.padded)};
}

TEST_CASE("reference losses: padded tokens change nothing and take no gradient") {
  const Batch plain(1);
  Batch longer(1);
  reference::Locality l = plain.locality(), wide = l;
  longer.z = joined({plain.z, random(2 * kExperts, 3, 9)});
  longer.proposed.insert(longer.proposed.end(), {0, 1, 2, 0, 1, 2});
  wide.node_of_token.insert(wide.node_of_token.end(), {1, 0});
  longer.padded.assign(kTokens, 0);
  longer.padded.insert(longer.padded.end(), {1, 1});
  wide.padded = longer.padded;
  const auto before = all_losses(plain, l), after = all_losses(longer, wide);
  for (size_t i = 0; i < before.size(); ++i) {
    Reals want = before[i];
    if (want.size() > 1) want.resize(longer.z.size());  // with zeros
    CHECK(reference::error(want, after[i]) < 1e-14);
  }
}

TEST_CASE("reference losses: the scope of a sequence is the mean of the losses of each alone") {
  const Batch b(1);
  double mean = 0;
  for (size_t t = 0; t < kTokens; t += 4)
    mean += 0.5 * reference::load(part(b.z, t * kExperts, 4 * kExperts), part(b.proposed, t * kChoices, 4 * kChoices),
                                  b.load());
  CHECK(reference::load(b.z, b.proposed, b.load({0, 4, 8})) == Approx(mean).epsilon(1e-13));
  CHECK(std::abs(reference::load(b.z, b.proposed, b.load()) - mean) > 1e-3);
}

TEST_CASE("reference scores: Bessel, length, no gradient along x, zero vectors") {
  for (const size_t experts : {size_t(1), size_t(3), kExperts, kWidth}) {
    CAPTURE(experts);
    const Reals x = random(kTokens * kWidth, 2, 1), delta = reference::grap_cosine(x, kWidth, experts, 1.0);
    Reals longer = x;
    for (double& v : longer) v *= 37.5;
    CHECK(reference::error(delta, reference::grap_cosine(longer, kWidth, experts, 1.0)) < 1e-14);
    const Reals dx = reference::grap_cosine_backward(random(delta.size(), 1, 2), x, kWidth, experts, 1);
    for (size_t t = 0; t < kTokens; ++t) {
      const Reals row = reference::row_of(delta, t, experts);
      CHECK(reference::dot(row, row) <= 1 + 1e-14);
      CHECK(std::abs(reference::dot(reference::row_of(x, t, kWidth), reference::row_of(dx, t, kWidth))) < 1e-14);
    }
  }
  const Reals none(kWidth), dz(kExperts, 1.0), w = random(kExperts * kWidth, 1, 3);
  CHECK(reference::grap_cosine(none, kWidth, kExperts, 4.0) == Reals(kExperts));
  CHECK(reference::grap_cosine_backward(dz, none, kWidth, kExperts, 4) == none);
  CHECK(reference::dense_cosine(none, w, kWidth, 4.0) == Reals(kExperts));
  CHECK(reference::dense_cosine_backward(dz, none, w, kWidth, 4).x == none);
  CHECK(reference::dense_cosine_backward(dz, none, w, kWidth, 4).w == Reals(w.size()));
  CHECK(reference::dense_cosine_backward(dz, part(w, 0, kWidth), Reals(w.size()), kWidth, 4).x == none);
}

TEST_CASE("reference scores: GrAP is the dense cosine with the indicator of each block") {
  for (const size_t experts : {size_t(1), size_t(2), size_t(8), size_t(5)}) {
    const Reals x = random(kTokens * kWidth, 2, 1), dz = random(kTokens * experts, 1, 2);
    const Reals ones(kWidth, double(experts) / double(kWidth));
    CHECK(reference::error(reference::dense_cosine(x, reference::spread(ones, experts), kWidth, 3.0),
                           reference::grap_cosine(x, kWidth, experts, 3.0)) < 1e-14);
    CHECK(reference::error(reference::grap_learned_backward(dz, x, ones, experts, 3).x,
                           reference::grap_cosine_backward(dz, x, kWidth, experts, 3)) < 1e-13);
    const auto d = reference::grap_learned_backward(dz, x, random(kWidth, 1, 5), experts, 3);
    for (size_t e = 0; e < experts; ++e) {
      const auto b = reference::block(e, kWidth, experts);
      CHECK(std::abs(reference::dot(part(d.w, b.begin, b.size()), part(random(kWidth, 1, 5), b.begin, b.size()))) <
            1e-13);
    }
  }
}

TEST_CASE(
    "reference load: 1 at balance, without gradient; the identity; K times as much in the form with a sum of slots") {
  const Reals z = random(12 * kExperts, 2, 1);
  std::vector<int32_t> even;
  for (int t = 0; t < 12; ++t) even.insert(even.end(), {t % 6, (t + 1) % 6});
  CHECK(reference::load(z, even, {kExperts}) == Approx(1).epsilon(1e-13));
  for (const double d : reference::load_backward(z, even, {kExperts})) CHECK(std::abs(d) < 1e-16);
  CHECK(reference::load(Reals(12 * kExperts, 3.0), reference::top_k(z, kExperts, 2), {kExperts}) == Approx(1));
  const auto proposed = reference::top_k(z, kExperts, 2);
  const Reals f = reference::shares(proposed, kExperts);
  double identity = 1, slots = 0;
  for (size_t e = 0; e < kExperts; ++e) {
    double mean = 0;
    for (size_t t = 0; t < 12; ++t) mean += reference::softmax(reference::row_of(z, t, kExperts))[e] / 12;
    identity += kExperts * (f[e] - 1.0 / kExperts) * (mean - 1.0 / kExperts);
    for (size_t i = 0; i < proposed.size(); ++i) slots += kExperts * double(proposed[i] == int(e)) / 12 * mean;
  }
  CHECK(reference::load(z, proposed, {kExperts}) == Approx(identity).epsilon(1e-13));
  CHECK(slots == Approx(2 * reference::load(z, proposed, {kExperts})).epsilon(1e-13));
  CHECK(reference::load(z, proposed, {kExperts}) == Approx(reference::load_loss(z, proposed, kExperts, 1)));
}

TEST_CASE("reference losses: bounds and worked values") {
  const Batch b(3);
  CHECK(reference::entropy(Reals(12, 5.0), 4, 1) == Approx(std::log(4)).epsilon(1e-14));
  CHECK(reference::entropy(Reals{900, 0, 0, 0}, 4, 1) == 0);
  CHECK(reference::cv2(Reals{1, 0, 0, 0, 2, 0, 0, 0}, 4, 1) == Approx(3));  // E - 1
  CHECK(reference::cv2(Reals{1, 2, 2, 1}, 2, 1) == 0);
  CHECK(reference::cv2(Reals(4), 2, 1) == 0);
  CHECK(reference::locality(b.z, b.locality()) > 0);
  CHECK(reference::locality(b.z, b.locality()) < 0.7 * std::log(kExperts / 0.01));
  CHECK(reference::ortho(Reals{2, 0, 0, 5}, 2, 1) == Approx(0));
  CHECK(reference::ortho(Reals{1, 0, 3, 0}, 2, 1) == Approx(2));
  CHECK(reference::l1(Reals{1, -1, 2, 4}, {0, -1, 1, 0}, 2, 1) == Approx(2 * (2 * 1.5 + 1 * 2.0) / 3));
}

TEST_CASE("reference weights: identity and softmax take the numbers of the kept experts") {
  const reference::Choices c{{2, 0, 1, 2}, {2, 0, -1, 2}, 3, 2};
  const Reals z{1, 2, 3, 4, 5, 6};
  CHECK(reference::identity_weights(z, c) == Reals{3, 1, 0, 6});
  CHECK(reference::softmax_weights(z, c) == at_slots(reference::softmax_rows(z, 3), c));
  CHECK(reference::sigmoid_weights(Reals{0, 0, 0, 0, 0, 0}, c) == Reals{0.5, 0.5, 0, 0.5});
}

}  // namespace
}  // namespace choir::moe
