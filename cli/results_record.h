// SPDX-License-Identifier: Apache-2.0
// Owns: what the two files of the results' reader share: memory that lives as long as the results, and the
// records of one line. Refuses: to be included outside results*.c.
#pragma once

#include "cli/results.h"

typedef struct tc_results_block tc_results_block;
typedef struct tc_results_memory {
    tc_results_block *blocks;
} tc_results_memory;

// Zeroed memory until the results are freed; NULL when there is none. count * each must not overflow.
void *tc_results_alloc(tc_results_memory *memory, size_t count, size_t each);

void tc_result_spread(tc_result *item); // median, low and high of its values

// One object of the file with the errors that name its line.
typedef struct tc_record {
    tc_json_object object;
    tc_results_memory *memory;
} tc_record;

tc_status tc_record_text(const tc_record *r, const char *field, bool needed, size_t bytes_max,
                         const char **ret);
tc_status tc_record_run(const tc_record *r, tc_result_run *ret, const char ***ret_parts, uint32_t *ret_count);
tc_status tc_record_part(const tc_record *r, tc_result_part *ret);
// kind must be set.
tc_status tc_record_item(const tc_record *r, tc_result *ret);
