#include "moe/balance/ortho.h"

#include "moe/parse.h"
#include "moe/reference/balance.h"
#include "moe/reference/losses.h"

namespace choir::moe {
namespace {

constexpr int kExperts = 5, kWidth = 12;

TEST_CASE("ortho: texts, ranges, and the scores it works on") {
  reference::check_text<Ortho>({"ortho(0.01)"}, {"ortho", "ortho(-1)", "ortho(1,2)"});
  CHECK_NOTHROW(parse_router("dense_cosine > top_k(2) > all > softmax + ortho(0.1)"));
  CHECK_THROWS_AS(parse_router("grap > top_k(2) > all > softmax + ortho(0.1)"), base::Error);
}

TEST_CASE("ortho: loss and gradient agree with the reference, zero rows included") {
  for (const double scale : {1e-3, 1.0, 40.0})
    for (const bool zero : {false, true}) {
      CAPTURE(scale);
      CAPTURE(zero);
      reference::Case c(3, kWidth, kExperts);
      auto w = reference::random(kExperts * kWidth, scale, 7);
      if (zero) std::fill_n(w.begin() + 2 * kWidth, kWidth, 0.0);
      c.tensor = {reference::narrow(w)};
      c.shape = {{kExperts, kWidth}};
      const auto list = c.weights();
      CHECK(Ortho{0.25f}.loss(c.context(list), c.routing) ==
            doctest::Approx(reference::ortho(w, kWidth, 0.25)).epsilon(1e-5));
      const auto got = reference::gradients_of(Ortho{0.25f}, c, static_cast<float>(scale));
      CHECK(reference::close(reference::ortho_backward(w, kWidth, 0.25), got.tensors[0], scale));
    }
}

TEST_CASE("ortho: nothing to do for orthogonal rows; parallel rows cost two each pair") {
  reference::Case c(1, 4, 3);
  c.shape = {{3, 4}};
  c.tensor = {{2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 1}};
  auto list = c.weights();
  CHECK(Ortho{1}.loss(c.context(list), c.routing) == 0);
  c.tensor = {{2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1}};
  list = c.weights();
  CHECK(Ortho{1}.loss(c.context(list), c.routing) == doctest::Approx(2));
}

}  // namespace
}  // namespace choir::moe
