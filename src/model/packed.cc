// The weights of a model in the order that products read fastest.
#include <algorithm>
#include <array>

#include "kernels/packed_gemm.h"
#include "model/model.h"

namespace choir::model {
namespace {

// Every weight that a linear map of activations reads, in groups that are packed together or not at all, for experts of
// one list are multiplied in one launch. Left out: the table of embeddings, of which rows are taken; gates, which are
// small; and kv_b, which the absorbed form reads in both directions.
template <class Function>
void each_linear(ModelTensors<Weight>& tensors, const Function& function) {
  const auto alone = [&](Weight& weight) {
    Weight* one = &weight;
    function(std::span(&one, 1));
  };
  for (BlockTensors<Weight>& block : tensors.blocks) {
    for (Weight* w : {&block.attention.q, &block.attention.k, &block.attention.v, &block.attention.o, &block.latent.q,
                      &block.latent.q_a, &block.latent.q_b, &block.latent.kv_a, &block.latent.o, &block.moe.shared.w1,
                      &block.moe.shared.w2, &block.moe.shared.w3})
      alone(*w);
    for (std::vector<Weight>* list : {&block.moe.w1, &block.moe.w3, &block.moe.w2}) {
      std::vector<Weight*> all;
      for (Weight& w : *list) all.push_back(&w);
      function(std::span(all));
    }
  }
  alone(tensors.head);
}

size_t packed_size(const Weight& w) {
  constexpr size_t kLine = 64;
  return (kernels::packed_bytes(w.type, w.rows, w.cols) + kLine - 1) / kLine * kLine;
}

std::span<const std::byte> bytes_in(const Weight& w) { return {static_cast<const std::byte*>(w.data), w.bytes()}; }

}  // namespace

void Model::pack_together(std::span<Weight* const> weights, Threads& threads) {
  size_t size = 0;
  for (const Weight* w : weights) {
    if (!w->data || w->packed() || !kernels::can_pack(w->type)) return;
    size += packed_size(*w);
  }
  Bytes bytes = Bytes::unset(size);
  std::byte* to = bytes.data();
  for (Weight* w : weights) {
    const Weight lying = *w;
    *w = kernels::pack(lying, {to, kernels::packed_bytes(lying.type, lying.rows, lying.cols)}, threads);
    if (files_) files_->forget(bytes_in(lying));
    to += packed_size(lying);
  }
  copies_.push_back(std::make_shared<const Bytes>(std::move(bytes)));
}

// What loading had to copy and packing has copied again.
void Model::drop_copies() {
  std::vector<const std::byte*> used;
  ModelTensors<Weight> views = tensors_;
  visit_tensors(config_, views, [&](const TensorInfo&, const Weight& w) { used.push_back(bytes_in(w).data()); });
  used.push_back(bytes_in(tensors_.head).data());
  std::ranges::sort(used);
  std::erase_if(copies_, [&](const std::shared_ptr<const Bytes>& copy) {
    const auto first = std::ranges::lower_bound(used, copy->data());
    return first == used.end() || *first >= copy->data() + copy->size();
  });
}

Model Model::packed(Threads& threads) const {
  Model result = *this;
  result.packed_ = true;
  each_linear(result.tensors_, [&](std::span<Weight* const> w) { result.pack_together(w, threads); });
  result.drop_copies();
  return result;
}

}  // namespace choir::model
