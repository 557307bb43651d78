#include "train/data.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/atomic_output.h"
#include "base/error.h"
#include "io/json.h"
#include "text/bpe_trainer.h"

namespace choir::train {

std::vector<std::string> read_documents(const std::string& path) {
  std::string text = base::read_file(path);
  if (!path.ends_with(".jsonl")) return {std::move(text)};
  std::vector<std::string> documents;
  size_t begin = 0;
  for (int line = 1; begin < text.size(); ++line) {  // split at '\n' alone: other line ends may stand inside strings
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string where = path + ":" + std::to_string(line);
    if (end > begin) {
      const io::Json json = io::parse_json(std::string_view(text).substr(begin, end - begin), where);
      documents.push_back(io::Fields(json, where).get_string("text"));
    }
    begin = end + 1;
  }
  return documents;
}

std::vector<DomainTokens> read_domain_tokens(const std::vector<Domain>& domains, const std::string& directory,
                                             const text::Tokenizer& tokenizer, int least) {
  const std::optional<int32_t> end = tokenizer.end_of_text();
  std::vector<DomainTokens> result;
  for (const Domain& domain : domains) {
    DomainTokens& tokens = result.emplace_back(DomainTokens{domain.name, domain.weight, {}});
    for (const std::string& file : domain.files)
      for (const std::string& document : read_documents(directory + "/" + file)) {
        const std::vector<int32_t> ids = tokenizer.encode_ordinary(document);
        tokens.tokens.insert(tokens.tokens.end(), ids.begin(), ids.end());
        if (end) tokens.tokens.push_back(*end);
      }
    if (static_cast<int64_t>(tokens.tokens.size()) < least)
      base::input_error("domain \"" + domain.name + "\" has " + std::to_string(tokens.tokens.size()) + " tokens",
                        directory, "a sequence needs " + std::to_string(least));
  }
  return result;
}

std::unique_ptr<const text::Tokenizer> learn_tokenizer(const std::vector<Domain>& domains, const std::string& directory,
                                                       int vocab_size) {
  text::BpeTrainer trainer({.vocab_size = vocab_size, .special_tokens = {"<|endoftext|>"}});
  for (const Domain& domain : domains)
    for (const std::string& file : domain.files)
      for (const std::string& document : read_documents(directory + "/" + file)) trainer.add(document);
  return trainer.train();
}

TokenBatch draw_batch(const std::vector<DomainTokens>& domains, int sequences, int length, base::Rng& rng) {
  double total = 0;
  for (const DomainTokens& domain : domains) total += domain.weight;
  TokenBatch batch;
  for (int s = 0; s < sequences; ++s) {
    double point = rng.uniform() * total;
    size_t d = 0;
    while (d + 1 < domains.size() && point >= domains[d].weight) point -= domains[d++].weight;
    const std::vector<int32_t>& tokens = domains[d].tokens;
    const auto first = tokens.begin() + static_cast<ptrdiff_t>(rng.below(tokens.size() - static_cast<size_t>(length)));
    batch.ids.insert(batch.ids.end(), first, first + length);
    batch.targets.insert(batch.targets.end(), first + 1, first + length + 1);
  }
  return batch;
}

}  // namespace choir::train
