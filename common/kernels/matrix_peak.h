// SPDX-License-Identifier: Apache-2.0
// Owns: measuring what the machine's multipliers can do on operands in registers: the roof over prompts, as
// read bandwidth is the roof over decoding. Refuses: to guess from clock and data sheet.
#pragma once

#include "common/base/team.h"

enum { TC_PEAK_UNITS_MAX = 11 };

typedef enum tc_peak_kind { TC_PEAK_FLOAT, TC_PEAK_INT8, TC_PEAK_INT16 } tc_peak_kind;

typedef struct tc_peak_unit {
    const char *name;  // "avx2 maddubs", "amx int8", ...
    tc_peak_kind kind; // floats, or integers of that many bits into sums of 32
    double gop_per_s;  // 10^9 multiplications and additions; a multiply-add counts two
} tc_peak_unit;

typedef struct tc_matrix_peak {
    uint32_t count; // the units this CPU has, of those we know
    tc_peak_unit unit[TC_PEAK_UNITS_MAX];
    double int8_gop_per_s,
        float_gop_per_s; // the best of these two kinds; int8 is 0 where nothing beats floats
} tc_matrix_peak;

// All members of the team multiply at once, a few hundredths of a second a unit; the best of some passes
// counts.
tc_status tc_measure_matrix_peak(tc_team *team, tc_matrix_peak *ret, tc_error *e);
