// SPDX-License-Identifier: Apache-2.0
// Owns: what every program that runs the scheduler without a model has in place of its neighbours: the
// numbers that stand for a model's, the rows of a head, and what a server hears that no test looks at.
// Refuses: to make the rows. Included once a program, which has defined VOCAB.
#pragma once

#include "gpu-core/forward/forward.h"
#include "proto/engine.h"
#include "tests/support/draw.h"

static float logits_out[TC_LOGIT_ROWS_MAX * VOCAB]; // of the head's last call

static inline uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ (v + 0x9e3779b97f4a7c15u)) * 0xbf58476d1ce4e5b9u;
    return h ^ (h >> 29);
}

// The logits behind a past that has this hash.
static inline void fill_logits(uint64_t hash, float *out)
{
    for (uint32_t v = 0; v < VOCAB; v++) out[v] = (float)(mix(hash, v) % 1000) / 100.0f;
}

bool tc_forward_few(tc_forward *f, const uint32_t *tokens, uint32_t rows, const float *temperature,
                    tc_few *ret)
{
    const float *logits = tc_forward_logits(f, tokens, rows);
    if (logits) few_of_rows(logits, rows, VOCAB, temperature, ret);
    return logits != NULL;
}

const float *tc_forward_row(tc_forward *f, uint32_t row)
{
    (void)f;
    return logits_out + (size_t)row * VOCAB;
}

const tc_forward_times *tc_forward_get_times(const tc_forward *f)
{
    static const tc_forward_times none;
    return (void)f, &none;
}

void tc_engine_server_answer(tc_engine_server *s, uint64_t id, tc_status status, const char *text,
                             size_t bytes)
{
    (void)s, (void)id, (void)status, (void)text, (void)bytes;
}
void tc_engine_server_status(tc_engine_server *s, const tc_engine_status *status)
{
    (void)s, (void)status;
}
void tc_engine_server_flush(tc_engine_server *s)
{
    (void)s;
}
