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
  Weight weight(nullptr, type, numbers.rows, numbers.cols);
  model::Model::Bytes bytes(weight.bytes());
  const size_t row = static_cast<size_t>(numbers.cols) * sizeof(float);
  if (type == DType::kF32)
    for (int r = 0; r < numbers.rows; ++r) std::memcpy(bytes.data() + static_cast<size_t>(r) * row, numbers[r], row);
  else if (type == DType::kBF16)
    round_to<tensor::BF16>(numbers, bytes.data());
  else
    round_to<tensor::F16>(numbers, bytes.data());
  owned.push_back(std::make_shared<const model::Model::Bytes>(std::move(bytes)));
  weight.data = owned.back()->data();
  return weight;
}

Weight Mixture::renewed(const Weight& like, std::span<const float> numbers) {
  CHOIR_CHECK(numbers.size() == like.size(), "numbers for another shape");
  return made(like.type, {numbers.data(), like.rows, like.cols});
}

void Mixture::keep_experts(const std::vector<int>& kept) {
  for (auto* list : {&tensors.w1, &tensors.w2, &tensors.w3}) {
    const std::vector<Weight> all = *list;
    list->clear();
    for (const int e : kept) list->push_back(all[static_cast<size_t>(e)]);
  }
}

void Mixture::order_gate(const std::vector<int>& order) {
  for (Weight& gate : tensors.gate) {
    const std::vector<float> all = numbers_of(gate);
    std::vector<float> rows;
    const auto width = static_cast<size_t>(gate.cols);
    for (const int e : order) {
      const auto row = all.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(e) * width);
      rows.insert(rows.end(), row, row + gate.cols);
    }
    gate = made(gate.type, {rows.data(), static_cast<int>(order.size()), gate.cols});
  }
  if (!tensors.state.data) return;
  const std::vector<float> all = numbers_of(tensors.state);
  std::vector<float> some;
  for (const int e : order) some.push_back(all[static_cast<size_t>(e)]);
  tensors.state = made(DType::kF32, {some.data(), 1, static_cast<int>(some.size())});
}

}  // namespace choir::compress
