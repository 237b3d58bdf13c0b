// SPDX-License-Identifier: Apache-2.0
// Owns: what the files of the cpu device share. Refuses: to be included outside gpu-core/dev/cpu.
#pragma once

#include "common/base/team.h"
#include "gpu-core/dev/dev.h"

typedef struct tc_dev_cpu {
    tc_dev dev;
    tc_team *team;
    const tc_kernels *kernels;
    float *kv; // [pages][kv_layers][k|v][kv_heads][64][head_dim], mapped: pages become resident when used
    size_t kv_bytes;
    float *states; // [slots][dn_layers][ value_heads*dk*dv | (conv-1)*channels ], mapped
    size_t states_bytes;
    float *scores;        // [members][positions_max]
    float *delta_scratch; // [members][...] one head group's q, k, v, o
    uint32_t delta_scratch_floats;
    float *inverse_frequency; // [rotary_dim / 2]
    float *rotary;            // [TC_BATCH_TOKENS_MAX][cos rotary_dim/2 | sin rotary_dim/2]
    tc_batch batch;
} tc_dev_cpu;

static inline tc_dev_cpu *tc_cpu(tc_dev *dev)
{
    return (tc_dev_cpu *)dev;
}

// Runs the items on the team, or here when they are too little work (in multiply-adds) to be worth waking it
// for.
void tc_cpu_each(tc_dev_cpu *cpu, uint32_t items, uint64_t multiply_adds, tc_team_item *item, void *arg);

uint32_t tc_cpu_conv_channels(const tc_dev_geometry *g);
size_t
tc_cpu_state_floats(const tc_dev_geometry *g); // of one DeltaNet layer: recurrent state, then conv history

void tc_cpu_page_copy(tc_dev *dev, uint32_t from, uint32_t to);
void tc_cpu_page_save(tc_dev *dev, uint32_t page, void *host);
void tc_cpu_page_load(tc_dev *dev, uint32_t page, const void *host);
void tc_cpu_slot_copy(tc_dev *dev, uint32_t from, uint32_t to);
void tc_cpu_slot_save(tc_dev *dev, uint32_t slot, void *host);
void tc_cpu_slot_load(tc_dev *dev, uint32_t slot, const void *host);
void tc_cpu_attention(tc_dev *dev, const tc_attention_args *args);
void tc_cpu_delta(tc_dev *dev, const tc_delta_args *args);
void tc_cpu_route(tc_dev *dev, const float *logits, uint32_t n, uint32_t experts, uint32_t top_k,
                  bool renormalise, uint32_t *expert, float *weight);
