#include "train/corpus.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "text/bpe_trainer.h"
#include "train/hash.h"

namespace choir::train {
namespace {

int64_t tokens_of(const std::vector<Example>& examples) {
  int64_t tokens = 0;
  for (const Example& example : examples) tokens += static_cast<int64_t>(example.ids.size());
  return tokens;
}

// The last examples: 2 % of the tokens, at least one example, at most so many tokens.
std::vector<Example> last_part(std::vector<Example>& examples, int64_t most) {
  const int64_t wanted = std::min(most, tokens_of(examples) / 50);
  size_t count = 0;
  for (int64_t tokens = 0; count < examples.size(); ++count) {
    tokens += static_cast<int64_t>(examples[examples.size() - 1 - count].ids.size());
    if (count > 0 && tokens > wanted) break;
  }
  const auto from = examples.end() - static_cast<ptrdiff_t>(count);
  std::vector<Example> part(std::make_move_iterator(from), std::make_move_iterator(examples.end()));
  examples.erase(from, examples.end());
  return part;
}

// The first examples, at most so many tokens, but one at least.
void keep_first(std::vector<Example>& examples, int64_t most) {
  size_t count = 0;
  for (int64_t tokens = 0; count < examples.size(); ++count) {
    tokens += static_cast<int64_t>(examples[count].ids.size());
    if (count > 0 && tokens > most) break;
  }
  examples.resize(count);
}

void add_texts(const std::string& path, Task task, text::BpeTrainer& trainer) {
  if (task == Task::kText) {
    for (const std::string& document : read_documents(path)) trainer.add(document);
    return;
  }
  for (const Exchange& exchange : read_exchanges(path)) {
    trainer.add(exchange.prompt);
    trainer.add(exchange.answer);
  }
}

}  // namespace

Corpus::Corpus(const TrainConfig& config, const std::string& directory, const text::Tokenizer& tokenizer)
    : config_(config) {
  for (const Domain& domain : config_.domains) held_out_.names.push_back(domain.name);
  if (config_.evaluation.every > 0) refuse_shared_files(directory);
  if (config_.task == Task::kExamples) {
    read_examples(directory, tokenizer);
    return;
  }
  texts_ = read_domain_tokens(config_.domains, directory, tokenizer, config_.sequence_length + 2);
  if (config_.evaluation.every == 0) return;
  hold_out(texts_, config_.evaluation, config_.sequence_length, directory, tokenizer);
  held_out_.batches = held_out_batches(texts_, config_.batch_size, config_.sequence_length);
}

void Corpus::refuse_shared_files(const std::string& directory) const {
  const auto refuse = [&](const std::string& held_out, const std::string& file) {
    std::error_code missing;  // is refused by who reads it
    if (std::filesystem::equivalent(place_of(directory, held_out), place_of(directory, file), missing))
      base::input_error("the evaluation file is learnt from", held_out, "give another, or none");
  };
  for (const auto& [name, held_out] : config_.evaluation.files)
    for (const Domain& domain : config_.domains)
      for (const std::string& file : domain.files) refuse(held_out, file);
}

void Corpus::read_examples(const std::string& directory, const text::Tokenizer& tokenizer) {
  std::vector<std::vector<Example>> held_out;
  for (size_t d = 0; d < config_.domains.size(); ++d) {
    const Domain& domain = config_.domains[d];
    const auto read = [&](const std::string& file) {
      std::vector<Example> examples;
      for (const Exchange& exchange : read_exchanges(place_of(directory, file))) {
        examples.push_back(make_example(exchange, tokenizer, config_.sequence_length));
        examples.back().domain = static_cast<int32_t>(d);
      }
      return examples;
    };
    std::vector<Example> mine;
    for (const std::string& file : domain.files) std::ranges::move(read(file), std::back_inserter(mine));
    const auto own = config_.evaluation.files.find(domain.name);
    if (config_.evaluation.every > 0 && own != config_.evaluation.files.end()) {
      held_out.push_back(read(own->second));
      if (held_out.back().empty())
        base::input_error("the evaluation file has no example", own->second, "give it some, or none");
      keep_first(held_out.back(), config_.evaluation.tokens);
    } else if (config_.evaluation.every > 0) {
      held_out.push_back(last_part(mine, config_.evaluation.tokens));
    }
    if (mine.empty())
      base::input_error("domain \"" + domain.name + "\" has no example left to learn from", directory, "give it more");
    std::ranges::move(mine, std::back_inserter(examples_));
  }
  order_ = ExampleOrder(examples_.size(), config_.seed + 1);
  held_out_.batches = mixed_batches(held_out, static_cast<int64_t>(config_.batch_size) * config_.sequence_length);
}

int64_t Corpus::tokens() const {
  int64_t tokens = tokens_of(examples_);
  for (const DomainTokens& domain : texts_) tokens += static_cast<int64_t>(domain.tokens.size());
  return tokens;
}

int64_t Corpus::bytes() const {
  int64_t numbers = 2 * tokens_of(examples_);  // ids and targets
  for (const DomainTokens& domain : texts_)
    numbers += static_cast<int64_t>(domain.tokens.size() + domain.held_out.size());
  for (const TokenBatch& batch : held_out_.batches)
    numbers += static_cast<int64_t>(batch.ids.size() + batch.targets.size());
  return numbers * static_cast<int64_t>(sizeof(int32_t));
}

uint64_t Corpus::hash() const {
  uint64_t hash = kHashStart;
  const auto add = [&](std::span<const int32_t> numbers) { add_to_hash(std::as_bytes(numbers), hash); };
  for (const DomainTokens& domain : texts_) add(domain.tokens);
  for (const Example& example : examples_) {
    add({&example.domain, 1});
    add(example.ids);
    add(example.targets);
  }
  return hash;
}

void Corpus::check(const Progress& progress, const std::string& path) const {
  if (progress.next > 0 && progress.next >= static_cast<int64_t>(examples_.size()))
    base::input_error("the place in the data is damaged", path, "start the run anew");
}

std::vector<TokenBatch> Corpus::draw(Progress& progress) {
  std::vector<TokenBatch> batches;
  base::Rng rng(progress.data_rng);
  for (int i = 0; i < config_.accumulate; ++i)
    batches.push_back(config_.task == Task::kExamples
                          ? draw_examples(progress)
                          : draw_batch(texts_, config_.batch_size, config_.sequence_length, rng));
  progress.data_rng = rng.state();
  return batches;
}

// Whole examples, one after another, as many as fit.
TokenBatch Corpus::draw_examples(Progress& progress) {
  const size_t most = static_cast<size_t>(config_.batch_size) * static_cast<size_t>(config_.sequence_length);
  TokenBatch batch;
  while (true) {
    const Example& example = examples_[order_.at(progress.epoch, progress.next)];
    if (!batch.ids.empty() && batch.ids.size() + example.ids.size() > most) return batch;
    batch.add(example.domain, example.ids, example.targets);
    if (++progress.next == static_cast<int64_t>(examples_.size())) {
      progress.next = 0;
      ++progress.epoch;
    }
  }
}

std::unique_ptr<const text::Tokenizer> learn_tokenizer(const TrainConfig& config, const std::string& directory) {
  text::BpeTrainer trainer({.vocab_size = config.tokenizer.vocab_size, .special_tokens = {"<|endoftext|>"}});
  for (const Domain& domain : config.domains)
    for (const std::string& file : domain.files) add_texts(place_of(directory, file), config.task, trainer);
  return trainer.train();
}

}  // namespace choir::train
