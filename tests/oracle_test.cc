// The models' own implementation against ours, on tiny checkpoints with all its numbers beside them.
#include <doctest/doctest.h>

#include <filesystem>

#include "io/test_files.h"
#include "kernels/isa.h"
#include "tests/reference_case.h"

namespace choir {
namespace {

namespace fs = std::filesystem;
using model::Model;

std::string case_directory(const std::string& name) {
  return std::string(CHOIR_SOURCE_DIR) + "/../shared/oracle/" + name;
}

bool absent(const std::string& directory) {
  if (fs::exists(directory)) return false;
  MESSAGE("skipped: " << directory << " absent");
  return true;
}

constexpr const char* kCases[] = {"mixtral_1", "mixtral_bf16", "qwen2_moe_1",   "qwen3_moe_1",
                                  "olmoe_1",   "phimoe_1",     "deepseek_v2_1", "deepseek_v3_1"};

TEST_CASE("checkpoints of every family give the numbers of their own implementation, on every instruction set") {
  for (const char* name : kCases)
    for (const char* config : {"config.json", "config.v5.json"}) {
      const std::string from = case_directory(name);
      if (absent(from)) continue;
      CAPTURE(name);
      CAPTURE(config);
      const io::TemporaryDirectory to;
      fs::copy_file(from + "/" + config, to.file("config.json"));
      fs::copy_file(from + "/model.safetensors", to.file("model.safetensors"));
      const Model model(to.path());
      const io::SafetensorsFile reference(from + "/reference.safetensors");
      for (const kernels::Isa isa : {kernels::Isa::kPlain, kernels::Isa::kAvx2, kernels::Isa::kAvx512}) {
        const kernels::IsaLimit limit(isa);
        tests::compare_batch(model, reference, "A");
        tests::compare_batch(model, reference, "B");
        tests::compare_greedy(model, reference);
      }
    }
}

}  // namespace
}  // namespace choir
