#include "moe/registry.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"

namespace choir::moe {
namespace {

constexpr double kAny = 1e30;

int whole(double value) {
  if (value != std::floor(value))
    base::usage_error(fmt::format("{} is not a whole number", value), "router", "write for example top_k(2)");
  return static_cast<int>(value);
}

// One row of a table: the name, how many arguments, their range, and what is made of them.
template <class Word>
struct Entry {
  const char* name;
  size_t arguments;
  double least, most;
  Word (*make)(const std::vector<double>& arguments);
};

const Entry<Score> kScores[] = {
    {"linear", 0, 0, 0, [](const auto&) -> Score { return LinearScore{}; }},
};
const Entry<Propose> kProposals[] = {
    {"top_k", 1, 1, 4096, [](const auto& a) -> Propose { return TopK{whole(a[0])}; }},
};
const Entry<Admit> kAdmissions[] = {
    {"all", 0, 0, 0, [](const auto&) -> Admit { return AdmitAll{}; }},
    {"skip", 1, 0, kAny, [](const auto& a) -> Admit { return Skip{static_cast<float>(a[0])}; }},
};
const Entry<Weigh> kWeighings[] = {
    {"chosen", 0, 0, 0, [](const auto&) -> Weigh { return ChosenWeights{}; }},
};
const Entry<Balance> kBalances[] = {
    {"load", 1, 0, 1000, [](const auto& a) -> Balance { return LoadBalance{static_cast<float>(a[0])}; }},
};

template <class Word, size_t N>
Word make(const char* slot, const Entry<Word> (&table)[N], const Phrase& phrase) {
  std::string known;
  for (const Entry<Word>& entry : table) {
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
    if (entry.name != phrase.name) continue;
    if (phrase.arguments.size() != entry.arguments)
      base::usage_error(
          fmt::format("\"{}\" takes {} arguments, not {}", entry.name, entry.arguments, phrase.arguments.size()),
          "router", "write for example " + std::string(entry.name) + "(2)");
    for (const double value : phrase.arguments)
      if (!(value >= entry.least && value <= entry.most))
        base::usage_error(fmt::format("{} is out of range for \"{}\"", value, entry.name), "router",
                          fmt::format("use {} to {}", entry.least, entry.most));
    return entry.make(phrase.arguments);
  }
  base::usage_error(fmt::format("unknown word \"{}\" for {}", phrase.name, slot), "router", "known: " + known);
}

std::string text(const LinearScore&) { return "linear"; }
std::string text(const TopK& w) { return fmt::format("top_k({})", w.k); }
std::string text(const AdmitAll&) { return "all"; }
std::string text(const Skip& w) { return fmt::format("skip({})", w.beta); }
std::string text(const ChosenWeights&) { return "chosen"; }
std::string text(const LoadBalance& w) { return fmt::format("load({})", w.alpha); }

template <class Word>
std::string text_of(const Word& word) {
  return std::visit([](const auto& w) { return text(w); }, word);
}

}  // namespace

Score make_score(const Phrase& phrase) { return make("score", kScores, phrase); }
Propose make_propose(const Phrase& phrase) { return make("propose", kProposals, phrase); }
Admit make_admit(const Phrase& phrase) { return make("admit", kAdmissions, phrase); }
Weigh make_weigh(const Phrase& phrase) { return make("weigh", kWeighings, phrase); }
Balance make_balance(const Phrase& phrase) { return make("balance", kBalances, phrase); }

std::string write_out(const Words& words) {
  std::string result = text_of(words.score) + " > " + text_of(words.propose) + " > " + text_of(words.admit) + " > " +
                       text_of(words.weigh);
  for (const Balance& balance : words.balance) result += " + " + text_of(balance);
  return result;
}

std::string expand_alias(const std::string& name) {
  if (name == "mixtral") return "linear > top_k(2) > all > chosen + load(0.02)";
  return name;
}

}  // namespace choir::moe
