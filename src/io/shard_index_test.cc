#include "io/shard_index.h"

#include <doctest/doctest.h>

#include "io/test_files.h"

namespace choir::io {
namespace {

using tensor::DType;

constexpr const char* kIndex = "model.safetensors.index.json";

// A model directory with the tensors a, b in shard 1 and c in shard 2, each a float of its own value.
struct Shards {
  TemporaryDirectory dir;
  const std::vector<float> one{1}, two{2}, three{3};

  Shards() {
    write("s1.safetensors", {tensor_over("a", DType::kF32, {1}, one), tensor_over("b", DType::kF32, {1}, two)});
    write("s2.safetensors", {tensor_over("c", DType::kF32, {1}, three)});
  }
  void write(const std::string& file, const std::vector<Tensor>& tensors) const {
    write_safetensors(dir.file(file), tensors, {}, base::Existing::kReplace);
  }
  void index(const std::string& weight_map) const {
    text(R"({"metadata":{"total_size":12},"weight_map":)" + weight_map + "}");
  }
  void text(const std::string& json) const { base::write_file(dir.file(kIndex), json, base::Existing::kReplace); }
  std::string refusal() const {
    return refusal_of([&] { TensorDirectory{dir.path()}; });
  }
};

float value_of(const TensorDirectory& tensors, const char* name) {
  const Tensor* t = tensors.find(name);
  REQUIRE(t != nullptr);
  float value = 0;
  std::memcpy(&value, t->bytes.data(), sizeof value);
  return value;
}

TEST_CASE("shards are read as one") {
  const Shards s;
  s.index(R"({"a":"s1.safetensors","b":"s1.safetensors","c":"s2.safetensors"})");
  TensorDirectory first(s.dir.path());
  const TensorDirectory tensors(std::move(first));
  CHECK(tensors.tensors().size() == 3);
  CHECK(value_of(tensors, "a") == 1);
  CHECK(value_of(tensors, "b") == 2);
  CHECK(value_of(tensors, "c") == 3);
  CHECK(tensors.find("d") == nullptr);
}

TEST_CASE("a single file is read, also beside an index") {
  const Shards s;
  s.text("no JSON");
  s.write("model.safetensors", {tensor_over("x", DType::kF32, {1}, s.one)});
  const TensorDirectory tensors(s.dir.path());
  CHECK(tensors.tensors().size() == 1);
  CHECK(value_of(tensors, "x") == 1);
}

TEST_CASE("a directory without a model is refused") {
  const TemporaryDirectory dir;
  CHECK(contains(refusal_of([&] { TensorDirectory{dir.path()}; }),
                 "no model.safetensors and no model.safetensors.index.json: " + dir.path()));
  CHECK(contains(refusal_of([&] { TensorDirectory{dir.file("absent")}; }), "no model.safetensors"));
}

TEST_CASE("an index without a map is refused") {
  const Shards s;
  for (const char* text : {"[]", "{}", R"({"weight_map":{}})", R"({"weight_map":["a"]})", R"({"weight_map":null})"}) {
    s.text(text);
    CHECK(contains(s.refusal(), "no map from tensor names to files"));
  }
  s.index(R"({"a":1})");
  CHECK(contains(s.refusal(), "not a file name"));
  s.index(R"({"a":"s1.safetensors","a":"s2.safetensors"})");
  CHECK(contains(s.refusal(), "stands twice"));
}

TEST_CASE("a shard outside the directory is refused") {
  const Shards s;
  for (const char* file :
       {"../s1.safetensors", "/etc/passwd", "sub/s1.safetensors", "..", ".", "", "a\\\\b", "s1\\u0000x"}) {
    s.index(std::string(R"({"a":")") + file + "\"}");
    CHECK_MESSAGE(contains(s.refusal(), "not a plain file name"), std::string(file));
  }
}

TEST_CASE("index and shards must agree in every name") {
  const Shards s;
  s.index(R"({"a":"s1.safetensors","b":"s1.safetensors","c":"s3.safetensors"})");
  CHECK(contains(s.refusal(), "s3.safetensors"));
  s.index(R"({"a":"s1.safetensors","b":"s1.safetensors","c":"s2.safetensors","d":"s2.safetensors"})");
  CHECK(contains(s.refusal(), "a tensor that is not there: \"d\": " + s.dir.file("s2.safetensors")));
  s.index(R"({"a":"s1.safetensors","c":"s2.safetensors"})");
  CHECK(contains(s.refusal(), "the index does not know: " + s.dir.file("s1.safetensors") + ": tensor \"b\""));
  s.index(R"({"a":"s1.safetensors","b":"s2.safetensors","c":"s2.safetensors"})");
  CHECK(contains(s.refusal(), "puts into another file, \"s2.safetensors\""));
}

TEST_CASE("a name in two shards is refused") {
  const Shards s;
  s.write("s2.safetensors", {tensor_over("c", DType::kF32, {1}, s.three), tensor_over("a", DType::kF32, {1}, s.three)});
  s.index(R"({"a":"s1.safetensors","b":"s1.safetensors","c":"s2.safetensors"})");
  CHECK(contains(s.refusal(), "puts into another file, \"s1.safetensors\""));
}

TEST_CASE("tensors of somewhere else stand under the names they are given, and keep what they look into") {
  tensor::Buffer<std::byte> made(4);
  const float seven = 7;
  std::memcpy(made.data(), &seven, sizeof seven);
  const auto memory = std::make_shared<const tensor::Buffer<std::byte>>(std::move(made));
  const TensorDirectory tensors({{"x", DType::kF32, {1}, {memory->data(), 4}}}, {}, {memory});
  CHECK(value_of(tensors, "x") == 7);
  CHECK(tensors.find("y") == nullptr);
  CHECK(tensors.metadata().empty());
  tensors.forget({memory->data(), 4});
  CHECK(value_of(tensors, "x") == 7);  // memory that is no file's is left alone
}

TEST_CASE("forgotten bytes are read again") {
  const Shards s;
  const std::vector<float> many(5000, 3);
  s.write("model.safetensors", {tensor_over("many", DType::kF32, {5000}, many)});
  const TensorDirectory tensors(s.dir.path());
  const Tensor* t = tensors.find("many");
  for (int round = 0; round < 2; ++round) {
    CHECK(std::memcmp(t->bytes.data(), many.data(), t->bytes.size()) == 0);
    tensors.forget(t->bytes);
  }
}

TEST_CASE("a damaged shard is refused") {
  const Shards s;
  base::write_file(s.dir.file("s2.safetensors"), "short", base::Existing::kReplace);
  s.index(R"({"a":"s1.safetensors","b":"s1.safetensors","c":"s2.safetensors"})");
  CHECK(contains(s.refusal(), "s2.safetensors: byte 5"));
}

}  // namespace
}  // namespace choir::io
