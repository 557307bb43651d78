#include "cli/byte_size.h"

#include <charconv>
#include <cmath>

#include "base/error.h"

namespace choir::cli {
namespace {

constexpr const char* kHint = "write 6GB, 900MB, 4.5GiB or a share of the present size, such as 0.5";

struct Unit {
  const char* name;
  double bytes;
};
constexpr Unit kUnits[] = {{"b", 1},        {"kb", 1e3},     {"mb", 1e6},     {"gb", 1e9},    {"tb", 1e12},
                           {"kib", 0x1p10}, {"mib", 0x1p20}, {"gib", 0x1p30}, {"tib", 0x1p40}};

double bytes_of_unit(std::string unit, const std::string& size) {
  for (char& c : unit) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  for (const Unit& known : kUnits)
    if (unit == known.name) return known.bytes;
  base::usage_error("unknown unit in " + size, "--budget", kHint);
}

}  // namespace

int64_t byte_size(const std::string& size, int64_t present) {
  double number = 0;
  const auto [end, error] = std::from_chars(size.data(), size.data() + size.size(), number);
  if (error != std::errc() || !std::isfinite(number) || number <= 0)
    base::usage_error("not a size: " + size, "--budget", kHint);
  std::string unit(end, size.data() + size.size());
  unit.erase(0, unit.find_first_not_of(' '));
  if (unit.empty() && number > 1) base::usage_error("a size without a unit: " + size, "--budget", kHint);
  const double bytes = unit.empty() ? number * static_cast<double>(present) : number * bytes_of_unit(unit, size);
  if (bytes >= 0x1p62) base::usage_error("too large a size: " + size, "--budget", kHint);
  return static_cast<int64_t>(bytes);
}

}  // namespace choir::cli
