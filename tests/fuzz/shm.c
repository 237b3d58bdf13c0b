// SPDX-License-Identifier: Apache-2.0
// A shared segment under a peer that writes anything anywhere, between any two steps of either side: the
// input is a program of steps. What take and poll let through must be within the agreed sizes.
#include "proto/shm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 3, HIDDEN = 5, PAIRS = 7 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                                                      \
    do {                                                                                                     \
        if (!(condition)) abort();                                                                           \
    } while (0)

static void check_taken(tc_shm *worker, const tc_expert_call *call)
{
    MUST(call->tokens >= 1 && call->tokens <= TOKENS && call->hidden == HIDDEN && call->pair_count <= PAIRS);
    MUST(call->layer < TC_LAYERS_MAX && call->unit_begin < call->unit_end &&
         (uint32_t)call->precision <= TC_FAST);
    for (uint32_t i = 0; i < call->pair_count; i++) {
        MUST(call->pairs[i].token < call->tokens && call->pairs[i].expert < TC_EXPERTS_MAX);
        MUST(isfinite(call->pairs[i].weight));
    }
    for (uint32_t i = 0; i < call->tokens * call->hidden; i++)
        tc_shm_sum(worker)[i] = call->x[i] != call->x[i] ? 1 : 2;
}

static void check_answer(const tc_shm_answer *a)
{
    MUST((a->sum != NULL) == (a->status == TC_OK) && a->status < TC_STATUS_COUNT);
    MUST(a->tokens <= TOKENS && a->hidden == HIDDEN && strlen(a->reason) <= TC_SHM_REASON_BYTES);
    int64_t all = 0;
    for (uint32_t i = 0; a->sum && i < a->tokens * a->hidden; i++) all |= a->sum[i];
    volatile int64_t used = all;
    (void)used;
}

static void post(tc_shm *hub, uint64_t seq)
{
    static const float x[TOKENS * HIDDEN] = {1};
    static const tc_expert_pair pairs[PAIRS] = {{1, 0, 1}, {1, 1, 1}, {2, 2, 1}};
    tc_expert_call call = {
        .unit_end = 1, .tokens = TOKENS, .hidden = HIDDEN, .x = x, .pair_count = 3, .pairs = pairs};
    tc_error e;
    (void)tc_shm_post(hub, seq, &call, &e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const tc_shm_options options = {.tokens_max = TOKENS, .hidden = HIDDEN, .pairs_max = PAIRS};
    tc_shm *hub, *worker, *second;
    tc_error e;
    size_t bytes;
    uint64_t posted = 0, taken = 0;
    tc_expert_call call;
    tc_shm_answer answer;
    MUST(tc_shm_create(&options, &hub, &e) == TC_OK);
    uint8_t *memory = tc_shm_memory(hub, &bytes);
    MUST(tc_shm_attach(memory, bytes, &options, &worker, &e) == TC_OK);
    while (size >= 4) { // step, offset (little-endian), length of what follows
        uint8_t step = data[0];
        size_t at = (size_t)(data[1] | data[2] << 8) % bytes, n = data[3];
        data += 4;
        size -= 4;
        switch (step % 7) {
        case 0:
            post(hub, ++posted);
            break;
        case 1:
            if (tc_shm_take(worker, &taken, &call, &e) == TC_OK) check_taken(worker, &call);
            break;
        case 2:
            (void)tc_shm_reply(worker, taken, (tc_status)(n % 16), at, "why", &e);
            break;
        case 3:
            if (tc_shm_poll_reply(hub, posted, &answer, &e) == TC_OK) check_answer(&answer);
            break;
        case 4:
            (void)tc_shm_wait_request(worker, 0, 0);
            break;
        case 5:
            if (tc_shm_attach(memory, bytes, &options, &second, &e) == TC_OK) tc_shm_close(second);
            break;
        case 6:
            if (n > size) n = size;
            if (n > bytes - at) n = bytes - at;
            memcpy(memory + at, data, n);
            data += n;
            size -= n;
            break;
        }
    }
    tc_shm_close(worker);
    tc_shm_close(hub);
    return 0;
}
