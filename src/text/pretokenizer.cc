#include "text/pretokenizer.h"

#include <optional>
#include <utility>

#include "base/error.h"
#include "text/byte_level.h"

namespace choir::text {

const char* const kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char* const kSingleDigitsPattern = R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

using namespace cut;

struct Part {
  size_t begin, end;
  bool match;
};

// Matches and what lies between them, in order; visit(begin, end, is_match).
template <class Visit>
void each_part(const Split& step, std::string_view text, Regex::Scratch& scratch, const Visit& visit) {
  size_t done = 0;
  step.pattern->each_match(text, scratch, [&](size_t begin, size_t end) {
    if (done < begin) visit(done, begin, step.invert);
    visit(begin, end, !step.invert);
    done = end;
  });
  if (done < text.size()) visit(done, text.size(), step.invert);
}

// A match joins the part before it: always when that is a match too, or just when that is none.
std::vector<Part> joined_with_previous(const std::vector<Part>& parts, bool equals) {
  std::vector<Part> joined;
  bool previous = false;
  for (const Part& part : parts) {
    const bool joins = equals ? part.match == previous : part.match && !previous;
    if (joins && !joined.empty())
      joined.back().end = part.end;
    else
      joined.push_back(part);
    previous = part.match;
  }
  return joined;
}

std::vector<Part> joined_with_next(const std::vector<Part>& parts) {
  std::vector<Part> joined;
  for (size_t i = 0; i < parts.size(); ++i) {
    const bool joins = parts[i].match && i + 1 < parts.size() && !parts[i + 1].match;
    joined.push_back(parts[i]);
    if (joins) joined.back().end = parts[++i].end;
  }
  return joined;
}

}  // namespace

// One call of split.
struct Pretokenizer::Run {
  const Pretokenizer& owner;
  Arena& arena;
  const Visit& visit;
  Regex::Scratch scratch;

  void from(size_t stage, std::string_view text, Place place) {
    if (text.empty()) return;
    if (stage == owner.steps_.size()) return finish(text);
    std::visit([&](const auto& step) { apply(step, stage, text, place); }, owner.steps_[stage]);
  }

  void finish(std::string_view word) {
    if (!owner.letters_) return visit(word);
    visit(arena.emplace_back(bytes_of_byte_level(word).value()));
  }

  void apply(const Split& step, size_t stage, std::string_view text, Place place) {
    const auto next = [&](size_t begin, size_t end) {
      from(stage + 1, text.substr(begin, end - begin), begin == 0 ? place : Place::kAfterToken);
    };
    if (step.behavior == Behavior::kIsolated || step.behavior == Behavior::kRemoved) {
      const bool keep = step.behavior == Behavior::kIsolated;
      return each_part(step, text, scratch, [&](size_t begin, size_t end, bool match) {
        if (keep || !match) next(begin, end);
      });
    }
    std::vector<Part> parts;
    each_part(step, text, scratch, [&](size_t begin, size_t end, bool match) { parts.push_back({begin, end, match}); });
    parts = step.behavior == Behavior::kMergedWithNext
                ? joined_with_next(parts)
                : joined_with_previous(parts, step.behavior == Behavior::kContiguous);
    for (const Part& part : parts) next(part.begin, part.end);
  }

  void apply(const PrefixSpace&, size_t stage, std::string_view text, Place place) {
    if (place != Place::kInside && !text.starts_with(' ')) text = arena.emplace_back(" " + std::string(text));
    from(stage + 1, text, place);
  }

  void apply(const ByteLetters&, size_t stage, std::string_view text, Place place) {
    from(stage + 1, arena.emplace_back(byte_level_name(text)), place);
  }

  void apply(const Metaspace& step, size_t stage, std::string_view text, Place place) {
    std::string marked;
    for (const char c : text)
      if (c == ' ')
        marked += step.mark;
      else
        marked += c;
    const bool prepend = (step.prepend == Metaspace::Prepend::kAlways && place != Place::kInside) ||
                         (step.prepend == Metaspace::Prepend::kFirst && place == Place::kBegin);
    if (prepend && !marked.starts_with(step.mark)) marked.insert(0, step.mark);
    const std::string_view all = arena.emplace_back(std::move(marked));
    size_t begin = 0;
    while (step.split && begin < all.size()) {
      const size_t end = std::min(all.find(step.mark, begin + 1), all.size());
      from(stage + 1, all.substr(begin, end - begin), begin == 0 ? place : Place::kAfterToken);
      begin = end;
    }
    if (!step.split) from(stage + 1, all, place);
  }
};

std::vector<cut::Step> isolate_matches(const std::vector<std::string>& patterns, const std::string& where) {
  std::vector<cut::Step> steps;
  for (const std::string& pattern : patterns) steps.emplace_back(Split{std::make_shared<const Regex>(pattern, where)});
  return steps;
}

// Letters for bytes are not needed where nothing looks at them.
Pretokenizer::Pretokenizer(std::vector<cut::Step> steps) : steps_(std::move(steps)) {
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (!std::holds_alternative<ByteLetters>(steps_[i])) continue;
    CHOIR_CHECK(!byte_level_, "bytes become letters twice");
    byte_level_ = true;
    letters_ = i + 1 < steps_.size();
  }
  if (byte_level_ && !letters_) steps_.pop_back();
}

void Pretokenizer::split(std::string_view text, Place place, Arena& arena, const Visit& visit) const {
  Run{*this, arena, visit, {}}.from(0, text, place);
}

}  // namespace choir::text
