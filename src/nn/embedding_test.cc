#include "nn/embedding.h"

#include <doctest/doctest.h>

#include <vector>

#include "base/rng.h"

namespace choir::nn {
namespace {

constexpr int kVocab = 9, kWidth = 130;  // more columns than one piece holds

std::vector<float> random(int size, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(size));
  for (float& v : values) v = rng.normal();
  return values;
}

TEST_CASE("embedding: each token gets the row of its id, in every format of the table") {
  const auto table = random(kVocab * kWidth, 1);
  std::vector<tensor::BF16> narrow;
  for (const float v : table) narrow.push_back(tensor::BF16::from(v));
  const std::vector<int32_t> ids{3, 0, 8, 3};
  std::vector<float> wide(ids.size() * kWidth), short_of(wide.size());
  const int rows = static_cast<int>(ids.size());
  embedding_forward(ids, {table.data(), tensor::DType::kF32, kVocab, kWidth}, {wide.data(), rows, kWidth});
  embedding_forward(ids, {narrow.data(), tensor::DType::kBF16, kVocab, kWidth}, {short_of.data(), rows, kWidth});
  for (int i = 0; i < rows; ++i)
    for (int d = 0; d < kWidth; ++d) {
      CHECK(wide[i * kWidth + d] == table[ids[i] * kWidth + d]);
      CHECK(short_of[i * kWidth + d] == static_cast<float>(narrow[ids[i] * kWidth + d]));
    }
}

TEST_CASE("embedding: the backward adds each token's gradient to the row of its id") {
  const std::vector<int32_t> ids{3, 0, 8, 3, 3};
  const auto dout = random(static_cast<int>(ids.size()) * kWidth, 2);
  std::vector<float> first;
  for (const int count : {1, 3}) {
    Threads threads(count);
    std::vector<float> dtable(kVocab * kWidth, 2.0f);
    embedding_backward(ids, {dout.data(), static_cast<int>(ids.size()), kWidth}, {dtable.data(), kVocab, kWidth},
                       threads);
    for (int v = 0; v < kVocab; ++v)
      for (int d = 0; d < kWidth; ++d) {
        double sum = 2;
        for (size_t i = 0; i < ids.size(); ++i)
          if (ids[i] == v) sum += static_cast<double>(dout[i * kWidth + static_cast<size_t>(d)]);
        CHECK(dtable[v * kWidth + d] == doctest::Approx(sum).epsilon(1e-6));
      }
    if (first.empty()) first = dtable;
    CHECK(dtable == first);
  }
}

}  // namespace
}  // namespace choir::nn
