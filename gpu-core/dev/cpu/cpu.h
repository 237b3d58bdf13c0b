// SPDX-License-Identifier: Apache-2.0
// Owns: what the files of the cpu device share. Refuses: to be included outside gpu-core/dev/cpu.
#pragma once

#include "common/base/team.h"
#include "gpu-core/dev/cpu/dense.h"
#include "gpu-core/dev/dev.h"

#include <stdatomic.h>

// A run of consecutive tokens of one segment, and how attention cuts it into items (attention.c).
typedef struct tc_cpu_block {
    const tc_segment *segment;
    uint32_t token, tokens, position; // first token in the batch, and its position
    uint32_t chunks, first_item;
    bool split;  // one item a chunk
    size_t part; // where its partials are, in floats
} tc_cpu_block;

typedef struct tc_cpu_attention_state {
    float *scratch; // [members][...]
    float *split;   // partial results of split blocks
    size_t split_floats;
    tc_cpu_block *block;    // of the batch
    _Atomic uint32_t *left; // [blocks][kv_heads] chunks not done yet
    uint32_t blocks, items;
    uint64_t work; // multiply-adds
} tc_cpu_attention_state;

typedef struct tc_dev_cpu {
    tc_dev dev;
    tc_team *team;
    const tc_kernels *kernels;
    const tc_dense *dense;
    // [pages][kv_layers][k|v][kv_heads][64][head_dim padded] of kv_type, mapped: pages become resident when
    // used
    void *kv;
    size_t kv_bytes;
    float *states; // [slots][dn_layers][tc_dev_state_floats], mapped (delta.c)
    size_t states_bytes;
    tc_cpu_attention_state attention;
    float *delta_scratch;     // [members][...] some tokens of one key head
    float *inverse_frequency; // [rotary_dim / 2]
    float *rotary;            // [tokens_max][cos rotary_dim/2 | sin rotary_dim/2]
    // the input of a round of matmul, [tokens_max]: its rows, and the same rounded
    const float **x_rows;
    tc_rounded_row *x_rounded;
    uint8_t *rounded_memory;
    uint8_t *own_rounded;         // [members] one row for each member
    tc_few_token *few, *few_room; // [TC_FEW_ROWS_MAX][TC_FEW_MAX]; what members collect
    tc_batch batch;
} tc_dev_cpu;

static inline tc_dev_cpu *tc_cpu(tc_dev *dev)
{
    return (tc_dev_cpu *)dev;
}

static inline uint32_t tc_cpu_tokens_max(const tc_dev_geometry *g)
{
    return g->tokens_max ? g->tokens_max : TC_BATCH_TOKENS_MAX;
}

// Runs the items on the team, or here when they are too little work (in multiply-adds) to be worth waking it
// for.
void tc_cpu_each(tc_dev_cpu *cpu, uint32_t items, uint64_t multiply_adds, tc_team_item *item, void *arg);

void tc_cpu_page_copy(tc_dev *dev, uint32_t from, uint32_t to);
void tc_cpu_page_save(tc_dev *dev, uint32_t page, void *host);
void tc_cpu_page_load(tc_dev *dev, uint32_t page, const void *host);
void tc_cpu_slot_copy(tc_dev *dev, uint32_t from, uint32_t to);
void tc_cpu_slot_save(tc_dev *dev, uint32_t slot, void *host);
void tc_cpu_slot_load(tc_dev *dev, uint32_t slot, const void *host);

uint64_t tc_cpu_attention_bytes(const tc_dev_geometry *g, uint32_t members); // scratch
bool tc_cpu_attention_create(tc_dev_cpu *cpu);                               // false: out of memory
void tc_cpu_attention_free(tc_dev_cpu *cpu);
void tc_cpu_attention_begin(tc_dev_cpu *cpu); // the batch is set
void tc_cpu_attention(tc_dev *dev, const tc_attention_args *args);

size_t tc_cpu_delta_floats(const tc_dev_geometry *g); // scratch of a member
void tc_cpu_delta(tc_dev *dev, const tc_delta_args *args);

void tc_cpu_route(tc_dev *dev, const tc_route_args *args);

uint64_t tc_cpu_few_bytes(uint32_t members); // scratch
bool tc_cpu_few_create(tc_dev_cpu *cpu);     // false: out of memory
void tc_cpu_few_free(tc_dev_cpu *cpu);
void tc_cpu_few(tc_dev *dev, const float *logits, uint32_t rows, uint32_t vocab, const float *temperature,
                tc_few *ret);
