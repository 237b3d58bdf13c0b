// SPDX-License-Identifier: Apache-2.0
// Owns: what a core takes beside its weights: sizes of batches, KV pool, states and scratch, here and in a
// GPU. One place for the core's own start and for `thermocline plan`. Refuses: to take anything, to ask the
// machine.
#pragma once

#include "common/model/model.h"
#include "common/model/store.h"
#include "gpu-core/dev/cuda/cuda.h"

typedef struct tc_budget_wish {
    const tc_model_desc *desc;
    const tc_store_info *experts; // their shape; of a model without any: top_k 0
    tc_kv_type kv_type;
    uint32_t context, sessions, threads;
    uint32_t workers;         // 0: the core computes its experts itself
    bool by_nng;              // no call goes by shared memory
    uint32_t chunk_tokens;    // of a batch; 0: chosen here
    uint64_t kv_budget_bytes; // at most for pages
    bool keeps_states;        // there is a prefix cache
    bool hot;                 // the cpu device has a hot tier
    uint64_t available_bytes; // of RAM, before anything is taken
    bool gpu, cold_only;      // cold_only: it holds no experts
    uint64_t vram_bytes;      // 0: not known yet
    bool shares_prompts;      // workers take a share of its prompts: their segments hold such calls
} tc_budget_wish;

typedef struct tc_budget {
    tc_dev_geometry geometry;
    uint32_t batch_tokens; // of the device; of a GPU at most, which knows its memory better
    uint32_t call_tokens;  // of an expert call
    uint64_t kv_bytes, state_bytes;
    uint64_t scratch_bytes, constraints_bytes; // in RAM
    uint64_t device_scratch_bytes;             // in VRAM: buffers of batches, staged experts
    uint64_t token_bytes;                      // of them, a token of a batch
    uint64_t device_reserve_bytes;             // in VRAM: stays free
} tc_budget;

// TC_BUDGET: the KV budget holds no page.
tc_status tc_budget_of(const tc_budget_wish *wish, tc_budget *ret, tc_error *e);
// The part of a GPU's options that sizes come from.
tc_cuda_options tc_budget_cuda(const tc_budget_wish *wish, const tc_budget *budget);
