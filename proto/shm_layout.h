// SPDX-License-Identifier: Apache-2.0
// Owns: what lies where in the shared segment between the core and one worker. Plain fixed-width
// little-endian fields, offsets and no pointers, so that every process, and a GPU that has the segment
// mapped, can use it.
//
//   control page: header | request flag | reply flag | abort word | request line | request | reply
//   payload:      x f32 [tokens_max][hidden] | pairs [pairs_max] | sum i64 [tokens_max][hidden]
//
// Each flag, word and record is alone on its 128 bytes (two lines: prefetchers fetch pairs); each payload
// starts on a page. Publishing a request: write x, pairs and the request record, then store the sequence
// number to the request flag with release order at system scope. The reply likewise: sum, reply record, reply
// flag. One call is under way at a time; its payload belongs to the core until the request flag is stored, to
// the worker until the reply flag is stored, then to the core again. Sequence numbers start above 0 and grow.
//
// A GPU that posts cannot wake a sleeping worker, and the process that launches its work may be held up in a
// launch until the worker has answered. So a worker whose segment is lent does not sleep: it is told by a
// word here and a nudge (tc_shm_lend).
#pragma once

#ifndef __cplusplus
#include <stdint.h>
#else
#include <cstdint>
#endif

enum {
    TC_SHM_VERSION = 3,
    TC_SHM_LINE_BYTES = 128,
    TC_SHM_PAGE_BYTES = 4096,
    TC_SHM_REASON_BYTES = 224,
    // Offsets in the control page.
    TC_SHM_HEADER_AT = 0,
    TC_SHM_REQUEST_FLAG_AT = 128, // u64: sequence number of the last request published
    TC_SHM_REPLY_FLAG_AT = 256,   // u64: sequence number of the last reply published
    TC_SHM_ABORT_AT = 384,        // u32: not 0 once either side has given up; never cleared
    TC_SHM_REQUEST_LINE_AT = 512, // tc_wait_line: where the worker sleeps
    TC_SHM_REQUEST_AT = 640,      // tc_shm_request_record
    TC_SHM_REPLY_AT = 768,        // tc_shm_reply_record
    TC_SHM_LENT_AT = 1024,        // u32: not 0 while a device may post
    TC_SHM_X_AT = TC_SHM_PAGE_BYTES,
};

typedef struct tc_shm_header {
    uint64_t magic; // written last
    uint32_t version, control_bytes;
    uint32_t tokens_max, hidden, pairs_max, reserved;
    uint64_t x_at, pairs_at, sum_at, bytes;
} tc_shm_header;

typedef struct tc_shm_request_record {
    uint64_t seq; // as in the flag
    uint32_t layer, unit_begin, unit_end, precision;
    uint32_t tokens, hidden, pair_count, reserved;
    uint64_t step; // for logs and traces only; a device that posts leaves it as tc_shm_lend wrote it
} tc_shm_request_record;

typedef struct tc_shm_reply_record {
    uint64_t seq;            // as in the flag
    uint32_t status;         // tc_status; 0: the sum is complete
    uint32_t tokens, hidden; // as in the request
    uint32_t reason_bytes;   // of `reason`, 0 when status is 0
    uint64_t compute_us;
    char reason[TC_SHM_REASON_BYTES]; // printable ASCII or UTF-8, not terminated
} tc_shm_reply_record;
