// Short runs of routers that bring tensors, state or experts of their own: they learn, stop and go on, and the finished
// directory is a model whose routers work by themselves.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "model/forward.h"
#include "train/test_run.h"

namespace choir::train {
namespace {

// The logits of all rows of one sequence, or of each piece of it through a cache.
std::vector<float> logits_of(const model::Model& model, std::span<const int32_t> ids, int piece) {
  base::Threads threads(2);
  const int vocab = model.config().vocab, count = static_cast<int>(ids.size());
  const model::KvCache cache(model.config(), 1, count);
  std::vector<float> logits(ids.size() * static_cast<size_t>(vocab));
  model::Scratch scratch;
  for (int first = 0; first < count; first += piece) {
    const int taken = std::min(piece, count - first);
    const kernels::Sequence sequence{0, taken, first, 0};
    const tensor::Matrix<float> rows(logits.data() + static_cast<ptrdiff_t>(first) * vocab, taken, vocab);
    model::forward(model, {ids.subspan(static_cast<size_t>(first), static_cast<size_t>(taken)), {&sequence, 1}},
                   {.cache = &cache}, scratch, rows, threads);
  }
  return logits;
}

void check_run(const std::string& router, const nlohmann::json& idle) {
  CAPTURE(router);
  const Runs runs;
  TrainConfig config = tiny_run();
  config.router = router;
  nlohmann::json model_json = nlohmann::json::parse(kTinyModel);
  if (!idle.is_null()) model_json["choir"] = idle;
  config.model = model_json.dump();
  runs.run(config, runs.options("whole"));
  runs.run_in_parts(config, "parts", 5);
  for (const char* file : {"model.safetensors", "config.json", "checkpoint.safetensors"})
    CHECK(runs.bytes("whole", file) == runs.bytes("parts", file));

  const model::Model model(runs.place.file("whole"));
  model.check_finite();
  for (const model::LayerConfig& layer : model.config().layers)
    CHECK(layer.routed() == layer.experts + (idle.is_null() ? 0 : 4));
  const std::vector<int32_t> ids{5, 80, 33, 9, 200, 17, 64, 3, 121, 77};
  CHECK(logits_of(model, ids, 10) == logits_of(model, ids, 1));  // no word looks at other tokens
}

// The same steps, whatever is kept of them; a run may go on either way.
TEST_CASE("trainer: blocks that are computed once more make the same run") {
  for (const char* router :
       {"", "etr", "noisy_top_k", "remoe", "linear(sigmoid) > top_k(2) > all > sigmoid_norm + bias(0.01)"}) {
    CAPTURE(router);
    const Runs runs;
    TrainConfig config = tiny_run();
    config.router = router;
    config.accumulate = 2;
    runs.run(config, runs.options("kept"));
    config.recompute = model::Recompute::kBlock;
    runs.run(config, runs.options("again"), 3);
    runs.run_until(config, runs.options("mixed"), 5);
    config.recompute = model::Recompute::kNone;
    runs.run(config, runs.options("mixed", true));
    for (const char* file : {"model.safetensors", "checkpoint.safetensors"}) {
      CHECK(runs.bytes("kept", file) == runs.bytes("again", file));
      CHECK(runs.bytes("kept", file) == runs.bytes("mixed", file));
    }
  }
}

TEST_CASE("trainer: experts without weights") {
  const nlohmann::json idle{{"zero_experts", 1}, {"copy_experts", 1}, {"constant_experts", 2}};
  check_run("moe_plus_plus", idle);
  check_run("linear > positive > all > identity + l1_adaptive(2)", idle);
}

TEST_CASE("trainer: routers with tensors and state of their own") {
  for (const char* router : {"noisy_top_k", "projected_cosine(4) > top_k(2) > all > chosen", "base", "sinkhorn",
                             "gshard", "linear > top_k(2) > all > softmax + quantile", "expert_threshold", "remoe",
                             "top_p", "linear > top_k(2) > mask(1) > chosen"})
    check_run(router, nullptr);
}

}  // namespace
}  // namespace choir::train
