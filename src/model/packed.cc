// The weights of a model in the order that products read fastest.
#include <algorithm>

#include "base/profile.h"
#include "kernels/packed_gemm.h"
#include "model/model.h"

namespace choir::model {
namespace {

bool can_pack(const Weight& w) { return w.data && w.layout != tensor::Layout::kPanels && kernels::can_pack(w.type); }

// Every weight of a block that a linear map of activations reads and that can be packed; experts of one list together
// or not at all, for they are multiplied in one launch. Left out: gates, which are small, and kv_b, which the absorbed
// form reads in both directions.
std::vector<Weight*> linear_weights(BlockTensors<Weight>& block) {
  std::vector<Weight*> result;
  nn::AttentionTensors<Weight>& attention = block.attention;
  nn::LatentTensors<Weight>& latent = block.latent;
  moe::FeedForwardTensors<Weight>& shared = block.moe.shared;
  for (Weight* w : {&attention.q, &attention.k, &attention.v, &attention.o, &latent.q, &latent.q_a, &latent.q_b,
                    &latent.kv_a, &latent.o, &shared.w1, &shared.w3, &shared.w2})
    if (can_pack(*w)) result.push_back(w);
  for (std::vector<Weight>* list : {&block.moe.w1, &block.moe.w3, &block.moe.w2})
    if (std::ranges::all_of(*list, can_pack))
      for (Weight& w : *list) result.push_back(&w);
  return result;
}

std::span<const std::byte> bytes_in(const Weight& w) { return {static_cast<const std::byte*>(w.data), w.bytes()}; }

}  // namespace

void Model::pack_together(std::span<Weight* const> weights, Threads& threads) {
  std::vector<Weight> packed;
  for (const Weight* w : weights) packed.push_back(*w);
  Bytes bytes = Bytes::unset(kernels::packed_bytes(packed));
  kernels::pack(packed, bytes.span(), threads);
  for (size_t i = 0; i < weights.size(); ++i) {
    if (files_) files_->forget(bytes_in(*weights[i]));
    *weights[i] = packed[i];
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

Model Model::packed_in_passing() const {
  Model result = *this;
  const auto mark = [](Weight* w) {
    if (w->layout == tensor::Layout::kRows) *w = kernels::to_be_packed(*w);
  };
  for (BlockTensors<Weight>& block : result.tensors_.blocks) std::ranges::for_each(linear_weights(block), mark);
  if (can_pack(result.tensors_.head)) mark(&result.tensors_.head);
  return result;
}

Model Model::packed(Threads& threads) const {
  const base::Operator op(threads, "pack");
  Model result = *this;
  result.packed_ = true;
  for (BlockTensors<Weight>& block : result.tensors_.blocks) result.pack_together(linear_weights(block), threads);
  Weight* const head = &result.tensors_.head;  // the table of embeddings, of which rows are taken, stays
  if (can_pack(*head)) result.pack_together({&head, 1}, threads);
  result.drop_copies();
  return result;
}

}  // namespace choir::model
