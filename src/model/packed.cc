// The weights of a model in the order that products read fastest.
#include "model/packed.h"

#include <algorithm>

#include "base/profile.h"
#include "kernels/packed_gemm.h"
#include "model/model.h"

namespace choir::model {
namespace {

bool can_pack(const Weight* w) { return w->data && kernels::can_pack(w->type); }

// Every weight of a block that a linear map of activations reads, or where it would be. Experts of one list are
// multiplied in one launch, and stand together. Left out: gates, which are small, and kv_b, which the absorbed form
// reads in both directions.
std::vector<std::vector<Weight*>> linear_maps(BlockTensors<Weight>& block) {
  nn::AttentionTensors<Weight>& attention = block.attention;
  nn::LatentTensors<Weight>& latent = block.latent;
  moe::FeedForwardTensors<Weight>& shared = block.moe.shared;
  std::vector<std::vector<Weight*>> result;
  for (Weight* w : {&attention.q, &attention.k, &attention.v, &attention.o, &latent.q, &latent.q_a, &latent.q_b,
                    &latent.kv_a, &latent.o, &shared.w1, &shared.w3, &shared.w2})
    result.push_back({w});
  for (std::vector<Weight>* list : {&block.moe.w1, &block.moe.w3, &block.moe.w2}) {
    result.emplace_back();
    for (Weight& w : *list) result.back().push_back(&w);
  }
  return result;
}

// Those of them that can be packed and are not yet; experts of one list together or not at all.
std::vector<Weight*> linear_weights(BlockTensors<Weight>& block) {
  std::vector<Weight*> result;
  for (const std::vector<Weight*>& maps : linear_maps(block))
    if (std::ranges::all_of(maps, can_pack))
      std::ranges::copy_if(maps, std::back_inserter(result),
                           [](const Weight* w) { return w->layout != tensor::Layout::kPanels; });
  return result;
}

std::span<const std::byte> bytes_in(const Weight& w) { return {static_cast<const std::byte*>(w.data), w.bytes()}; }

}  // namespace

std::unordered_set<std::string> names_in_panels(const Config& config) {
  ModelTensors<Weight> places;
  visit_tensors(config, places, [](const TensorInfo&, const Weight&) {});  // makes room for all
  std::unordered_set<const Weight*> packed;
  for (BlockTensors<Weight>& block : places.blocks)
    for (const std::vector<Weight*>& maps : linear_maps(block)) packed.insert(maps.begin(), maps.end());
  std::unordered_set<std::string> names{kHeadName};
  visit_tensors(config, places, [&](const TensorInfo& info, const Weight& w) {
    if (packed.contains(&w)) names.insert(info.name);
  });
  return names;
}

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
  if (can_pack(&result.tensors_.head)) mark(&result.tensors_.head);
  return result;
}

Model Model::packed(Threads& threads) const {
  const base::Operator op(threads, "pack");
  Model result = *this;
  result.packed_ = true;
  for (BlockTensors<Weight>& block : result.tensors_.blocks) result.pack_together(linear_weights(block), threads);
  Weight* const head = &result.tensors_.head;  // the table of embeddings, of which rows are taken, stays
  if (can_pack(head) && head->layout != tensor::Layout::kPanels) result.pack_together({&head, 1}, threads);
  result.drop_copies();
  return result;
}

}  // namespace choir::model
