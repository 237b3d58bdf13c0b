// SPDX-License-Identifier: Apache-2.0
// Owns: the cuda device's door: what the core asks for, and the one symbol of the library that is loaded at
// run time (thermocline-cuda.so), so that one package serves machines with and without a GPU. Refuses: to
// choose between devices (gpu-core/device.h).
#pragma once

#include "common/model/store.h"
#include "gpu-core/dev/dev.h"

enum {
    TC_CUDA_ABI = 10,
    TC_CUDA_TOKENS_SMALL = 4096,
    TC_CUDA_TOKENS_LEAST = 512,
    TC_CUDA_TOKENS_PART = 8, // of the budget, for what goes by a batch's tokens
};
#define TC_CUDA_BUDGET_SMALL (12ull << 30)
#define TC_CUDA_SYMBOL "tc_cuda_library_get" // const tc_cuda_library *(void)

typedef struct tc_cuda_options {
    tc_dev_geometry geometry;
    uint32_t hidden, experts, top_k;
    uint32_t tokens_max; // of a batch, <= TC_STEP_TOKENS_MAX
    // Below TC_CUDA_BUDGET_SMALL no more than TC_CUDA_TOKENS_SMALL, and half as many until their bytes are a
    // TC_CUDA_TOKENS_PART-th of it, down to TC_CUDA_TOKENS_LEAST.
    bool tokens_by_budget;
    uint64_t token_bytes; // of VRAM that a token of a batch takes, everything counted
    uint64_t vram_bytes;  // of everything, as the driver counts; 0: what the card has, less a reserve
    uint32_t ordinal;
    int32_t fetch_percent; // of cold experts, fetched for one step; 0: workers compute all; -1: as rates tell
    uint64_t call_deadline_us; // of a worker's answer
    // Of what streamed batches of up to TC_CALL_TOKENS_MAX tokens need, workers compute this part of what may
    // be given to them; 0: nothing, and then nothing is taken for it; -1: as rates tell
    int32_t prompt_percent;
    uint32_t prompt_border; // tokens of a batch up to which it goes the link's way; 0: as times tell
    bool kv_grows;          // memory behind the KV pool may come and go (tc_dev_ops.pages_back)
    void (*log)(void *arg, bool warning, const char *text);
    void *arg;
} tc_cuda_options;

typedef struct tc_cuda_memory {
    uint64_t budget_bytes, context_bytes;
    uint64_t tag_bytes[TC_MEM_TAGS];  // held now
    uint64_t slot_bytes;              // of them, slots of hot experts
    uint64_t kv_owed_bytes;           // that the KV pool may still grow by; slots are given back for it
    uint64_t peak_bytes;              // of the device, as the driver reported it at most
    uint64_t free_bytes, total_bytes; // of the device now, whoever has the rest; 0: the driver did not say
} tc_cuda_memory;

// Hot experts: slots in device memory. The table is the caller's (common/placement/hot_cache.h).
typedef struct tc_cuda_hot_ops {
    // Slots for the experts of `store` (borrowed, outlives the device) out of what the budget leaves, at most
    // `wanted`; makes its memory known to the card in the background, so that fills and prompts run at the
    // link's speed. *ret: slots, 0 where the experts' form is not one the kernels know.
    tc_status (*open)(tc_dev *dev, const tc_store *store, uint32_t wanted, uint32_t *ret, tc_error *e);
    bool (*ready)(tc_dev *dev); // fills can be started: the experts' memory is known to the card
    // Starts a copy beside everything else. False: not ready, or too many under way (192 always fit).
    bool (*fill)(tc_dev *dev, uint32_t slot, uint32_t layer, uint32_t expert);
    // The next slot whose copy is done; false: none.
    bool (*filled)(tc_dev *dev, uint32_t *ret_slot);
    // From the next batch on the expert is computed from this slot; UINT32_MAX: it is cold.
    void (*place)(tc_dev *dev, uint32_t layer, uint32_t expert, uint32_t slot);
    // Memory for so many slots: gives what lies behind them back to the driver, an eighth of all at a time,
    // and takes it again. Nothing is placed or being filled in a slot that goes. Returns how many there are
    // now.
    uint32_t (*resize)(tc_dev *dev, uint32_t slots);
    // Waits until it is ready; false: it never will be. And until all fills are done.
    bool (*settle)(tc_dev *dev);
    void (*drain)(tc_dev *dev);
    // From the next batch on: whether experts are fetched a layer ahead, where the link has nothing else to
    // do.
    void (*look_ahead)(tc_dev *dev, bool on);
    tc_ahead_stats (*ahead)(tc_dev *dev); // what that came to
} tc_cuda_hot_ops;

typedef struct tc_cuda_library {
    uint32_t abi;
    uint32_t struct_bytes; // of tc_cuda_options: both sides are built from one tree
    tc_status (*probe)(uint32_t ordinal, char card[128],
                       tc_error *e); // TC_NOT_FOUND, TC_UNSUPPORTED: why not
    tc_status (*create)(const tc_cuda_options *options, tc_dev **ret, tc_error *e);
    tc_cuda_hot_ops hot;
    void (*memory)(tc_dev *dev, tc_cuda_memory *ret);
} tc_cuda_library;
