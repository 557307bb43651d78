#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/inputs.h"
#include "cli/terminal.h"
#include "runtime/session.h"

namespace choir::cli {
namespace {

std::vector<int32_t> prompt_ids(const Generate& o, const runtime::Bundle& bundle) {
  if (!o.ids.empty()) return {o.ids.begin(), o.ids.end()};
  std::vector<int32_t> ids = bundle.tokenizer().encode(o.prompt);
  if (ids.empty() && bundle.tokenizer().end_of_text()) ids.push_back(*bundle.tokenizer().end_of_text());
  if (ids.empty()) base::usage_error("nothing to continue", "--prompt", "give --prompt TEXT or --ids 1,2,3");
  return ids;
}

}  // namespace

void run(const Generate& o, const Common& common) {
  const runtime::Bundle bundle = runtime::load_bundle(o.model);
  const std::vector<int32_t> prompt = prompt_ids(o, bundle);
  base::Threads threads(common.threads);
  runtime::Session session(bundle.model, threads);
  runtime::GenerateOptions options;
  options.most = o.count;
  options.ignore_end = o.ignore_end;
  options.sampling = {static_cast<float>(o.temperature), o.top_k, static_cast<float>(o.top_p),
                      static_cast<float>(o.min_p), common.seed};
  const bool has_text = bundle.tokenizer_or_null != nullptr;
  std::optional<text::StreamDecoder> stream;
  if (has_text && !common.json) stream.emplace(bundle.tokenizer());
  std::string unshown = o.prompt;  // until the first token: of a prompt that is refused nothing is printed
  const runtime::Generation result = session.generate(prompt, options, [&](int32_t id) {
    if (stream) {
      std::fputs((std::exchange(unshown, "") + stream->push(id)).c_str(), stdout);
      std::fflush(stdout);
    } else if (!common.json) {
      std::printf("%d\n", id);
    }
    return !interrupted();
  });
  if (stream) std::printf("%s%s\n", unshown.c_str(), stream->flush().c_str());
  const runtime::Counts& counts = session.counts();
  if (common.json)
    print_json({{"prompt_ids", prompt},
                {"ids", result.ids},
                {"text", has_text ? bundle.tokenizer().decode(result.ids) : ""},
                {"tokens_per_second", counts.decode_tokens_per_second()},
                {"skipped_share", counts.skipped_share()}});
  else
    std::fprintf(stderr, "%lld tokens, %.1f tokens/s\n", static_cast<long long>(result.ids.size()),
                 counts.decode_tokens_per_second());
  if (interrupted()) throw base::Error(base::Fault::kInterrupted, "interrupted", "generate", "");
}

}  // namespace choir::cli
