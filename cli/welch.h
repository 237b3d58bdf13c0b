// SPDX-License-Identifier: Apache-2.0
// Owns: Welch's t-test: could two sets of samples have the same mean? Refuses: fewer than two of either.
#pragma once

#include <stdint.h>

// Two-sided p in 0..1: how often sets that differ as much as these would come from sources of one mean, whose
// spreads may differ. Sets without any spread: 1 when they are equal, else 0. NAN with fewer than two of
// either.
double tc_welch_p(const double *a, uint32_t a_count, const double *b, uint32_t b_count);
