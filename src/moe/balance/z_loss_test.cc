#include "moe/balance/z_loss.h"

#include "moe/reference/balance_case.h"

namespace choir::moe {
namespace {

using reference::Batch;

const ZLoss kWord{0.25f};

TEST_CASE("z_loss: loss and gradient agree with the reference, with and without padding") {
  for (const double scale : {0.1, 1.0, 10.0})
    for (const bool padded : {false, true}) {
      Batch b(12, 5, 2, scale);
      reference::Mask mask;
      if (padded) b.pad(mask = {0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1});
      reference::check_balance(kWord, b, std::max(1.0, scale),
                               [&](const auto& z) { return reference::z_loss(z, 5, 0.25, mask); });
    }
}

TEST_CASE("z_loss: of equal scores 0 it is c (ln E)^2, and it grows when all scores are shifted") {
  Batch b(6, 5, 1, 0);
  CHECK(kWord.loss(b.context(), b.routing) == doctest::Approx(0.25 * std::log(5) * std::log(5)).epsilon(1e-6));
  for (double& z : b.z) z += 3;
  b.refresh();
  CHECK(kWord.loss(b.context(), b.routing) ==
        doctest::Approx(0.25 * (std::log(5) + 3) * (std::log(5) + 3)).epsilon(1e-6));
}

TEST_CASE("z_loss: padding alone gives no loss and no gradient") {
  Batch b(2, 5, 1, 1);
  b.pad({1, 1});
  CHECK(kWord.loss(b.context(), b.routing) == 0);
  CHECK(reference::balance_gradient(kWord, b) == std::vector<float>(10));
}

TEST_CASE("z_loss: the mean over equal parts of a step is that of the step") {
  Batch whole(12, 5, 1, 1), first(6, 5, 1, 1), second(6, 5, 1, 1);
  first.z.assign(whole.z.begin(), whole.z.begin() + 30);
  second.z.assign(whole.z.begin() + 30, whole.z.end());
  first.refresh();
  second.refresh();
  CHECK(kWord.loss(whole.context(), whole.routing) ==
        doctest::Approx((kWord.loss(first.context(), first.routing) + kWord.loss(second.context(), second.routing)) / 2)
            .epsilon(1e-9));
}

}  // namespace
}  // namespace choir::moe
