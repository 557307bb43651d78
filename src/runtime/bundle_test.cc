#include "runtime/bundle.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tests/files.h"
#include "tests/random_model.h"
#include "text/bpe_trainer.h"

namespace choir::runtime {
namespace {

const nlohmann::json kConfig = {{"model_type", "mixtral"},       {"hidden_size", 32},        {"vocab_size", 300},
                                {"num_attention_heads", 4},      {"num_key_value_heads", 2}, {"head_dim", 8},
                                {"max_position_embeddings", 64}, {"rope_theta", 10000.0},    {"rms_norm_eps", 1e-5},
                                {"num_hidden_layers", 2},        {"num_local_experts", 4},   {"num_experts_per_tok", 2},
                                {"intermediate_size", 24}};

TEST_CASE("a directory is a model, and a tokenizer where there is one") {
  const tests::TemporaryDirectory directory;
  const tests::RandomModel random(model::parse_config(kConfig, "test"), 1);
  random.model().save(directory.path(), kConfig);

  const Bundle wordless(directory.path());
  const auto ids = tests::random_ids(20, 300, 2);
  CHECK(tests::all_logits(wordless.model, ids, 1) == tests::all_logits(random.model(), ids, 1));
  std::string refusal;
  try {
    wordless.tokenizer();
  } catch (const base::Error& error) {
    CHECK(error.fault == base::Fault::kInput);
    refusal = error.what();
  }
  CHECK(refusal.find("tokenizer.json") != std::string::npos);
  CHECK(refusal.find(directory.path()) != std::string::npos);

  text::BpeTrainer trainer({300, {"<|endoftext|>"}});
  trainer.add("to be or not to be, that is the question to be asked");
  text::write_tokenizer_json(*trainer.train(), directory.path() + "/tokenizer.json", base::Existing::kRefuse);
  const Bundle bundle(directory.path());
  CHECK(bundle.tokenizer().decode(bundle.tokenizer().encode("to be")) == "to be");

  base::write_file(directory.path() + "/tokenizer.json", "{", base::Existing::kReplace);
  const Bundle damaged(directory.path());  // ids need no tokenizer, not even a sound one
  CHECK(tests::all_logits(damaged.model, ids, 1) == tests::all_logits(random.model(), ids, 1));
  CHECK_THROWS_AS(damaged.tokenizer(), base::Error);
  CHECK_THROWS_AS(Bundle(directory.path() + "/nowhere"), base::Error);
}

}  // namespace
}  // namespace choir::runtime
