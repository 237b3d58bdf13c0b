// SPDX-License-Identifier: Apache-2.0
// Owns: a model brought up for one verb (generate, eval, bench, quick-test): the wait until it is ready, and
// its events.
#include "cli/run.h"
#include "common/base/clock.h"

#include <stdio.h>
#include <string.h>

enum { ASK_EVERY_US = 20000 };

static void note_device(tc_local *local, const tc_engine_detail *d)
{
    if (d->device_used_bytes > local->device_used_bytes) local->device_used_bytes = d->device_used_bytes;
    if (d->hot_bytes > local->hot_bytes) local->hot_bytes = d->hot_bytes;
    local->device_total_bytes = d->device_total_bytes;
}

static tc_status take_event(tc_local *local, const tc_engine_event *event, bool *ret_up, tc_error *e)
{
    switch (event->kind) {
    case TC_ENGINE_UP:
        local->info = *event->info;
        *ret_up = true;
        return TC_OK;
    case TC_ENGINE_STATUS:
        local->status = *event->engine;
        if (!event->engine->detail) return TC_OK;
        local->detail = *event->engine->detail; // the event's goes with it
        local->status.detail = &local->detail;
        note_device(local, &local->detail);
        return TC_OK;
    case TC_ENGINE_DOWN:
        if (!*ret_up) return TC_OK; // not there yet: the client keeps dialling
        return tc_fail(e, TC_CLOSED, "core: the connection was lost: %s", event->reason);
    default:
        return TC_OK;
    }
}

// Waits for the core's welcome, then asks for its status until it says ready.
static tc_status wait_ready(tc_local *local, tc_error *e)
{
    bool up = false;
    uint64_t begin_us = tc_now_us();
    tc_engine_event event;
    while (!local->status.ready) {
        tc_status status =
            tc_supervisor_wait(local->supervisor, tc_engine_client_fd(local->client), ASK_EVERY_US, e);
        if (status != TC_OK && status != TC_TIMEOUT) return status;
        bool ask = up && status == TC_TIMEOUT;
        while (tc_engine_client_next(local->client, 0, &event) == TC_OK) {
            bool was_up = up;
            TC_TRY(take_event(local, &event, &up, e));
            if (was_up || !up) continue;
            local->start_us = tc_now_us() - begin_us;
            ask = true;
        }
        if (ask) tc_engine_client_ask_status(local->client);
    }
    local->load_us += tc_now_us() - begin_us;
    return TC_OK;
}

tc_status tc_local_open(tc_run_options *o, const char *model, tc_local *ret, tc_error *e)
{
    char url[128];
    tc_status status;
    tc_local local = {0};
    uint64_t begin_us = tc_now_us();
    TC_TRY(tc_run_prepare(model, o->cache_dir, o->quantise, false, &local.packed, local.store, e));
    local.pack_us = tc_now_us() - begin_us;
    begin_us = tc_now_us();
    TC_TRY(tc_run_load(o, local.store, e));
    local.load_us = tc_now_us() - begin_us;
    TC_TRY(tc_supervisor_create(&local.supervisor, e));
    TC_GOTO(tc_run_start(local.supervisor, o, model, local.store, NULL, e));
    tc_run_engine_url(local.supervisor, url, sizeof url);
    TC_GOTO(tc_engine_client_open(url, &local.client, e));
    TC_GOTO(wait_ready(&local, e));
    tc_supervisor_ready(local.supervisor);
    *ret = local;
out:
    if (status != TC_OK) tc_local_close(&local);
    return status;
}

void tc_local_close(tc_local *local)
{
    tc_supervisor_free(local->supervisor); // first: nothing may be on its way to a client that closes
    if (local->client) tc_engine_client_close(local->client);
    local->client = NULL;
    local->supervisor = NULL;
}

tc_status tc_local_next(tc_local *local, uint64_t id, tc_engine_event *ret, tc_error *e)
{
    bool up = true;
    for (;;) {
        while (tc_engine_client_next(local->client, 0, ret) == TC_OK) {
            TC_TRY(take_event(local, ret, &up, e));
            if (!id && ret->kind == TC_ENGINE_STATUS) return TC_OK;
            bool ours =
                (!id || ret->id == id) && (ret->kind == TC_ENGINE_TOKEN || ret->kind == TC_ENGINE_EVALUATED ||
                                           ret->kind == TC_ENGINE_FINISHED || ret->kind == TC_ENGINE_FAILED);
            if (ours && ret->kind == TC_ENGINE_FAILED)
                return tc_fail(e, ret->status == TC_OK ? TC_INTERNAL : ret->status, "core: %s", ret->reason);
            if (ours) return TC_OK;
        }
        tc_status status =
            tc_supervisor_wait(local->supervisor, tc_engine_client_fd(local->client), 1000000, e);
        if (status != TC_OK && status != TC_TIMEOUT) return status;
    }
}

tc_status tc_local_ask_status(tc_local *local, tc_error *e)
{
    bool up = true;
    tc_engine_event event;
    if (tc_engine_client_ask_status(local->client) != TC_OK)
        return tc_fail(e, TC_CLOSED, "core: the connection was lost");
    for (;;) {
        while (tc_engine_client_next(local->client, 0, &event) == TC_OK) {
            TC_TRY(take_event(local, &event, &up, e));
            if (event.kind == TC_ENGINE_STATUS) return TC_OK;
        }
        tc_status status =
            tc_supervisor_wait(local->supervisor, tc_engine_client_fd(local->client), 1000000, e);
        if (status != TC_OK && status != TC_TIMEOUT) return status;
    }
}
