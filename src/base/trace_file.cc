#include "base/trace_file.h"

namespace choir::base {
namespace {

constexpr int kSpanTrack = 0;  // thread t has track t + 1

std::string number(int64_t value) { return std::to_string(value); }

std::string microseconds(int64_t ns) {
  std::string rest = number(1000 + ns % 1000);
  rest[0] = '.';
  return number(ns / 1000) + rest;
}

// A time in whole nanoseconds, in order whatever the rounding: what nests in a profile must nest in the file.
struct Nanoseconds {
  double of_tick;

  int64_t operator()(int64_t ticks) const { return static_cast<int64_t>(of_tick * static_cast<double>(ticks)); }
};

struct Event {
  const char *name, *category;
  int track;
  int64_t begin, end;  // ns
};

std::string beginning(const Event& e) {
  return std::string(",\n{\"name\":\"") + e.name + "\",\"cat\":\"" + e.category +
         "\",\"ph\":\"X\",\"pid\":1,\"tid\":" + number(e.track) + ",\"ts\":" + microseconds(e.begin) +
         ",\"dur\":" + microseconds(e.end - e.begin);
}

// Tracks stand in the order of their numbers.
std::string track(int id, const std::string& name) {
  const std::string of = ",\"ph\":\"M\",\"pid\":1,\"tid\":" + number(id) + ",\"args\":{";
  return ",\n{\"name\":\"thread_name\"" + of + "\"name\":\"" + name + "\"}}" + ",\n{\"name\":\"thread_sort_index\"" +
         of + "\"sort_index\":" + number(id) + "}}";
}

std::string arguments(const Profile::Span& span) {
  if (span.layer >= 0) return ",\"args\":{\"layer\":" + number(span.layer) + "}}";
  if (!span.is_operator) return "}";
  return ",\"args\":{\"weight bytes\":" + number(span.work.weights) + ",\"other bytes\":" + number(span.work.others) +
         ",\"operations\":" + number(span.work.operations) +
         ",\"byte operations\":" + number(span.work.byte_operations) + "}}";
}

}  // namespace

void write_trace(const Profile& profile, const std::string& path, Existing existing) {
  const Nanoseconds ns{1e9 * profile.seconds_per_tick()};
  AtomicFile file(path, existing);
  file.write(R"({"displayTimeUnit":"ns","traceEvents":[
{"name":"process_name","ph":"M","pid":1,"args":{"name":"choir"}})");
  file.write(track(kSpanTrack, "operators"));
  for (int t = 0; t < profile.threads(); ++t) file.write(track(t + 1, "thread " + number(t)));
  for (const Profile::Span& span : profile.spans()) {
    const char* category = span.is_operator ? "operator" : "scope";
    file.write(beginning({span.name, category, kSpanTrack, ns(span.begin), ns(span.end)}) + arguments(span));
  }
  for (int t = 0; t < profile.threads(); ++t)
    for (const Profile::Busy& busy : profile.busy(t)) {
      const char* name = busy.span < 0 ? "loop" : profile.spans()[static_cast<size_t>(busy.span)].name;
      file.write(beginning({name, "busy", t + 1, ns(busy.begin), ns(busy.end)}) + "}");
    }
  file.write("\n]}\n");
  file.commit();
}

}  // namespace choir::base
