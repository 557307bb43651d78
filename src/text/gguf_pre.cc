#include "text/gguf_pre.h"

#include <map>

#include "base/error.h"
#include "text/pretokenizer.h"

namespace choir::text {
namespace {

// Cased letters as of the Unicode of its day without Georgian and some of Armenian, as DeepSeek's file lists them.
const std::string kDeepSeekLetters =
    R"(A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}\x{295}-\x{2af})"
    R"(\x{370}-\x{373}\x{376}-\x{377}\x{37b}-\x{37d}\x{37f}\x{386}\x{388}-\x{38a}\x{38c}\x{38e}-\x{3a1})"
    R"(\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f}\x{531}-\x{556}\x{10a0}-\x{10c5}\x{13a0}-\x{13f5})"
    R"(\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b}\x{1d6b}-\x{1d77})"
    R"(\x{1d79}-\x{1d9a}\x{1e00}-\x{1f15}\x{1f18}-\x{1f1d}\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d})"
    R"(\x{1f50}-\x{1f57}\x{1f59}\x{1f5b}\x{1f5d}\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe})"
    R"(\x{1fc2}-\x{1fc4}\x{1fc6}-\x{1fcc}\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec})"
    R"(\x{1ff2}-\x{1ff4}\x{1ff6}-\x{1ffc}\x{2102}\x{2107}\x{210a}-\x{2113}\x{2115}\x{2119}-\x{211d}\x{2124})"
    R"(\x{2126}\x{2128}\x{212a}-\x{212d}\x{212f}-\x{2134}\x{2139}\x{213c}-\x{213f}\x{2145}-\x{2149}\x{214e})"
    R"(\x{2183}-\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4}\x{2ceb}-\x{2cee}\x{2cf2}-\x{2cf3})"
    R"(\x{a640}-\x{a66d}\x{a680}-\x{a69b}\x{a722}-\x{a76f}\x{a771}-\x{a787}\x{a78b}-\x{a78e})"
    R"(\x{ab70}-\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a})"
    R"(\x{10400}-\x{1044f}\x{104b0}-\x{104d3}\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2})"
    R"(\x{118a0}-\x{118df}\x{1e900}-\x{1e943})";

const std::string kContractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const std::string kLongDigits = "\\p{N}{1,3}", kDigit = "\\p{N}";
const std::string kBlanks = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

// The pattern that cl100k began and others vary.
std::string cl100k(const std::string& digits) {
  return kContractions + "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" + digits + "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" + kBlanks;
}

// Words with their capitals apart, and line ends with slashes: o200k.
std::string o200k(const std::string& contractions, const std::string& digits) {
  const std::string upper = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]", lower = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
  const std::string front = "[^\\r\\n\\p{L}\\p{N}]?";
  return front + upper + "*" + lower + "+" + contractions + "|" + front + upper + "+" + lower + "*" + contractions +
         "|" + digits + "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" + kBlanks;
}

std::map<std::string, Pre> make_pres() {
  const std::string gpt2 = kGpt2Pattern;
  const std::vector<std::string> digits_first = {kDigit, gpt2};
  std::map<std::string, Pre> pres;
  for (const char* name : {"gpt-2", "gpt2", "olmo", "mpt", "jais", "phi-2", "granite-docling"}) pres[name] = {{gpt2}};
  for (const char* name : {"starcoder", "refact", "command-r", "smollm", "codeshell", "minerva-7b"})
    pres[name] = {digits_first};
  for (const char* name : {"llama3", "llama-v3", "llama-bpe", "falcon3"}) pres[name] = {{cl100k(kLongDigits)}, true};
  for (const char* name : {"dbrx", "smaug-bpe", "chatglm-bpe"}) pres[name] = {{cl100k(kLongDigits)}};
  for (const char* name : {"qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan"}) pres[name] = {{cl100k(kDigit)}};
  for (const char* name : {"gpt-4o", "llama4"}) pres[name] = {{o200k(kContractions + "?", kLongDigits)}};
  pres["tekken"] = {{o200k("", kDigit)}, true};
  pres["falcon"] = {{"[\\p{P}$+<=>^~|`]+", gpt2, "[0-9][0-9][0-9]"}};
  pres["deepseek-llm"] = {{"[\\r\\n]", "\\s?[" + kDeepSeekLetters + "]+",
                           "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
                           "\\s+$", "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+", "\\p{N}+"}};
  pres["deepseek-coder"] = {{"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+",
                             "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+", kDigit}};
  pres["deepseek-v3"] = {
      {kLongDigits, "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
       "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
       "| ?[\\p{P}\\p{S}]+[\\r\\n]*|" +
           kBlanks}};
  for (const char* name : {"olmo", "mpt", "qwen2"}) pres[name].nfc = true;
  return pres;
}

const std::map<std::string, Pre>& pres() {
  static const std::map<std::string, Pre> kPres = make_pres();
  return kPres;
}

}  // namespace

const Pre& pre_of(const std::string& name, const std::string& where) {
  const auto found = pres().find(name.empty() ? "gpt-2" : name);
  if (found != pres().end()) return found->second;
  std::string known;
  for (const auto& [each, pre] : pres()) known += (known.empty() ? "" : ", ") + each;
  base::input_error("the pre-tokenizer '" + name + "' is not known", where + ": tokenizer.ggml.pre", "known: " + known);
}

// Of several names the one that says most.
std::string pre_named(const std::vector<std::string>& patterns, bool ignore_merges) {
  for (const char* name : {"gpt-2", "llama-bpe", "qwen2", "starcoder", "gpt-4o"})
    if (const Pre& pre = pres().at(name); pre.patterns == patterns && pre.ignore_merges == ignore_merges) return name;
  for (const auto& [name, pre] : pres())
    if (pre.patterns == patterns && pre.ignore_merges == ignore_merges) return name;
  return {};
}

}  // namespace choir::text
