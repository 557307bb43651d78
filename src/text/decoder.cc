#include "text/decoder.h"

#include <charconv>

#include "text/byte_level.h"
#include "text/utf8.h"

namespace choir::text {
namespace {

using namespace decode;

struct Place {
  bool first, added;
};

std::string replaced(const std::string& text, std::string_view from, std::string_view to) {
  std::string result;
  size_t done = 0;
  for (size_t at; (at = text.find(from, done)) != std::string::npos; done = at + from.size()) {
    result.append(text, done, at - done);
    result += to;
  }
  return result.append(text, done);
}

std::string apply_step(const ByteLetters&, std::string name, Place place) {
  return place.added ? name : bytes_of_byte_level(name).value_or(name);
}

std::string apply_step(const ByteFallback&, std::string name, Place) {
  unsigned byte = 0;
  if (name.size() != 6 || !name.starts_with("<0x") || name[5] != '>') return name;
  const auto [end, error] = std::from_chars(name.data() + 3, name.data() + 5, byte, 16);
  return error == std::errc() && end == name.data() + 5 ? std::string(1, static_cast<char>(byte)) : name;
}

std::string apply_step(const Replace& step, std::string name, Place) { return replaced(name, step.from, step.to); }

std::string apply_step(const ReplaceMatches& step, std::string name, Place) {
  if (name.empty() || valid_utf8_prefix(name) != name.size()) return name;  // a lone byte matches nothing
  std::string result;
  size_t done = 0;
  Regex::Scratch scratch;
  step.pattern->each_match(name, scratch, [&](size_t begin, size_t end) {
    result.append(name, done, begin - done);
    result += step.to;
    done = end;
  });
  return result.append(name, done);
}

std::string apply_step(const Metaspace& step, std::string name, Place place) {
  return replaced(name, step.mark, place.first && step.drop_first ? "" : " ");
}

std::string apply_step(const Strip& step, std::string name, Place) {
  for (size_t i = 0; i < step.start && name.starts_with(step.character); ++i) name.erase(0, step.character.size());
  for (size_t i = 0; i < step.stop && name.ends_with(step.character); ++i)
    name.resize(name.size() - step.character.size());
  return name;
}

std::string apply_step(const JoinWithBlanks&, std::string name, Place place) { return place.first ? name : " " + name; }

}  // namespace

std::string Decoder::bytes(std::string_view name, bool first, bool added) const {
  std::string result(name);
  for (const Step& step : steps_)
    result = std::visit([&](const auto& one) { return apply_step(one, std::move(result), {first, added}); }, step);
  return result;
}

}  // namespace choir::text
