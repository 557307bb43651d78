#include "train/pattern.h"

#include <doctest/doctest.h>

namespace choir::train {
namespace {

TEST_CASE("patterns: stars, question marks and letters") {
  CHECK(matches("model.norm.weight", "model.norm.weight"));
  CHECK(!matches("model.norm", "model.norm.weight"));
  CHECK(!matches("model.norm.weight.", "model.norm.weight"));
  CHECK(matches("model.embed_tokens.*", "model.embed_tokens.weight"));
  CHECK(matches("*.gate.weight", "model.layers.3.block_sparse_moe.gate.weight"));
  CHECK(!matches("*.gate.weight", "model.layers.3.block_sparse_moe.gate.weights"));
  CHECK(matches("*.layers.?.*w1*", "model.layers.3.block_sparse_moe.experts.0.w1.weight"));
  CHECK(!matches("*.layers.?.*w1*", "model.layers.13.block_sparse_moe.experts.0.w1.weight"));
  CHECK(matches("*", ""));
  CHECK(matches("*", "x"));
  CHECK(matches("**a*", "bab"));
  CHECK(matches("*aab", "aaaab"));
  CHECK(!matches("?", ""));
  CHECK(!matches("", "x"));
  CHECK(matches("", ""));
}

}  // namespace
}  // namespace choir::train
