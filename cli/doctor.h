// SPDX-License-Identifier: Apache-2.0
// Owns: what the doctor looks at. Each check says one line, and for a finding what to do about it.
#pragma once

#include <stdbool.h>

typedef enum tc_finding { TC_GOOD, TC_NOTE, TC_WARN, TC_BAD } tc_finding;

typedef struct tc_doctor {
    const char *root;   // of /proc, /sys and /dev; "" but in tests
    const char *listen; // where the gateway is to listen
    const char *device; // NULL: none is asked for
    bool json;
    unsigned counts[TC_BAD + 1];
} tc_doctor;

// fix: what to type or change; NULL for TC_GOOD.
void tc_doctor_say(tc_doctor *doctor, tc_finding finding, const char *topic, const char *fix,
                   const char *format, ...) __attribute__((format(printf, 5, 6)));
void tc_doctor_check_all(tc_doctor *doctor);
