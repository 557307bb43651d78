// Any bytes are a GGUF file that holds its promises, or an input error.
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/gguf_writer.h"

namespace {

using namespace choir;

bool inside(std::span<const std::byte> part, std::span<const std::byte> file) {
  return part.empty() || (part.data() >= file.data() && part.data() + part.size() <= file.data() + file.size());
}

// Asks for everything; what does not fit the question may only be an input error.
void ask(const io::GgufMetadata& metadata, std::string_view key) {
  const auto tolerate = [](const auto& question) {
    try {
      question();
    } catch (const base::Error& error) {
      CHOIR_CHECK(error.fault == base::Fault::kInput, error.message);
    }
  };
  tolerate([&] { metadata.get_int(key, INT64_MIN, INT64_MAX); });
  tolerate([&] { metadata.get_number(key, -1e300, 1e300); });
  tolerate([&] { metadata.get_bool(key); });
  tolerate([&] { metadata.get_string(key); });
  tolerate([&] { metadata.ints(key, INT64_MIN, INT64_MAX); });
  tolerate([&] { metadata.numbers(key); });
  tolerate([&] { metadata.strings(key); });
}

// A header made of what was read, with the bytes behind it, is read again as the same.
void write_again(const io::Gguf& read) {
  io::GgufHeader header;
  for (const io::GgufEntry& entry : read.metadata.entries())
    if (entry.key != "general.alignment") header.put(entry);
  for (const io::Tensor& t : read.tensors) {
    if (t.name.size() == 64) return;  // the longest name that is read is one longer than what is written
    header.declare(t.name, t.type, t.shape);
  }
  std::string text = header.bytes();
  for (const io::Tensor& t : read.tensors) {
    text.append(reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size());
    text.resize((text.size() + io::kGgufAlignment - 1) / io::kGgufAlignment * io::kGgufAlignment, '\0');
  }
  const io::Gguf again = io::parse_gguf(std::as_bytes(std::span(text)), "again");
  CHOIR_CHECK(again.tensors.size() == read.tensors.size(), "tensors are lost");
  for (const io::Tensor& t : read.tensors) {
    const auto same = std::find_if(again.tensors.begin(), again.tensors.end(),
                                   [&](const io::Tensor& other) { return other.name == t.name; });
    CHOIR_CHECK(same != again.tensors.end() && same->shape == t.shape && same->type == t.type &&
                    std::equal(t.bytes.begin(), t.bytes.end(), same->bytes.begin(), same->bytes.end()),
                t.name);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  io::Gguf read;
  try {
    read = io::parse_gguf(file, "input");
  } catch (const base::Error& error) {
    CHOIR_CHECK(error.fault == base::Fault::kInput && !error.where.empty() && !error.hint.empty(), error.message);
    return 0;
  }
  for (const io::GgufEntry& entry : read.metadata.entries()) {
    CHOIR_CHECK(inside(entry.bytes, file), std::string(entry.key));
    ask(read.metadata, entry.key);
  }
  for (const io::Tensor& t : read.tensors) {
    CHOIR_CHECK(inside(t.bytes, file), t.name);
    io::all_finite(t);
  }
  write_again(read);
  return 0;
}
