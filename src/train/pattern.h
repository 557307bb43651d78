// Names chosen by patterns: * stands for any letters, ? for one.
#pragma once

#include <string_view>

namespace choir::train {

bool matches(std::string_view pattern, std::string_view name);

}  // namespace choir::train
