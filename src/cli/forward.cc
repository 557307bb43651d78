#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/inputs.h"
#include "cli/terminal.h"
#include "io/safetensors.h"
#include "model/forward.h"

namespace choir::cli {
namespace {

using tensor::Buffer;
using tensor::DType;

// The tensors of one output file and the numbers they look into.
class Output {
 public:
  template <class T>
  Buffer<T>& add(const std::string& name, DType type, std::vector<int64_t> shape) {
    size_t elements = 1;
    for (const int64_t size : shape) elements *= static_cast<size_t>(size);
    auto buffer = std::make_shared<Buffer<T>>(elements);
    tensors_.push_back({name, type, std::move(shape), std::as_bytes(std::span<const T>(buffer->span()))});
    owners_.push_back(buffer);
    return *buffer;
  }

  void write(const std::string& path, bool force) const { io::write_safetensors(path, tensors_, {}, existing(force)); }

 private:
  std::vector<io::Tensor> tensors_;
  std::vector<std::shared_ptr<void>> owners_;  // shared_ptr: it deletes what it was made with, of either type
};

// What the router of a layer did: its logits, and for each token the experts used with their weights. A slot that was
// skipped is written as expert -1 with weight 0.
void add_trace(int layer, const moe::Routing& routing, Output& output) {
  const moe::Plan& plan = routing.plan;
  const std::string suffix = "." + std::to_string(layer);
  const int64_t rows = plan.tokens, experts = plan.experts(), choices = plan.choices;
  const Buffer<float>& logits = output.add<float>("router_logits" + suffix, DType::kF32, {rows, experts});
  std::copy_n(routing.score.data(), logits.size(), logits.data());
  const Buffer<int64_t>& chosen = output.add<int64_t>("topk_idx" + suffix, DType::kI64, {rows, choices});
  const Buffer<float>& weight = output.add<float>("topk_weight" + suffix, DType::kF32, {rows, choices});
  for (size_t i = 0; i < chosen.size(); ++i) {
    chosen[i] = routing.chosen[i];
    weight[i] = plan.edge[i] < 0 ? 0 : plan.weight[static_cast<size_t>(plan.edge[i])];
  }
}

}  // namespace

void run(const Forward& o, const Common& common) {
  base::check_output(o.out, existing(o.force), base::Kind::kFile);
  const model::Model model(o.model);
  const Ids ids = read_ids(o.ids);
  if (ids.shape.size() != 2)
    base::input_error("the ids have " + std::to_string(ids.shape.size()) + " dimensions", o.ids, "forward takes [B,T]");
  const int sequences = static_cast<int>(ids.shape[0]), length = static_cast<int>(ids.shape[1]);
  std::vector<kernels::Sequence> rows;
  for (int s = 0; s < sequences; ++s) rows.push_back({s * length, length, 0, s * length});
  Output output;
  const Buffer<float>& logits =
      output.add<float>("logits", DType::kF32, {ids.shape[0], ids.shape[1], model.config().vocab});
  base::Threads threads(common.threads, common.placement());
  model::Scratch scratch;
  const auto observer = [&](int layer, const moe::Routing& routing) { add_trace(layer, routing, output); };
  model::forward(model, {ids.ids, rows}, {.observer = o.trace ? model::Observer(observer) : model::Observer()}, scratch,
                 logits.matrix(sequences * length, model.config().vocab), threads);
  if (!std::ranges::all_of(logits.span(), [](float v) { return std::isfinite(v); })) model.refuse_result("the logits");
  if (interrupted()) throw base::Error(base::Fault::kInterrupted, "interrupted", o.out, "nothing was written");
  output.write(o.out, o.force);
  if (common.json) print_json({{"sequences", sequences}, {"length", length}, {"vocab", model.config().vocab}});
}

}  // namespace choir::cli
