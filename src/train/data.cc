#include "train/data.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/atomic_output.h"
#include "base/error.h"
#include "io/json.h"

namespace choir::train {

std::string place_of(const std::string& directory, const std::string& path) {
  return (std::filesystem::path(directory) / path).string();
}

std::vector<Line> read_lines(const std::string& path) {
  const std::string text = base::read_file(path);
  std::vector<Line> lines;
  size_t begin = 0;
  for (int number = 1; begin < text.size();
       ++number) {  // split at '\n' alone: other line ends may stand inside strings
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (end > begin) lines.push_back({text.substr(begin, end - begin), path + ":" + std::to_string(number)});
    begin = end + 1;
  }
  return lines;
}

std::vector<std::string> read_documents(const std::string& path) {
  if (!path.ends_with(".jsonl")) return {base::read_file(path)};
  std::vector<std::string> documents;
  for (const Line& line : read_lines(path)) {
    const io::Json json = io::parse_json(line.text, line.where);
    documents.push_back(io::Fields(json, line.where).get_string("text"));
  }
  return documents;
}

namespace {

// The tokens of a file's documents, each followed by the end-of-text token.
void append_tokens(const std::string& path, const text::Tokenizer& tokenizer, std::vector<int32_t>& tokens) {
  const std::optional<int32_t> end = tokenizer.end_of_text();
  for (const std::string& document : read_documents(path)) {
    const std::vector<int32_t> ids = tokenizer.encode_ordinary(document);
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    if (end) tokens.push_back(*end);
  }
}

[[noreturn]] void too_short(const std::string& what, size_t tokens, size_t least, const std::string& where) {
  base::input_error(what + " has " + std::to_string(tokens) + " tokens", where,
                    "at least " + std::to_string(least) + " are needed");
}

}  // namespace

std::vector<DomainTokens> read_domain_tokens(const std::vector<Domain>& domains, const std::string& directory,
                                             const text::Tokenizer& tokenizer, int least) {
  std::vector<DomainTokens> result;
  for (const Domain& domain : domains) {
    DomainTokens& tokens = result.emplace_back(DomainTokens{domain.name, domain.weight, {}});
    for (const std::string& file : domain.files) append_tokens(place_of(directory, file), tokenizer, tokens.tokens);
    if (tokens.tokens.size() < static_cast<size_t>(least))
      too_short("domain \"" + domain.name + "\"", tokens.tokens.size(), static_cast<size_t>(least), directory);
  }
  return result;
}

void hold_out(std::vector<DomainTokens>& domains, const EvaluationPlan& evaluation, int length,
              const std::string& directory, const text::Tokenizer& tokenizer) {
  const auto one = static_cast<size_t>(length);
  const auto whole = [&](size_t tokens) {  // sequences of so many tokens, with the one that follows the last
    return std::max<size_t>(1, std::min(tokens, static_cast<size_t>(evaluation.tokens)) / one) * one + 1;
  };
  for (DomainTokens& domain : domains) {
    const std::string name = "domain \"" + domain.name + "\"";
    if (const auto own = evaluation.files.find(domain.name); own != evaluation.files.end()) {
      append_tokens(place_of(directory, own->second), tokenizer, domain.held_out);
      if (domain.held_out.size() <= one)
        too_short("the evaluation file of " + name, domain.held_out.size(), one + 1, own->second);
      domain.held_out.resize(whole(domain.held_out.size() - 1));
      continue;
    }
    const size_t size = whole(domain.tokens.size() / 50);
    if (domain.tokens.size() < size + one + 2) too_short(name, domain.tokens.size(), size + one + 2, directory);
    domain.held_out.assign(domain.tokens.end() - static_cast<ptrdiff_t>(size), domain.tokens.end());
    domain.tokens.resize(domain.tokens.size() - size);
  }
}

void TokenBatch::add(int32_t domain, std::span<const int32_t> sequence, std::span<const int32_t> next) {
  const int row = static_cast<int>(ids.size());
  ids.insert(ids.end(), sequence.begin(), sequence.end());
  targets.insert(targets.end(), next.begin(), next.end());
  sequences.push_back({row, static_cast<int>(sequence.size()), 0, row});
  domains.push_back(domain);
}

int64_t TokenBatch::counted() const {
  return std::ranges::count_if(targets, [](int32_t target) { return target >= 0; });
}

TokenBatch draw_batch(const std::vector<DomainTokens>& domains, int sequences, int length, base::Rng& rng) {
  double total = 0;
  for (const DomainTokens& domain : domains) total += domain.weight;
  const auto size = static_cast<size_t>(length);
  TokenBatch batch;
  for (int s = 0; s < sequences; ++s) {
    double point = rng.uniform() * total;
    size_t d = 0;
    while (d + 1 < domains.size() && point >= domains[d].weight) point -= domains[d++].weight;
    const std::span<const int32_t> tokens = domains[d].tokens;
    const size_t first = rng.below(tokens.size() - size);
    batch.add(static_cast<int32_t>(d), tokens.subspan(first, size), tokens.subspan(first + 1, size));
  }
  return batch;
}

std::vector<TokenBatch> mixed_batches(const std::vector<std::vector<Example>>& by_domain, int64_t tokens) {
  struct Place {
    double order;  // where it stands among the examples of its domain, in (0,1)
    const Example* example;
  };
  std::vector<Place> places;
  for (const std::vector<Example>& examples : by_domain)
    for (size_t i = 0; i < examples.size(); ++i)
      places.push_back({(static_cast<double>(i) + 0.5) / static_cast<double>(examples.size()), &examples[i]});
  std::ranges::stable_sort(places, {}, &Place::order);
  std::vector<TokenBatch> batches;
  for (const Place& place : places) {
    const Example& example = *place.example;
    if (batches.empty() || static_cast<int64_t>(batches.back().ids.size() + example.ids.size()) > tokens)
      batches.emplace_back();
    batches.back().add(example.domain, example.ids, example.targets);
  }
  return batches;
}

std::vector<TokenBatch> held_out_batches(const std::vector<DomainTokens>& domains, int sequences, int length) {
  std::vector<std::vector<Example>> by_domain(domains.size());
  for (size_t d = 0; d < domains.size(); ++d)
    for (auto at = domains[d].held_out.begin(); domains[d].held_out.end() - at > length; at += length)
      by_domain[d].push_back({static_cast<int32_t>(d), {at, at + length}, {at + 1, at + length + 1}});
  return mixed_batches(by_domain, static_cast<int64_t>(sequences) * length);
}

void fill_nodes(const TokenBatch& batch, const Placement& placement, std::span<int32_t> nodes) {
  const auto count = static_cast<int64_t>(batch.sequences.size());
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    const int64_t node = placement.pin == Placement::Pin::kDomain ? batch.domains[s] % placement.nodes
                                                                  : static_cast<int64_t>(s) * placement.nodes / count;
    std::fill_n(nodes.begin() + batch.sequences[s].row, batch.sequences[s].count, static_cast<int32_t>(node));
  }
}

std::vector<int32_t> nodes_of(const TokenBatch& batch, const Placement& placement) {
  std::vector<int32_t> nodes(batch.ids.size());
  fill_nodes(batch, placement, nodes);
  return nodes;
}

}  // namespace choir::train
