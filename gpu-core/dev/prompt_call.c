// SPDX-License-Identifier: Apache-2.0
// Owns: the two halves of prompt_call.h.
#include "gpu-core/dev/prompt_call.h"

#include "proto/shm_layout.h"

#include <stddef.h>
#include <string.h>

static const uint64_t CALL_US_MAX = 60000000; // a worker may say anything

static bool is_given(const tc_lent_mailbox *box, const tc_prompt_call *c, uint32_t expert)
{
    return c->given[expert] && expert >= box->share.expert_begin && expert < box->share.expert_end;
}

// Sorted by counting: first how many each expert has, then each to its place; tokens come in rising order.
static uint32_t write_pairs(const tc_lent_mailbox *box, const tc_prompt_call *c)
{
    tc_expert_pair *to = (tc_expert_pair *)(void *)((char *)box->memory + box->pairs_at);
    const size_t pairs = (size_t)c->tokens * c->top_k;
    memset(c->begin, 0, (c->experts + 1) * sizeof *c->begin);
    for (size_t i = 0; i < pairs; i++)
        if (is_given(box, c, c->expert[i])) c->begin[c->expert[i] + 1]++;
    for (uint32_t e = 0; e < c->experts; e++) c->begin[e + 1] += c->begin[e];
    const uint32_t count = c->begin[c->experts];
    for (size_t i = 0; i < pairs; i++)
        if (is_given(box, c, c->expert[i]))
            to[c->begin[c->expert[i]]++] =
                (tc_expert_pair){c->expert[i], (uint32_t)(i / c->top_k), c->weight[i]};
    return count;
}

uint32_t tc_prompt_call_write(const tc_lent_mailbox *box, const tc_prompt_call *c)
{
    char *memory = box->memory;
    const uint32_t count = write_pairs(box, c);
    const tc_shm_request_record record = {.seq = c->sequence,
                                          .layer = c->layer,
                                          .unit_begin = box->share.unit_begin,
                                          .unit_end = box->share.unit_end,
                                          .precision = TC_FAST,
                                          .tokens = c->tokens,
                                          .hidden = c->hidden,
                                          .pair_count = count};
    if (!count) return 0;
    memcpy(memory + TC_SHM_REQUEST_AT, &record, offsetof(tc_shm_request_record, step)); // step: the lender's
    __atomic_store_n((uint64_t *)(void *)(memory + TC_SHM_REQUEST_FLAG_AT), c->sequence, __ATOMIC_RELEASE);
    return count;
}

// An answer that is there counts, whatever the abort word says: so does the device's own join.
tc_prompt_answer tc_prompt_call_look(const tc_lent_mailbox *box, const tc_prompt_call *c,
                                     uint64_t *ret_compute_us)
{
    const char *memory = box->memory;
    tc_shm_reply_record r;
    *ret_compute_us = 0;
    if (__atomic_load_n((const uint64_t *)(const void *)(memory + TC_SHM_REPLY_FLAG_AT), __ATOMIC_ACQUIRE) !=
        c->sequence)
        return __atomic_load_n((const uint32_t *)(const void *)(memory + TC_SHM_ABORT_AT), __ATOMIC_ACQUIRE)
                   ? TC_PROMPT_ABORTED
                   : TC_PROMPT_WAITS;
    memcpy(&r, memory + TC_SHM_REPLY_AT, offsetof(tc_shm_reply_record, reason));
    __asm__ volatile("" : : "r"(&r) : "memory"); // it is not read again
    if (r.seq != c->sequence) return TC_PROMPT_WRONG;
    if (r.status) return TC_PROMPT_REFUSED;
    if (r.tokens != c->tokens || r.hidden != c->hidden) return TC_PROMPT_WRONG;
    *ret_compute_us = r.compute_us < CALL_US_MAX ? r.compute_us : 0;
    return TC_PROMPT_ANSWERED;
}
