#include "compress/expert_type.h"

#include <doctest/doctest.h>

#include "compress/test_model.h"

namespace choir::compress {
namespace {

using tensor::DType;

TEST_CASE("expert types: every number of every expert is the nearest of its format, all else stays as it is") {
  const TestModel made(small_config(4, 2, 2));
  const Model& model = *made.model;
  CHECK(expert_type(model) == DType::kF32);
  for (const ExpertType& row : kExpertTypes) {
    CAPTURE(row.name);
    const auto other = with_expert_type(model, row.type);
    REQUIRE(other);
    CHECK(expert_type(*other) == row.type);
    const int64_t numbers = int64_t{2} * 4 * 3 * 12 * 20;
    CHECK(model::bytes_of(model) - model::bytes_of(*other) ==
          numbers * (4 - static_cast<int64_t>(tensor::size_of(row.type))));
    CHECK(other->tensors().blocks[1].moe.gate[0].data == model.tensors().blocks[1].moe.gate[0].data);
    CHECK(other->tensors().embedding.data == model.tensors().embedding.data);
    const tensor::Weight &from = model.tensors().blocks[1].moe.w2[3], &to = other->tensors().blocks[1].moe.w2[3];
    const auto numbers_then = numbers_of(from), numbers_now = numbers_of(to);
    for (size_t i = 0; i < numbers_then.size(); ++i) {
      const float v = numbers_then[i];
      const float nearest = row.type == DType::kF32    ? v
                            : row.type == DType::kBF16 ? static_cast<float>(tensor::BF16::from(v))
                                                       : static_cast<float>(tensor::F16::from(v));
      CHECK(numbers_now[i] == nearest);
    }
  }
}

TEST_CASE("expert types: experts of several formats have none in common") {
  const TestModel made(small_config(4, 2, 2));
  Mixture mixture(*made.model, 0);
  mixture.tensors.w3[1] = mixture.made(DType::kBF16, tensor::as_matrix(mixture.tensors.w3[1]));
  CHECK(!expert_type(mixture.in(*made.model, 0)));
}

TEST_CASE("expert types: a number beyond the format is told") {
  TestModel made(small_config(4, 2, 1));
  const auto& w1 = made.model->tensors().blocks[0].moe.w1[2];
  const_cast<float*>(static_cast<const float*>(w1.data))[7] = 1e5f;  // F16 ends at 65504
  CHECK(!with_expert_type(*made.model, DType::kF16));
  CHECK(with_expert_type(*made.model, DType::kBF16));
}

}  // namespace
}  // namespace choir::compress
