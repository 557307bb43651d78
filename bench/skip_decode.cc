// What skipping and pruning gain when tokens are decoded one by one, beside what the bytes that are no longer read
// predict.
//
//   skip_decode [--model none] [--save none] [--layers 8] [--width 1024] [--experts 8] [--top-k 2]
//               [--expert-width 2816] [--vocab 4096] [--keep 4] [--tail 0.4] [--tokens 40] [--rounds 5] [--threads 0]
//               [--seed 1]
//
// Without --model a random one in bf16, in memory, 1.1 GB of experts as it stands above: larger than any cache, so that
// decoding is bound by memory. --save DIR, which exists, takes it, and nothing is measured; --model reads a directory
// or a GGUF file. Weights are packed, as choir generate packs them. Five models: as it is; with one expert a token
// (count=1); without those of small weight (tail); with `keep` experts a layer, the first ones; and that with one
// expert a token. In a round each decodes --tokens tokens, greedily; they take turns after each token, in an order that
// is drawn, so that all meet the same machine. The first round is not counted. A token reads all weights but the
// embedding and the experts that it does not use, which are counted while it is decoded. With B the mean bytes a token,
// B' and B of one model and of the full one,
//   predicted = B / B',   speedup = median over rounds of (tokens/s / those of the full model in the same round),
//   share_of_speedup = (speedup - 1) / (predicted - 1),   share_of_time = (1 - 1 / speedup) / (1 - 1 / predicted):
// of the speedup, and of the time that B - B' bytes take; where more than 2 % are predicted.
// Prints CSV: a line for each round, then one for each model.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "base/clock.h"
#include "base/rng.h"
#include "bench/samples.h"
#include "compress/prune.h"
#include "runtime/session.h"

namespace {

using namespace choir;
using bench::median, bench::Options, bench::read_options;

Options options_of(int argc, char** argv) {
  return read_options(argc, argv,
                      {{"--model", "none"},
                       {"--save", "none"},
                       {"--layers", "8"},
                       {"--width", "1024"},
                       {"--experts", "8"},
                       {"--top-k", "2"},
                       {"--keep", "4"},
                       {"--tail", "0.4"},
                       {"--expert-width", "2816"},
                       {"--vocab", "4096"},
                       {"--tokens", "40"},
                       {"--rounds", "5"},
                       {"--threads", "0"},
                       {"--seed", "1"}});
}

nlohmann::json config_of(const Options& options) {
  const auto number = [&](const char* name) { return std::stoi(options.at(name)); };
  return {{"model_type", "mixtral"},
          {"hidden_size", number("--width")},
          {"vocab_size", number("--vocab")},
          {"num_hidden_layers", number("--layers")},
          {"num_attention_heads", number("--width") / 64},
          {"num_key_value_heads", number("--width") / 64},
          {"intermediate_size", number("--expert-width")},
          {"num_local_experts", number("--experts")},
          {"num_experts_per_tok", number("--top-k")},
          {"max_position_embeddings", 4096},
          {"rope_theta", 10000.0},
          {"rms_norm_eps", 1e-5}};
}

// Owns the numbers that its model looks into: pieces of one list of random numbers, each tensor from another place on.
class RandomModel {
 public:
  explicit RandomModel(const Options& options) : rng_(std::stoull(options.at("--seed"))) {
    for (float& v : pool_.span()) v = rng_.normal();
    const model::Config config = model::parse_config(config_of(options), "skip_decode");
    model::ModelTensors<tensor::Weight> tensors;
    model::visit_tensors(config, tensors, [&](const model::TensorInfo& info, tensor::Weight& weight) {
      weight = info.vector ? ones(info) : random(info);
    });
    model_.emplace(config, std::move(tensors));
  }

  const model::Model& model() const { return *model_; }

 private:
  tensor::Weight ones(const model::TensorInfo& info) {
    floats_.emplace_back(static_cast<size_t>(info.cols));
    std::ranges::fill(floats_.back().span(), 1.0f);
    return {floats_.back().data(), tensor::DType::kF32, info.rows, info.cols};
  }

  tensor::Weight random(const model::TensorInfo& info) {
    const float scale = 1 / std::sqrt(static_cast<float>(info.cols));
    numbers_.emplace_back(static_cast<size_t>(info.rows) * static_cast<size_t>(info.cols));
    size_t from = rng_.below(pool_.size());
    for (tensor::BF16& v : numbers_.back().span()) {
      v = tensor::BF16::from(scale * pool_[from]);
      if (++from == pool_.size()) from = 0;
    }
    return {numbers_.back().data(), tensor::DType::kBF16, info.rows, info.cols};
  }

