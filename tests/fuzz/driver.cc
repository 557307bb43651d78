// A small fuzzer that needs nothing but a C++ compiler: it runs a target on every file of a corpus, then on mutations
// of them. The same arguments give the same inputs on every machine.
//
//   fuzz_json CORPUS RUNS [SEED]   run the corpus and RUNS mutations; a crash leaves its input in ./crash-input
//   fuzz_json FILE                 run one input
//
// With clang the same targets run under libFuzzer, which is guided by coverage:
//   cmake -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DCHOIR_LIBFUZZER=ON
//         -DCMAKE_CXX_FLAGS=-fsanitize=fuzzer-no-link -DCHOIR_SANITIZE=address,undefined
//   ninja -C build/fuzz fuzz_json && build/fuzz/tests/fuzz_json NEW_INPUTS tests/fuzz/corpus/json
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<uint8_t>;

constexpr size_t kMostBytes = 1 << 16;

Bytes current;  // global, so that the handlers of a crash can save it

void save_current() {
  const int fd = ::open("crash-input", O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd < 0 || ::write(fd, current.data(), current.size()) < 0) return;
  ::close(fd);
}

void on_signal(int signal) {
  save_current();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void run(const Bytes& input) {
  current = input;
  LLVMFuzzerTestOneInput(current.data(), current.size());
}

Bytes bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

class Mutator {
 public:
  Mutator(const std::vector<Bytes>& seeds, uint64_t seed) : seeds_(seeds), random_(seed) {}

  Bytes next() {
    Bytes bytes = any_seed();
    for (size_t step = 0, steps = 1 + below(6); step < steps; ++step) change(bytes);
    bytes.resize(std::min(bytes.size(), kMostBytes));
    return bytes;
  }

 private:
  size_t below(size_t bound) { return static_cast<size_t>(random_() % bound); }
  const Bytes& any_seed() { return seeds_[below(seeds_.size())]; }
  static auto at(Bytes& bytes, size_t i) { return bytes.begin() + static_cast<std::ptrdiff_t>(i); }

  void change(Bytes& bytes) {
    if (bytes.empty()) bytes.push_back(0);
    const size_t i = below(bytes.size());
    switch (below(8)) {
      case 0: bytes[i] ^= static_cast<uint8_t>(1 << below(8)); break;
      case 1: bytes[i] = static_cast<uint8_t>(below(256)); break;
      case 2: bytes.insert(at(bytes, i), 1 + below(8), static_cast<uint8_t>(below(256))); break;
      case 3: bytes.erase(at(bytes, i), at(bytes, std::min(bytes.size(), i + 1 + below(8)))); break;
      case 4: splice(bytes, i, any_seed()); break;
      case 5: splice(bytes, i, Bytes(bytes)); break;
      case 6: change_digit(bytes, i); break;
      default: change_length(bytes);
    }
  }

  // Puts a piece of another input in, or over what is there.
  void splice(Bytes& bytes, size_t i, const Bytes& from) {
    if (from.empty()) return;
    const size_t begin = below(from.size()), count = 1 + below(from.size() - begin);
    const size_t replaced = below(2) == 0 ? 0 : std::min(count, bytes.size() - i);
    bytes.erase(at(bytes, i), at(bytes, i + replaced));
    const auto first = from.begin() + static_cast<std::ptrdiff_t>(begin);
    bytes.insert(at(bytes, i), first, first + static_cast<std::ptrdiff_t>(count));
  }

  // Numbers in texts are shapes and offsets: change the first one after i.
  void change_digit(Bytes& bytes, size_t i) {
    const auto digit = std::find_if(at(bytes, i), bytes.end(), [](uint8_t b) { return b >= '0' && b <= '9'; });
    if (digit == bytes.end()) return;
    *digit = static_cast<uint8_t>('0' + below(10));
    if (below(4) == 0) bytes.insert(digit, 1 + below(20), static_cast<uint8_t>('0' + below(10)));
  }

  // The first eight bytes are a length in many formats: nudge it, make it huge, or make it fit the text that follows.
  void change_length(Bytes& bytes) {
    constexpr size_t kLength = 8;
    if (bytes.size() < kLength) return;
    uint64_t length = 0;
    for (size_t b = 0; b < kLength; ++b) length |= uint64_t{bytes[b]} << (8 * b);
    const size_t way = below(4);
    if (way == 0) length += below(17) - 8;
    if (way == 1) length = random_() >> below(64);
    if (way == 2) length = bytes.size() - kLength;
    if (way == 3) {
      const auto brace = std::find(bytes.rbegin(), bytes.rend(), uint8_t{'}'});
      length = static_cast<uint64_t>(std::max<std::ptrdiff_t>(0, bytes.rend() - brace - std::ptrdiff_t{kLength}));
    }
    for (size_t b = 0; b < kLength; ++b) bytes[b] = static_cast<uint8_t>(length >> (8 * b));
  }

  const std::vector<Bytes>& seeds_;
  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s CORPUS RUNS [SEED], or %s FILE\n", argv[0], argv[0]);
    return 2;
  }
  for (int signal : {SIGABRT, SIGSEGV, SIGFPE, SIGBUS}) std::signal(signal, on_signal);
  if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(save_current);

  std::vector<fs::path> files;
  if (fs::is_directory(argv[1]))
    std::copy(fs::directory_iterator(argv[1]), fs::directory_iterator(), std::back_inserter(files));
  else
    files.emplace_back(argv[1]);
  std::sort(files.begin(), files.end());
  std::vector<Bytes> seeds;
  for (const fs::path& file : files) seeds.push_back(bytes_of(file));
  if (seeds.empty()) {
    std::fprintf(stderr, "%s holds no inputs\n", argv[1]);
    return 2;
  }

  const auto start = std::chrono::steady_clock::now();
  for (const Bytes& seed : seeds) run(seed);
  const uint64_t runs = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
  Mutator mutator(seeds, argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1);
  for (uint64_t i = 0; i < runs; ++i) run(mutator.next());
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("%zu inputs, %llu mutations, %.1f s\n", seeds.size(), static_cast<unsigned long long>(runs),
              seconds.count());
}
