// Any bytes are a safetensors file that holds its promises, or an input error.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/safetensors.h"
#include "io/safetensors_header.h"

namespace {

using namespace choir;

bool same(const io::Tensor& a, const io::Tensor& b) {
  return a.name == b.name && a.type == b.type && a.shape == b.shape &&
         std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end());
}

// Every byte of the data belongs to one tensor, and a file written from the tensors says the same.
void check(const io::Safetensors& read, std::span<const std::byte> file) {
  const std::byte* at = nullptr;
  std::vector<const io::Tensor*> order;
  std::vector<std::byte> data;
  for (const io::Tensor& t : read.tensors) {
    CHOIR_CHECK(t.elements() * tensor::size_of(t.type) == t.bytes.size(), t.name);
    CHOIR_CHECK(!at || t.bytes.data() == at, t.name);
    at = t.bytes.data() + t.bytes.size();
    order.push_back(&t);
    data.insert(data.end(), t.bytes.begin(), t.bytes.end());
    io::all_finite(t);
  }
  CHOIR_CHECK(!at || at == file.data() + file.size(), "bytes behind the last tensor");

  const std::string header = io::format_header(order, read.metadata);
  const uint64_t length = header.size();
  std::vector<std::byte> written(sizeof length + header.size());
  std::memcpy(written.data(), &length, sizeof length);
  std::memcpy(written.data() + sizeof length, header.data(), header.size());
  written.insert(written.end(), data.begin(), data.end());
  const io::Safetensors again = io::parse_safetensors(written, "again");
  CHOIR_CHECK(again.metadata == read.metadata, "metadata changed");
  CHOIR_CHECK(std::equal(again.tensors.begin(), again.tensors.end(), read.tensors.begin(), read.tensors.end(), same),
              "tensors changed");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  io::Safetensors read;
  try {
    read = io::parse_safetensors(file, "input");
  } catch (const base::Error& error) {
    CHOIR_CHECK(error.fault == base::Fault::kInput && !error.where.empty() && !error.hint.empty(), error.message);
    return 0;
  }
  check(read, file);
  return 0;
}
