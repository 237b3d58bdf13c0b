// SPDX-License-Identifier: Apache-2.0
// Owns: how many connections each peer has open. A peer is an IPv4 address, or the /64 of an IPv6 one: that
// much is given to a single household. Refuses: to count sockets of the Unix domain; they have no address.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

typedef struct tc_peer {
    uint8_t bytes[16]; // IPv4 as ::ffff:a.b.c.d
    bool known, is_loopback;
} tc_peer;

typedef struct tc_peers tc_peers;

tc_peer tc_peer_of(const struct sockaddr *address); // not known: another family
// Room for `connections_max` peers. NULL: out of memory.
tc_peers *tc_peers_new(uint32_t connections_max);
void tc_peers_free(tc_peers *peers);
uint32_t tc_peers_count(const tc_peers *peers, const tc_peer *peer);
// Every peer that was added is removed once. False: out of memory, nothing was added.
bool tc_peers_add(tc_peers *peers, const tc_peer *peer);
void tc_peers_remove(tc_peers *peers, const tc_peer *peer);
