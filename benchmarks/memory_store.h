// SPDX-License-Identifier: Apache-2.0
// Owns: random packed experts of a checkpoint that has none, straight into the arena where serving finds
// them, with a store file beside it that has a header and nothing else (a hole). For measuring at full size.
#pragma once

#include "common/model/arena.h"

// For the checkpoint in `directory`, whose experts would be NF4 with double quantisation. cache_dir and
// arena_dir: where `bench` looks, with one worker (NULL: the defaults of the arena).
// down: factor of the deviation of down projections.
tc_status tc_memory_store_make(const char *directory, const char *cache_dir, const char *arena_dir,
                               uint64_t seed, float down, tc_error *e);
