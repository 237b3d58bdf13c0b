// SPDX-License-Identifier: Apache-2.0
// Owns: the arithmetic of fleet.h.
#include "gpu-core/experts/fleet.h"

#include <math.h>

enum { GROUP_MEMBERS_MAX = 64 };
#define AVERAGE_OVER 8.0

tc_call_size tc_call_size_of(const tc_expert_call *call)
{
    uint32_t experts = 0;
    for (uint32_t i = 0; i < call->pair_count; i++) // sorted by expert
        experts += i == 0 || call->pairs[i].expert != call->pairs[i - 1].expert;
    double units = call->unit_end - call->unit_begin;
    return (tc_call_size){
        .carried_kib = ((double)call->tokens * call->hidden * (sizeof(float) + sizeof(int64_t)) +
                        (double)call->pair_count * sizeof *call->pairs) /
                       1024,
        .work = units * (experts + call->pair_count / 8.0),
    };
}

static void average(double *value, double seen, uint32_t samples)
{
    double over = samples < AVERAGE_OVER ? samples + 1.0 : AVERAGE_OVER;
    *value += (seen - *value) / over;
}

static double expect_us(const tc_pace *p, const tc_call_size *size)
{
    return p->overhead_us + p->carry_us * size->carried_kib + p->work_us * size->work;
}

void tc_pace_note(tc_pace *p, const tc_call_size *size, uint64_t latency_us, uint64_t compute_us,
                  uint64_t now_us)
{
    double wait_us = latency_us > compute_us ? (double)(latency_us - compute_us) : 0;
    if (p->samples) average(&p->miss_us, fabs((double)latency_us - expect_us(p, size)), p->samples - 1);
    if (size->work > 0) average(&p->work_us, (double)compute_us / size->work, p->samples);
    if (size->carried_kib < TC_PACE_SMALL_KIB || !p->samples)
        average(&p->overhead_us, fmax(0, wait_us - p->carry_us * size->carried_kib), p->samples);
    else
        average(&p->carry_us, fmax(0, wait_us - p->overhead_us) / size->carried_kib, p->samples - 1);
    p->noted_us = now_us;
    if (p->samples < UINT32_MAX) p->samples++;
}

// How much of what is known still counts.
static double freshness(const tc_pace *p, uint64_t now_us)
{
    uint64_t age_us = now_us > p->noted_us ? now_us - p->noted_us : 0;
    return age_us < TC_PACE_STALE_US ? 1 : exp2(1 - (double)age_us / TC_PACE_STALE_US);
}

double tc_pace_expect_us(const tc_pace *p, const tc_call_size *size, uint64_t now_us)
{
    return p->samples ? expect_us(p, size) * freshness(p, now_us) : 0;
}

double tc_pace_late_us(const tc_pace *p, const tc_call_size *size)
{
    if (!p->samples) return TC_HEDGE_UNKNOWN_US;
    return fmax(TC_HEDGE_MIN_US, 2 * expect_us(p, size) + 4 * p->miss_us);
}

// What a part takes if the group's `parts` quickest members compute it: the time of the last of those.
static double group_us(const tc_fleet_member *members, uint32_t count, uint32_t group, uint32_t parts,
                       const tc_call_size *part, uint64_t now_us)
{
    double best[GROUP_MEMBERS_MAX]; // rising, at most `parts`
    uint32_t known = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (members[i].group != group) continue;
        double us = tc_pace_expect_us(members[i].pace, part, now_us);
        if (known == parts && best[parts - 1] <= us) continue;
        uint32_t at = known < parts ? known++ : parts - 1;
        for (; at > 0 && best[at - 1] > us; at--) best[at] = best[at - 1];
        best[at] = us;
    }
    return known < parts ? INFINITY : best[parts - 1];
}

uint32_t tc_fleet_cut(const tc_fleet_member *members, uint32_t count, uint32_t groups, uint32_t most,
                      const tc_call_size *whole, uint64_t now_us)
{
    uint32_t best = 1;
    double best_us = INFINITY;
    if (most > GROUP_MEMBERS_MAX) most = GROUP_MEMBERS_MAX;
    for (uint32_t parts = 1; parts <= most; parts++) {
        const tc_call_size part = {.carried_kib = whole->carried_kib, .work = whole->work / (groups * parts)};
        double us = 0;
        for (uint32_t g = 0; g < groups && us < INFINITY; g++)
            us = fmax(us, group_us(members, count, g, parts, &part, now_us));
        if (us == INFINITY) break; // a group has no more members
        if (us < best_us * 0.98) {
            best_us = us;
            best = parts;
        }
    }
    return best;
}
