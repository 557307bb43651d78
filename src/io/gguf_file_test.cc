// GGUF files in parts.
#include <doctest/doctest.h>

#include <filesystem>
#include <functional>

#include "base/error.h"
#include "io/gguf_writer.h"
#include "io/test_files.h"

namespace choir::io {
namespace {

// What one part says.
struct Part {
  int number = 0, count = 3, total = 4;
  std::vector<std::string> tensors;
  std::string architecture;  // in the first part alone, as llama.cpp's gguf-split has it
};

std::vector<Part> three_parts() { return {{0, 3, 4, {"a"}, "test"}, {1, 3, 4, {"b", "c"}, ""}, {2, 3, 4, {"d"}, ""}}; }

std::string name_of(int number, int count) {
  return "m-0000" + std::to_string(number + 1) + "-of-0000" + std::to_string(count) + ".gguf";
}

// Tensor "x" holds the four floats 'x', 'x' + 1, ...
void write(const TemporaryDirectory& directory, const std::string& name, const Part& part) {
  GgufHeader header;
  if (!part.architecture.empty()) header.put("general.architecture", part.architecture);
  header.put("split.no", static_cast<uint32_t>(part.number));
  header.put("split.count", static_cast<uint32_t>(part.count));
  header.put("split.tensors.count", static_cast<uint32_t>(part.total));
  const std::vector<int64_t> shape{4};
  for (const std::string& tensor : part.tensors) header.declare(tensor, tensor::DType::kF32, shape);
  GgufWriter writer(directory.file(name), header, base::Existing::kReplace);
  for (const std::string& tensor : part.tensors) {
    const auto x = static_cast<float>(tensor.front());
    const std::vector<float> numbers{x, x + 1, x + 2, x + 3};
    writer.write(std::as_bytes(std::span(numbers)));
  }
  writer.commit();
}

// What is said about the first part when the parts are these.
std::string refusal(const std::vector<Part>& parts, const std::function<void(const TemporaryDirectory&)>& change = {}) {
  const TemporaryDirectory directory;
  for (size_t i = 0; i < parts.size(); ++i) write(directory, name_of(static_cast<int>(i), 3), parts[i]);
  if (change) change(directory);
  return refusal_of([&] { GgufFile(directory.file(name_of(0, 3))); });
}

TEST_CASE("gguf parts: the first stands for all") {
  const TemporaryDirectory directory;
  const auto parts = three_parts();
  for (int i = 0; i < 3; ++i) write(directory, name_of(i, 3), parts[static_cast<size_t>(i)]);
  GgufFile moved(directory.file(name_of(0, 3)));
  const GgufFile file = std::move(moved);
  CHECK(file.files().size() == 3);
  CHECK(file.tensors().size() == 4);
  CHECK(file.metadata().get_string("general.architecture") == "test");
  for (const char* name : {"a", "b", "c", "d"}) {
    const Tensor* found = file.find(name);
    REQUIRE(found);
    float first = 0;
    std::memcpy(&first, found->bytes.data(), sizeof first);
    CHECK(first == static_cast<float>(name[0]));
  }
  CHECK(file.find("e") == nullptr);
  CHECK(contains(refusal_of([&] { GgufFile(directory.file(name_of(1, 3))); }), "give the first"));
}

TEST_CASE("gguf parts: a file that is its only part needs no name") {
  const TemporaryDirectory directory;
  write(directory, "x.gguf", {0, 1, 1, {"a"}, "test"});
  CHECK(GgufFile(directory.file("x.gguf")).tensors().size() == 1);
}

TEST_CASE("gguf parts: what does not belong together is refused in a line") {
  auto parts = three_parts();
  CHECK(refusal(parts).empty());
  CHECK(contains(refusal(parts, [](const auto& d) { std::filesystem::remove(d.file(name_of(2, 3))); }),
                 "part 3 of 3 is missing"));
  CHECK(contains(refusal(parts, [](const auto& d) { d.write(name_of(1, 3), "noise"); }), "does not begin with GGUF"));
  std::swap(parts[1], parts[2]);
  CHECK(contains(refusal(parts), "the file says that it is part 3 of 3: "));
  parts = three_parts();
  parts[2].count = 4;
  CHECK(contains(refusal(parts), "part 3 of 4"));
  parts = three_parts();
  parts[2].tensors.emplace_back("e");
  CHECK(contains(refusal(parts), "the parts hold 5 tensors, not 4"));
  parts = three_parts();
  parts[2].tensors = {"b"};
  CHECK(contains(refusal(parts), "two parts hold a tensor \"b\""));
  parts = three_parts();
  parts[1].architecture = "other";
  CHECK(contains(refusal(parts), "the part belongs to another model"));
  parts = three_parts();
  parts[1].total = 9;
  CHECK(contains(refusal(parts), "split.tensors.count"));
}

TEST_CASE("gguf parts: the name must say which part it is") {
  const TemporaryDirectory directory;
  const auto parts = three_parts();
  write(directory, "m.gguf", parts[0]);
  CHECK(contains(refusal_of([&] { GgufFile(directory.file("m.gguf")); }), "parts are named NAME-00001-of-00003.gguf"));
  write(directory, name_of(0, 3), parts[1]);
  CHECK(contains(refusal_of([&] { GgufFile(directory.file(name_of(0, 3))); }), "part 2 of 3 is not named so"));
}

}  // namespace
}  // namespace choir::io
