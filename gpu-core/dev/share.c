// SPDX-License-Identifier: Apache-2.0
// Owns: the rates and quotas of share.h. Refuses: clocks and devices.
#include "gpu-core/dev/share.h"

static const double GUESS_BYTES_PER_US = 40000, GUESS_SIDE_US = 20;
static const double THERE_US = 20, CALL_US = 10; // to a worker and back; of its own time beside its experts
static const double NEW = 0.125, NEW_OF_PROMPT = 0.5; // share of the last batch in what is learned
static const double FASTER = 0.98; // a side that nothing was heard of may be faster than thought
static const double SLOWER = 1.01; // what one batch may raise the workers' rate by

tc_share_rates tc_share_guess(uint64_t expert_bytes)
{
    const double us = (double)expert_bytes / GUESS_BYTES_PER_US;
    return (tc_share_rates){.fetch_us = us, .worker_us = us / 2, .side_us = GUESS_SIDE_US};
}

// ---- learning ----

static void learn(double *rate, double us, double share)
{
    if (us > 0) *rate += share * (us - *rate);
}

// The fewer experts they are asked for in a short call, the longer each takes (they fall asleep in between).
// That must not be a reason to ask for fewer still: what they could do once they can, unless it stays
// otherwise.
static void learn_worker(double *rate, double us, bool prompt)
{
    if (!prompt && us > *rate * SLOWER)
        *rate *= SLOWER;
    else
        learn(rate, us, prompt ? NEW_OF_PROMPT : NEW);
}

void tc_share_learn(tc_share_rates *r, const tc_share_seen *s)
{
    const double share = s->prompt ? NEW_OF_PROMPT : NEW;
    learn(&r->side_us, (s->side_us - s->fetch_us) / s->layers, share);
    if (s->fetched)
        learn(&r->fetch_us, s->fetch_us / (double)s->fetched, share);
    else
        r->fetch_us *= FASTER;
    if (s->asked)
        learn_worker(&r->worker_us, (s->compute_us - CALL_US * (double)s->calls) / (double)s->asked,
                     s->prompt);
    else
        r->worker_us *= FASTER;
}

// ---- quotas ----

static double time_of(const tc_share_rates *r, uint32_t cold, uint32_t fetched)
{
    const double here = r->side_us + fetched * r->fetch_us;
    const double there = cold > fetched ? THERE_US + CALL_US + (cold - fetched) * r->worker_us : 0;
    return here > there ? here : there;
}

bool tc_share_quotas(const tc_share_rates *r, uint8_t ret[TC_SHARE_QUOTAS])
{
    uint32_t best = 0;
    bool changed = ret[0] != 0;
    ret[0] = 0;
    for (uint32_t cold = 1; cold < TC_SHARE_QUOTAS; cold++) {
        while (best < cold && time_of(r, cold, best + 1) < time_of(r, cold, best)) best++;
        changed |= ret[cold] != best;
        ret[cold] = (uint8_t)best;
    }
    return changed;
}

bool tc_share_fixed(uint32_t percent, uint8_t ret[TC_SHARE_QUOTAS])
{
    bool changed = false;
    for (uint32_t cold = 0; cold < TC_SHARE_QUOTAS; cold++) {
        const uint8_t quota = (uint8_t)(cold * percent / 100);
        changed |= ret[cold] != quota;
        ret[cold] = quota;
    }
    return changed;
}
