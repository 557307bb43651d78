// admit "all": every expert takes every token that proposed it (dropless).
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

struct AdmitAll {
  static constexpr const char* kName = "all";
  static constexpr bool kCausal = true;

  static AdmitAll read(Arguments&) { return {}; }
  std::string text() const { return kName; }
  void admit(const Context&, Routing&) const {}
};

}  // namespace choir::moe
