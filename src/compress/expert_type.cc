#include "compress/expert_type.h"

#include <algorithm>
#include <cmath>

namespace choir::compress {
namespace {

// The same numbers in another format; false where one becomes infinite.
bool change(Mixture& mixture, tensor::Weight& weight, tensor::DType type) {
  if (weight.type == type) return true;
  const std::vector<float> numbers = numbers_of(weight);
  weight = mixture.made(type, {numbers.data(), weight.rows, weight.cols});
  return std::ranges::all_of(numbers_of(weight), [](float v) { return std::isfinite(v); });
}

}  // namespace

std::optional<Model> with_expert_type(const Model& model, tensor::DType type) {
  Model result = model;
  for (int l = 0; l < model.config().depth(); ++l) {
    Mixture mixture(model, l);
    for (auto* list : {&mixture.tensors.w1, &mixture.tensors.w2, &mixture.tensors.w3})
      for (tensor::Weight& weight : *list)
        if (!change(mixture, weight, type)) return {};
    result = mixture.in(result, l);
  }
  return result;
}

std::optional<tensor::DType> expert_type(const Model& model) {
  std::optional<tensor::DType> found;
  for (const auto& block : model.tensors().blocks)
    for (const auto* list : {&block.moe.w1, &block.moe.w2, &block.moe.w3})
      for (const tensor::Weight& weight : *list) {
        if (found && *found != weight.type) return {};
        found = weight.type;
      }
  return found;
}

}  // namespace choir::compress
