// SPDX-License-Identifier: Apache-2.0
// Owns: what the suite's parts ask cores for: a core with changed options, one greedy request, an operator's
// question. Refuses: to know what is measured.
#include "cli/suite.h"
#include "common/base/clock.h"
#include "common/base/json.h"
#include "common/model/arena.h"

#include <errno.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ANSWER_DEPTH_MAX = 8, ANSWER_WAIT_US = 30000000, COPY_BYTES_MAX = 256 << 20, OPEN_FOLDERS = 16 };

tc_run_options tc_suite_options(const tc_suite *s)
{
    return s->b.o;
}

tc_status tc_suite_open(tc_suite *s, tc_run_options *o, tc_local *ret, tc_error *e)
{
    TC_TRY(tc_suite_step(s, 0, 1, e));
    tc_progress_clear(&s->bar); // what loading says comes on lines of its own
    TC_TRY(tc_local_open(o, s->b.model, ret, e));
    s->on_gpu = strcmp(ret->info.device, "cpu") != 0;
    return TC_OK;
}

tc_status tc_suite_ask(tc_local *local, tc_question question, const char *text, yyjson_doc **ret, tc_error *e)
{
    static uint64_t last_id = 1ull << 60;
    tc_engine_event event;
    uint64_t id = ++last_id, begin_us = tc_now_us();
    if (tc_engine_client_ask(local->client, id, question, text, text ? strlen(text) : 0) != TC_OK)
        return tc_fail(e, TC_CLOSED, "core: the connection was lost");
    while (tc_now_us() - begin_us < ANSWER_WAIT_US) {
        while (tc_engine_client_next(local->client, 0, &event) == TC_OK) {
            if (event.kind == TC_ENGINE_DOWN) return tc_fail(e, TC_CLOSED, "core: the connection was lost");
            if (event.kind != TC_ENGINE_ANSWER || event.id != id) continue;
            if (event.status != TC_OK) return tc_fail(e, event.status, "core: %s", event.reason);
            return tc_json_parse("core's answer", event.text, event.text_bytes, ANSWER_DEPTH_MAX, ret, e);
        }
        tc_status status =
            tc_supervisor_wait(local->supervisor, tc_engine_client_fd(local->client), 1000000, e);
        if (status != TC_OK && status != TC_TIMEOUT) return status;
    }
    return tc_fail(e, TC_TIMEOUT, "core: no answer to an operator's question");
}

tc_status tc_suite_encode(tc_suite *s, const char *text, size_t bytes, tc_ids *ret, tc_error *e)
{
    *ret = (tc_ids){0};
    return tc_tokenizer_encode(s->tokenizer, text, bytes, TC_SPECIAL_AS_TEXT, ret, e);
}

static void take_evaluated(const tc_local *local, const tc_engine_event *event, uint32_t prompt,
                           tc_answer *ret)
{
    const tc_model_info *m = &local->info;
    if (ret->uses && event->experts)
        for (size_t p = 0; p < event->positions; p++)
            for (size_t l = 0; l < m->layers; l++)
                for (size_t k = 0; k < m->top_k; k++) {
                    int32_t x = event->experts[(p * m->layers + l) * m->top_k + k];
                    if (x >= 0 && (uint32_t)x < m->experts) ret->uses[l * m->experts + (uint32_t)x]++;
                }
    if (!ret->logits || !event->logits || event->position >= prompt) return;
    size_t rows = event->positions < prompt - event->position ? event->positions : prompt - event->position;
    memcpy(ret->logits + (size_t)event->position * m->vocab, event->logits, rows * m->vocab * sizeof(float));
}

tc_status tc_suite_generate(tc_suite *s, tc_local *local, const uint32_t *prompt, uint32_t count,
                            uint32_t max_tokens, tc_answer *ret, tc_error *e)
{
    tc_engine_event event = {0};
    uint64_t id = s->next_id++, begin_us = tc_now_us();
    const tc_generate request = {
        .id = id,
        .prompt = prompt,
        .prompt_count = count,
        .max_tokens = max_tokens,
        .sampling = {.top_p = 1, .repetition_penalty = 1},
        .ignore_eos = true,
        .optimize_experts = true,
        .want_experts = ret->uses != NULL,
        .want_logits = ret->logits != NULL,
        .no_cache = true,
    };
    ret->count = 0;
    ret->first_us = 0;
    TC_TRY(tc_engine_client_generate(local->client, &request, e));
    while (event.kind != TC_ENGINE_FINISHED) {
        TC_TRY(tc_local_next(local, id, &event, e));
        if (event.kind == TC_ENGINE_EVALUATED) take_evaluated(local, &event, count, ret);
        if (event.kind != TC_ENGINE_TOKEN) continue;
        if (!ret->count) ret->first_us = (double)(tc_now_us() - begin_us);
        if (ret->tokens && ret->count < ret->room) ret->tokens[ret->count] = event.token;
        ret->count++;
    }
    ret->usage = event.usage;
    return TC_OK;
}

