// SPDX-License-Identifier: Apache-2.0
// Owns: the choice of prompt_way.h.
#include "gpu-core/dev/prompt_way.h"

#include <stdio.h>

static const double SLOWER = 0.125; // share of a slower batch in what is believed

static const char *const names[TC_PROMPT_WAYS] = {[TC_WAY_SHARE] = "streamed, workers take a share",
                                                  [TC_WAY_STREAM] = "streamed",
                                                  [TC_WAY_LINK] = "link and workers share"};

static uint32_t first_of(uint32_t size) // 64, 96, 128, 192 ..
{
    const uint32_t octave = 64u << size / 2;
    return size % 2 ? octave + octave / 2 : octave;
}

static uint32_t size_of(uint32_t tokens)
{
    uint32_t size = 0;
    while (size + 1 < TC_PROMPT_SIZES && tokens >= first_of(size + 1)) size++;
    return size;
}

// Of the allowed ones with as many tries as are wanted; TC_PROMPT_WAYS: none.
static uint32_t fastest(const tc_prompt_ways *ways, uint32_t size, uint32_t allowed)
{
    uint32_t best = TC_PROMPT_WAYS;
    for (uint32_t w = 0; w < TC_PROMPT_WAYS; w++)
        if (allowed >> w & 1 && ways->size[size].tries[w] >= TC_PROMPT_TRIES &&
            (best == TC_PROMPT_WAYS || ways->size[size].us[w] < ways->size[size].us[best]))
            best = w;
    return best;
}

tc_prompt_way tc_prompt_way_choose(tc_prompt_ways *ways, uint32_t tokens, uint32_t allowed)
{
    const uint32_t size = size_of(tokens), batches = ways->size[size].batches++;
    for (uint32_t w = 0; w < TC_PROMPT_WAYS; w++)
        if (allowed >> w & 1 && ways->size[size].tries[w] < TC_PROMPT_TRIES) return (tc_prompt_way)w;
    const uint32_t best = fastest(ways, size, allowed), others = allowed & ~(1u << best);
    if (!others || batches % TC_PROMPT_AGAIN != TC_PROMPT_AGAIN - 1) return (tc_prompt_way)best;
    const uint32_t turn = batches / TC_PROMPT_AGAIN % TC_PROMPT_WAYS; // each of the others comes in time
    for (uint32_t i = 0; i < TC_PROMPT_WAYS; i++)
        if (others >> (turn + i) % TC_PROMPT_WAYS & 1) return (tc_prompt_way)((turn + i) % TC_PROMPT_WAYS);
    return (tc_prompt_way)best;
}

static void say(const tc_prompt_ways *ways, uint32_t size, uint32_t best, char *text, size_t bytes)
{
    int at = snprintf(text, bytes, "prompts of %u tokens and more a step: %s (%.0f ms", first_of(size),
                      names[best], ways->size[size].us[best] / 1000);
    for (uint32_t w = 0; w < TC_PROMPT_WAYS && at > 0 && (size_t)at < bytes; w++)
        if (w != best && ways->size[size].tries[w])
            at += snprintf(text + at, bytes - (size_t)at, "; %s: %.0f", names[w],
                           ways->size[size].us[w] / 1000);
    if (at > 0 && (size_t)at < bytes) snprintf(text + at, bytes - (size_t)at, ")");
}

bool tc_prompt_way_learn(tc_prompt_ways *ways, uint32_t tokens, tc_prompt_way way, double us, char *text,
                         size_t bytes)
{
    const uint32_t size = size_of(tokens);
    double *known = &ways->size[size].us[way];
    uint32_t *tries = &ways->size[size].tries[way], tried = 0;
    *known = !*tries || us < *known ? us : *known + SLOWER * (us - *known);
    if (*tries < TC_PROMPT_TRIES) ++*tries;
    for (uint32_t w = 0; w < TC_PROMPT_WAYS; w++) tried += ways->size[size].tries[w] >= TC_PROMPT_TRIES;
    const uint32_t best = fastest(ways, size, ~0u);
    if (tried < 2 || ways->size[size].told == 1 + best) return false;
    ways->size[size].told = 1 + best;
    say(ways, size, best, text, bytes);
    return true;
}
