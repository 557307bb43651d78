#include "io/safetensors.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "io/safetensors_header.h"
#include "io/test_files.h"

namespace choir::io {
namespace {

using tensor::DType;

std::string with_length(uint64_t length, const std::string& rest) {
  std::string file(8, '\0');
  for (size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(length >> (8 * i));
  return file + rest;
}

std::string file_of(const std::string& header, size_t data_bytes) {
  return with_length(header.size(), header + std::string(data_bytes, 'd'));
}

std::string refusal_of_file(const std::string& file) {
  return refusal_of([&] { parse_safetensors(bytes_of(file), "m.safetensors"); });
}

std::string refusal(const std::string& header, size_t data_bytes) {
  return refusal_of_file(file_of(header, data_bytes));
}

std::string joined(std::initializer_list<std::string_view> parts) {
  std::string text;
  for (std::string_view part : parts) text += part;
  return text;
}

std::string entry(std::string_view name, std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return joined(
      {"\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":[", shape, "],\"data_offsets\":[", offsets, "]}"});
}

TEST_CASE("a file of three tensors is read in the order of its bytes") {
  const std::string file =
      file_of(joined({"{", entry("b", "F32", "2,1", "2,10"), ",", entry("a", "U8", "2", "0,2"), ",",
                      entry("none", "F64", "0,3", "10,10"), ",", entry("scalar", "I16", "", "10,12"),
                      R"(,"__metadata__":{"format":"pt"}}   )"}),
              12);
  const Safetensors read = parse_safetensors(bytes_of(file), "m");
  REQUIRE(read.tensors.size() == 4);
  CHECK(read.metadata == Metadata{{"format", "pt"}});
  CHECK(read.tensors[0].name == "a");
  CHECK(read.tensors[1].name == "b");
  CHECK(read.tensors[1].type == DType::kF32);
  CHECK(read.tensors[1].shape == std::vector<int64_t>{2, 1});
  CHECK(read.tensors[1].elements() == 2);
  CHECK(read.tensors[1].bytes.size() == 8);
  CHECK(read.tensors[2].elements() == 0);
  CHECK(read.tensors[3].elements() == 1);
  CHECK(reinterpret_cast<const char*>(read.tensors[3].bytes.data()) == file.data() + file.size() - 2);
  CHECK(parse_safetensors(bytes_of(file_of("{}", 0)), "m").tensors.empty());
}

TEST_CASE("a wrong length of the header is refused") {
  CHECK(contains(refusal_of_file(""), "shorter than the 8 bytes of a header length: m.safetensors: byte 0"));
  CHECK(contains(refusal_of_file("1234567"), "m.safetensors: byte 7"));
  CHECK(contains(refusal_of_file(with_length(3, "{}")), "length is 3, longer than the file"));
  CHECK(contains(refusal_of_file(with_length(100'000'001, "{}")), "at most 100000000"));
  CHECK(contains(refusal_of_file(with_length(UINT64_MAX, "{}")), "at most 100000000"));
  CHECK(contains(refusal_of_file(with_length(UINT64_MAX - 7, "{}")), "at most 100000000"));
  CHECK(contains(refusal_of_file(with_length(0, "")), "does not begin with {"));
}

TEST_CASE("a header that is not one JSON object of entries is refused") {
  using namespace std::string_literals;
  for (const char* header : {" {}", "[]", "\xef\xbb\xbf{}"})
    CHECK(contains(refusal(header, 0), "does not begin with {"));
  for (const char* header : {"{", "{}}", "{} x", "{\"a\"}", "{\"\xff\":1}", "{,}"})
    CHECK_MESSAGE(contains(refusal(header, 0), "not valid JSON"), std::string(header));
  CHECK(contains(refusal("{}\0"s, 0), "a NUL byte in the header: m.safetensors: byte 10"));
  for (const char* header :
       {R"({"a":1})", R"({"a":[]})", R"({"a":null})", R"({"a":"x"})", R"({"__metadata__":{"k":1}})",
        R"({"__metadata__":{"k":{}}})", R"({"__metadata__":[]})", R"({"a":true})"})
    CHECK_MESSAGE(contains(refusal(header, 0), "a value of the wrong kind"), std::string(header));
}

TEST_CASE("an entry that is not dtype, shape and data_offsets is refused by name") {
  const auto of = [](const std::string& fields) { return refusal(joined({"{\"w.x\":{", fields, "}}"}), 0); };
  CHECK(contains(of(R"("dtype":"U8","shape":[0])"), "missing: m.safetensors: tensor \"w.x\": byte"));
  CHECK(contains(of(""), "is missing"));
  CHECK(contains(of(R"("dtype":"U8","shape":[0],"data_offsets":[0])"), "not two numbers"));
  CHECK(contains(of(R"("dtype":"U8","shape":[0],"data_offsets":[0,0,0])"), "wrong kind"));
  CHECK(contains(of(R"("dtype":8,"shape":[0],"data_offsets":[0,0])"), "wrong kind"));
  CHECK(contains(of(R"("dtype":"U8","shape":[-1],"data_offsets":[0,0])"), "wrong kind"));
  CHECK(contains(of(R"("dtype":"U8","shape":[1.0],"data_offsets":[0,0])"), "wrong kind"));
  CHECK(contains(of(R"("dtype":"U8","shape":[[0]],"data_offsets":[0,0])"), "wrong kind"));
  CHECK(contains(of(R"("dtype":"U8","shape":0,"data_offsets":[0,0])"), "wrong kind"));
  CHECK(contains(of(R"("dtype":"U8","shape":[0],"data_offsets":{})"), "wrong kind"));
  CHECK(contains(of(R"("dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,0])"), "wrong kind"));
  CHECK(contains(of(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,0])"), "beyond 64 bits"));
  CHECK(contains(of(R"("dtype":"U8","shape":[0],"data_offsets":[0,0],"extra":1)"), "an unknown field \"extra\""));
  CHECK(contains(of(R"("dtype":"F8_E5M9","shape":[0],"data_offsets":[0,0])"), "an unknown dtype: F8_E5M9"));
}

TEST_CASE("names and fields that stand twice are refused") {
  const std::string a = entry("a", "U8", "0", "0,0");
  CHECK(contains(refusal(joined({"{", a, ",", a, "}"}), 0), "the key \"a\" stands twice: m.safetensors: tensor \"a\""));
  CHECK(contains(refusal(joined({"{", a, ",", entry("\\u0061", "U8", "0", "0,0"), "}"}), 0), "stands twice"));
  CHECK(contains(refusal(R"({"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}})", 0), "stands twice"));
  CHECK(contains(refusal(R"({"__metadata__":{"k":"1","k":"2"}})", 0), "stands twice"));
  CHECK(contains(refusal(R"({"__metadata__":{},"__metadata__":{}})", 0), "stands twice"));
}

TEST_CASE("bytes must be covered exactly") {
  const auto pair = [](const std::string& first, const std::string& second, size_t bytes) {
    return refusal(joined({"{", entry("a", "U8", "4", first), ",", entry("b", "U8", "4", second), "}"}), bytes);
  };
  CHECK(pair("0,4", "4,8", 8).empty());
  CHECK(contains(pair("0,4", "5,9", 9), "begin at 5 of the data, not at 4"));
  CHECK(contains(pair("0,4", "3,7", 8), "begin at 3 of the data, not at 4"));
  CHECK(contains(pair("1,5", "5,9", 9), "begin at 1 of the data, not at 0"));
  CHECK(contains(pair("0,4", "0,4", 4), "tensor \"b\""));
  CHECK(contains(pair("0,4", "4,2", 8), "run backwards: m.safetensors: tensor \"b\": byte"));
  CHECK(contains(pair("0,4", "4,8", 7), "reach beyond the file: m.safetensors: tensor \"b\""));
  CHECK(contains(pair("0,4", "4,18446744073709551615", 8), "reach beyond the file"));
  CHECK(contains(pair("0,4", "4,8", 10), "2 bytes belong to no tensor"));
  CHECK(contains(refusal("{}", 1), "1 bytes belong to no tensor: m.safetensors: byte 10"));
}

TEST_CASE("the shape must need the bytes that are there, without overflow") {
  const auto one = [](const std::string& dtype, const std::string& shape) {
    return refusal(joined({"{", entry("a", dtype, shape, "0,8"), "}"}), 8);
  };
  CHECK(one("F32", "2").empty());
  CHECK(contains(one("F32", "3"), "the shape needs 12 bytes but data_offsets hold 8: m.safetensors: tensor \"a\""));
  CHECK(contains(one("BF16", "2"), "the shape needs 4 bytes"));
  CHECK(contains(one("F64", "0"), "the shape needs 0 bytes"));
  CHECK(contains(one("U8", "4294967296,4294967296"), "too large for any memory"));
  CHECK(contains(one("U8", "4611686018427387904,4,0"), "too large for any memory"));
  CHECK(contains(one("F64", "2305843009213693953"), "too large for any memory"));
  const std::string ones = [] {
    std::string text = "1";
    for (size_t i = 1; i < kMostDimensions; ++i) text += ",1";
    return text;
  }();
  CHECK(one("F64", ones).empty());
  CHECK(contains(one("F64", ones + ",1"), "more than 32 dimensions"));
}

TEST_CASE("hostile depth costs no stack and hostile names no long message") {
  CHECK(contains(refusal(joined({"{\"a\":", std::string(10'000'000, '[')}), 0), "wrong kind"));
  CHECK(refusal(joined({"{\"", std::string(100'000, 'n'), "\":1}"}), 0).size() < 400);
}

TEST_CASE("what is written is read again, and written again byte by byte") {
  const TemporaryDirectory dir;
  const std::vector<float> f{1.5f, -2, 3, 4, 5, 6};
  const std::vector<uint16_t> h{0x3c00, 0x3f80, 7};
  const std::vector<uint8_t> u{1, 2, 3};
  const std::vector<int64_t> n{-1};
  const std::vector<Tensor> tensors{tensor_over("z\"\xc3\xa9\n", DType::kU8, {3}, u),
                                    tensor_over("m", DType::kBF16, {1, 3}, h),
                                    tensor_over("b", DType::kF32, {2, 3}, f),
                                    tensor_over("a", DType::kF32, {3, 2}, f),
                                    tensor_over("n", DType::kI64, {}, n),
                                    {"empty", DType::kF16, {4, 0}, {}}};
  const Metadata metadata{{"format", "pt"}, {"quote", "\"\\"}};
  write_safetensors(dir.file("one"), tensors, metadata, base::Existing::kRefuse);

  const SafetensorsFile one(dir.file("one"));
  CHECK(one.metadata() == metadata);
  CHECK(one.path() == dir.file("one"));
  REQUIRE(one.tensors().size() == tensors.size());
  std::string order;
  for (const Tensor& t : one.tensors()) order += t.name.substr(0, 1);
  CHECK(order == "nabemz");
  for (const Tensor& t : tensors) {
    const Tensor* found = one.find(t.name);
    REQUIRE(found != nullptr);
    CHECK(found->type == t.type);
    CHECK(found->shape == t.shape);
    CHECK(std::equal(found->bytes.begin(), found->bytes.end(), t.bytes.begin(), t.bytes.end()));
    CHECK(is_aligned(*found));
  }
  CHECK(one.find("absent") == nullptr);

  write_safetensors(dir.file("two"), one.tensors(), one.metadata(), base::Existing::kRefuse);
  const std::string bytes = base::read_file(dir.file("one"));
  CHECK(bytes == base::read_file(dir.file("two")));
  CHECK(static_cast<unsigned char>(bytes[0]) % 8 == 0);
}

TEST_CASE("the bytes of a written file are those of the format") {
  const TemporaryDirectory dir;
  const std::vector<uint8_t> u{65, 66};
  const std::vector<Tensor> tensors{tensor_over("w", DType::kU8, {2, 1}, u)};
  write_safetensors(dir.file("one"), tensors, {}, base::Existing::kRefuse);
  const std::string header = R"({"w":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2]}})";
  const size_t padded = (header.size() + 7) / 8 * 8;
  CHECK(base::read_file(dir.file("one")) ==
        with_length(padded, header + std::string(padded - header.size(), ' ') + "AB"));
}

TEST_CASE("tensors of whole lines come first where that is asked for, each at a multiple of 64") {
  const TemporaryDirectory dir;
  const std::vector<std::byte> bytes(256);
  const auto sized = [&](const char* name, DType type, int64_t elements) {
    return Tensor{
        name, type, {elements}, std::span(bytes).first(static_cast<size_t>(elements) * tensor::size_of(type))};
  };
  for (int length = 1; length < 70; ++length) {  // of the metadata, which moves the end of the header
    const std::vector<Tensor> tensors{sized("a", DType::kF32, 3),  sized("b", DType::kU8, 128),
                                      sized("c", DType::kU8, 65),  sized("d", DType::kF32, 16),
                                      sized("e", DType::kBF16, 5), sized("f", DType::kU8, 64)};
    SafetensorsWriter writer(dir.file("lines"), tensors, {{"k", std::string(static_cast<size_t>(length), 'v')}},
                             base::Existing::kReplace, Placing::kLines);
    CHECK(writer.order() == std::vector<size_t>{3, 1, 5, 0, 4, 2});
    for (const size_t i : writer.order()) writer.write(tensors[i].bytes);
    writer.commit();
    const SafetensorsFile file(dir.file("lines"));
    for (const char* name : {"b", "d", "f"})
      CHECK((file.find(name)->bytes.data() - file.file().bytes().data()) % 64 == 0);
    for (const Tensor& t : file.tensors()) CHECK(is_aligned(t));
  }
}

TEST_CASE("a file is written inside an unfinished directory, and an existing one is kept") {
  const TemporaryDirectory dir;
  {
    base::AtomicDirectory model(dir.file("model"), base::Existing::kRefuse);
    write_safetensors(model.path() + "/model.safetensors", {}, {{"k", "v"}}, base::Existing::kRefuse);
    model.commit();
  }
  const std::string path = dir.file("model") + "/model.safetensors";
  CHECK(SafetensorsFile(path).metadata().at("k") == "v");
  CHECK_THROWS_AS(write_safetensors(path, {}, {}, base::Existing::kRefuse), base::Error);
  CHECK(SafetensorsFile(path).metadata().at("k") == "v");
  write_safetensors(path, {}, {}, base::Existing::kReplace);
  CHECK(SafetensorsFile(path).metadata().empty());
}

TEST_CASE("the writer refuses what no reader would take") {
  const TemporaryDirectory dir;
  const std::vector<float> f{1, 2};
  const auto fault_of = [&](const std::vector<Tensor>& tensors) {
    try {
      write_safetensors(dir.file("bad"), tensors, {}, base::Existing::kRefuse);
    } catch (const base::Error& error) {
      return error.fault;
    }
    return base::Fault::kInterrupted;
  };
  const Tensor good = tensor_over("a", DType::kF32, {2}, f);
  CHECK(fault_of({good, good}) == base::Fault::kProgram);
  CHECK(fault_of({tensor_over("a", DType::kF32, {3}, f)}) == base::Fault::kProgram);
  CHECK(fault_of({tensor_over("a", DType::kF32, {-1, -2}, f)}) == base::Fault::kProgram);
  CHECK(fault_of({tensor_over("__metadata__", DType::kF32, {2}, f)}) == base::Fault::kProgram);
  CHECK(fault_of({tensor_over("\xff", DType::kF32, {2}, f)}) == base::Fault::kProgram);
  const std::vector<uint8_t> block(34);
  CHECK(fault_of({tensor_over("q", DType::kQ8_0, {1, 32}, block)}) == base::Fault::kProgram);
  CHECK(std::filesystem::is_empty(dir.path()));
}

TEST_CASE("tensors survive the move of their file") {
  const TemporaryDirectory dir;
  const std::vector<float> f{1, 2};
  const std::vector<Tensor> tensors{tensor_over("a", DType::kF32, {2}, f)};
  write_safetensors(dir.file("one"), tensors, {}, base::Existing::kRefuse);
  SafetensorsFile first(dir.file("one"));
  const std::byte* data = first.find("a")->bytes.data();
  const SafetensorsFile second(std::move(first));
  REQUIRE(second.find("a") != nullptr);
  CHECK(second.find("a")->bytes.data() == data);
}

TEST_CASE("NaN and infinity are found in every floating-point format") {
  const double inf = std::numeric_limits<double>::infinity();
  for (double bad : {inf, -inf, std::nan("")}) {
    const std::vector<double> d{1, bad};
    const std::vector<float> f{1, static_cast<float>(bad)};
    const std::vector<uint16_t> b{0, tensor::BF16::from(static_cast<float>(bad)).bits};
    const std::vector<uint16_t> h{0, tensor::F16::from(static_cast<float>(bad)).bits};
    CHECK_FALSE(all_finite(tensor_over("d", DType::kF64, {2}, d)));
    CHECK_FALSE(all_finite(tensor_over("f", DType::kF32, {2}, f)));
    CHECK_FALSE(all_finite(tensor_over("b", DType::kBF16, {2}, b)));
    CHECK_FALSE(all_finite(tensor_over("h", DType::kF16, {2}, h)));
  }
  const std::vector<double> d{std::numeric_limits<double>::max(), -0.0, 5e-324};
  const std::vector<float> f{std::numeric_limits<float>::max(), -std::numeric_limits<float>::max()};
  const std::vector<uint16_t> b{0x7f7f, 0xff7f}, h{0x7bff, 0xfbff};
  const std::vector<uint8_t> u{0xff, 0xff};
  CHECK(all_finite(tensor_over("d", DType::kF64, {3}, d)));
  CHECK(all_finite(tensor_over("f", DType::kF32, {2}, f)));
  CHECK(all_finite(tensor_over("b", DType::kBF16, {2}, b)));
  CHECK(all_finite(tensor_over("h", DType::kF16, {2}, h)));
  CHECK(all_finite(tensor_over("u", DType::kU8, {2}, u)));
  CHECK_FALSE(all_finite(tensor_over("e", DType::kF8E4M3, {2}, u)));
  const std::vector<uint8_t> eighths{0x7e, 0xfe};
  CHECK(all_finite(tensor_over("e", DType::kF8E4M3, {2}, eighths)));
}

TEST_CASE("tensors at odd addresses are read, and known to be there") {
  const std::string file =
      file_of(joined({"{", entry("a", "U8", "1", "0,1"), ",", entry("b", "F32", "1", "1,5"), "}"}), 5);
  const Safetensors read = parse_safetensors(bytes_of(file), "m");
  const auto address = reinterpret_cast<uintptr_t>(read.tensors[1].bytes.data());
  CHECK(is_aligned(read.tensors[1]) == (address % 4 == 0));
  CHECK(is_aligned(read.tensors[0]));
  CHECK(all_finite(read.tensors[1]));
}

TEST_CASE("a file of the reference writer is reproduced byte by byte") {
  const std::string source = std::string(CHOIR_SOURCE_DIR) + "/../shared/oracle/mixtral_1/model.safetensors";
  if (!std::filesystem::exists(source)) {
    MESSAGE("skipped: oracle/mixtral_1 absent");
    return;
  }
  const TemporaryDirectory dir;
  const SafetensorsFile original(source);
  CHECK(original.tensors().size() > 50);
  CHECK(original.find("lm_head.weight")->shape == std::vector<int64_t>{515, 60});
  write_safetensors(dir.file("copy"), original.tensors(), original.metadata(), base::Existing::kRefuse);
  CHECK(base::read_file(dir.file("copy")) == base::read_file(source));
}

}  // namespace
}  // namespace choir::io
