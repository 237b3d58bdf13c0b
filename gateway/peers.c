// SPDX-License-Identifier: Apache-2.0
// Owns: a hash table of peers with an unguessable seed, so that nobody can choose addresses that collide.
#include "gateway/peers.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

typedef struct entry {
    struct entry *next;
    tc_peer peer;
    uint32_t connections;
} entry;

struct tc_peers {
    uint64_t seed;
    uint32_t mask;
    entry *buckets[];
};

tc_peer tc_peer_of(const struct sockaddr *address)
{
    tc_peer peer = {0};
    if (address->sa_family == AF_INET) {
        const struct in_addr *v4 = &((const struct sockaddr_in *)(const void *)address)->sin_addr;
        memset(peer.bytes + 10, 0xff, 2);
        memcpy(peer.bytes + 12, v4, 4);
        peer.is_loopback = peer.bytes[12] == 127;
        peer.known = true;
    } else if (address->sa_family == AF_INET6) {
        const struct in6_addr *v6 = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
        peer.is_loopback = IN6_IS_ADDR_LOOPBACK(v6);
        memcpy(peer.bytes, v6, IN6_IS_ADDR_V4MAPPED(v6) || peer.is_loopback ? 16 : 8);
        peer.known = true;
    }
    return peer;
}

tc_peers *tc_peers_new(uint32_t connections_max)
{
    uint32_t count = 64;
    while (count < connections_max && count < 1u << 20) count *= 2;
    tc_peers *peers = calloc(1, sizeof *peers + count * sizeof(entry *));
    if (!peers) return NULL;
    peers->mask = count - 1;
    if (getrandom(&peers->seed, sizeof peers->seed, 0) != sizeof peers->seed) peers->seed = (uintptr_t)peers;
    return peers;
}

void tc_peers_free(tc_peers *peers)
{
    for (uint32_t i = 0; peers && i <= peers->mask; i++) {
        for (entry *e = peers->buckets[i], *next; e; e = next) {
            next = e->next;
            free(e);
        }
    }
    free(peers);
}

static entry **place_of(const tc_peers *peers, const tc_peer *peer)
{
    uint64_t h = peers->seed, half;
    for (int i = 0; i < 2; i++) {
        memcpy(&half, peer->bytes + 8 * i, sizeof half);
        h = (h ^ half) * 0x9e3779b97f4a7c15u;
        h ^= h >> 32;
    }
    entry **at = (entry **)&peers->buckets[h & peers->mask];
    while (*at && memcmp((*at)->peer.bytes, peer->bytes, sizeof peer->bytes) != 0) at = &(*at)->next;
    return at;
}

uint32_t tc_peers_count(const tc_peers *peers, const tc_peer *peer)
{
    entry *e = *place_of(peers, peer);
    return e ? e->connections : 0;
}

bool tc_peers_add(tc_peers *peers, const tc_peer *peer)
{
    entry **at = place_of(peers, peer);
    if (!*at) {
        *at = calloc(1, sizeof **at);
        if (!*at) return false;
        (*at)->peer = *peer;
    }
    (*at)->connections++;
    return true;
}

void tc_peers_remove(tc_peers *peers, const tc_peer *peer)
{
    entry **at = place_of(peers, peer), *e = *at;
    if (!e || --e->connections) return;
    *at = e->next;
    free(e);
}
