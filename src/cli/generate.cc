#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/error.h"
#include "cli/inputs.h"
#include "cli/skipped.h"
#include "cli/terminal.h"
#include "cli/tracing.h"
#include "runtime/session.h"

namespace choir::cli {
namespace {

// The first token comes from weights as they lie in the file; for so many more it pays to pack them.
constexpr int kWorthPacking = 32;

// The tokenizer, without which text cannot be continued but ids can: a missing or unknown one is then no fault.
const text::Tokenizer* tokenizer_for(const Generate& o, const runtime::Bundle& bundle) {
  if (o.ids.empty()) return &bundle.tokenizer();
  try {
    return bundle.has_tokenizer() ? &bundle.tokenizer() : nullptr;
  } catch (const base::Error& error) {
    std::fprintf(stderr, "no text: %s\n", error.what());
    return nullptr;
  }
}

// An empty prompt begins a document.
std::vector<int32_t> prompt_ids(const Generate& o, const text::Tokenizer* tokenizer) {
  if (!o.ids.empty()) return {o.ids.begin(), o.ids.end()};
  std::vector<int32_t> ids = tokenizer->framed(tokenizer->encode(o.prompt));  // some families begin with a token
  if (ids.empty() && tokenizer->end_of_text()) ids.push_back(*tokenizer->end_of_text());
  if (ids.empty()) base::usage_error("nothing to continue", "--prompt", "give a prompt that is not empty");
  return ids;
}

}  // namespace

void run(const Generate& o, const Common& common) {
  check_trace(o.trace);
  const runtime::Bundle bundle(o.model, use_for(o.exact));
  const text::Tokenizer* tokenizer = tokenizer_for(o, bundle);
  const std::vector<int32_t> prompt = prompt_ids(o, tokenizer);
  base::Threads threads(common.threads, common.placement());
  const auto profile = profile_for(o.trace, threads);
  const model::Model lying = skipping_as_asked(o.skip, bundle.model);
  const model::Model model = o.exact ? lying : lying.packed_in_passing();
  std::optional<model::Model> packed;
  runtime::Session session(model, threads);
  runtime::GenerateOptions options;
  options.most = o.count;
  options.ignore_end = o.ignore_end;
  options.vocab = tokenizer ? tokenizer->vocab_size() : 0;
  options.sampling = {static_cast<float>(o.temperature), o.top_k, static_cast<float>(o.top_p),
                      static_cast<float>(o.min_p), common.seed};
  std::optional<text::StreamDecoder> stream;
  if (tokenizer && !common.json) stream.emplace(*tokenizer);
  std::string unshown = o.prompt;  // until the first token: of a prompt that is refused nothing is printed
  const runtime::Generation result = session.generate(prompt, options, [&](int32_t id) {
    if (stream) {
      std::fputs((std::exchange(unshown, "") + stream->push(id)).c_str(), stdout);
      std::fflush(stdout);
    } else if (!common.json) {
      std::printf("%d\n", id);
      std::fflush(stdout);
    }
    if (!o.exact && !packed && o.count > kWorthPacking) session.use(packed.emplace(lying.packed(threads)));
    return !interrupted();
  });
  if (stream) std::printf("%s%s\n", unshown.c_str(), stream->flush().c_str());
  const runtime::Counts& counts = session.counts();
  if (common.json) {
    nlohmann::ordered_json json{{"prompt_ids", prompt},
                                {"ids", result.ids},
                                {"text", tokenizer ? tokenizer->decode(result.ids) : ""},
                                {"tokens_per_second", counts.decode_tokens_per_second()}};
    add_skipped(model, counts.layers, json);
    print_json(json);
  } else {
    std::fprintf(stderr, "%lld tokens, %.1f tokens/s\n", static_cast<long long>(result.ids.size()),
                 counts.decode_tokens_per_second());
  }
  tell_skipped(counts.layers);
  if (profile) write_trace(o.trace, *profile);
  if (interrupted()) throw base::Error(base::Fault::kInterrupted, "interrupted", "generate", "");
}

}  // namespace choir::cli
