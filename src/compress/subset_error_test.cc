#include "compress/subset_error.h"

#include <doctest/doctest.h>

#include <bit>

#include "base/error.h"
#include "compress/choose.h"
#include "compress/test_model.h"

namespace choir::compress {
namespace {

using tensor::Buffer;

// Inputs of a layer in two batches, and a target that is not the layer's own output, as in a progressive search.
struct Case {
  TestModel made;
  int experts, top_k, tokens = 18;
  std::vector<Buffer<float>> x, target;

  Case(int e, int k) : made(small_config(e, k, 1), static_cast<uint64_t>(100 * e + k)), experts(e), top_k(k) {
    base::Rng rng(static_cast<uint64_t>(e));
    for (int batch = 0; batch < 2; ++batch)
      for (std::vector<Buffer<float>>* list : {&x, &target}) {
        list->emplace_back(static_cast<size_t>(tokens * 20));
        for (float& v : list->back().span()) v = rng.normal();
      }
  }
  const moe::MoeTensors<tensor::Weight>& weights() const { return made.model->tensors().blocks[0].moe; }

  SubsetErrors measure(int least_keep, int threads_count) const {
    base::Threads threads(threads_count);
    SubsetErrors errors(experts, top_k, least_keep);
    Capture capture;
    for (size_t b = 0; b < x.size(); ++b) {
      for (const int first : {0, tokens / 2}) {  // a batch may come in pieces
        const auto rows = x[b].matrix(tokens, 20).slice_rows(first, tokens / 2);
        run_capture({made.model->router(0), weights()}, rows, errors.ranks(), capture, threads);
        errors.add(capture, target[b].matrix(tokens, 20).slice_rows(first, tokens / 2), threads);
      }
      errors.end_batch(threads);
    }
    return errors;
  }

  double plain(ExpertSet kept) const {
    double loss = 0;
    for (size_t b = 0; b < x.size(); ++b)
      loss +=
          plain_loss(weights(), top_k, kept, as_rows(x[b].matrix(tokens, 20)), as_rows(target[b].matrix(tokens, 20)));
    return loss;
  }
};

TEST_CASE("every set's loss is that of running the block again") {
  for (const auto& [experts, top_k] : {std::pair{4, 2}, {5, 2}, {6, 2}, {7, 2}, {8, 2}, {5, 1}, {6, 3}}) {
    const Case c(experts, top_k);
    const SubsetErrors errors = c.measure(top_k, 2);
    for (ExpertSet kept = 0; kept <= errors.all(); ++kept)
      if (std::popcount(kept) >= top_k) CHECK(errors.loss(kept) == doctest::Approx(c.plain(kept)).epsilon(1e-6));
  }
}

TEST_CASE("fewer ranks are enough when fewer experts are dropped") {
  const Case c(8, 2);
  const SubsetErrors all = c.measure(2, 1), some = c.measure(6, 1);
  CHECK(all.ranks() == 8);
  CHECK(some.ranks() == 4);
  for (const std::vector<int>& dropped : combinations(8, 2)) {
    const ExpertSet kept = all.all() ^ as_set(dropped);
    CHECK(some.loss(kept) == doctest::Approx(all.loss(kept)).epsilon(1e-12));
  }
  CHECK_THROWS(some.loss(0b11111));
}

TEST_CASE("losses do not depend on the number of threads") {
  const Case c(8, 2);
  const SubsetErrors one = c.measure(2, 1), three = c.measure(2, 3);
  for (ExpertSet kept = 0; kept <= one.all(); ++kept)
    if (std::popcount(kept) >= 2) CHECK(one.loss(kept) == three.loss(kept));
}

TEST_CASE("the layer's own output is that of its forward, and dropping nothing costs nothing") {
  const Case c(6, 2);
  base::Threads threads(2);
  const auto x = c.x[0].matrix(c.tokens, 20);
  Capture capture;
  run_capture({c.made.model->router(0), c.weights()}, x, 4, capture, threads);
  const Buffer<float> own(c.x[0].size()), forward(c.x[0].size());
  own_output(capture, own.matrix(c.tokens, 20), threads);
  moe::MoeActivations activations;
  moe::MoeStep step;
  step.tokens.x = x;
  step.output = forward.matrix(c.tokens, 20);
  moe::moe_forward(c.made.model->router(0), c.weights(), step, activations, threads);
  double norm = 0;
  for (size_t i = 0; i < own.size(); ++i) {
    CHECK(own[i] == doctest::Approx(forward[i]).epsilon(1e-6));
    norm += own[i] * own[i];
  }
  SubsetErrors errors(6, 2, 4);
  errors.add(capture, own.matrix(c.tokens, 20), threads);
  errors.end_batch(threads);
  CHECK(errors.loss(errors.all()) < 1e-6 * std::sqrt(norm));
  CHECK(errors.loss(0b1111) > 0.01 * std::sqrt(norm));
}

TEST_CASE("combinations come in lexicographic order") {
  CHECK(combinations(4, 2) == std::vector<std::vector<int>>{{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}});
  CHECK(combinations(3, 0) == std::vector<std::vector<int>>{{}});
  CHECK(combinations(3, 3) == std::vector<std::vector<int>>{{0, 1, 2}});
  CHECK(combinations(8, 4).size() == 70);
}

TEST_CASE("of equal losses the first in the order of dropped sets wins") {
  base::Threads threads(1);
  SubsetErrors errors(5, 2, 3);
  errors.end_batch(threads);  // a batch without tokens: all losses are 0
  CHECK(choose_exact(errors, 5, 3) == std::vector<int>{2, 3, 4});
  CHECK(choose_exact(errors, 5, 5) == std::vector<int>{0, 1, 2, 3, 4});
}

TEST_CASE("baselines") {
  CHECK(choose_frequent({4, 9, 4, 1, 9}, 3) == std::vector<int>{0, 1, 4});
  CHECK(choose_frequent({4, 9, 4, 1, 9}, 1) == std::vector<int>{1});
  std::vector<int> seen(6, 0);
  base::Rng rng(3);
  for (int i = 0; i < 3000; ++i)
    for (const int e : choose_random(rng, 6, 2)) ++seen[e];
  for (const int count : seen) CHECK(std::abs(count - 1000) < 120);
}

TEST_CASE("the table is refused where it would not fit") {
  CHECK(SubsetErrors::fits(16, 2));
  CHECK(SubsetErrors::fits(8, 4));
  CHECK_FALSE(SubsetErrors::fits(17, 2));
  CHECK_FALSE(SubsetErrors::fits(16, 8));
  CHECK_THROWS(SubsetErrors(8, 2, 1));
}

}  // namespace
}  // namespace choir::compress
