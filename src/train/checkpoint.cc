#include "train/checkpoint.h"

#include <array>
#include <charconv>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "io/safetensors.h"

namespace choir::train {
namespace {

struct Block {
  const char* name;
  tensor::DType type;
  std::span<std::byte> bytes;
};

std::array<Block, 3> blocks(const Parameters& p) {
  const tensor::DType moments = p.moments().type();
  return {Block{"values", tensor::DType::kF32, std::as_writable_bytes(p.values().span())},
          Block{"first_moment", moments, p.moments().first()}, Block{"second_moment", moments, p.moments().second()}};
}

std::string text_of(const base::Rng::State& state) {
  char text[80];
  std::snprintf(text, sizeof text, "%016" PRIx64 "%016" PRIx64 "%016" PRIx64 "%016" PRIx64, state[0], state[1],
                state[2], state[3]);
  return text;
}

base::Rng::State state_of(const std::string& text, const std::string& path) {
  base::Rng::State state{};
  bool sound = text.size() == 64;
  for (size_t i = 0; sound && i < state.size(); ++i) {
    const char *begin = text.data() + 16 * i, *end = begin + 16;
    const auto [stop, failure] = std::from_chars(begin, end, state[i], 16);
    sound = failure == std::errc() && stop == end;
  }
  // From nothing but zeros the generator never gets away.
  if (!sound || state == base::Rng::State{})
    base::input_error("the random state is damaged", path, "start the run anew");
  return state;
}

template <class Number>
Number number_of(const std::string& text, const std::string& what, const std::string& path) {
  Number number = -1;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc() || end != text.data() + text.size() || number < 0 ||
      number > std::numeric_limits<Number>::max() / 2)  // so that counting on stays below the largest number
    base::input_error("the " + what + " is damaged", path, "start the run anew");
  return number;
}

}  // namespace

std::string checkpoint_path(const std::string& directory) { return directory + "/checkpoint.safetensors"; }

void save_checkpoint(const std::string& directory, const Parameters& parameters, const Progress& progress,
                     const std::string& fingerprint) {
  std::vector<io::Tensor> tensors;
  for (const Block& block : blocks(parameters))
    tensors.push_back({block.name,
                       block.type,
                       {static_cast<int64_t>(block.bytes.size() / tensor::size_of(block.type))},
                       block.bytes});
  const io::Metadata metadata{{"step", std::to_string(progress.step)},     {"data_rng", text_of(progress.data_rng)},
                              {"tokens", std::to_string(progress.tokens)}, {"epoch", std::to_string(progress.epoch)},
                              {"next", std::to_string(progress.next)},     {"fingerprint", fingerprint}};
  io::write_safetensors(checkpoint_path(directory), tensors, metadata, base::Existing::kReplace);
}

Progress load_checkpoint(const std::string& directory, const std::string& fingerprint, Parameters& parameters) {
  const io::SafetensorsFile file(checkpoint_path(directory));
  const auto entry = [&](const char* key) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end())
      base::input_error(std::string("the checkpoint lacks ") + key, file.path(), "start the run anew");
    return found->second;
  };
  if (entry("fingerprint") != fingerprint)
    base::input_error("the checkpoint belongs to another configuration", file.path(),
                      "resume with the configuration and data it was made with");
  for (const Block& block : blocks(parameters)) {
    const io::Tensor* tensor = file.find(block.name);
    if (!tensor || tensor->type != block.type || tensor->bytes.size() != block.bytes.size())
      base::input_error(std::string("the checkpoint lacks ") + block.name, file.path(), "start the run anew");
    std::memcpy(block.bytes.data(), tensor->bytes.data(), tensor->bytes.size());
  }
  const auto number = [&]<class Number>(const char* key, Number) {
    return number_of<Number>(entry(key), key, file.path());
  };
  return {.step = number("step", 0),
          .data_rng = state_of(entry("data_rng"), file.path()),
          .tokens = number("tokens", int64_t{0}),
          .epoch = number("epoch", int64_t{0}),
          .next = number("next", int64_t{0})};
}

}  // namespace choir::train
