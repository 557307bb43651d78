#include "moe/parse.h"

#include <string_view>

#include "base/error.h"

namespace choir::moe {
namespace {

// The rows of the table in docs/routing.md, with the sizes their papers or configurations have.
constexpr Alias kAliases[] = {
    {"mixtral", "linear > top_k(2) > all > chosen + load(0.02)"},
    {"olmoe", "linear > top_k(8) > all > softmax + load(0.01)"},
    {"qwen2", "linear > top_k(4) > all > softmax + load(0.001)"},
    {"qwen3", "linear > top_k(8) > all > softmax(renorm) + load(0.001)"},
    {"granite", "linear > top_k(8) > all > chosen + load(0.001)"},
    {"gpt_oss", "linear(bias) > top_k(4) > all > chosen + load(0.9)"},
    {"phi", "linear > top_k(2) > all > sparsemixer(0.01) + load(0.001)"},
    {"switch", "linear(jitter=0.01) > top_k(1) > fifo(factor(1.25)) > softmax + load(0.01)"},
    {"gshard", "linear > second_random > fifo(factor(1), order=slot) > softmax(renorm) + load(0.01)"},
    {"noisy_top_k", "noisy > top_k(4) > all > chosen + cv2(0.1) + cv2(0.1, of=load)"},
    {"locmoe", "grap > top_k(1) > fifo(locmoe) > softmax + load(0.01) + locality(0.01)"},
    {"etr", "grap_cosine(center=ema) > top_k(1) > top_capacity(etr_sum) > softmax + load(0.01) + locality(0.01)"},
    {"capacity_drop_prob", "linear > top_k(2) > top_capacity(factor(1), key=prob) > softmax(renorm) + load(0.01)"},
    {"capacity_drop_position", "linear > top_k(2) > fifo(factor(1)) > softmax(renorm) + load(0.01)"},
    {"dropless", "linear > top_k(2) > all > chosen + load(0.01) + z_loss(0.001)"},
    {"expert_choice", "linear > all > top_capacity(factor(2, per=token), key=prob, decode=threshold) > softmax"},
    {"expert_threshold", "linear > all > threshold(1) > sigmoid"},
    {"deepseek_v2_lite", "linear > top_k(6) > all > softmax + load(0.001, scope=sequence)"},
    {"deepseek_v2", "linear > groups(8, 3, 6) > all > softmax(scale=16) + load(0.001, scope=sequence)"},
    {"deepseek_v3",
     "linear(sigmoid) > groups(8, 4, 8, by=top2) > all > sigmoid_norm(2.5) + bias(0.001) + load(0.0001, "
     "scope=sequence, of=sigmoid)"},
    {"deepseek_v4", "linear(sqrt_softplus) > top_k(6) > all > sqrt_softplus_norm(1.5) + bias(0.001)"},
    {"quantile", "linear > top_k(8) > all > softmax + quantile"},
    {"base", "linear(init=orthogonal) > assignment > all > sigmoid"},
    {"sinkhorn", "linear > sinkhorn(1) > all > sigmoid"},
    {"hash", "hash > top_k(1) > all > identity"},
    {"top_p", "linear > top_p(0.4) > all > chosen + entropy(0.0001) + load(0.01)"},
    {"remoe", "linear > positive > all > identity + l1_adaptive(1)"},
    {"moe_plus_plus",
     "linear(residual) > top_k(2) > fifo(factor(1.1, eta=0.75)) > softmax(renorm) + load(0.01, eta=0.75)"},
    {"adamoe", "linear > top_k(4) > all > softmax + load(0.01)"},
    {"tutel", "projected_cosine > top_k(2) > fifo(factor(1)) > softmax(renorm) + load(0.01)"},
};

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n'; }
bool is_mark(char c) { return std::string_view("(),=").find(c) != std::string_view::npos; }

// Blanks may stand around what separates words and arguments, not within these.
std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts{""};
  bool apart = false;  // a blank stands behind the part's last character
  for (const char c : text) {
    std::string& part = parts.back();
    if (c == separator) {
      parts.emplace_back();
    } else if (!is_blank(c)) {
      if (apart && !part.empty() && !is_mark(part.back()) && !is_mark(c) && c != '+' && part.back() != '+')
        grammar_error("a blank within \"" + text + "\"");
      part += c;
    }
    apart = is_blank(c);
  }
  return parts;
}

template <class Word>
bool read_as(const Phrase& phrase, Word& word) {
  if (phrase.name != Word::kName) return false;
  Arguments arguments(phrase);
  word = Word::read(arguments);
  arguments.done();
  return true;
}

template <class... Alternatives>
std::variant<Alternatives...> make(const char* kind, const std::string& text, std::variant<Alternatives...>*) {
  const Phrase phrase = parse_phrase(text);
  std::variant<Alternatives...> made;
  const auto take = [&](auto word) {
    if (!read_as(phrase, word)) return false;
    made = word;
    return true;
  };
  if ((take(Alternatives{}) || ...)) return made;
  std::string known;
  ((known += (known.empty() ? "" : ", ") + std::string(Alternatives::kName)), ...);
  base::usage_error("unknown word \"" + phrase.name + "\" for " + kind, "router", "known: " + known);
}

template <class Kind>
Kind make(const char* kind, const std::string& text) {
  return make(kind, text, static_cast<Kind*>(nullptr));
}

template <class Word>
std::string text_of(const Word& word) {
  return std::visit([](const auto& w) { return w.text(); }, word);
}

std::string expand(const std::string& name) {
  for (const Alias& alias : kAliases)
    if (name == alias.name) return alias.expression;
  return name;
}

}  // namespace

std::span<const Alias> aliases() { return kAliases; }

Words parse_words(const std::string& expression) {
  const std::vector<std::string> words = split(expand(expression), '>');
  if (words.size() != 4) grammar_error("\"" + expression + "\" is not a router");
  const std::vector<std::string> last = split(words[3], '+');
  Words made{make<Score>("score", words[0]),
             make<Propose>("propose", words[1]),
             make<Admit>("admit", words[2]),
             make<Weigh>("weigh", last[0]),
             {}};
  for (size_t i = 1; i < last.size(); ++i) made.balance.push_back(make<Balance>("balance", last[i]));
  return made;
}

std::string write_out(const Words& words) {
  std::string result = text_of(words.score) + " > " + text_of(words.propose) + " > " + text_of(words.admit) + " > " +
                       text_of(words.weigh);
  for (const Balance& balance : words.balance) result += " + " + text_of(balance);
  return result;
}

}  // namespace choir::moe
