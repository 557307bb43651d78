#include "model/packed_file.h"

#include <fmt/format.h>

#include "kernels/packed_gemm.h"

namespace choir::model {
namespace {

using tensor::DType;
using tensor::Layout;
using tensor::Weight;

constexpr const char* kVersionKey = "choir.panels";
constexpr size_t kLine = 64;

}  // namespace

std::string description_of(const Weight& weight) {
  return fmt::format("{} {} [{},{}]", tensor::name_of(weight.type),
                     weight.layout == Layout::kPanels ? "panels" : "rows", weight.rows, weight.cols);
}

// Numbers in rows are plain safetensors.
std::optional<Weight> described(const std::string& text, int rows, int cols) {
  for (const DType type :
       {DType::kF32, DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K, DType::kMXFP4})
    for (const Layout layout : {Layout::kRows, Layout::kPanels}) {
      Weight weight(nullptr, type, rows, cols);
      weight.layout = layout;
      const bool whole = static_cast<size_t>(cols) % tensor::block_of(type).numbers == 0;
      const bool possible = whole && (layout == Layout::kPanels || tensor::is_blocked(type));
      if (possible && text == description_of(weight)) return weight;
    }
  return std::nullopt;
}

size_t bytes_in_file(const Weight& weight) {
  if (weight.layout != Layout::kPanels) return weight.bytes();
  return (kernels::packed_bytes(weight.type, weight.rows, weight.cols) + kLine - 1) / kLine * kLine;
}

io::Metadata packed_metadata() { return {{"format", "choir"}, {kVersionKey, std::to_string(kernels::kPanelVersion)}}; }

std::string reason_against(const io::Metadata& metadata) {
  const auto version = metadata.find(kVersionKey);
  if (version == metadata.end()) return fmt::format("the metadata does not say {}", kVersionKey);
  if (version->second == std::to_string(kernels::kPanelVersion)) return {};
  return fmt::format("the weights lie in panels of another version than {}", kernels::kPanelVersion);
}

}  // namespace choir::model
