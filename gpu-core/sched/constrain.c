// SPDX-License-Identifier: Apache-2.0
// Owns: the helper thread, its queue, and the compiled constraints that requests share.
#include "gpu-core/sched/constrain.h"
#include "common/base/clock.h"
#include "common/model/source.h"
#include "common/text/grammar_mask.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { END_TOKENS_MAX = 256 };

// One constraint. Fields behind `compiled` are the helper's until that is set.
typedef struct entry {
    struct entry *next;
    tc_constraint text; // owned
    uint32_t users;     // requests
    uint64_t last_used;
    tc_grammar *grammar;
    tc_acceptor *acceptor;
    tc_status status;
    tc_error error;
    bool compiled;
    size_t bytes; // of its tables, as the helper saw them last; the mutex guards it
} entry;

struct tc_constrained {
    tc_constrainer *owner;
    entry *entry;
    tc_constrained *next; // in the queue
    bool queued, begun;   // begun: the first mask is there, or a failure
    bool waiting_for;     // the constraint begins after a token that has not come yet
    uint32_t after;
    uint32_t end_tokens[END_TOKENS_MAX], end_count;
    tc_matcher matcher;
    uint32_t *mask; // [words]
    tc_status status;
    tc_error error;
};

struct tc_constrainer {
    char *model;
    uint32_t vocab, words;
    tc_vocabulary *vocabulary;
    tc_status vocabulary_status;
    tc_error vocabulary_error;
    pthread_t thread;
    pthread_mutex_t mutex; // the queue, entries' users, requests' states, stats
    pthread_cond_t work, done;
    tc_constrained *first, *last;
    entry *entries;
    uint32_t entry_count;
    uint64_t uses, bytes_max;
    bool stopping, started;
    tc_constrainer_stats stats;
};

// ---- the helper ----

static tc_status read_tokenizer(const char *model, tc_tokenizer **ret, tc_error *e)
{
    char what[TC_MODEL_PATH_BYTES], *text;
    size_t bytes;
    TC_TRY(tc_model_text(model, TC_FILE_TOKENIZER, TC_TOKENIZER_FILE_BYTES_MAX, &text, &bytes, what, e));
    tc_status status = tc_tokenizer_parse(text, bytes, what, ret, e);
    free(text);
    return status;
}

static void load_vocabulary(tc_constrainer *c)
{
    tc_tokenizer *tokenizer = NULL;
    c->vocabulary_status = read_tokenizer(c->model, &tokenizer, &c->vocabulary_error);
    if (c->vocabulary_status == TC_OK)
        c->vocabulary_status = tc_vocabulary_of(tokenizer, c->vocab, &c->vocabulary, &c->vocabulary_error);
    tc_tokenizer_free(tokenizer);
}

static void compile(tc_constrainer *c, entry *n)
{
    uint64_t start = tc_now_us();
    if (c->vocabulary_status != TC_OK)
        n->status = tc_fail(&n->error, TC_UNSUPPORTED, "constraints need the model's tokenizer: %s",
                            c->vocabulary_error.text);
    if (n->status == TC_OK) n->status = tc_grammar_compile(&n->text, &n->grammar, &n->error);
    if (n->status == TC_OK)
        n->status = tc_acceptor_create(n->grammar, c->vocabulary, &n->acceptor, &n->error);
    pthread_mutex_lock(&c->mutex);
    n->compiled = true;
    c->stats.compiled++;
    c->stats.compile_us += tc_now_us() - start;
    pthread_mutex_unlock(&c->mutex);
}

static void allow_end(tc_constrained *r)
{
    for (uint32_t i = 0; i < r->end_count; i++)
        if (r->end_tokens[i] < r->owner->vocab)
            r->mask[r->end_tokens[i] >> 5] |= 1u << (r->end_tokens[i] & 31);
}

static bool is_empty(const uint32_t *mask, uint32_t words)
{
    uint32_t any = 0;
    for (uint32_t i = 0; i < words; i++) any |= mask[i];
    return any == 0;
}

static tc_status make_mask(tc_constrainer *c, tc_constrained *r)
{
    bool may_end = false;
    if (!r->entry->compiled) compile(c, r->entry);
    if (r->entry->status != TC_OK) {
        r->error = r->entry->error;
        return r->entry->status;
    }
    if (!r->matcher.acceptor) TC_TRY(tc_matcher_begin(&r->matcher, r->entry->acceptor, &r->error));
    TC_TRY(tc_matcher_mask(&r->matcher, r->mask, &may_end, &r->error));
    if (may_end) allow_end(r);
    if (is_empty(r->mask, c->words))
        return tc_fail(&r->error, TC_UNSUPPORTED,
                       "no token of this vocabulary can continue the constrained text");
    return TC_OK;
}

