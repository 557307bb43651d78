#include "compress/fingerprint.h"

#include <doctest/doctest.h>

#include <bit>
#include <set>

#include "compress/test_model.h"

namespace choir::compress {
namespace {

TEST_CASE("fingerprint: any changed bit of any tensor changes it, and threads do not") {
  TestModel made(small_config(4, 2, 2));
  base::Threads one(1), three(3);
  const std::string before = fingerprint(*made.model, one);
  CHECK(before.size() == 16);
  CHECK(fingerprint(*made.model, three) == before);
  std::set<std::string> seen{before};
  base::Rng rng(1);
  size_t changes = 0;
  for (const tensor::Buffer<float>& tensor : made.numbers)
    for (const size_t i :
         {size_t{0}, tensor.size() / 2, tensor.size() - 1, static_cast<size_t>(rng.below(tensor.size()))})
      for (const uint32_t bit : {1u, 1u << 31}) {
        float& weight = tensor[i];
        const float was = weight;
        weight = std::bit_cast<float>(std::bit_cast<uint32_t>(weight) ^ bit);
        const std::string changed = fingerprint(*made.model, one);
        CHECK(changed != before);
        seen.insert(changed);
        weight = was;
        ++changes;
      }
  CHECK(seen.size() > changes / 2);  // a place may be drawn twice
  CHECK(fingerprint(*made.model, one) == before);
}

TEST_CASE("fingerprint: what the model computes with is in it, thresholds of skipping are not") {
  const TestModel made(small_config(4, 2, 2));
  base::Threads threads(1);
  const std::string before = fingerprint(*made.model, threads);
  const auto with = [&](const auto& change) {
    model::Config config = made.model->config();
    change(config);
    return fingerprint(Model(config, made.model->tensors()), threads);
  };
  CHECK(with([](model::Config&) {}) == before);
  CHECK(with([](model::Config& c) { c.rope.theta = 2e4; }) != before);
  CHECK(with([](model::Config& c) { c.rope.kind = kernels::RopeSpec::Kind::kLinear; }) != before);
  CHECK(with([](model::Config& c) { c.residual_multiplier = 0.5f; }) != before);
  CHECK(with([](model::Config& c) { c.layers[1].sees_all = true; }) != before);
  CHECK(with([](model::Config& c) { c.norm_epsilon = 2e-5; }) != before);
  CHECK(with([](model::Config& c) { c.attention.window = 5; }) != before);
  CHECK(with([](model::Config& c) { c.layers[1].top_k = 1; }) != before);
  CHECK(with([](model::Config& c) { c.layers[1].router = "linear > top_k(2) > all > softmax"; }) != before);
  CHECK(with([](model::Config& c) { c.layers[1].skip_beta = 0.5f; }) == before);
  CHECK(with([](model::Config& c) { c.layers[1].router = "linear > top_k(2) > skip(0.5) > chosen"; }) == before);
  CHECK(with([](model::Config& c) { c.layers[1].router = "linear > top_k(2) > fifo(factor(1)) > chosen"; }) != before);
}

TEST_CASE("fingerprint: a hash depends on every byte, their number and their order") {
  std::set<std::string> seen;
  size_t count = 0;
  for (size_t length = 0; length < 70; ++length)
    for (size_t i = 0; i <= length; ++i) {
      std::string text(length, '\0');
      if (i < length) text[i] = 1;
      Hash hash;
      hash.add(text);
      seen.insert(hash.text());
      ++count;
    }
  CHECK(seen.size() == count);
}

TEST_CASE("fingerprint: a calibration is its ids and their split") {
  const auto batches = random_batches(2, 2, 6, 31);
  const std::string before = calibration_hash(batches);
  auto other = batches;
  ++other[1].ids[3];
  CHECK(calibration_hash(other) != before);
  other = batches;
  std::swap(other[0], other[1]);
  CHECK(calibration_hash(other) != before);
  other = batches;
  other[0].sequences = 3;
  other[0].length = 4;
  CHECK(calibration_hash(other) != before);
  CHECK(calibration_hash(random_batches(2, 2, 6, 31)) == before);
}

}  // namespace
}  // namespace choir::compress
