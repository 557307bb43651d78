#include "base/profile.h"

#include <doctest/doctest.h>

#include <atomic>
#include <string>

#include "base/profile_summary.h"

namespace choir::base {
namespace {

Work product(int rows, int cols) { return {.weights = 4 * cols, .operations = 2 * rows * cols}; }

const OperatorTotal& find(const PhaseTotal& phase, const std::string& name) {
  for (const OperatorTotal& total : phase.operators)
    if (total.name == name) return total;
  FAIL("no operator " << name);
  return phase.operators.front();
}

// A step of two layers with operators inside operators and inside scopes.
void compute(Threads& threads) {
  const Scope step(threads, "step");
  for (int layer = 0; layer < 2; ++layer) {
    const Scope scope(threads, "layer", layer);
    Operator op(threads, "q", product, 3, 5);
    { const Operator norm(threads, "norm"); }
    op.next("down", product, 1, 7);
    const Scope shared(threads, "shared expert");
    const Operator again(threads, "down", [] { return Work{.others = 9}; });
    std::atomic<int> sum = 0;
    threads.for_each(64, [&](int i) { sum += i; });
    CHECK(sum == 63 * 32);
  }
}

TEST_CASE("profile: without one nothing is counted") {
  Threads threads(2);
  const Operator op(threads, "q", [] {
    FAIL("counted");
    return Work{};
  });
}

TEST_CASE("profile: spans lie in the span around them, in the order of their beginning") {
  Threads threads(2);
  const Profile profile(threads);
  CHECK(threads.profile() == &profile);
  compute(threads);
  REQUIRE(profile.spans().size() == 13);
  CHECK(profile.dropped() == 0);
  int64_t last = 0;
  for (const Profile::Span& span : profile.spans()) {
    CHECK(span.begin >= last);
    CHECK(span.end >= span.begin);
    CHECK_FALSE(span.cut);
    last = span.begin;
    if (span.parent < 0) continue;
    const Profile::Span& around = profile.spans()[static_cast<size_t>(span.parent)];
    CHECK(around.begin <= span.begin);
    CHECK(span.end <= around.end);
  }
  CHECK(profile.spans()[1].layer == 0);
  CHECK(profile.spans()[7].layer == 1);
  CHECK(profile.spans()[0].layer == -1);
}

TEST_CASE("profile: each thread says when it worked on a loop, and in which span") {
  for (const int count : {1, 3}) {
    Threads threads(count);
    const Profile profile(threads);
    compute(threads);
    REQUIRE(profile.threads() == count);
    size_t loops = 0;
    for (int t = 0; t < count; ++t)
      for (const Profile::Busy& busy : profile.busy(t)) {
        ++loops;
        const Profile::Span& around = profile.spans()[static_cast<size_t>(busy.span)];
        CHECK(std::string(around.name) == "down");
        CHECK(around.begin <= busy.begin);
        CHECK(busy.begin <= busy.end);
        CHECK(busy.end <= around.end);
      }
    CHECK(loops >= 2);
    CHECK(loops <= static_cast<size_t>(2 * count));
  }
}

TEST_CASE("profile: totals count each moment and each byte once") {
  Threads threads(2);
  Profile profile(threads);
  for (int i = 0; i < 3; ++i) compute(threads);
  const std::vector<PhaseTotal> phases = summarize(profile);
  REQUIRE(phases.size() == 1);
  const PhaseTotal& step = phases[0];
  CHECK(step.name == "step");
  CHECK(step.calls == 3);
  REQUIRE(step.operators.size() == 4);
  CHECK(find(step, "q").calls == 6);
  CHECK(find(step, "q").work.weights == 6 * 20);
  CHECK(find(step, "q").work.operations == 6 * 30);
  CHECK(find(step, "down").work.weights == 6 * 28);
  CHECK(find(step, "shared expert/down").work.others == 6 * 9);
  CHECK(find(step, "norm").work.bytes() == 0);
  double covered = 0;
  for (const OperatorTotal& total : step.operators) {
    CHECK(total.seconds >= 0);
    covered += total.seconds;
  }
  CHECK(covered <= step.seconds);
  CHECK(step.uncovered() == doctest::Approx(step.seconds - covered));
  CHECK(find(step, "shared expert/down").busy <= 2 * find(step, "shared expert/down").seconds);
  const std::vector<PhaseTotal> warm = summarize(profile, true);
  REQUIRE(warm.size() == 1);
  CHECK(warm[0].calls == 2);
  CHECK(find(warm[0], "q").work.weights == 4 * 20);
  CHECK(warm[0].seconds < step.seconds);
  profile.clear();
  CHECK(summarize(profile).empty());
  compute(threads);
  CHECK(summarize(profile, true).at(0).calls == 1);
}

TEST_CASE("profile: what does not fit is counted, and its phase is left out of the totals") {
  Threads threads(2);
  const Profile profile(threads, 20);
  compute(threads);
  compute(threads);
  CHECK(profile.spans().size() == 20);
  CHECK(profile.dropped() == 6);
  CHECK(profile.spans()[13].cut);
  CHECK_FALSE(profile.spans()[0].cut);
  const std::vector<PhaseTotal> phases = summarize(profile);
  REQUIRE(phases.size() == 1);
  CHECK(phases[0].calls == 1);
  CHECK(find(phases[0], "q").calls == 2);
}

TEST_CASE("profile: loops that do not fit are counted too") {
  Threads threads(1);
  const Profile profile(threads, 1);
  const Scope step(threads, "step");
  for (int i = 0; i < 5; ++i) threads.for_each(1, [](int) {});
  CHECK(profile.dropped() == 3);
}

TEST_CASE("profile: spans end when an exception passes, and threads forget a profile that is gone") {
  Threads threads(2);
  {
    const Profile profile(threads);
    try {
      const Scope step(threads, "step");
      const Operator op(threads, "q");
      threads.for_each(8, [](int) { throw 1; });
    } catch (int) {
    }
    compute(threads);
    CHECK(profile.spans()[2].parent == -1);
  }
  CHECK(threads.profile() == nullptr);
  compute(threads);
}

}  // namespace
}  // namespace choir::base
