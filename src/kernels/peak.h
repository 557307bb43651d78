// What the arithmetic units of this machine can do: the denominator of every "share of peak".
#pragma once

#include "base/threads.h"

namespace choir::kernels {

// Multiply-adds on registers alone, on all threads, in FLOP per second: the median of five runs of some milliseconds.
double measure_peak_flops(base::Threads& threads);

// The same for products of bytes by VNNI, two operations for each product; without VNNI measure_peak_flops, for then
// bytes are multiplied as floats.
double measure_peak_byte_operations(base::Threads& threads);

// Sequential reads of memory far larger than the caches, on all threads, in bytes per second: the median of five.
double measure_read_bandwidth(base::Threads& threads);

}  // namespace choir::kernels
