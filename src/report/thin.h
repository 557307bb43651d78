// Long curves made short for a page.
#pragma once

#include "report/run.h"

namespace choir::report {

// A curve of buckets: where each stands, and least, greatest and mean of its finite values, NaN where it has none.
// Where every value has a bucket of its own `low` and `high` are empty.
struct Curve {
  Column step, mean, low, high;
};

// At most `buckets` buckets of neighbours, equal in number but for one. So no peak is lost.
Curve thin(const Column& step, const Column& values, size_t buckets);

// At most `most` of the numbers 0 to count - 1, evenly spread, the first and the last among them.
std::vector<size_t> spread(size_t count, size_t most);

double median(Column values);       // of the finite ones; NaN where there are none
double mean(const Column& values);  // the same

}  // namespace choir::report