  base::Rng rng_;
  tensor::Buffer<float> pool_{(1 << 22) + 1};
  std::vector<tensor::Buffer<float>> floats_;
  std::vector<tensor::Buffer<tensor::BF16>> numbers_;
  std::optional<model::Model> model_;
};

struct Variant {
  std::string name;
  model::Model model;
  double bytes = 0;                     // mean of a token
  double skipped = 0;                   // share of the experts
  std::vector<double> rate{}, ratio{};  // of each round: tokens a second, beside those of the full model
};

std::vector<Variant> variants_of(const model::Model& full, const Options& options) {
  const int keep = std::stoi(options.at("--keep"));
  std::vector<std::vector<int>> kept;
  for (const model::LayerConfig& layer : full.config().layers) {
    kept.emplace_back();
    for (int e = 0; e < std::min(keep, layer.experts); ++e) kept.back().push_back(e);
  }
  const model::Model pruned = full.with_layers(compress::pruned_config(full.config(), kept), kept);
  const std::string tail = "skip(tail=" + options.at("--tail") + ")";
  return {{"full", full},
          {"count=1", full.with_admission("skip(count=1)")},
          {"tail=" + options.at("--tail"), full.with_admission(tail)},
          {"keep " + options.at("--keep"), pruned},
          {"keep " + options.at("--keep") + " count=1", pruned.with_admission("skip(count=1)")}};
}

// One sequence of each model; after each token they take turns in another order. Seconds of each.
std::vector<double> one_round(std::vector<Variant>& variants, int tokens, base::Rng& rng, base::Threads& threads) {
  std::vector<runtime::Session> sessions;
  for (const Variant& v : variants) sessions.emplace_back(v.model, threads, tokens);
  std::vector<int32_t> next(variants.size(), 1);
  std::vector<double> seconds(variants.size());
  std::vector<size_t> order(variants.size());
  std::iota(order.begin(), order.end(), size_t{0});
  for (int t = 0; t < tokens; ++t) {
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
    for (const size_t at : order) {
      const base::Stopwatch watch;
      const std::span<const float> logits = sessions[at].feed({&next[at], 1});
      next[at] = static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
      seconds[at] += watch.seconds();
    }
  }
  for (size_t i = 0; i < variants.size(); ++i) {
    variants[i].skipped = sessions[i].counts().experts().skipped_share();
    variants[i].bytes = model::bytes_per_token(variants[i].model, sessions[i].counts().layers);
  }
  return seconds;
}

void measure(std::vector<Variant>& variants, const Options& options, base::Threads& threads) {
  const int rounds = std::stoi(options.at("--rounds")), tokens = std::stoi(options.at("--tokens"));
  base::Rng rng(std::stoull(options.at("--seed")));
  std::printf("round");
  for (const Variant& v : variants) std::printf(",%s", v.name.c_str());
  std::printf("\n");
  for (int round = 0; round <= rounds; ++round) {
    const std::vector<double> seconds = one_round(variants, tokens, rng, threads);
    if (round == 0) continue;
    std::printf("%d", round);
    for (size_t i = 0; i < variants.size(); ++i) {
      variants[i].rate.push_back(tokens / seconds[i]);
      variants[i].ratio.push_back(seconds[0] / seconds[i]);
      std::printf(",%.2f", variants[i].rate.back());
    }
    std::printf("\n");
    std::fflush(stdout);
  }
}

void report(const std::vector<Variant>& variants) {
  std::printf(
      "model,skipped,MB_per_token,predicted,tokens_per_second,GB_per_second,speedup,share_of_speedup,share_of_time\n");
  for (const Variant& v : variants) {
    const double predicted = variants[0].bytes / v.bytes, speedup = median(v.ratio), rate = median(v.rate);
    std::printf("%s,%.3f,%.1f,%.3f,%.2f,%.2f,%.3f,", v.name.c_str(), v.skipped, v.bytes / 1e6, predicted, rate,
                rate * v.bytes / 1e9, speedup);
    if (predicted > 1.02)
      std::printf("%.3f,%.3f\n", (speedup - 1) / (predicted - 1), (1 - 1 / speedup) / (1 - 1 / predicted));
    else
      std::printf(",\n");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = options_of(argc, argv);
  std::optional<RandomModel> random;
  std::optional<model::Model> loaded;
  if (options.at("--model") == "none")
    random.emplace(options);
  else
    loaded.emplace(options.at("--model"));
  const model::Model& full = random ? random->model() : *loaded;
  if (options.at("--save") != "none") {
    full.save(options.at("--save"), config_of(options));
    return 0;
  }
  base::Threads threads(std::stoi(options.at("--threads")));
  const model::Config& config = full.config();
  std::printf("# layers %d, width %d, experts %d, top %d, expert width %d, %.0f MB, tokens %s, rounds %s, threads %d\n",
              config.depth(), config.width, config.layers[0].experts, config.layers[0].top_k,
              config.layers[0].expert_width, static_cast<double>(model::bytes_of(full)) / 1e6,
              options.at("--tokens").c_str(), options.at("--rounds").c_str(), threads.count());
  std::vector<Variant> variants = variants_of(full.packed(threads), options);
  measure(variants, options, threads);
  report(variants);
}
