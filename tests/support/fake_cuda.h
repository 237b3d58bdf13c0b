// SPDX-License-Identifier: Apache-2.0
// Owns: a card that does not exist: the runtime's streams, events and copies, and of the cuda device's
// kernels those that a prompt's experts need, computed by the CPU. What is queued runs late, streams by turns
// that a seed draws, as far as events allow: what is not ordered comes out of order. Refuses: all other
// kernels.
#pragma once

#include "common/kernels/ffn.h"

// Before the device is created. ffn: computes what the card would, from the store; it is checked that the
// card's memory holds these bytes.
void fake_cuda_begin(const tc_store *store, tc_ffn *ffn, unsigned seed);
uint32_t fake_cuda_pending(void); // copies and kernels that are queued on any stream
