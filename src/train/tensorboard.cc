#include "train/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/error.h"

namespace choir::train {
namespace {

constexpr std::array<uint32_t, 256> kTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    table[i] = crc;
  }
  return table;
}();

// The checksum of the TFRecord format.
uint32_t masked(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

template <class Number>
std::string raw(Number number) {  // little-endian, as all machines that Choir runs on
  std::string bytes(sizeof number, '\0');
  std::memcpy(bytes.data(), &number, sizeof number);
  return bytes;
}

// The wire format of protocol buffers: a key is the number of the field and how it is stored.
std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 128; value >>= 7) bytes += static_cast<char>(value % 128 + 128);
  return bytes + static_cast<char>(value);
}

std::string field(int number, uint64_t value) { return varint(static_cast<uint64_t>(number) * 8) + varint(value); }
std::string field(int number, double value) { return varint(static_cast<uint64_t>(number) * 8 + 1) + raw(value); }
std::string field(int number, float value) { return varint(static_cast<uint64_t>(number) * 8 + 5) + raw(value); }
std::string field(int number, const std::string& bytes) {
  return varint(static_cast<uint64_t>(number) * 8 + 2) + varint(bytes.size()) + bytes;
}

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

// Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; SessionLog session_log =
// 7; }
std::string event(int64_t step, const std::string& what) {
  return field(1, now()) + field(2, static_cast<uint64_t>(step)) + what;
}

std::string path_in(const std::string& directory) {
  char host[256] = "host";
  ::gethostname(host, sizeof host - 1);
  const std::string path =
      fmt::format("{}/events.out.tfevents.{:010}.{}", directory, static_cast<int64_t>(now()), host);
  std::string free = path;
  for (int i = 1; std::filesystem::exists(free); ++i) free = fmt::format("{}.{}", path, i);
  return free;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = 0xffffffff;
  for (const char c : bytes) crc = kTable[(crc ^ static_cast<uint8_t>(c)) & 255] ^ crc >> 8;
  return ~crc;
}

std::vector<Scalar> scalars(const StepReport& r) {
  std::vector<Scalar> values{{"loss", r.loss},
                             {"learning_rate", r.learning_rate},
                             {"gradient_norm", r.gradient_norm},
                             {"tokens_per_second", r.tokens_per_second},
                             {"processed_share", r.processed_share},
                             {"max_over_mean_load", r.max_over_mean_load}};
  if (r.distill_loss) values.push_back({"distill_loss", *r.distill_loss});
  for (size_t l = 0; l < r.layers.size(); ++l)
    if (r.layers[l].capacity) values.push_back({fmt::format("capacity/layer_{}", l), *r.layers[l].capacity * 1.0});
  return values;
}

std::vector<Scalar> scalars(const Evaluation& e) {
  std::vector<Scalar> values{{"evaluation/loss", e.loss}, {"evaluation/loss_training_rule", e.loss_training_rule}};
  for (const DomainEvaluation& domain : e.domains) values.push_back({"evaluation/loss/" + domain.name, domain.loss});
  return values;
}

EventFile::EventFile(const std::string& directory, int step)
    : path_(path_in(directory)), file_(std::fopen(path_.c_str(), "wb")) {
  if (!file_) base::input_error("cannot write", path_, std::strerror(errno));
  write(field(1, now()) + field(3, std::string("brain.Event:2")));
  constexpr uint64_t kStart = 1;
  write(event(int64_t{step} + 1, field(7, field(1, kStart))));
}

EventFile::~EventFile() { std::fclose(file_); }

// Summary { repeated Value value = 1; }, Value { string tag = 1; float simple_value = 2; }
void EventFile::add(int64_t step, std::span<const Scalar> values) {
  std::string summary;
  for (const Scalar& scalar : values)
    summary += field(1, field(1, scalar.tag) + field(2, static_cast<float>(scalar.value)));
  write(event(step, field(5, summary)));
}

void EventFile::write(const std::string& data) {
  const std::string length = raw(static_cast<uint64_t>(data.size()));
  const std::string record = length + raw(masked(length)) + data + raw(masked(data));
  std::fwrite(record.data(), 1, record.size(), file_);
}

void EventFile::flush() {
  if (std::fflush(file_) != 0 || std::ferror(file_)) base::input_error("cannot write", path_, std::strerror(errno));
}

}  // namespace choir::train
