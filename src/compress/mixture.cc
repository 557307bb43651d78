#include "compress/mixture.h"

#include <cstring>

#include "base/error.h"

namespace choir::compress {
namespace {

using tensor::DType;
using tensor::Weight;

template <class Narrow>
void round_to(tensor::Matrix<const float> from, std::byte* to) {
  for (int r = 0; r < from.rows; ++r)
    for (const float v : from.row(r)) {
      const auto narrow = Narrow::from(v);
      std::memcpy(to, &narrow, sizeof narrow);
      to += sizeof narrow;
    }
}

}  // namespace

std::vector<float> numbers_of(const Weight& weight) {
  std::vector<float> numbers(weight.size());
  tensor::widen(weight, numbers);
  return numbers;
}

Weight Mixture::made(DType type, tensor::Matrix<const float> numbers) {
  if (type != DType::kF32 && type != DType::kF16) type = DType::kBF16;
  Weight weight(nullptr, type, numbers.rows, numbers.cols);
  model::Model::Bytes bytes(weight.bytes());
  const size_t row = static_cast<size_t>(numbers.cols) * sizeof(float);
  if (type == DType::kF32)
    for (int r = 0; r < numbers.rows; ++r) std::memcpy(bytes.data() + static_cast<size_t>(r) * row, numbers[r], row);
  else if (type == DType::kF16)
    round_to<tensor::F16>(numbers, bytes.data());
  else
    round_to<tensor::BF16>(numbers, bytes.data());
  owned.push_back(std::make_shared<const model::Model::Bytes>(std::move(bytes)));
  weight.data = owned.back()->data();
  return weight;
}

Weight Mixture::renewed(const Weight& like, std::span<const float> numbers) {
  CHOIR_CHECK(numbers.size() == like.size(), "numbers for another shape");
  return made(like.type, {numbers.data(), like.rows, like.cols});
}

void Mixture::keep_experts(const std::vector<int>& kept) {
  moe::ExpertTensors<Weight> some;
  for (const int e : kept) some.add(tensors, static_cast<size_t>(e));
  static_cast<moe::ExpertTensors<Weight>&>(tensors) = std::move(some);
}

void Mixture::order_gate(const std::vector<int>& order) {
  const auto sorted = [&](const Weight& from, bool by_row) {
    const std::vector<float> all = numbers_of(from);
    const size_t width = by_row ? static_cast<size_t>(from.cols) : 1;
    std::vector<float> some;
    for (const int e : order) {
      const auto row = all.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(e) * width);
      some.insert(some.end(), row, row + static_cast<std::ptrdiff_t>(width));
    }
    const int count = static_cast<int>(order.size());
    return made(from.type, {some.data(), by_row ? count : 1, by_row ? from.cols : count});
  };
  for (size_t g = 0; g < tensors.gate.size(); ++g)  // behind the gate's rows its bias
    tensors.gate[g] = sorted(tensors.gate[g], g == 0);
  if (tensors.state.data) tensors.state = sorted(tensors.state, false);
}

}  // namespace choir::compress
