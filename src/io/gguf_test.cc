#include "io/gguf.h"

#include <doctest/doctest.h>

#include <cstring>
#include <limits>

#include "base/error.h"
#include "io/gguf_writer.h"
#include "io/test_files.h"

namespace choir::io {
namespace {

using tensor::DType;

// A file put together by hand, number by number.
class Bytes {
 public:
  template <class T>
  Bytes& put(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Bytes& text(std::string_view value) {
    put<uint64_t>(value.size());
    text_ += value;
    return *this;
  }
  Bytes& raw(std::string_view value) {
    text_ += value;
    return *this;
  }
  Bytes& pad(size_t to) {
    text_.resize((text_.size() + to - 1) / to * to, '\0');
    return *this;
  }
  Bytes& head(uint64_t tensors, uint64_t entries, uint32_t version = 3) {
    return raw("GGUF").put(version).put(tensors).put(entries);
  }
  Bytes& info(std::string_view name, std::vector<uint64_t> dims, uint32_t type, uint64_t offset) {
    text(name).put(static_cast<uint32_t>(dims.size()));
    for (const uint64_t d : dims) put(d);
    return put(type).put(offset);
  }
  const std::string& str() const { return text_; }

 private:
  std::string text_;
};

std::string refusal(const Bytes& file) {
  return refusal_of([&] { parse_gguf(bytes_of(file.str()), "m.gguf"); });
}

TEST_CASE("a file put together by hand is read as it stands") {
  Bytes file;
  file.head(2, 9);
  file.text("a.u8").put<uint32_t>(0).put<uint8_t>(200);
  file.text("a.i64").put<uint32_t>(11).put<int64_t>(-5);
  file.text("a.u64").put<uint32_t>(10).put<uint64_t>(7);
  file.text("a.f32").put<uint32_t>(6).put(0.5f);
  file.text("a.f64").put<uint32_t>(12).put(-0.25);
  file.text("a.bool").put<uint32_t>(7).put<uint8_t>(1);
  file.text("a.text").put<uint32_t>(8).text("caf\xc3\xa9");
  file.text("a.list").put<uint32_t>(9).put<uint32_t>(8).put<uint64_t>(3).text("x").text("").text("yz");
  file.text("a.nested").put<uint32_t>(9).put<uint32_t>(9).put<uint64_t>(2);
  file.put<uint32_t>(3).put<uint64_t>(2).put<int16_t>(1).put<int16_t>(-2).put<uint32_t>(8).put<uint64_t>(0);
  file.info("second", {2}, 0, 32).info("first", {3, 2, 1}, 1, 0).pad(32);
  for (const float x : {1.0f, 2.0f, 0.0f, 0.0f, 0.0f, -1.0f}) file.put(tensor::F16::from(x).bits);
  file.pad(32).put(1.0f).put(2.0f);

  const Gguf read = parse_gguf(bytes_of(file.str()), "m.gguf");
  const GgufMetadata& m = read.metadata;
  CHECK(read.version == 3);
  CHECK(m.entries().size() == 9);
  CHECK(m.get_int("a.u8", 0, 255) == 200);
  CHECK(m.get_int("a.i64", -9, 9) == -5);
  CHECK(m.get_int("a.u64", 0, 9) == 7);
  CHECK(m.get_number("a.f32", 0, 1) == 0.5);
  CHECK(m.get_number("a.f64", -1, 1) == -0.25);
  CHECK(m.get_number("a.u8", 0, 255) == 200);
  CHECK(m.get_bool("a.bool"));
  CHECK(m.get_string("a.text") == "caf\xc3\xa9");
  CHECK(m.strings("a.list") == std::vector<std::string_view>{"x", "", "yz"});
  CHECK(m.ints("a.i64", -5, -5) == std::vector<int64_t>{-5});
  CHECK(m.find("a.nested")->count == 2);
  CHECK(m.strings("absent").empty());
  CHECK(m.get_int("absent", 0, 9, 4) == 4);

  REQUIRE(read.tensors.size() == 2);
  CHECK(read.tensors[0].name == "first");
  CHECK(read.tensors[0].shape == std::vector<int64_t>{1, 2, 3});  // the file has the fastest dimension first
  CHECK(read.tensors[0].type == DType::kF16);
  CHECK(read.tensors[0].bytes.size() == 12);
  float value = 0;
  std::memcpy(&value, read.tensors[1].bytes.data() + 4, sizeof value);
  CHECK(value == 2);
}

TEST_CASE("what the metadata does not hold is refused with file, key and byte") {
  Bytes file;
  file.head(0, 3);
  file.text("n").put<uint32_t>(4).put<uint32_t>(300);
  file.text("big").put<uint32_t>(10).put<uint64_t>(UINT64_MAX);
  file.text("inf").put<uint32_t>(6).put(std::numeric_limits<float>::infinity());
  const Gguf read = parse_gguf(bytes_of(file.str()), "m.gguf");
  const GgufMetadata& m = read.metadata;
  const auto of = [&](const auto& ask) { return refusal_of([&] { ask(); }); };
  CHECK(contains(of([&] { m.get_int("n", 0, 255); }), "an integer from 0 to 255"));
  CHECK(contains(of([&] { m.get_int("n", 0, 255); }), "m.gguf: key \"n\": byte 37"));
  CHECK(contains(of([&] { m.get_int("big", 0, INT64_MAX); }), "a wrong value"));
  CHECK(contains(of([&] { m.get_number("inf", 0, 1e9); }), "a finite number"));
  CHECK(contains(of([&] { m.get_bool("n"); }), "true or false"));
  CHECK(contains(of([&] { m.get_string("n"); }), "a string"));
  CHECK(contains(of([&] { m.strings("n"); }), "strings"));
  CHECK(contains(of([&] { m.ints("inf", 0, 1); }), "whole numbers"));
  CHECK(contains(of([&] { m.numbers("inf"); }), "finite numbers"));
  CHECK(contains(of([&] { m.get_int("absent", 0, 1); }), "a key is missing: m.gguf: key \"absent\""));
}

TEST_CASE("a head that is none is refused") {
  CHECK(contains(refusal(Bytes().raw("GGU")), "does not begin with GGUF"));
  CHECK(contains(refusal(Bytes().raw("GGML").put<uint32_t>(3)), "does not begin with GGUF"));
  CHECK(contains(refusal(Bytes().raw("GGUF")), "the version of 4 bytes reaches beyond the file: m.gguf: byte 4"));
  CHECK(contains(refusal(Bytes().head(0, 0, 1)), "GGUF of version 1"));
  CHECK(contains(refusal(Bytes().head(0, 0, 4)), "GGUF of version 4"));
  CHECK(contains(refusal(Bytes().head(0, 0, 3u << 24)), "the other byte order"));
  CHECK(parse_gguf(bytes_of(Bytes().head(0, 0, 2).str()), "m").tensors.empty());
}

TEST_CASE("counts and lengths beyond the file are refused before memory is taken for them") {
  constexpr uint64_t kHuge = uint64_t{1} << 62;
  CHECK(contains(refusal(Bytes().head(kHuge, 0)), "a name of 8 bytes reaches beyond the file: m.gguf: tensor 0"));
  CHECK(contains(refusal(Bytes().head(0, kHuge)), "m.gguf: key 0: byte 24"));
  CHECK(contains(refusal(Bytes().head(0, 1).put(kHuge).raw("key")), "reaches beyond the file"));
  CHECK(contains(refusal(Bytes().head(0, 1).text("k").put<uint32_t>(8).put(UINT64_MAX)), "reaches beyond the file"));
  for (const uint32_t type : {0u, 3u, 4u, 7u, 8u, 9u, 12u})
    CHECK(contains(refusal(Bytes().head(0, 1).text("k").put<uint32_t>(9).put(type).put(kHuge)), "more than the file"));
  CHECK(contains(refusal(Bytes().head(0, 1).text("k").put<uint32_t>(9).put<uint32_t>(12).put<uint64_t>(2).put(1.0)),
                 "beyond the file"));
}

TEST_CASE("metadata that no writer writes is refused") {
  const auto key = [](std::string_view name) {
    return refusal(Bytes().head(0, 1).text(name).put<uint32_t>(0).put<uint8_t>(0));
  };
  CHECK(contains(key(""), "not a key"));
  CHECK(contains(key("a\nb"), "not a key"));
  CHECK(contains(key("\xff"), "not a key"));
  CHECK(contains(key(std::string(65536, 'k')), "not a key"));
  CHECK(contains(refusal(Bytes().head(0, 1).text("k").put<uint32_t>(13)), "an unknown type of metadata: 13"));
  CHECK(contains(refusal(Bytes().head(0, 1).text("k").put<uint32_t>(7).put<uint8_t>(2)), "neither 0 nor 1"));
  Bytes twice;
  twice.head(0, 2).text("k").put<uint32_t>(0).put<uint8_t>(0).text("k").put<uint32_t>(0).put<uint8_t>(0);
  CHECK(contains(refusal(twice), "stands twice"));
  Bytes deep;
  deep.head(0, 1).text("k").put<uint32_t>(9);
  for (int i = 0; i < 9; ++i) deep.put<uint32_t>(9).put<uint64_t>(1);
  deep.put<uint32_t>(0).put<uint64_t>(0);
  CHECK(contains(refusal(deep), "nested too deep"));
}

TEST_CASE("tensors that are none are refused") {
  const auto one = [](std::string_view name, std::vector<uint64_t> dims, uint32_t type, uint64_t offset,
                      size_t bytes = 64) {
    return refusal(Bytes().head(1, 0).info(name, std::move(dims), type, offset).pad(32).raw(std::string(bytes, 'x')));
  };
  CHECK(contains(one("", {1}, 0, 0), "not a tensor's name"));
  CHECK(contains(one(std::string(65, 't'), {1}, 0, 0), "not a tensor's name"));
  CHECK(contains(one("t", {1, 1, 1, 1, 1}, 0, 0), "5 dimensions"));
  CHECK(contains(one("t", {uint64_t{1} << 63}, 0, 0), "beyond 63 bits"));
  CHECK(contains(one("t", {uint64_t{1} << 40, uint64_t{1} << 40}, 0, 0), "too large for any memory"));
  CHECK(contains(one("t", {16}, 13, 0), "a tensor of type 13"));
  CHECK(contains(one("t", {33}, 8, 0), "rows of 33 numbers are not whole blocks of Q8_0"));
  CHECK(contains(one("t", {16}, 0, 8), "no multiple of the alignment"));
  CHECK(contains(one("t", {16}, 0, 32), "not at 0"));
  CHECK(contains(one("t", {17}, 0, 0), "its 68 bytes reach beyond the file: m.gguf: tensor \"t\""));
  CHECK(contains(one("t", {8}, 0, 0), "32 bytes belong to no tensor"));
  CHECK(one("t", {16}, 0, 0).empty());
  CHECK(one("t", {64}, 8, 0, 68).empty());  // the last tensor needs no padding
  const auto two = [](uint64_t offset, std::string_view name) {
    return refusal(Bytes()
                       .head(2, 0)
                       .info("t", {16}, 0, 0)
                       .info(name, {8}, 0, offset)
                       .pad(32)
                       .raw(std::string(static_cast<size_t>(offset) + 32, 'x')));
  };
  CHECK(two(64, "u").empty());
  CHECK(contains(two(32, "u"), "not at 64 where the tensor before ends"));
  CHECK(contains(two(96, "u"), "not at 64"));
  CHECK(contains(two(64, "t"), "stands twice"));
}

TEST_CASE("the alignment of the file counts") {
  const auto file = [](uint32_t alignment, size_t offset) {
    Bytes bytes;
    bytes.head(2, 1).text("general.alignment").put<uint32_t>(4).put(alignment);
    bytes.info("a", {1}, 0, 0).info("b", {1}, 0, offset);
    return bytes.pad(std::max(alignment, 1u)).put(1.0f).pad(std::max(alignment, 1u)).put(2.0f);
  };
  CHECK(refusal(file(64, 64)).empty());
  CHECK(refusal(file(8, 8)).empty());
  CHECK(contains(refusal(file(64, 32)), "no multiple of the alignment"));
  for (const uint32_t wrong : {0u, 4u, 1u << 30}) CHECK(contains(refusal(file(wrong, 64)), "an integer from 8"));
  CHECK(contains(refusal(file(12, 12)), "a multiple of 8"));
}

TEST_CASE("what is written is read again, and written again it is the same file") {
  const TemporaryDirectory dir;
  std::vector<std::byte> blocks(3 * 68);
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<std::byte>(i * 7);
  const std::vector<float> floats{1, 2, 3, 4, 5};
  const std::vector<std::string> words{"one", "", "three"};
  const std::vector<int32_t> types{1, -3};
  GgufHeader header;
  header.put("general.architecture", "llama");
  header.put("llama.block_count", uint32_t{2});
  header.put("llama.epsilon", 1e-5f);
  header.put("tokenizer.ggml.add_bos_token", false);
  header.put("tokenizer.ggml.tokens", words);
  header.put("tokenizer.ggml.token_type", types);
  header.put("tokenizer.ggml.scores", floats);
  header.declare("q", DType::kQ8_0, std::vector<int64_t>{3, 64});
  header.declare("none", DType::kF32, std::vector<int64_t>{0});
  header.declare("f", DType::kF32, std::vector<int64_t>{5});
  GgufWriter writer(dir.file("a.gguf"), header, base::Existing::kRefuse);
  writer.write(std::span(blocks).first(100));
  writer.write(std::span(blocks).subspan(100));
  writer.write(std::as_bytes(std::span(floats)));
  writer.commit();

  const GgufFile file(dir.file("a.gguf"));
  const GgufMetadata& m = file.metadata();
  CHECK(m.get_string("general.architecture") == "llama");
  CHECK(m.get_int("llama.block_count", 1, 9) == 2);
  CHECK(m.get_number("llama.epsilon", 0, 1) == static_cast<double>(1e-5f));
  CHECK_FALSE(m.get_bool("tokenizer.ggml.add_bos_token"));
  CHECK(m.strings("tokenizer.ggml.tokens") == std::vector<std::string_view>{"one", "", "three"});
  CHECK(m.ints("tokenizer.ggml.token_type", -9, 9) == std::vector<int64_t>{1, -3});
  CHECK(m.numbers("tokenizer.ggml.scores").size() == 5);
  REQUIRE(file.find("q") != nullptr);
  CHECK(file.find("q")->elements() == 192);
  CHECK(std::equal(blocks.begin(), blocks.end(), file.find("q")->bytes.begin()));
  CHECK(file.find("none")->bytes.empty());
  CHECK(file.find("f")->shape == std::vector<int64_t>{5});
  CHECK(file.find("absent") == nullptr);
  for (const Tensor& t : file.tensors()) CHECK(reinterpret_cast<uintptr_t>(t.bytes.data()) % kGgufAlignment == 0);

  GgufHeader again;
  for (const GgufEntry& entry : m.entries()) again.put(entry);
  for (const Tensor& t : file.tensors()) again.declare(t.name, t.type, t.shape);
  GgufWriter second(dir.file("b.gguf"), again, base::Existing::kRefuse);
  for (const Tensor& t : file.tensors()) second.write(t.bytes);
  second.commit();
  // Of tensors without bytes at one place the order is not kept: compare what follows the header's length.
  CHECK(base::read_file(dir.file("a.gguf")).size() == base::read_file(dir.file("b.gguf")).size());
  const GgufFile copy(dir.file("b.gguf"));
  CHECK(std::equal(copy.tensors().begin(), copy.tensors().end(), file.tensors().begin(), file.tensors().end(),
                   [](const Tensor& a, const Tensor& b) {
                     return a.name == b.name && a.shape == b.shape &&
                            std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end());
                   }));
}

TEST_CASE("an unfinished file does not appear, and the writer keeps to what was declared") {
  const TemporaryDirectory dir;
  const std::vector<float> floats(3);
  GgufHeader header;
  header.declare("f", DType::kF32, std::vector<int64_t>{2});
  CHECK_THROWS_AS(header.declare("f", DType::kF32, std::vector<int64_t>{2}), base::Error);
  CHECK_THROWS_AS(header.declare("u", DType::kU8, std::vector<int64_t>{2}), base::Error);
  CHECK_THROWS_AS(header.declare("q", DType::kQ4_K, std::vector<int64_t>{2, 32}), base::Error);
  header.put("k", true);
  CHECK_THROWS_AS(header.put("k", true), base::Error);
  {
    GgufWriter writer(dir.file("a.gguf"), header, base::Existing::kRefuse);
    CHECK_THROWS_AS(writer.write(std::as_bytes(std::span(floats))), base::Error);
    CHECK_THROWS_AS(writer.commit(), base::Error);
  }
  CHECK(std::filesystem::is_empty(dir.path()));
}

TEST_CASE("a file cut anywhere is refused") {
  Bytes file;
  file.head(1, 2).text("a").put<uint32_t>(9).put<uint32_t>(8).put<uint64_t>(2).text("x").text("yy");
  file.text("b").put<uint32_t>(6).put(1.0f).info("t", {4, 2}, 0, 0).pad(32);
  for (int i = 0; i < 8; ++i) file.put(1.0f);
  CHECK(refusal(file).empty());
  for (size_t size = 0; size < file.str().size(); ++size) {
    CAPTURE(size);
    CHECK(!refusal(Bytes().raw(file.str().substr(0, size))).empty());
  }
}

}  // namespace
}  // namespace choir::io
