#include "model/convert.h"

#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/error.h"
#include "model/convert_rows.h"
#include "model/families/family.h"
#include "model/gguf_config.h"
#include "model/packed.h"
#include "model/packed_file.h"

namespace choir::model {
namespace {

using io::Tensor;
using tensor::DType;
using Role = TensorInfo::Role;

// One tensor of the result: some of the model, one behind the other.
struct Output {
  std::string name;
  DType type = DType::kF32;
  std::vector<int64_t> shape;
  std::vector<TensorInfo> parts{};
  RowTurn turn{};
  bool transposed = false;  // parts are written as write_transposed says, gate and up by twos
  bool panels = false;      // of one matrix

  size_t bytes() const {
    size_t rows = 1;
    for (size_t d = 0; d + 1 < shape.size(); ++d) rows *= static_cast<size_t>(shape[d]);
    return panels ? bytes_in_file(weight()) : rows * tensor::bytes_of(type, static_cast<size_t>(shape.back()));
  }
  // Of one matrix, without data.
  Weight weight() const {
    Weight weight(nullptr, type, static_cast<int>(shape.front()), static_cast<int>(shape.back()));
    if (panels) weight.layout = tensor::Layout::kPanels;
    return weight;
  }
};

std::vector<int64_t> shape_of(const TensorInfo& info) {
  if (info.vector) return {info.cols};
  return {info.rows, info.cols};
}

// Looks at a tensor and lets go of it again.
DType type_of(Source& source, const TensorInfo& info) {
  const DType type = source.find(info).type;
  source.drop();
  return type;
}

void write(Source& source, const Output& output, const Write& to, Converted& done) {
  for (const TensorInfo& part : output.parts) done.types[part.name] = output.type;
  for (size_t i = 0; i < output.parts.size(); ++i) {
    const TensorInfo& info = output.parts[i];
    const Weight weight = source.find(info);
    done.bytes_in += static_cast<int64_t>(weight.bytes());
    if (output.transposed && info.part != TensorInfo::Part::kDown) {
      const Weight up = source.find(output.parts[++i]);
      done.bytes_in += static_cast<int64_t>(up.bytes());
      write_transposed(info, weight, &up, output.type, source.path(), to);
    } else if (output.transposed) {
      write_transposed(info, weight, nullptr, output.type, source.path(), to);
    } else if (output.panels) {
      PanelWriter panels(output.weight(), to);
      write_rows(info, weight, output.turn, output.type, source.path(),
                 [&](std::span<const std::byte> piece) { panels.take(piece); });
      panels.finish();
    } else {
      write_rows(info, weight, output.turn, output.type, source.path(), to);
    }
    source.drop();
  }
  ++done.tensors;
  done.bytes_out += static_cast<int64_t>(output.bytes());
}

// The types of a model's matrices where they may be blocks.
class BlockTypes {
 public:
  DType type_for(const TensorInfo& info, DType type, bool is_head) {
    if (type == DType::kQ4_0 && is_head) type = DType::kQ8_0;
    if (static_cast<size_t>(info.cols) % tensor::block_of(type).numbers == 0) return type;
    ++short_rows_[type];
    return DType::kF16;
  }

  std::vector<std::string> notes() const {
    std::vector<std::string> notes;
    for (const auto& [type, count] : short_rows_)
      notes.push_back(fmt::format("{} matrices have rows that are not whole blocks of {} and are F16", count,
                                  tensor::name_of(type)));
    return notes;
  }

 private:
  std::map<DType, int> short_rows_;
};

bool is_head(const Config& config, const TensorInfo& info) {
  return info.name == kHeadName || (config.tied && info.name == "model.embed_tokens.weight");
}

// What a GGUF file of the model holds.
class GgufPlan {
 public:
  GgufPlan(Source& source, std::optional<DType> asked)
      : source_(source), asked_(asked), architecture_(*architecture_of(source.config().family)) {
    for (const TensorInfo& info : source.infos()) add(info);
    if (source.config().tied && needs_head()) add_head();
  }

  std::vector<Output>& outputs() { return outputs_; }
  std::vector<std::string> notes() const { return types_.notes(); }

 private:
  // llama.cpp knows these architectures without an embedding that is the head, too.
  bool needs_head() const {
    const std::string_view name = architecture_.name;
    return name == "qwen2moe" || name == "olmoe" || name == "gpt-oss" || name == "deepseek2";
  }

  void add_head() {
    Output head = outputs_.front();
    head.name = "output.weight";
    outputs_.push_back(head);
  }

