#include "eval/perplexity.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "tests/random_model.h"
#include "text/bpe_trainer.h"

namespace choir::eval {
namespace {

using doctest::Approx;

std::vector<Document> documents() {
  return {{tests::random_ids(50, 67, 1), 100},
          {tests::random_ids(1, 67, 2), 5},
          {{}, 0},
          {tests::random_ids(23, 67, 3), 40}};
}

// -log p(ids[target]) from the logits of ids[begin .. target-1], alone in a batch, softmax in double.
double surprise(const Model& model, const std::vector<int32_t>& ids, int begin, int target) {
  const std::vector<int32_t> before(ids.begin() + begin, ids.begin() + target);
  const std::vector<float> logits = tests::all_logits(model, before, 1);
  const auto last = logits.end() - model.config().vocab;
  double sum = 0;
  for (auto z = last; z != logits.end(); ++z) sum += std::exp(static_cast<double>(*z));
  return std::log(sum) - static_cast<double>(last[ids[target]]);
}

double plain_nll(const Model& model, std::span<const Document> texts, int context, int stride) {
  double nll = 0;
  for (const Document& d : texts)
    for (int target = 1; target < static_cast<int>(d.ids.size()); ++target) {
      int begin = 0;  // the first window that reaches the target
      while (begin + context < target) begin += stride;
      nll += surprise(model, d.ids, begin, target);
    }
  return nll;
}

std::unique_ptr<const text::Tokenizer> tokenizer() {
  text::BpeTrainer trainer({280, {"<|endoftext|>"}});
  trainer.add("the cat and the hat and the bat sat on the mat");
  return trainer.train();
}

TEST_CASE("perplexity is what a plain loop over tokens says, for disjoint and for overlapping windows") {
  const tests::RandomModel random(tests::small_config(), 4);
  const auto texts = documents();
  base::Threads threads(2);
  for (const Cut& cut : {Cut{8, 0}, Cut{8, 3}, Cut{8, 1}, Cut{7, 7}, Cut{64, 0}, Cut{1, 0}, Cut{}}) {
    const int context = cut.context ? cut.context : 128;
    CAPTURE(context);
    CAPTURE(cut.stride);
    const Perplexity result = perplexity(random.model(), texts, cut, threads);
    const double nll = plain_nll(random.model(), texts, context, cut.stride ? cut.stride : context);
    CHECK(result.tokens == 49 + 22);
    CHECK(result.nll == Approx(nll).epsilon(1e-6));
    CHECK(result.perplexity() == Approx(std::exp(nll / 71)).epsilon(1e-6));
    CHECK(result.bytes == 140);
    CHECK(*result.bits_per_byte() == Approx(nll / 140 / std::log(2.0)).epsilon(1e-6));
  }
}

TEST_CASE("batches and threads change nothing") {
  const tests::RandomModel random(tests::small_config(), 5);
  const std::vector<Document> texts = {{tests::random_ids(6000, 67, 6), 1}};
  base::Threads one(1), three(3);
  const auto windows = cut_windows(random.model(), texts, {100, 0});
  const auto together = negative_log_likelihoods(random.model(), texts, windows, three);
  REQUIRE(together.size() == 60);
  for (size_t w = 0; w < windows.size(); w += 7)
    CHECK(negative_log_likelihoods(random.model(), texts, std::span(windows).subspan(w, 1), one)[0] == together[w]);
}

TEST_CASE("every token but the first is a target exactly once, and inputs are covered exactly once") {
  const tests::RandomModel random(tests::small_config(), 7);
  const auto texts = documents();
  for (const Cut& cut : {Cut{8, 0}, Cut{8, 3}, Cut{49, 0}, Cut{50, 49}, Cut{}}) {
    std::vector<int> scored(50), seen(50);
    for (const Window& w : cut_windows(random.model(), texts, cut))
      for (int i = w.skipped; w.document == 0 && i < w.count; ++i) ++scored[w.begin + i + 1];
    for (const Window& w : cut_inputs(random.model(), texts, cut))
      for (int i = 0; w.document == 0 && i < w.count; ++i) ++seen[w.begin + i];
    CHECK(scored[0] == 0);
    CHECK(std::all_of(scored.begin() + 1, scored.end(), [](int n) { return n == 1; }));
    CHECK(std::ranges::all_of(seen, [](int n) { return n == 1; }));
  }
}

TEST_CASE("bytes are only told where every scored document knows them") {
  const tests::RandomModel random(tests::small_config(), 8);
  base::Threads threads(1);
  auto texts = documents();
  texts[3].bytes = 0;
  CHECK(!perplexity(random.model(), texts, {}, threads).bits_per_byte());
}

TEST_CASE("texts become ids behind the prefix token, whatever their bytes") {
  const auto words = tokenizer();
  const std::string odd("the \0 cat \xff\xfe<|endoftext|>", 25);
  const Document document = encode_document(*words, odd);
  CHECK(document.ids.front() == *words->end_of_text());
  CHECK(std::count(document.ids.begin(), document.ids.end(), *words->end_of_text()) == 1);
  CHECK(words->decode(std::span(document.ids).subspan(1)) == odd);
  CHECK(document.bytes == 25);

  text::BpeTrainer bare({256, {}});
  const auto nameless = bare.train();
  CHECK(!prefix_token(*nameless));
  CHECK(encode_document(*nameless, "abc").bytes == 2);  // the first of the ids is not scored
  CHECK(encode_document(*nameless, "").ids.empty());
}

TEST_CASE("nothing to score, unsound cuts and broken models are refused") {
  const tests::RandomModel random(tests::small_config(), 9);
  base::Threads threads(1);
  const auto fault = [&](const std::vector<Document>& texts, const Cut& cut) {
    try {
      perplexity(random.model(), texts, cut, threads);
    } catch (const base::Error& error) {
      return error.fault;
    }
    return base::Fault::kProgram;
  };
  CHECK(fault({}, {}) == base::Fault::kInput);
  CHECK(fault({{{}, 0}, {{5}, 1}}, {}) == base::Fault::kInput);
  CHECK(fault({{{1, 67}, 1}, {{1, 67, 2}, 1}}, {}) == base::Fault::kInput);
  CHECK(fault(documents(), {129, 0}) == base::Fault::kUsage);
  CHECK(fault(documents(), {-1, 0}) == base::Fault::kUsage);
  CHECK(fault(documents(), {8, 9}) == base::Fault::kUsage);
  CHECK(fault(documents(), {8, -1}) == base::Fault::kUsage);
  tests::RandomModel::numbers(random.model().tensors().norm)[0][3] = std::nanf("");
  CHECK(fault(documents(), {}) == base::Fault::kInput);
}

}  // namespace
}  // namespace choir::eval
