// SPDX-License-Identifier: Apache-2.0
// Owns: how many of a layer's cold experts a device fetches for itself, so that its link and the workers end
// together, and learning the rates that this follows from. Numbers only. Refuses: to fetch, to ask (cuda/).
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { TC_SHARE_COLD_MAX = 128, TC_SHARE_QUOTAS = TC_SHARE_COLD_MAX + 1 };

typedef struct tc_share_rates {
    double fetch_us, worker_us; // of an expert: over the link; at the workers, all of them together
    double side_us;             // what the device does anyhow between a call and its join
} tc_share_rates;

// What was seen in one batch, over all its layers.
typedef struct tc_share_seen {
    uint32_t layers;
    uint64_t fetched; // experts over the link, and from the calls to the ends of their fetches
    double fetch_us;
    double side_us;        // from the calls to the joins, fetches included
    uint64_t calls, asked; // of workers, and for how many distinct experts
    double compute_us;     // what the slowest worker of each call said it took
    bool prompt;           // many tokens: calls are long, and batches few
} tc_share_seen;

// A first guess, for experts of so many bytes.
tc_share_rates tc_share_guess(uint64_t expert_bytes);
void tc_share_learn(tc_share_rates *rates, const tc_share_seen *seen);
// ret[n]: of n distinct cold experts, how many to fetch; never falling with n. Returns whether it changed
// ret.
bool tc_share_quotas(const tc_share_rates *rates, uint8_t ret[TC_SHARE_QUOTAS]);
// The same share whatever the rates are.
bool tc_share_fixed(uint32_t percent, uint8_t ret[TC_SHARE_QUOTAS]);
