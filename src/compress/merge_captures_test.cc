#include "compress/merge_captures.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "compress/replay.h"
#include "compress/test_equal.h"
#include "compress/test_layer.h"
#include "tests/files.h"

namespace choir::compress {
namespace {

using tests::contains;
using tests::refusal_of;

struct Fixture {
  tests::TemporaryDirectory place;
  TestModel made{small_config(6, 2, 2)};
  std::vector<CalibrationBatch> one = random_batches(2, 2, 8, 31, 1), two = random_batches(1, 3, 5, 31, 2);
  base::Threads threads{1};

  CaptureDirectory capture(const std::string& name, const std::vector<CalibrationBatch>& batches, int ranks = 0) {
    ObserveOptions options;
    options.ranks = ranks;
    return capture_to(place.file(name), *made.model, batches, options, threads);
  }
  std::string refusal(const std::vector<std::string>& names) {
    std::vector<std::string> paths;
    for (const std::string& name : names) paths.push_back(place.file(name));
    return refusal_of([&] { merge_captures(paths, place.file("merged")); });
  }
};

TEST_CASE("merge: two captures together are the capture of both texts") {
  Fixture f;
  f.capture("one", f.one);
  f.capture("two", f.two);
  auto all = f.one;
  all.insert(all.end(), f.two.begin(), f.two.end());
  const CaptureDirectory whole = f.capture("whole", all);
  const CaptureDirectory merged = merge_captures({f.place.file("one"), f.place.file("two")}, f.place.file("merged"));
  CHECK(merged.complete());
  CHECK(merged.info().batches == whole.info().batches);
  CHECK(merged.info().fingerprint == whole.info().fingerprint);
  for (int l = 0; l < 2; ++l) {
    const LayerRecord a = merged.load(l), b = whole.load(l);
    check_equal(a, b, 1e-12, 1e-6);  // gains were floats when they were summed
    Replay left(a, {}, f.threads), right(b, {}, f.threads);
    left.keep({0, 2, 5});
    right.keep({0, 2, 5});
    CHECK(left.batched_norms() == right.batched_norms());
  }
}

TEST_CASE("merge: an expert that one text never used takes the means of the other") {
  const std::string router = "linear > top_k(3) > all > chosen";
  const ObservedLayer first({router, 12, 3, 40, 8, 5, 3}), second({router, 12, 3, 40, 8, 5, 4});
  LayerRecord none = first.record;
  std::ranges::fill(none.coverage, 0);
  for (auto* list : {&none.mean, &none.gained_mean}) std::ranges::fill(*list, 0.0);
  for (float& p : none.p) p = 0;  // no gain at all
  std::ranges::fill(none.gram, 0.0f);
  none.rule.over = moe::SubsetRule::Over::kNothing;
  append_record(none, second.record);
  check_close(none.mean, second.record.mean, 0);
  check_close(none.gained_mean, second.record.gained_mean, 1e-15);
  CHECK(none.coverage == second.record.coverage);
  CHECK(none.tokens() == 80);
  CHECK(none.batch == std::vector<int32_t>{0, 20, 40, 60, 80});
}

TEST_CASE("merge: other models, ranks, texts and unfinished captures are refused in one line") {
  Fixture f;
  f.capture("one", f.one);
  f.capture("two", f.two);
  f.capture("ranks", f.two, 3);
  CHECK(contains(f.refusal({"one", "one"}), "two captures saw the same text: "));
  CHECK(contains(f.refusal({"one", "ranks"}), " ranks in layer 0: "));
  CHECK(contains(f.refusal({"one", "nothing"}), "nothing"));
  std::filesystem::remove(f.place.file("two/layer-0001.safetensors"));
  CHECK(contains(f.refusal({"one", "two"}), "the capture lacks layer 1: " + f.place.file("two")));
  f.made.numbers[3][0] += 1;
  f.capture("other", f.two);
  CHECK(contains(f.refusal({"one", "other"}), "captures of different models: "));
  CHECK(!std::filesystem::exists(f.place.file("merged")));
  CHECK_THROWS_AS(merge_captures({}, f.place.file("merged")), base::Error);
}

}  // namespace
}  // namespace choir::compress