  void add(const TensorInfo& info) {
    const GgufPlace place = place_in_gguf(source_.config(), architecture_, info);
    if (const auto found = places_.find(place.name); found != places_.end()) {
      Output& stack = outputs_[found->second];
      stack.parts.push_back(info);
      ++stack.shape.front();
      return;
    }
    Output output{place.name, type_for(info), shape_of(info), {info}};
    if (place.slice >= 0) output.shape.insert(output.shape.begin(), 1);
    if (place.head_width > 0 && !source_.turns_neighbours()) output.turn = {place.head_width, true};
    places_.emplace(place.name, outputs_.size());
    outputs_.push_back(std::move(output));
  }

  DType type_for(const TensorInfo& info) {
    if (info.vector || info.rows == 1 || info.role != Role::kWeight) return DType::kF32;
    return types_.type_for(info, asked_ ? *asked_ : type_of(source_, info), is_head(source_.config(), info));
  }

  Source& source_;
  std::optional<DType> asked_;
  const Architecture& architecture_;
  std::map<std::string, size_t> places_;
  std::vector<Output> outputs_;
  BlockTypes types_;
};

// llama.cpp's number for what most matrices are (llama.h: enum llama_ftype).
uint32_t file_type(const std::vector<Output>& outputs) {
  std::map<DType, size_t> bytes;
  for (const Output& output : outputs)
    if (output.shape.size() > 1) bytes[output.type] += output.bytes();
  DType most = DType::kF32;
  for (const auto& [type, count] : bytes)
    if (count > bytes[most]) most = type;
  switch (most) {
    case DType::kF16: return 1;
    case DType::kQ4_0: return 2;
    case DType::kQ8_0: return 7;
    case DType::kQ4_K: return 15;
    case DType::kQ6_K: return 18;
    case DType::kBF16: return 32;
    case DType::kMXFP4: return 38;
    default: return 0;
  }
}

// What the directory of the model holds, one tensor for each matrix of each expert unless the family's own code wants
// them stacked, and the directory is for that.
class DirectoryPlan {
 public:
  DirectoryPlan(Source& source, std::optional<DType> asked, tensor::Layout layout)
      : source_(source),
        asked_(asked),
        packs_(layout == tensor::Layout::kPanels),
        names_(family_of(source.config().family, source.path()).names) {
    if (packs_) in_panels_ = names_in_panels(source.config());
    for (const TensorInfo& info : source.infos()) add(info);
    if (packs_ && source.config().tied) add_head();
  }

  std::vector<Output>& outputs() { return outputs_; }
  std::vector<std::string> notes() const { return types_.notes(); }

 private:
  void add(const TensorInfo& info) {
    if (info.expert >= 0 && names_.stacked.written && !packs_) return stack(info);
    outputs_.push_back({info.name, type_for(info), shape_of(info), {info}, turn_of(info)});
    outputs_.back().panels = in_panels_.contains(info.name);
  }

  // Rows of an embedding are looked up, and products with it want panels.
  void add_head() {
    Output head = outputs_.front();
    head.name = kHeadName;
    head.panels = true;
    outputs_.push_back(head);
  }

  RowTurn turn_of(const TensorInfo& info) const {
    if (!source_.turns_neighbours()) return {};
    const Architecture& architecture = *architecture_of(source_.config().family);
    return {place_in_gguf(source_.config(), architecture, info).head_width, false};
  }

  // Parts in the order of the file: of every expert gate and up, or down.
  void stack(const TensorInfo& info) {
    const bool down = info.part == TensorInfo::Part::kDown, turned = names_.stacked.interleaved;
    const std::string name =
        fmt::format("model.layers.{}.{}{}{}", info.layer, names_.mixture,
                    down ? names_.stacked.down : names_.stacked.gate_up, info.vector ? "_bias" : "");
    const auto [found, is_new] = places_.emplace(name, outputs_.size());
    if (is_new) {
      const int64_t experts = source_.config().layers[static_cast<size_t>(info.layer)].experts, parts = down ? 1 : 2;
      std::vector<int64_t> shape{experts, parts * (info.vector ? info.cols : info.rows)};
      if (!info.vector) shape.insert(turned ? shape.begin() + 1 : shape.end(), info.cols);
      outputs_.push_back({name, type_for(info), shape, {}, {}, turned});
    }
    std::vector<TensorInfo>& parts = outputs_[found->second].parts;
    // Down parts come between gate and up, and go elsewhere.
    parts.push_back(info);
  }

