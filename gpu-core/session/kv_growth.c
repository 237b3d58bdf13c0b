// SPDX-License-Identifier: Apache-2.0
// Owns: who gives way to whom when the KV pool grows, and when it shrinks.
#include "gpu-core/session/kv_growth.h"

static bool grows(const tc_kv_growth *g)
{
    return g->dev->ops->pages_back != NULL;
}

void tc_kv_growth_begin(tc_kv_growth *g, tc_dev *dev, bool (*make_room)(void *arg), void *arg)
{
    *g = (tc_kv_growth){.dev = dev, .make_room = make_room, .arg = arg, .backed = dev->geometry.pages};
    if (grows(g)) g->backed = dev->ops->pages_back(dev, 0);
}

bool tc_kv_growth_need(tc_kv_growth *g, uint32_t end)
{
    if (end > g->window_end) g->window_end = end;
    if (end <= g->backed) return true;
    if (!grows(g)) return false;
    for (;;) {
        g->backed = g->dev->ops->pages_back(g->dev, end);
        if (g->backed >= end) break;
        if (!g->make_room || !g->make_room(g->arg)) {
            g->refused++;
            return false;
        }
        g->made_room++;
    }
    g->grown++;
    return true;
}

// A window that ends begins the next one with what is in use then, so what goes was unused for a whole one.
void tc_kv_growth_poll(tc_kv_growth *g, uint32_t end, uint64_t now_us)
{
    if (!grows(g)) return;
    if (end > g->window_end) g->window_end = end;
    if (!g->window_us) g->window_us = now_us;
    if (now_us - g->window_us < TC_KV_KEEP_US) return;
    if (g->window_end < g->backed) {
        const uint32_t before = g->backed;
        g->backed = g->dev->ops->pages_back(g->dev, g->window_end);
        g->shrunk += g->backed < before;
    }
    g->window_end = end;
    g->window_us = now_us;
}
