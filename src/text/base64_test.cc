#include "text/base64.h"

#include <doctest/doctest.h>

#include "text/test_support.h"

namespace choir::text {

TEST_CASE("base64: the examples of RFC 4648, and any bytes there and back") {
  CHECK(base64("") == "");
  CHECK(base64("f") == "Zg==");
  CHECK(base64("fo") == "Zm8=");
  CHECK(base64("foobar") == "Zm9vYmFy");
  base::Rng rng(4);
  for (size_t size = 0; size < 50; ++size) {
    const std::string bytes = random_bytes(rng, size);
    CHECK(decode_base64(base64(bytes), "test") == bytes);
  }
  CHECK_THROWS(decode_base64("Zm9v!", "test"));
}

}  // namespace choir::text
