#include "runtime/machine.h"

#include <doctest/doctest.h>

#include "kernels/isa.h"

namespace choir::runtime {
namespace {

TEST_CASE("machine: it has a name, processors and the kernels that are chosen") {
  const Machine machine = this_machine();
  CHECK(!machine.cpu.empty());
  CHECK(machine.cpu.find('\n') == std::string::npos);
  CHECK(machine.processors >= 1);
  CHECK(machine.kernels == kernels::name_of(kernels::best_isa()));
  const kernels::IsaLimit plain(kernels::Isa::kPlain);
  CHECK(this_machine().kernels == "x86-64");
}

TEST_CASE("machine: its peak is measured in GFLOP per second") {
  base::Threads threads(1);
  const double peak = peak_gflops(threads);
  CHECK(peak > 0.01);
  CHECK(peak < 1e5);
}

}  // namespace
}  // namespace choir::runtime
