#include "train/tensorboard.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "train/test_run.h"
#include "train/trainer.h"

namespace choir::train {
namespace {

// The checksum bit by bit, without a table.
uint32_t slow_crc(const std::string& bytes) {
  uint32_t crc = ~0u;
  for (const char c : bytes)
    for (int bit = 0; bit < 8; ++bit) {
      const bool odd = (crc ^ static_cast<uint8_t>(c) >> bit) & 1;
      crc = crc >> 1 ^ (odd ? 0x82f63b78u : 0);
    }
  return ~crc;
}

// Reads what the writer wrote, by the format's description alone.
struct Reader {
  std::string bytes;
  size_t at = 0;

  template <class Number>
  Number raw() {
    Number number{};
    REQUIRE(at + sizeof number <= bytes.size());
    std::memcpy(&number, bytes.data() + at, sizeof number);
    at += sizeof number;
    return number;
  }
  std::string take(size_t size) {
    REQUIRE(at + size <= bytes.size());
    at += size;
    return bytes.substr(at - size, size);
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = raw<uint8_t>();
      value |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) return value;
    }
  }
  std::string record() {
    const auto check = [&](const std::string& data) {
      const uint32_t crc = slow_crc(data);
      CHECK(raw<uint32_t>() == static_cast<uint32_t>((crc >> 15 | crc << 17) + 0xa282ead8u));
    };
    const std::string length = take(8);
    check(length);
    uint64_t size = 0;
    std::memcpy(&size, length.data(), 8);
    const std::string data = take(size);
    check(data);
    return data;
  }
};

struct Event {
  int64_t step = 0;
  double time = 0;
  std::string version, session;
  std::vector<std::pair<std::string, float>> values;
};

Event parse(const std::string& data) {
  Event event;
  for (Reader r{data}; r.at < data.size();) switch (const uint64_t key = r.varint(); key) {
      case 1 * 8 + 1: event.time = r.raw<double>(); break;
      case 2 * 8: event.step = static_cast<int64_t>(r.varint()); break;
      case 3 * 8 + 2: event.version = r.take(r.varint()); break;
      case 7 * 8 + 2: event.session = r.take(r.varint()); break;
      case 5 * 8 + 2:
        for (Reader summary{r.take(r.varint())}; summary.at < summary.bytes.size();) {
          CHECK(summary.varint() == 1 * 8 + 2);
          Reader value{summary.take(summary.varint())};
          CHECK(value.varint() == 1 * 8 + 2);
          const std::string tag = value.take(value.varint());
          CHECK(value.varint() == 2 * 8 + 5);
          event.values.emplace_back(tag, value.raw<float>());
        }
        break;
      default: FAIL("an unknown key ", key);
    }
  return event;
}

std::vector<Event> read_events(const std::string& path) {
  std::vector<Event> events;
  for (Reader r{base::read_file(path)}; r.at < r.bytes.size();) events.push_back(parse(r.record()));
  return events;
}

std::vector<std::string> event_files(const std::string& directory) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    if (entry.path().filename().string().starts_with("events.out.tfevents.")) paths.push_back(entry.path());
  std::ranges::sort(paths);
  return paths;
}

TEST_CASE("crc32c: known answers") {
  CHECK(crc32c("") == 0);
  CHECK(crc32c("123456789") == 0xe3069283);
  CHECK(crc32c(std::string(32, '\0')) == 0x8a9136aa);  // RFC 3720, B.4
  CHECK(crc32c(std::string(32, '\xff')) == 0x62a8ab43);
}

TEST_CASE("tensorboard: a file is read back") {
  const TemporaryDirectory place;
  {
    EventFile file(place.path(), 0);
    file.add(1, std::vector<Scalar>{{"loss", 5.5}, {std::string(200, 'x'), -1e-3}});
    file.add(70000, std::vector<Scalar>{{"loss", 0.25}});
    file.flush();
  }
  REQUIRE(event_files(place.path()).size() == 1);
  const auto events = read_events(event_files(place.path())[0]);
  REQUIRE(events.size() == 4);
  CHECK(events[0].version == "brain.Event:2");
  CHECK(events[1].session == std::string("\x08\x01"));  // what a killed run said before step 1 goes too
  CHECK(events[1].step == 1);
  CHECK(events[2].step == 1);
  CHECK(events[2].time > 1.6e9);
  REQUIRE(events[2].values.size() == 2);
  CHECK(events[2].values[0] == std::pair<std::string, float>{"loss", 5.5f});
  CHECK(events[2].values[1] == std::pair{std::string(200, 'x'), -1e-3f});
  CHECK(events[3].step == 70000);
  CHECK(contains(refusal_of([&] { EventFile(place.file("absent"), 0); }), "absent"));
}

TEST_CASE("tensorboard: a run writes its scalars, a resumed one goes on in a new file") {
  const TemporaryDirectory place;
  write_tiny_texts(place);
  std::filesystem::create_directory(place.file("run"));
  TrainConfig config = tiny_run();
  config.router = "linear > top_k(2) > top_capacity(factor(0.5)) > chosen";
  config.evaluation = {.every = 6, .tokens = 32, .files = {}};
  RunOptions options;
  options.directory = place.file("run");
  options.data_directory = place.path();
  options.on_step = [](const StepReport& report) { return report.step < 7; };
  base::Threads threads(1);
  train(config, options, threads);
  options.on_step = nullptr;
  options.resume = true;
  train(config, options, threads);
  const auto files = event_files(place.file("run"));
  REQUIRE(files.size() == 2);
  const auto first = read_events(files[0]), second = read_events(files[1]);
  REQUIRE(first.size() == 2 + 7 + 1);
  CHECK(first[2].step == 1);
  std::vector<std::string> tags;
  for (const auto& [tag, value] : first[2].values) tags.push_back(tag);
  CHECK(tags == std::vector<std::string>{"loss", "learning_rate", "gradient_norm", "tokens_per_second",
                                         "processed_share", "max_over_mean_load", "capacity/layer_0",
                                         "capacity/layer_1"});
  CHECK(first[8].values[0].first == "evaluation/loss");
  REQUIRE(second.size() == 2 + 5 + 1);
  CHECK(second[1].session == std::string("\x08\x01"));
  CHECK(second[1].step == 8);
  CHECK(second[2].step == 8);
  CHECK(second.back().step == 12);
}

}  // namespace
}  // namespace choir::train
