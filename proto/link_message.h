// SPDX-License-Identifier: Apache-2.0
// Owns: the inside of a message, for link.c only.
#pragma once

#include "proto/link.h"

struct tc_link_message {
    tc_link_message *next;    // in the out queue it waits in
    size_t frame_bytes, done; // done: bytes of prefix and frame sent, or bytes of the frame received
    uint8_t *prefix;          // TC_LINK_PREFIX_BYTES, directly before the frame
    uint8_t space[];
};

tc_link_message *tc_link_message_alloc(size_t frame_bytes); // NULL: out of memory
uint8_t *tc_link_message_frame(const tc_link_message *message);
void tc_link_message_seal(tc_link_message *message); // writes the prefix
