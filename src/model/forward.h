// Token ids to logits, with or without a cache of keys and values.
#pragma once

#include <cstdint>
#include <functional>

#include "model/model.h"

namespace choir::model {

using base::Threads;
using kernels::Sequence;
using tensor::Buffer;

// What attention keeps of earlier tokens of `sequences` sequences of up to `capacity` positions each, for every layer:
// keys and values in blocks, or the latent rows that both are made from. The capacity is rounded up to whole blocks.
class KvCache {
 public:
  KvCache(const Config& config, int sequences, int capacity);

  kernels::KeyBlocks layer(int l) const;    // of grouped attention
  Matrix<float> latent_layer(int l) const;  // of latent attention
  int capacity() const { return capacity_; }
  int kv_row(int sequence) const { return sequence * capacity_; }
  // The first `length` positions of every sequence of another cache of the same model.
  void copy(const KvCache& from, int length);

 private:
  int sequences_, capacity_;
  int heads_, k_width_, v_width_;     // numbers of a position and head; of latent rows there is one head
  std::vector<Buffer<float>> k_, v_;  // v_ has no numbers where the rows are latent
};

// The new tokens of one call, all sequences after one another. Rows, first positions and cache places are in
// `sequences`; without a cache every sequence starts at position 0 and kv_row = row.
struct Batch {
  std::span<const int32_t> ids;
  std::span<const Sequence> sequences;
  bool longer = false;  // they are parts of texts beyond Config::rope_switch, however far they reach yet
};

// How the routers of a call work. The default is how a model is used: causal, without losses.
struct RoutingOptions {
  moe::Rule rule = moe::Rule::kDecode;
  moe::Balancing balancing = moe::Balancing::kOff;
  kernels::Sums training_sums = kernels::Sums::kPacked;  // of the linear maps, where balancing is on
  uint64_t seed = 0;                                     // of the step, for routers that draw
  std::span<const int32_t> node{};                       // [N] the node of each token, below nodes
  int nodes = 1;
  std::span<const std::vector<float>> shares{};  // [L] moe::Context::shares; empty where the call is the whole step
};

// Buffers of one block and call; they grow as needed. The backward reads them.
struct BlockActivations {
  Buffer<float> input, middle, normed;  // residual stream before each half (N,D); input of the experts
  nn::NormActivations norm;             // of that input
  nn::AttentionActivations attention;   // one of these two
  nn::LatentActivations latent;
  moe::MoeActivations moe;
};

struct HeadActivations {
  nn::NormActivations norm;
  nn::PackedRoom blocks;
};

// Where the rows of a call lie; kept from call to call by those who make many.
struct PassLists {
  std::vector<int> positions;   // [N] the row of the rotary table for each token
  std::vector<int32_t> begins;  // [S] the row of each sequence
};

// The pieces of a forward, for whoever needs to stand between them: calibration does.
class ForwardPass {
 public:
  // Checks ids and positions: Error (input). The model, batch and threads must outlive it, and so must the lists, where
  // they are given.
  ForwardPass(const Model& model, const Batch& batch, Threads& threads, const RoutingOptions& routing = {},
              PassLists* lists = nullptr);
  ForwardPass(ForwardPass&&) = default;  // a copy would look into the lists of the other

  int rows() const { return static_cast<int>(batch_.ids.size()); }
  void embed(Matrix<float> h) const;

  // middle = h + attention(h), and activations.normed = norm(middle) is what the experts receive.
  void attend(int layer, Matrix<const float> h, const KvCache* cache, BlockActivations& activations,
              Matrix<float> middle) const;
  // h = middle + r moe(activations.normed), r the family's multiplier. `previous`: the scores of the layer before, for
  // routers that read them.
  void mix(int layer, Matrix<const float> middle, Matrix<const float> previous, BlockActivations& activations,
           Matrix<float> h) const;
  // The same in two steps for whoever computes the routed experts: middle += r shared(x), x their input; and then, from
  // their answers in h, h = middle + r h.
  void add_shared(int layer, Matrix<const float> x, Matrix<float> middle) const;
  void add_routed(Matrix<const float> middle, Matrix<float> h) const;
  // What the router of a layer is given; output is empty.
  moe::MoeStep routing_step(int layer, const BlockActivations& activations, Matrix<const float> previous) const;
  // logits (rows,V) of rows of the last residual stream; normed (rows,D) is kept for the backward. In two steps for
  // whoever cannot hold the logits of all rows.
  void head(Matrix<const float> h, Matrix<float> normed, HeadActivations& activations, Matrix<float> logits) const;
  void head_norm(Matrix<const float> h, Matrix<float> normed, HeadActivations& activations) const;
  void logits(Matrix<const float> normed, HeadActivations& activations, Matrix<float> logits) const;

  nn::AttentionContext context(int layer) const;
  nn::LatentContext latent_context() const;
  kernels::Sums sums() const;  // of all linear maps but those of the routers

 private:
  const Model& model_;
  Batch batch_;
  Threads& threads_;
  RoutingOptions routing_;
  PassLists own_;  // what the spans show, where no lists are given
  std::span<const int> positions_;
  std::span<const int32_t> begins_;
};

// Called after each layer with experts, with what its router did.
using Observer = std::function<void(int layer, const moe::Routing& routing)>;

// Reusable buffers of an inference.
struct Scratch {
  PassLists lists;
  BlockActivations block;
  Buffer<float> scores;  // of the layer before
  Buffer<float> h, middle, last, normed;
  HeadActivations head;
};

enum class Rows { kAll, kLast };  // logits of every row, or of each sequence's last

struct ForwardOptions {
  const KvCache* cache = nullptr;
  Rows rows = Rows::kAll;
  Observer observer = {};
  RoutingOptions routing = {};
};

// logits: (N,V), or (sequences,V) for kLast. Bit for bit, a row depends on the ids of its own sequence up to it alone;
// under the training rule of a router that is not causal it depends on the whole batch. Where Config::rope_switch is
// not 0 it also depends on whether its sequence is longer than that, as in the models' own code; a cache must then hold
// tokens that were read at the same side of it.
void forward(const Model& model, const Batch& batch, const ForwardOptions& options, Scratch& scratch,
             Matrix<float> logits, Threads& threads);

// The same in two steps, for those who want no logits or cannot hold those of all rows. The stream behind the last
// block, (N,D), or (sequences,D) for kLast, stands in the scratch until the next call; the logits (rows,V) are those of
// some of its rows, as a model is used: without balance losses.
Matrix<const float> forward_stream(const Model& model, const Batch& batch, const ForwardOptions& options,
                                   Scratch& scratch, Threads& threads);
void forward_head(const Model& model, Matrix<const float> stream, Scratch& scratch, Matrix<float> logits,
                  Threads& threads);

}  // namespace choir::model
