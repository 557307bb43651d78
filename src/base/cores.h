// The processors that this process may use.
#pragma once

#include <vector>

namespace choir::base {

// Their numbers, one of every core before the second ones of any: processors of one core share its units.
std::vector<int> processors();

// The calling thread stays on that processor. False where the system refuses.
bool stay_on(int processor);

}  // namespace choir::base