tc_status tc_suite_endless(tc_suite *s, tc_local *local, const uint32_t *prompt, uint32_t count,
                           uint64_t seed, bool no_cache, uint64_t *ret_id, tc_error *e)
{
    const tc_generate request = {
        .id = *ret_id = s->next_id++,
        .prompt = prompt,
        .prompt_count = count,
        .max_tokens = local->info.context - count,
        .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seeded = true, .seed = seed},
        .ignore_eos = true,
        .optimize_experts = true,
        .no_cache = no_cache};
    return tc_engine_client_generate(local->client, &request, e);
}

uint64_t tc_suite_expert_bytes(const tc_suite *s)
{
    return s->b.footprint.experts_bytes;
}

void tc_suite_hot(const tc_suite *s, uint32_t percent, tc_run_options *o)
{
    bool gpu = s->on_gpu || (o->device && !strcmp(o->device, "cuda"));
    if (o->hot_budget || o->hot_experts_given) return;
    if (gpu) {
        o->hot_experts_given = true;
        o->hot_experts = (uint64_t)s->b.footprint.moe_layers * s->b.desc.experts * percent / 100;
    } else {
        uint64_t bytes = tc_suite_expert_bytes(s);
        o->hot_budget =
            percent == 100 ? bytes + bytes / 8 + (1 << 20) : bytes * percent / 100; // slots are rounded up
    }
}

uint32_t tc_suite_positions(const tc_suite *s, uint32_t most)
{
    return s->b.desc.max_positions < most ? s->b.desc.max_positions : most;
}

// ---- the suite's own files ----

static void work_folder(const tc_suite *s, char ret[TC_STORE_PATH_BYTES])
{
    snprintf(ret, TC_STORE_PATH_BYTES, "%s/work", s->output);
}

tc_status tc_suite_place(tc_suite *s, const char *name, char ret[TC_STORE_PATH_BYTES], tc_error *e)
{
    char folder[TC_STORE_PATH_BYTES];
    work_folder(s, folder);
    if (mkdir(folder, 0755) != 0 && errno != EEXIST) return tc_fail_errno(e, TC_IO, "%s", folder);
    if ((size_t)snprintf(ret, TC_STORE_PATH_BYTES, "%s/%s", folder, name) >= TC_STORE_PATH_BYTES)
        return tc_fail(e, TC_LIMIT, "%s: the path is too long", s->output);
    return TC_OK;
}

tc_status tc_suite_copy(tc_suite *s, const char *from, const char *name, char ret[TC_STORE_PATH_BYTES],
                        tc_error *e)
{
    char *bytes = NULL;
    size_t count;
    TC_TRY(tc_suite_place(s, name, ret, e));
    TC_TRY(tc_read_file(from, COPY_BYTES_MAX, &bytes, &count, e));
    FILE *file = fopen(ret, "we");
    bool good = file && fwrite(bytes, 1, count, file) == count;
    if (file) good = fclose(file) == 0 && good;
    free(bytes);
    return good ? TC_OK : tc_fail_errno(e, TC_IO, "%s", ret);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    (void)remove(path);
    return 0;
}

void tc_suite_clean(tc_suite *s)
{
    char folder[TC_STORE_PATH_BYTES];
    work_folder(s, folder);
    (void)nftw(folder, remove_one, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS);
}

// ---- arenas ----

typedef struct dropping {
    const char *hash;
    bool in_use;
} dropping;

static bool drop_one(void *arg, const tc_arena_entry *entry)
{
    dropping *d = arg;
    tc_error ignored;
    if (entry->state != TC_ARENA_WHOLE || strcmp(entry->content_hash, d->hash) != 0) return true;
    if (tc_arena_drop(entry, &ignored) != TC_OK) d->in_use = true;
    return true;
}

tc_status tc_suite_drop_hash(const tc_suite *s, const char *hash, bool *ret_in_use, tc_error *e)
{
    dropping d = {.hash = hash};
    const char *dir = s->b.o.arena_dir ? s->b.o.arena_dir : tc_arena_dir_of_environment();
    TC_TRY(tc_arena_list(dir, drop_one, &d, e));
    *ret_in_use = d.in_use;
    return TC_OK;
}

tc_status tc_suite_store_hash(const char *path, char ret[33], tc_error *e)
{
    tc_store *store;
    TC_TRY(tc_store_open(path, &store, e));
    memcpy(ret, tc_store_get_info(store)->content_hash, 33);
    tc_store_free(store);
    return TC_OK;
}

void tc_suite_drop_arenas(const tc_suite *s, const char *store)
{
    char hash[33];
    bool ignored;
    tc_error e;
    if (*store && tc_suite_store_hash(store, hash, &e) == TC_OK)
        (void)tc_suite_drop_hash(s, hash, &ignored, &e);
}
