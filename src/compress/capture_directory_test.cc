#include "compress/capture_directory.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "compress/fingerprint.h"
#include "compress/record_file.h"
#include "compress/test_equal.h"
#include "compress/test_model.h"
#include "tests/files.h"

namespace choir::compress {
namespace {

using tests::contains;
using tests::refusal_of;
using tests::TemporaryDirectory;

const char* const kFirst = "layer-0000.safetensors";

// Layers that differ in experts and rule.
model::Config mixed_config(int layers) {
  model::Config config = small_config(6, 2, layers);
  config.layers[0].experts = 4;
  config.layers.back().router = "linear(sigmoid) > groups(3, 2, 2) > all > sigmoid_norm(2.5) + bias(0.001)";
  return config;
}

struct Fixture {
  TemporaryDirectory place;
  TestModel made{mixed_config(3)};
  std::vector<CalibrationBatch> batches = random_batches(2, 2, 9, 31);
  ObserveOptions options;
  base::Threads threads{1};

  CaptureDirectory capture(const std::string& name, const Progress& progress = {}) {
    return capture_to(place.file(name), *made.model, batches, options, threads, progress);
  }
  std::string bytes(const std::string& name) const { return base::read_file(place.file(name)); }
};

// What the call throws, of either fault; empty when nothing.
template <class Call>
std::string fault_of(const Call& call) {
  try {
    call();
  } catch (const base::Error& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("capture: what is loaded is what was observed, layer by layer") {
  Fixture f;
  const CaptureDirectory capture = f.capture("c");
  CHECK(capture.complete());
  CHECK(capture.info().tokens() == 36);
  const CaptureDirectory again(f.place.file("c"));
  CHECK(again.info() == capture.info());
  again.check_model(fingerprint(*f.made.model, f.threads));
  observe(
      *f.made.model, f.batches, f.options,
      [&](int l, const LayerRecord& record) { check_equal(again.load(l), record); }, f.threads);
}

TEST_CASE("capture: one that was stopped goes on at the layer it was at, and ends with the same bytes") {
  Fixture f;
  f.capture("whole");
  struct Stop {};
  const auto stop_after = [](int pieces) {
    return [pieces](int done, int) {
      if (done == pieces) throw Stop();
    };
  };
  CHECK_THROWS_AS(f.capture("part", stop_after(3)), Stop);
  const CaptureDirectory part(f.place.file("part"));
  CHECK(part.next_layer() == 1);
  CHECK(contains(refusal_of([&] { part.load(1); }), "the capture lacks layer 1: " + f.place.file("part")));
  f.place.write("part/layer-0001.safetensors.partial.77", "half");
  CHECK(part.next_layer() == 1);
  CHECK_THROWS_AS(f.capture("part", stop_after(6)), Stop);  // in the last layer
  CHECK(!std::filesystem::exists(f.place.file("part/layer-0001.safetensors.partial.77")));
  CHECK(CaptureDirectory(f.place.file("part")).next_layer() == 2);
  CHECK(f.capture("part").complete());
  for (const char* name : {"capture.json", kFirst, "layer-0001.safetensors", "layer-0002.safetensors"})
    CHECK(f.bytes(std::string("part/") + name) == f.bytes(std::string("whole/") + name));
  f.capture("part", stop_after(1));  // nothing is left to do
}

TEST_CASE("capture: a directory of something else, or of another capture, is refused and left as it is") {
  Fixture f;
  f.capture("c");
  const std::string before = f.bytes("c/capture.json");
  auto batches = f.batches;
  ++batches[0].ids[0];
  std::swap(batches, f.batches);
  CHECK(contains(fault_of([&] { f.capture("c"); }), "holds a capture of another calibration text: "));
  std::swap(batches, f.batches);
  f.options.ranks = 3;
  CHECK(contains(fault_of([&] { f.capture("c"); }), "holds a capture of another size"));
  f.options.ranks = 0;
  f.made.numbers[5][0] += 1;
  CHECK(contains(fault_of([&] { f.capture("c"); }), "holds a capture of another model: "));
  CHECK(contains(
      refusal_of([&] { CaptureDirectory(f.place.file("c")).check_model(fingerprint(*f.made.model, f.threads)); }),
      "the capture is of another model: fingerprint "));
  CHECK(f.bytes("c/capture.json") == before);
  std::filesystem::create_directory(f.place.file("d"));
  f.place.write("d/notes", "mine");
  CHECK(contains(fault_of([&] { f.capture("d"); }), "the output exists and is no capture: "));
  CHECK(contains(fault_of([&] { f.capture("none/c"); }), "the directory of the output does not exist"));
  CHECK(!refusal_of([&] { CaptureDirectory(f.place.file("d")); }).empty());
}

TEST_CASE("capture: a finished one is used without text, a stopped one goes on with its text") {
  Fixture f;
  const std::string path = f.place.file("used");
  const auto use = [&](std::span<const CalibrationBatch> batches) {
    return use_capture(path, *f.made.model, batches, f.options, f.threads);
  };
  CHECK(contains(fault_of([&] { use({}); }), "no text to make one from"));
  CHECK(!std::filesystem::exists(path));
  const Progress stop = [](int done, int) {
    if (done == 4) throw base::Error(base::Fault::kInterrupted, "interrupted", "", "");
  };
  CHECK_THROWS_AS(use_capture(path, *f.made.model, f.batches, f.options, f.threads, stop), base::Error);
  CHECK(contains(fault_of([&] { use({}); }), "not finished"));
  const auto others = random_batches(2, 2, 9, 31, 8);
  CHECK(contains(fault_of([&] { use(others); }), "another text"));
  CHECK(use(f.batches).complete());
  const CaptureInfo whole = f.capture("whole").info();
  f.options.ranks = 3;  // the finished one has its own
  CHECK(use({}).info() == whole);
  const TestModel other(mixed_config(3), 6);
  CHECK(contains(fault_of([&] { use_capture(path, *other.model, {}, f.options, f.threads); }), "another model"));
}

TEST_CASE("capture: a router that experts cannot be taken from is refused before anything is written") {
  Fixture f;
  model::Config config = small_config(4, 2, 1);
  config.layers[0].router = "linear > top_k(2) > fifo(factor(1)) > softmax";
  const TestModel other(config);
  CHECK(
      contains(refusal_of([&] { capture_to(f.place.file("c"), *other.model, f.batches, {}, f.threads); }), "layer 0"));
  CHECK(!std::filesystem::exists(f.place.file("c")));
}

TEST_CASE("capture: a damaged weight is named, and no record of it is written") {
  Fixture f;
  f.made.numbers[12][7] = std::numeric_limits<float>::quiet_NaN();
  const std::string text = refusal_of([&] { f.capture("c"); });
  CHECK(contains(text, "holds a NaN"));
  CHECK(CaptureDirectory(f.place.file("c")).next_layer() < 3);
}

// One layer of few numbers, so that every byte can be tried.
struct Tiny {
  TemporaryDirectory place;
  TestModel made{small_config(3, 1, 1)};
  base::Threads threads{1};
  std::string path = place.file("c/layer-0000.safetensors"), whole, description;

  Tiny() {
    capture_to(place.file("c"), *made.model, random_batches(1, 1, 3, 31), {}, threads);
    whole = base::read_file(path);
    description = base::read_file(place.file("c/capture.json"));
  }
  // A new file each time, without a sync: thousands are tried, and a disk is slow to replace what is there.
  void put(const std::string& name, const std::string& bytes) const {
    std::filesystem::remove(place.file(name));
    std::ofstream(place.file(name), std::ios::binary) << bytes;
  }
  std::string load(const std::string& bytes) const {
    put("c/layer-0000.safetensors", bytes);
    return refusal_of([&] { CaptureDirectory(place.file("c")).load(0); });
  }
  std::string open(const std::string& text) const {
    put("c/capture.json", text);
    return refusal_of([&] { CaptureDirectory(place.file("c")).load(0); });
  }
};

TEST_CASE("capture: every flipped byte and every shortened file of a layer is refused by name") {
  const Tiny tiny;
  REQUIRE(tiny.load(tiny.whole).empty());
  base::Rng rng(6);
  size_t passed = 0, unnamed = 0;
  const auto judge = [&](const std::string& text) {
    passed += text.empty();
    unnamed += !contains(text, "layer-0000.safetensors");
  };
  for (size_t i = 0; i < tiny.whole.size(); i += 1 + static_cast<size_t>(rng.below(2))) {
    std::string bytes = tiny.whole;
    bytes[i] = static_cast<char>(bytes[i] ^ (1 << rng.below(8)));
    judge(tiny.load(bytes));
  }
  for (size_t length = 0; length < tiny.whole.size(); length += 1 + static_cast<size_t>(rng.below(40)))
    judge(tiny.load(tiny.whole.substr(0, length)));
  judge(tiny.load(tiny.whole + '\0'));
  CHECK(passed == 0);
  CHECK(unnamed == 0);
}

TEST_CASE("capture: every flipped byte and every shortened capture.json is refused when it is opened or loaded") {
  const Tiny tiny;
  REQUIRE(tiny.open(tiny.description).empty());
  for (size_t i = 0; i < tiny.description.size(); ++i)
    for (int bit = 0; bit < 8; ++bit) {
      std::string text = tiny.description;
      text[i] = static_cast<char>(text[i] ^ (1 << bit));
      CHECK_MESSAGE(!tiny.open(text).empty(), text);
    }
  for (size_t length = 0; length + 2 < tiny.description.size(); ++length)
    CHECK(!tiny.open(tiny.description.substr(0, length)).empty());
}

TEST_CASE("capture: numbers that no record has are refused, whoever wrote them") {
  const Tiny tiny;
  const LayerRecord sound = CaptureDirectory(tiny.place.file("c")).load(0);
  const io::Metadata metadata = [&] {
    io::Metadata all = io::SafetensorsFile(tiny.path).metadata();
    all.erase("content");
    return all;
  }();
  const auto with = [&](const auto& change) {
    LayerRecord record = sound;
    change(record);
    write_record(tiny.path, record, metadata);
    return refusal_of([&] { CaptureDirectory(tiny.place.file("c")).load(0); });
  };
  const std::string file = tiny.path + ": tensor ";
  CHECK(with([](LayerRecord&) {}).empty());
  CHECK(contains(with([](LayerRecord& r) { r.gram[1] = NAN; }), "a NaN or an infinity: " + file + "\"gram\""));
  CHECK(contains(with([](LayerRecord& r) { r.mean[1] = INFINITY; }), file + "\"mean\""));
  CHECK(
      contains(with([](LayerRecord& r) { r.order[1] = r.order[0]; }), "row 0 is not a ranking: " + file + "\"order\""));
  CHECK(contains(with([](LayerRecord& r) { r.order[0] = 9; }), file + "\"order\""));
  CHECK(contains(with([](LayerRecord& r) { std::swap(r.order[0], r.order[1]); }), file + "\"order\""));
  CHECK(contains(with([](LayerRecord& r) { r.gram[0] = -1; }), "a negative square in row 0: " + file + "\"gram\""));
  CHECK(contains(with([](LayerRecord& r) { r.p[0] = -1; }), file + "\"p\""));
  CHECK(contains(with([](LayerRecord& r) { r.turned[0] = -1; }), file + "\"turned\""));
  CHECK(contains(with([](LayerRecord& r) { r.residual[0] = -1; }), file + "\"residual\""));
  CHECK(contains(with([](LayerRecord& r) { ++r.coverage[0]; }), "tokens that do not add up to 3: " + file));
  CHECK(contains(with([](LayerRecord& r) {
                   r.experts = 2;
                   r.key.resize(6);
                   r.p.resize(6);
                   r.coverage.resize(2);
                   r.mean.resize(40);
                   r.gained_mean.resize(40);
                 }),
                 "another format or shape than the capture's: " + file + "\"key\""));
}

}  // namespace
}  // namespace choir::compress