  // What a type is asked for: all but a router's own numbers, which training goes on with.
  DType type_for(const TensorInfo& info) {
    if (info.role == Role::kState) return DType::kF32;
    const bool matrix = !info.vector && info.rows > 1 && info.role == Role::kWeight;
    const bool takes = matrix || (asked_ && !tensor::is_blocked(*asked_));
    const DType type = asked_ && takes ? *asked_ : own_type(info);
    if (packs_) return types_.type_for(info, type, asked_ && is_head(source_.config(), info));
    return tensor::is_blocked(type) ? DType::kBF16 : type;
  }

  // As the file has it, where that is a format of numbers; loading makes vectors float.
  DType own_type(const TensorInfo& info) {
    const Tensor* found = source_.files().find(info.name);
    const bool plain = found && found->type != DType::kF8E4M3 && found->type != DType::kU8;
    return plain ? found->type : type_of(source_, info);
  }

  Source& source_;
  std::optional<DType> asked_;
  bool packs_;
  const Names& names_;
  std::unordered_set<std::string> in_panels_;
  std::map<std::string, size_t> places_;
  std::vector<Output> outputs_;
  BlockTypes types_;
};

// As safetensors have it, the bytes to come; what they have no word for is said in the metadata.
Tensor declared(const Output& output, io::Metadata& metadata) {
  const std::span<const std::byte> bytes{static_cast<const std::byte*>(nullptr), output.bytes()};
  if (!output.panels && !tensor::is_blocked(output.type)) return {output.name, output.type, output.shape, bytes};
  metadata[output.name] = description_of(output.weight());
  return {output.name, DType::kU8, {static_cast<int64_t>(bytes.size())}, bytes};
}

std::string word_of(DType type) {
  return type == DType::kF16 ? "float16" : type == DType::kBF16 ? "bfloat16" : "float32";
}

}  // namespace

Converted convert_to_gguf(Source& source, std::optional<DType> type, const GgufOutput& output) {
  if (const std::string reason = reason_against_gguf(source.config()); !reason.empty())
    base::usage_error("this model cannot be a GGUF file: " + reason, source.path(), "--to hf has room for it");
  GgufPlan plan(source, type);
  const std::vector<Output>& outputs = plan.outputs();
  const std::vector<GgufVector> vectors = vectors_of(source.config());
  io::GgufHeader header;
  put_config(source.config(), header);
  header.put("general.file_type", file_type(outputs));
  header.put("general.quantization_version", uint32_t{2});
  output.put_more(header);
  for (const GgufVector& v : vectors)
    header.declare(v.name, DType::kF32, std::vector<int64_t>{static_cast<int64_t>(v.numbers.size())});
  for (const Output& o : outputs) header.declare(o.name, o.type, o.shape);

  Converted done;
  io::GgufWriter file(output.path, header, output.existing);
  for (const GgufVector& v : vectors) file.write(std::as_bytes(std::span(v.numbers)));
  const Write to = [&](std::span<const std::byte> piece) { file.write(piece); };
  for (const Output& o : outputs) write(source, o, to, done);
  done.ignored = source.ignored();
  done.notes = plan.notes();
  output.check(file.finish(), done);
  file.commit();
  return done;
}

Converted convert_to_safetensors(Source& source, std::optional<DType> type, tensor::Layout layout,
                                 const std::string& directory, nlohmann::json config_file) {
  const bool packs = layout == tensor::Layout::kPanels;
  DirectoryPlan plan(source, type, layout);
  const std::vector<Output>& outputs = plan.outputs();
  io::Metadata metadata = packs ? packed_metadata() : io::Metadata{{"format", "pt"}};
  std::vector<Tensor> tensors;
  for (const Output& output : outputs) tensors.push_back(declared(output, metadata));
  Converted done;
  io::SafetensorsWriter file(directory + "/model.safetensors", tensors, metadata, base::Existing::kRefuse,
                             packs ? io::Placing::kLines : io::Placing::kReference);
  const Write to = [&](std::span<const std::byte> piece) { file.write(piece); };
  for (const size_t i : file.order()) write(source, outputs[i], to, done);
  done.ignored = source.ignored();
  done.notes = plan.notes();
  file.commit();

  for (const char* key : {"quantization_config", "dtype", "torch_dtype"}) config_file.erase(key);
  if (!packs) config_file["torch_dtype"] = word_of(outputs.front().type);
  base::write_file(directory + "/config.json", config_file.dump(2) + "\n", base::Existing::kRefuse);
  return done;
}

}  // namespace choir::model
