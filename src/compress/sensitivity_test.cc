#include "compress/sensitivity.h"

#include <doctest/doctest.h>

#include <cmath>

#include "compress/expert_type.h"
#include "compress/test_model.h"

namespace choir::compress {
namespace {

// The sum of the cross entropies of a batch's next tokens when `shift` is added to one number behind layer l.
struct Shift {
  int layer, row, channel;
  float by;
};

double loss_with(const Model& model, const CalibrationBatch& batch, const Shift& shift, base::Threads& threads) {
  const auto sequences = sequences_of(batch);
  const model::ForwardPass pass(model, {batch.ids, sequences}, threads);
  const int rows = pass.rows(), d = model.config().width, vocab = model.config().vocab;
  const tensor::Buffer<float> h(static_cast<size_t>(rows * d)), middle(h.size()), normed(h.size()),
      logits(static_cast<size_t>(rows * vocab));
  model::HeadActivations head;
  model::BlockActivations activations;
  pass.embed(h.matrix(rows, d));
  for (int l = 0; l < model.config().depth(); ++l) {
    pass.attend(l, h.matrix(rows, d), nullptr, activations, middle.matrix(rows, d));
    pass.mix(l, middle.matrix(rows, d), {}, activations, h.matrix(rows, d));
    if (l == shift.layer) h.matrix(rows, d)[shift.row][shift.channel] += shift.by;
  }
  pass.head(h.matrix(rows, d), normed.matrix(rows, d), head, logits.matrix(rows, vocab));
  double loss = 0;
  for (int t = 0; t < rows; ++t) {
    if (t % batch.length == batch.length - 1) continue;
    double sum = 0;
    for (const float z : logits.matrix(rows, vocab).row(t)) sum += std::exp(static_cast<double>(z));
    loss += std::log(sum) - logits.matrix(rows, vocab)[t][batch.ids[static_cast<size_t>(t) + 1]];
  }
  return loss;
}

TEST_CASE("sensitivity: the squared gradient by a layer's output, by differences") {
  model::Config config = small_config(6, 2, 3);
  SUBCASE("mixtral") {}
  SUBCASE("tied") { config.tied = true; }
  SUBCASE("a bias beside sigmoids") {
    for (auto& layer : config.layers)
      layer.router = "linear(sigmoid) > top_k(2) > all > sigmoid_norm(2.5) + bias(0.001)";
  }
  const TestModel made(config);
  const auto batches = random_batches(2, 2, 7, 31);
  base::Threads threads(2);
  const auto squares = loss_gradients(*made.model, batches, threads);
  REQUIRE(squares.size() == 3);
  constexpr float kStep = 1e-2f;
  for (int l = 0; l < 3; ++l) {
    REQUIRE(squares[static_cast<size_t>(l)].size() == 28);
    for (const int t : {0, 5, 9}) {
      double square = 0;
      for (int channel = 0; channel < config.width; ++channel) {
        const double up = loss_with(*made.model, batches[1], {l, t, channel, kStep}, threads);
        const double down = loss_with(*made.model, batches[1], {l, t, channel, -kStep}, threads);
        square += std::pow((up - down) / (2.0 * static_cast<double>(kStep)), 2);
      }
      CAPTURE(l);
      CAPTURE(t);
      CHECK(squares[static_cast<size_t>(l)][static_cast<size_t>(14 + t)] == doctest::Approx(square).epsilon(0.02));
    }
  }
  CHECK(squares[2][6] == 0);  // the last token of a sequence has nothing to tell
  CHECK(squares[1][6] == 0);
}

TEST_CASE("sensitivity: any format of weights, any number of threads, any split into batches") {
  const TestModel made(small_config(5, 2, 2));
  const Model narrow = *with_expert_type(*made.model, tensor::DType::kBF16);
  const Model wide = *with_expert_type(narrow, tensor::DType::kF32);
  const auto batches = random_batches(1, 4, 7, 31);
  base::Threads one(1), three(3);
  const auto squares = loss_gradients(narrow, batches, one);
  CHECK(squares == loss_gradients(wide, batches, three));
  std::vector<CalibrationBatch> split;
  for (int s = 0; s < 4; ++s)
    split.push_back({{batches[0].ids.begin() + 7 * s, batches[0].ids.begin() + 7 * s + 7}, 1, 7});
  CHECK(squares == loss_gradients(narrow, split, one));
}

}  // namespace
}  // namespace choir::compress