static void *help(void *arg)
{
    tc_constrainer *c = arg;
    load_vocabulary(c);
    pthread_mutex_lock(&c->mutex);
    for (;;) {
        while (!c->first && !c->stopping) pthread_cond_wait(&c->work, &c->mutex);
        if (c->stopping) break;
        tc_constrained *r = c->first;
        c->first = r->next;
        if (!c->first) c->last = NULL;
        pthread_mutex_unlock(&c->mutex);
        bool first = !r->begun;
        uint64_t start = tc_now_us();
        tc_status status = make_mask(c, r);
        uint64_t took = tc_now_us() - start;
        size_t bytes = r->entry->acceptor ? tc_acceptor_bytes(r->entry->acceptor) : 0;
        pthread_mutex_lock(&c->mutex);
        c->stats.bytes += bytes - r->entry->bytes;
        r->entry->bytes = bytes;
        r->status = status;
        r->queued = false;
        r->begun = true;
        if (!first) {
            c->stats.masks++;
            c->stats.mask_us += took;
            if (took > c->stats.mask_us_most) c->stats.mask_us_most = took;
        }
        pthread_cond_broadcast(&c->done);
    }
    pthread_mutex_unlock(&c->mutex);
    return NULL;
}

// The mutex is held.
static void enqueue(tc_constrainer *c, tc_constrained *r)
{
    r->next = NULL;
    r->queued = true;
    if (c->last)
        c->last->next = r;
    else
        c->first = r;
    c->last = r;
    pthread_cond_signal(&c->work);
}

// ---- entries ----

static void free_entry(entry *n)
{
    tc_acceptor_free(n->acceptor);
    tc_grammar_free(n->grammar);
    free((char *)n->text.text);
    free(n);
}

// Those not in use, the longest unused first, until no more than so many are kept and all of them have room.
static void forget_entries(tc_constrainer *c, uint32_t kept)
{
    for (;;) {
        entry **oldest = NULL;
        uint32_t unused = 0;
        for (entry **at = &c->entries; *at; at = &(*at)->next) {
            if ((*at)->users) continue;
            unused++;
            if (!oldest || (*at)->last_used < (*oldest)->last_used) oldest = at;
        }
        if (unused == 0 || (unused <= kept && c->stats.bytes <= c->bytes_max)) return;
        entry *gone = *oldest;
        *oldest = gone->next;
        c->entry_count--;
        c->stats.bytes -= gone->bytes;
        free_entry(gone);
    }
}

static tc_status entry_of(tc_constrainer *c, const tc_constraint *text, entry **ret, tc_error *e)
{
    uint32_t in_use = 0;
    for (entry *n = c->entries; n; n = n->next) {
        in_use += n->users > 0;
        if (n->text.kind == text->kind && n->text.bytes == text->bytes &&
            memcmp(n->text.text, text->text, text->bytes) == 0)
            return *ret = n, TC_OK;
    }
    if (in_use >= TC_CONSTRAINTS_MAX)
        return tc_fail(e, TC_BUSY, "%u different constraints are in use, at most %d may be", in_use,
                       TC_CONSTRAINTS_MAX);
    forget_entries(c, TC_CONSTRAINTS_KEPT_MAX);
    if (c->stats.bytes > c->bytes_max)
        return tc_fail(e, TC_BUSY, "the constraints in use fill %llu MiB, at most %llu may be",
                       (unsigned long long)(c->stats.bytes >> 20), (unsigned long long)(c->bytes_max >> 20));
    entry *n = calloc(1, sizeof *n);
    char *copy = malloc(text->bytes + 1);
    if (!n || !copy) {
        free(n);
        free(copy);
        return tc_fail(e, TC_NOMEM, "out of memory for a constraint");
    }
    if (text->bytes) memcpy(copy, text->text, text->bytes);
    n->text = (tc_constraint){text->kind, copy, text->bytes};
    n->next = c->entries;
    c->entries = n;
    c->entry_count++;
    return *ret = n, TC_OK;
}

// ---- the inference thread ----

tc_status tc_constrainer_create(const char *model, uint32_t vocab, tc_constrainer **ret, tc_error *e)
{
    tc_constrainer *c = calloc(1, sizeof *c);
    if (!c) return tc_fail(e, TC_NOMEM, "out of memory for constraints");
    c->vocab = vocab;
    c->words = (vocab + 31) / 32;
    c->bytes_max = TC_CONSTRAINTS_BYTES_MAX;
    c->model = strdup(model);
    pthread_mutex_init(&c->mutex, NULL);
    pthread_cond_init(&c->work, NULL);
    pthread_cond_init(&c->done, NULL);
    c->started = c->model && pthread_create(&c->thread, NULL, help, c) == 0;
    if (!c->started) {
        tc_constrainer_free(c);
        return tc_fail(e, TC_NOMEM, "cannot start the thread of constraints");
    }
    *ret = c;
    return TC_OK;
}

