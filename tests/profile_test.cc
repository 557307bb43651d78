// What the operators of a model say about themselves: they miss no weight, count every product, and change no number.
#include "base/profile.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "base/profile_summary.h"
#include "runtime/session.h"
#include "tests/flat_parameters.h"

namespace choir {
namespace {

using base::PhaseTotal;
using base::Work;

Work sum_of(const PhaseTotal& phase) {
  Work sum;
  for (const base::OperatorTotal& total : phase.operators) sum += total.work;
  return sum;
}

const PhaseTotal& phase_of(const std::vector<PhaseTotal>& phases, const std::string& name) {
  const auto found = std::ranges::find(phases, name, &PhaseTotal::name);
  REQUIRE(found != phases.end());
  return *found;
}

int64_t calls_of(const PhaseTotal& phase, const std::string& name) {
  const auto found = std::ranges::find(phase.operators, name, &base::OperatorTotal::name);
  return found == phase.operators.end() ? 0 : found->calls;
}

// Reads `prompt` tokens at once and one more, each as a phase.
std::vector<PhaseTotal> phases_of(const model::Model& model, int prompt, int thread_count = 2) {
  base::Threads threads(thread_count);
  const base::Profile profile(threads);
  runtime::Session session(model, threads);
  const std::vector<int32_t> ids = tests::random_ids(prompt + 1, model.config().vocab, 5);
  {
    const base::Scope scope(threads, "prefill");
    session.feed(std::span(ids).first(static_cast<size_t>(prompt)));
  }
  const base::Scope scope(threads, "decode");
  session.feed(std::span(ids).last(1));
  return base::summarize(profile);
}

// Multiply-adds of one token at `position` in a model without anything that its family has of its own, by hand.
int64_t multiply_adds(const model::Config& config, int position, bool head) {
  const auto& a = config.attention;
  const int64_t d = config.width;
  int64_t sum = head ? d * config.vocab : 0;
  for (const model::LayerConfig& layer : config.layers) {
    sum += d * a.head_width * (2 * a.heads + 2 * a.kv_heads);   // q, o; k, v
    sum += 2 * int64_t{position + 1} * a.heads * a.head_width;  // scores and their sums
    sum += d * layer.experts + 3 * d * layer.expert_width * layer.top_k;
  }
  return sum;
}

TEST_CASE("profile: a decode step reads the weights of one token and multiplies what the config says") {
  const tests::RandomModel owner(tests::small_config(), 3);
  const model::Config& config = owner.model().config();
  for (const int prompt : {1, 7, 40}) {
    const std::vector<PhaseTotal> phases = phases_of(owner.model(), prompt);
    const PhaseTotal& decode = phase_of(phases, "decode");
    CHECK(sum_of(decode).weights == model::bytes_per_token(owner.model()));
    CHECK(sum_of(decode).operations == 2 * multiply_adds(config, prompt, true));
    CHECK(sum_of(decode).byte_operations == 0);
    int64_t expected = 0;
    for (int i = 0; i < prompt; ++i) expected += multiply_adds(config, i, i == prompt - 1);
    CHECK(sum_of(phase_of(phases, "prefill")).operations == 2 * expected);
    CHECK(calls_of(decode, "attention") == config.depth());
    CHECK(calls_of(decode, "norm") == 2 * config.depth() + 1);
    for (const char* name : {"qkv", "o", "rope", "cache", "router", "gate+up", "activation", "down", "combine"})
      CHECK(calls_of(decode, name) == config.depth());
  }
}

TEST_CASE("profile: a window bounds what attention reads and multiplies") {
  model::Config config = tests::small_config();
  config.attention.window = 8;
  const tests::RandomModel owner(config, 3);
  const std::vector<PhaseTotal> phases = phases_of(owner.model(), 20);
  CHECK(sum_of(phase_of(phases, "decode")).operations == 2 * multiply_adds(config, 7, true));
}

TEST_CASE("profile: of every family a decode step reads bytes_per_token") {
  for (const auto& entry : std::filesystem::directory_iterator(std::string(CHOIR_SOURCE_DIR) + "/tests/golden")) {
    CAPTURE(entry.path().string());
    const model::Model model(entry.path().string());
    const std::vector<PhaseTotal> phases = phases_of(model, 9);
    CHECK(sum_of(phase_of(phases, "decode")).weights == model::bytes_per_token(model));
    CHECK(sum_of(phase_of(phases, "prefill")).weights >= model::bytes_per_token(model));
    CHECK(sum_of(phase_of(phases, "prefill")).weights <= model::bytes_of(model));
  }
}

TEST_CASE("profile: a layer contains its operators, and threads are busy inside loops of spans alone") {
  const tests::RandomModel owner(tests::small_config(), 3);
  base::Threads threads(3);
  const base::Profile profile(threads);
  runtime::Session session(owner.model(), threads);
  session.feed(tests::random_ids(30, owner.model().config().vocab, 5));
  std::vector<int64_t> inside(profile.spans().size());
  int layers = 0;
  for (size_t i = 0; i < profile.spans().size(); ++i) {
    const base::Profile::Span& span = profile.spans()[i];
    if (span.parent >= 0) inside[static_cast<size_t>(span.parent)] += span.end - span.begin;
    layers += span.layer >= 0;
  }
  CHECK(layers == owner.model().config().depth());
  for (size_t i = 0; i < inside.size(); ++i) {
    const base::Profile::Span& span = profile.spans()[i];
    CHECK(inside[i] <= span.end - span.begin);
    if (span.layer >= 0) CHECK(inside[i] > 0);
  }
  for (int t = 0; t < profile.threads(); ++t) {
    int64_t last = 0;
    for (const base::Profile::Busy& busy : profile.busy(t)) {
      CHECK(busy.begin >= last);
      last = busy.end;
      CHECK(busy.span >= 0);
    }
  }
}

// One sequence forward and backward.
void pass(const model::Model& model, std::span<const int32_t> ids, tests::Gradients& gradients,
          base::Threads& threads) {
  const kernels::Sequence sequence{0, static_cast<int>(ids.size()), 0, 0};
  model::TrainingActivations activations;
  model::forward_backward(model, {{ids, {&sequence, 1}}, ids}, {}, activations, gradients.tensors, threads);
}

TEST_CASE("profile: logits and gradients have the same bits with and without it") {
  const tests::RandomModel owner(tests::small_config(), 3);
  const model::Model& model = owner.model();
  const std::vector<int32_t> ids = tests::random_ids(24, model.config().vocab, 5);
  const auto compute = [&](bool watched) {
    base::Threads threads(2);
    std::optional<base::Profile> profile;
    if (watched) profile.emplace(threads);
    runtime::Session session(model, threads);
    const std::span<const float> logits = session.feed(ids);
    std::vector<float> result(logits.begin(), logits.end());
    tests::Gradients gradients(model.config());
    pass(model, ids, gradients, threads);
    for (size_t i = 0; i < gradients.count(); ++i)
      result.insert(result.end(), gradients.numbers(i).begin(), gradients.numbers(i).end());
    if (watched) CHECK(profile->spans().size() > 60);
    return result;
  };
  CHECK(compute(true) == compute(false));
}

TEST_CASE("profile: a backward multiplies twice as much as its forward, in attention five times for two") {
  const tests::RandomModel owner(tests::small_config(), 3);
  const model::Config& config = owner.model().config();
  base::Threads threads(2);
  const base::Profile profile(threads);
  tests::Gradients gradients(config);
  pass(owner.model(), tests::random_ids(16, config.vocab, 5), gradients, threads);
  const std::vector<PhaseTotal> phases = base::summarize(profile);
  const auto operations = [&](const char* phase, bool attention) {
    int64_t sum = 0;
    for (const base::OperatorTotal& total : phase_of(phases, phase).operators)
      if ((total.name == "attention") == attention) sum += total.work.operations;
    return sum;
  };
  CHECK(operations("backward", false) == 2 * operations("forward", false));
  CHECK(2 * operations("backward", true) == 5 * operations("forward", true));
  int64_t expected = 0;
  for (int i = 0; i < 16; ++i) expected += 2 * multiply_adds(config, i, true);
  CHECK(operations("forward", false) + operations("forward", true) == expected);
}

}  // namespace
}  // namespace choir
