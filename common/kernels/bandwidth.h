// SPDX-License-Identifier: Apache-2.0
// Owns: measuring the machine's read bandwidth, the roofline that every decode figure is a ratio of.
#pragma once

#include "common/base/team.h"

// Reads whole pieces of 256 bytes with this CPU's widest loads. What it returns keeps the reads alive.
uint64_t tc_stream_memory(const void *data, size_t bytes);

// Streams `bytes` (use many times the last cache) from memory with all members of the team, several times;
// the best pass counts. GB are 10^9 bytes.
tc_status tc_measure_read_bandwidth(tc_team *team, size_t bytes, double *ret_gb_per_s, tc_error *e);