void tc_constrainer_free(tc_constrainer *c)
{
    if (!c) return;
    pthread_mutex_lock(&c->mutex);
    c->stopping = true;
    pthread_cond_signal(&c->work);
    pthread_mutex_unlock(&c->mutex);
    if (c->started) pthread_join(c->thread, NULL);
    forget_entries(c, 0);
    tc_vocabulary_free(c->vocabulary);
    pthread_mutex_destroy(&c->mutex);
    pthread_cond_destroy(&c->work);
    pthread_cond_destroy(&c->done);
    free(c->model);
    free(c);
}

void tc_constrainer_set_bytes_max(tc_constrainer *c, uint64_t bytes)
{
    pthread_mutex_lock(&c->mutex);
    c->bytes_max = bytes;
    pthread_mutex_unlock(&c->mutex);
}

tc_status tc_constrained_begin(tc_constrainer *c, const tc_constraint *constraint, uint32_t after,
                               const uint32_t *end_tokens, uint32_t end_count, tc_constrained **ret,
                               tc_error *e)
{
    tc_constrained *r = calloc(1, sizeof *r);
    uint32_t *mask = calloc(c->words, sizeof *mask);
    if (!r || !mask || end_count > END_TOKENS_MAX) {
        free(r);
        free(mask);
        return tc_fail(e, TC_NOMEM, "out of memory for a constraint");
    }
    r->owner = c;
    r->mask = mask;
    r->after = after;
    r->waiting_for = after != 0;
    r->end_count = end_count;
    if (end_count) memcpy(r->end_tokens, end_tokens, end_count * sizeof *end_tokens);
    pthread_mutex_lock(&c->mutex);
    tc_status status = entry_of(c, constraint, &r->entry, e);
    if (status == TC_OK) {
        r->entry->users++;
        r->entry->last_used = ++c->uses;
        enqueue(c, r);
    }
    pthread_mutex_unlock(&c->mutex);
    if (status == TC_OK) {
        *ret = r;
    } else {
        free(mask);
        free(r);
    }
    return status;
}

// The mutex is held. Waits until the helper has left the request.
static void wait_for_helper(tc_constrained *r)
{
    tc_constrainer *c = r->owner;
    while (r->queued) pthread_cond_wait(&c->done, &c->mutex);
}

// The mutex is held. Takes the request out of the queue, if the helper has not taken it yet.
static void dequeue(tc_constrained *r)
{
    tc_constrainer *c = r->owner;
    tc_constrained *before = NULL;
    for (tc_constrained *at = c->first; at; before = at, at = at->next) {
        if (at != r) continue;
        if (before)
            before->next = r->next;
        else
            c->first = r->next;
        if (c->last == r) c->last = before;
        r->queued = false;
        return;
    }
}

void tc_constrained_end(tc_constrained *r)
{
    if (!r) return;
    tc_constrainer *c = r->owner;
    pthread_mutex_lock(&c->mutex);
    if (r->queued) dequeue(r);
    wait_for_helper(r);
    pthread_mutex_unlock(&c->mutex);
    tc_matcher_end(&r->matcher);
    pthread_mutex_lock(&c->mutex);
    r->entry->users--;
    forget_entries(c, TC_CONSTRAINTS_KEPT_MAX);
    pthread_mutex_unlock(&c->mutex);
    free(r->mask);
    free(r);
}

tc_status tc_constrained_ready(tc_constrained *r, tc_error *e)
{
    pthread_mutex_lock(&r->owner->mutex);
    tc_status status = r->begun ? r->status : TC_BUSY;
    if (r->begun && status != TC_OK && e) *e = r->error;
    pthread_mutex_unlock(&r->owner->mutex);
    return status;
}

tc_status tc_constrained_mask(tc_constrained *r, const uint32_t **ret, tc_error *e)
{
    tc_constrainer *c = r->owner;
    pthread_mutex_lock(&c->mutex);
    if (r->queued) {
        uint64_t start = tc_now_us();
        wait_for_helper(r);
        c->stats.waits++;
        c->stats.wait_us += tc_now_us() - start;
    }
    tc_status status = r->status;
    if (status != TC_OK && e) *e = r->error;
    pthread_mutex_unlock(&c->mutex);
    *ret = r->waiting_for ? NULL : r->mask;
    return status;
}

tc_status tc_constrained_take(tc_constrained *r, uint32_t token, bool *ret_complete, tc_error *e)
{
    tc_constrainer *c = r->owner;
    *ret_complete = false;
    if (r->waiting_for) { // the first mask is there already
        r->waiting_for = token + 1 != r->after;
        return TC_OK;
    }
    TC_TRY(tc_matcher_take(&r->matcher, token, ret_complete, e));
    if (*ret_complete) return TC_OK;
    pthread_mutex_lock(&c->mutex);
    enqueue(c, r);
    pthread_mutex_unlock(&c->mutex);
    return TC_OK;
}

tc_constrainer_stats tc_constrainer_get_stats(tc_constrainer *c)
{
    pthread_mutex_lock(&c->mutex);
    tc_constrainer_stats stats = c->stats;
    pthread_mutex_unlock(&c->mutex);
    return stats;
}
