#include "model/convert.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/inputs.h"
#include "cli/terminal.h"
#include "model/gguf_model.h"
#include "text/directory_tokens.h"
#include "text/gguf_tokens.h"

namespace choir::cli {
namespace {

using Json = nlohmann::ordered_json;
using model::Converted;
using model::Verified;

std::optional<tensor::DType> type_named(const std::string& name) {
  using tensor::DType;
  for (const auto& [word, type] :
       {std::pair{"f32", DType::kF32}, std::pair{"f16", DType::kF16}, std::pair{"bf16", DType::kBF16},
        std::pair{"q8_0", DType::kQ8_0}, std::pair{"q4_0", DType::kQ4_0}})
    if (name == word) return type;
  return std::nullopt;  // as they are
}

bool to_gguf(const Convert& o) { return o.to.empty() ? o.out.ends_with(".gguf") : o.to == "gguf"; }

void check_type(const Convert& o, bool file) {
  if (file && o.packed)
    base::usage_error("a GGUF file cannot be packed", "--packed", "give the name of a directory, and no --to gguf");
  if (!file && !o.packed && (o.type == "q8_0" || o.type == "q4_0"))
    base::usage_error("safetensors have no " + o.type, "--dtype", "--to gguf, --packed, or bf16, f16 or f32");
}

// Ids that config.json names and the tokenizer's files do not.
void add_ids(const nlohmann::json& config, text::GgufVocabulary& vocabulary) {
  const auto first = [&](const char* key) -> int32_t {
    const nlohmann::json id = config.value(key, nlohmann::json());
    const nlohmann::json one = id.is_array() && !id.empty() ? id.front() : id;
    const auto size = static_cast<int64_t>(vocabulary.tokens.size());
    return one.is_number_integer() && one >= 0 && one < size ? one.get<int32_t>() : -1;
  };
  if (vocabulary.bos < 0) vocabulary.bos = first("bos_token_id");
  if (vocabulary.eos < 0) vocabulary.eos = first("eos_token_id");
}

// The tokens of the source: the file's own, those of the directory, or none.
void put_tokens(const model::Source& source, const nlohmann::json& config, io::GgufHeader& header,
                std::vector<std::string>& notes) {
  if (model::is_gguf(source.path())) {
    const io::GgufFile file(source.path());
    for (const io::GgufEntry& entry : file.metadata().entries())
      if (entry.key.starts_with("tokenizer.")) header.put(entry);
    return;
  }
  if (!text::directory_has_tokens(source.path())) {
    notes.emplace_back("the model has no tokenizer.json and no tokenizer.model, and the file no tokens");
    return header.put("tokenizer.ggml.model", "none");
  }
  auto vocabulary = text::directory_vocabulary(source.path(), static_cast<size_t>(source.config().vocab), notes);
  add_ids(config, vocabulary);
  text::put_gguf_vocabulary(vocabulary, header);
}

struct Outcome {
  Converted done;
  Verified verified;
};

Outcome to_file(const Convert& o, model::Source& source, const nlohmann::json& config, base::Threads& threads) {
  Outcome outcome;
  std::vector<std::string> notes;
  const model::GgufOutput output{
      .path = o.out,
      .existing = existing(o.force),
      .put_more = [&](io::GgufHeader& header) { put_tokens(source, config, header, notes); },
      .check = [&](const std::string& path,
                   const Converted& done) { outcome.verified = model::verify(source, path, done, threads); }};
  outcome.done = model::convert_to_gguf(source, type_named(o.type), output);
  outcome.done.notes.insert(outcome.done.notes.end(), notes.begin(), notes.end());
  return outcome;
}

// The tokens of a GGUF file as a directory has them. Weights are worth having without.
void write_tokens(const model::Source& source, const std::string& directory, std::vector<std::string>& notes) {
  const auto tokens = text::read_gguf_vocabulary(io::GgufFile(source.path()).metadata());
  if (tokens.tokens.empty()) return notes.push_back("the file has no tokens, and the model no tokenizer.json");
  try {
    text::write_directory_tokens(tokens, source.config().max_positions, directory, source.path());
  } catch (const base::Error& error) {
    if (error.fault != base::Fault::kInput) throw;
    notes.push_back(std::string("no tokenizer.json is written: ") + error.what());
  }
}

Outcome to_directory(const Convert& o, model::Source& source, const nlohmann::json& config, base::Threads& threads) {
  base::AtomicDirectory directory(o.out, existing(o.force));
  const auto layout = o.packed ? tensor::Layout::kPanels : tensor::Layout::kRows;
  Outcome outcome{model::convert_to_safetensors(source, type_named(o.type), layout, directory.path(), config), {}};
  if (model::is_gguf(o.model))
    write_tokens(source, directory.path(), outcome.done.notes);
  else
    copy_companions(o.model, directory.path());
  outcome.verified = model::verify(source, directory.path(), outcome.done, threads);
  directory.commit();
  return outcome;
}

}  // namespace

void run(const Convert& o, const Common& common) {
  const bool file = to_gguf(o);
  check_type(o, file);
  if (file)
    base::check_output(o.out, existing(o.force), base::Kind::kFile);
  else
    check_model_output(o.out, o.model, o.force);
  model::Source source(o.model);
  const nlohmann::json config = model::config_file_of(o.model);
  base::Threads threads(common.threads, common.placement());
  const auto [done, verified] = file ? to_file(o, source, config, threads) : to_directory(o, source, config, threads);
  if (common.json)
    return print_json({{"tensors", done.tensors},
                       {"bytes_in", done.bytes_in},
                       {"bytes_out", done.bytes_out},
                       {"ignored", done.ignored},
                       {"notes", done.notes},
                       {"verified",
                        {{"ids", verified.ids},
                         {"fault", verified.fault},
                         {"drift", verified.drift},
                         {"largest_logit", verified.largest},
                         {"top1_agreement", verified.agreement}}}});
  fmt::print("{} tensors, {:.2f} MB from {:.2f} MB\n", done.tensors, static_cast<double>(done.bytes_out) / 1e6,
             static_cast<double>(done.bytes_in) / 1e6);
  fmt::print("checked on {} ids: logits up to {:.2f} moved by {:.3g} at most, {:.3g} of it unexplained by rounding\n",
             verified.ids, verified.largest, verified.drift, verified.fault);
  for (const std::string& line : done.ignored) fmt::print("ignored {}\n", line);
  for (const std::string& line : done.notes) fmt::print("{}\n", line);
}

}  // namespace choir::cli
