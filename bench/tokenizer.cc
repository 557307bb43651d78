// How fast text becomes ids, on one thread.
//
//   tokenizer TOKENIZER TEXT... [--repeats 5]
//
// Prints CSV: for each text its bytes, its tokens, and the median seconds and megabytes a second of encoding and of
// decoding. bench/peers/tokenizers.cjs prints the same for the npm package `tokenizers`.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "base/atomic_output.h"
#include "base/clock.h"
#include "bench/samples.h"
#include "text/tokenizer.h"

namespace {

using namespace choir;

double median_seconds(int repeats, const std::function<void()>& work) {
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) {
    const base::Stopwatch watch;
    work();
    seconds.push_back(watch.seconds());
  }
  return bench::median(seconds);
}

int run(const std::vector<std::string>& paths, int repeats) {
  const auto tokenizer = text::load_tokenizer(paths[0]);
  std::puts("text,bytes,tokens,encode_seconds,encode_mb_per_second,decode_seconds,decode_mb_per_second");
  for (size_t i = 1; i < paths.size(); ++i) {
    const std::string text = base::read_file(paths[i]);
    const auto ids = tokenizer->encode(text);
    const double encode = median_seconds(repeats, [&] { tokenizer->encode(text); });
    const double decode = median_seconds(repeats, [&] { tokenizer->decode(ids, text::Specials::kKeep); });
    const double megabytes = static_cast<double>(text.size()) / 1e6;
    std::printf("%s,%zu,%zu,%.4f,%.2f,%.4f,%.2f\n", paths[i].c_str(), text.size(), ids.size(), encode,
                megabytes / encode, decode, megabytes / decode);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> paths;
  int repeats = 5;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--repeats" && i + 1 < argc)
      repeats = std::max(1, std::atoi(argv[++i]));
    else
      paths.emplace_back(argv[i]);
  }
  if (paths.size() < 2) {
    std::fprintf(stderr, "usage: tokenizer TOKENIZER TEXT... [--repeats 5]\n");
    return 2;
  }
  try {
    return run(paths, repeats);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tokenizer: %s\n", error.what());
    return 3;
  }
}
