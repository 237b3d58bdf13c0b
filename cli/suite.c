// SPDX-License-Identifier: Apache-2.0
// Owns: `bench MODEL --suite`: the table of parts, which of them have to run, the order, the bar, what is
// missing at the end. Refuses: to measure (suite_*.c), to draw (report.c).
#include "cli/suite.h"
#include "cli/cli.h"
#include "cli/report.h"
#include "commit.h" // made by the build
#include "common/base/clock.h"
#include "common/base/json.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HELDOUT_BYTES_MAX = 16 << 20 };

const tc_suite_part tc_suite_parts[] = {
    {"throughput.decode", "throughput",
     "One user decodes greedily behind prompts of growing length; windows of whole steps, on the core's "
     "clock. The "
     "roofline is the read bandwidth of the same run over the bytes that a token must read (weights, its "
     "experts, "
     "keys and values, state).",
     14, tc_suite_decode},
    {"throughput.carriers", "throughput",
     "One user, with the experts in the core, in workers over shared memory, and in workers over messages, "
     "in turns.",
     6, tc_suite_carriers},
    {"throughput.prompt", "throughput",
     "Prompts of random tokens, each new, from sending to the first token. The roofline is two operations a "
     "weight "
     "and token of the linears over the multipliers' peak, measured in the same run.",
     10, tc_suite_prompt},
    {"throughput.users", "throughput",
     "Streams with prompts of their own decode together, all of them in every step of a window. The roofline "
     "counts "
     "the bytes of a step once for all: dense weights, each distinct expert, each stream's state.",
     20, tc_suite_users},
    {"placement.strategies", "placement",
     "The same prompts, answered greedily one after another, under each policy and budget of hot experts; "
     "first once "
     "unmeasured, so that the policy has learned.",
     45, tc_suite_strategies},
    {"memory.timeline", "memory",
     "Memory by purpose, as core and kernel tell it, ten times a second: idle, one user, all users, idle "
     "again. "
     "Planned is what was budgeted before anything was taken.",
     8, tc_suite_memory},
    {"swap.latency", "swap",
     "Single experts are ordered into the hot tier and timed from the order until they can be used; the "
     "core's own "
     "histogram.",
     8, tc_suite_swap},
    {"inputs.types", "inputs",
     "Texts of one kind are prompts; greedy answers. Speed on the core's clock, hits in a hot tier that "
     "begins empty "
     "with each kind, and which experts were chosen.",
     14, tc_suite_inputs},
    {"load.ready", "load",
     "From nothing running until the first token can be asked for: with nothing packed, with the packed "
     "store on "
     "disk (dropped from the page cache), and with the experts in shared memory, as after a restart.",
     10, tc_suite_load},
    {"latency.open-loop", "latency",
     "Streamed requests to the HTTP server at random moments (Poisson) that do not wait for answers, at "
     "shares of "
     "the capacity measured just before with as many users as sessions.",
     45, tc_suite_latency},
    {"quality.perplexity", "quality",
     "Windows of held-out text, every next token's probability, against the same model in exact arithmetic.",
     35, tc_suite_perplexity},
    {"quality.agreement", "quality",
     "Greedy answers of the stored reference models, which transformers made in float32, up to the first "
     "token that "
     "differs.",
     20, tc_suite_agreement},
    {"quality.determinism", "quality",
     "The same prompts with experts in the core, in one to four workers, over both carriers, and under each "
     "policy: "
     "equal to the bit, tokens and logits, or not.",
     20, tc_suite_determinism},
};
const uint32_t tc_suite_part_count = sizeof tc_suite_parts / sizeof *tc_suite_parts;
_Static_assert(sizeof tc_suite_parts / sizeof *tc_suite_parts <= TC_SUITE_PARTS_MAX, "the table of parts");

// ---- while a part runs ----

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

tc_status tc_suite_skip(tc_suite *s, tc_error *e, const char *format, ...)
{
    char text[TC_ERROR_TEXT_BYTES];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    s->skipped = true;
    return tc_fail(e, TC_UNSUPPORTED, "%s", text);
}

void tc_suite_note(tc_suite *s, const char *format, ...)
{
    size_t used = strlen(s->note);
    va_list ap;
    va_start(ap, format);
    vsnprintf(s->note + used, sizeof s->note - used, format, ap);
    va_end(ap);
}

tc_status tc_suite_step(tc_suite *s, double done, double total, tc_error *e)
{
    double part = total > 0 && done < total ? done / total : 1;
    double whole = s->weight_total > 0 ? (s->weight_done + part * s->part->weight) / s->weight_total : 1;
    tc_progress_show(&s->bar, whole, s->part->id);
    return interrupted ? tc_fail(e, TC_CANCELLED, "interrupted") : TC_OK;
}

static tc_status run_part(tc_suite *s, const tc_suite_part *part, uint32_t number, uint32_t of,
                          bool *ret_failed, tc_error *e)
{
    tc_error reason = {0};
    uint64_t begin_us = tc_now_us();
    TC_TRY(tc_suite_file_begin(s, part, e));
    tc_status status = tc_suite_step(s, 0, 1, &reason);
    if (status == TC_OK) status = part->run(s, &reason);
    if (status == TC_CANCELLED) {
        tc_suite_file_drop(s);
        if (e) *e = reason;
        return status;
    }
    s->skipped |= status == TC_BUDGET; // this machine has not the room for it
    const char *state = status == TC_OK ? "done" : s->skipped ? "skipped" : "failed";
    double seconds = (double)(tc_now_us() - begin_us) * 1e-6;
    tc_progress_clear(&s->bar);
    fprintf(stderr, "thermocline: %u of %u: %s: %s in %.1f s%s%s\n", number, of, part->id, state, seconds,
            status == TC_OK ? "" : ": ", status == TC_OK ? "" : reason.text);
    *ret_failed = status != TC_OK && !s->skipped;
    return tc_suite_file_end(s, state, status == TC_OK ? "" : reason.text, seconds, e);
}

static tc_status run_parts(tc_suite *s, uint32_t *ret_failed, tc_error *e)
{
    uint32_t number = 0, of = 0;
    for (uint32_t i = 0; i < tc_suite_part_count; i++) {
        if (!s->wanted[i]) continue;
        of++;
        s->weight_total += s->done[i] ? 0 : tc_suite_parts[i].weight;
    }
    for (uint32_t i = 0; i < tc_suite_part_count; i++) {
        if (!s->wanted[i]) continue;
        number++;
        if (s->done[i]) {
            fprintf(stderr, "thermocline: %u of %u: %s: done before\n", number, of, tc_suite_parts[i].id);
            continue;
        }
        if (!s->b.machine.read_gb_per_s.count) TC_TRY(tc_machine_measure_read(&s->b.machine, e));
        TC_TRY(run_part(s, &tc_suite_parts[i], number, of, &s->failed[i], e));
        s->ended[i] = true;
        s->weight_done += tc_suite_parts[i].weight;
        *ret_failed += s->failed[i];
    }
    return TC_OK;
}

// One line: what is missing, or what failed.
static void tell_parts(const tc_suite *s, const char *what, bool failed, const char *advice)
{
    bool any = false;
    for (uint32_t i = 0; i < tc_suite_part_count; i++) {
        bool told = failed ? s->failed[i] : s->meant[i] && !s->done[i] && !s->ended[i];
        if (!told) continue;
        fprintf(stderr, "%s%s %s", any ? "," : "thermocline: ", any ? "" : what, tc_suite_parts[i].id);
        any = true;
    }
    if (any) fprintf(stderr, "; %s\n", advice);
}

static void tell_end(const tc_suite *s)
{
    tell_parts(s, "failed:", true, "the same command again tries them again");
    tell_parts(s, "missing:", false, "the same command again goes on from here");
}

// ---- before the first part ----

// The commit as the build knew it, without its mark of changes.
static void read_commit(tc_suite *s)
{
    snprintf(s->commit, sizeof s->commit, "%s", TC_COMMIT);
    char *mark = strstr(s->commit, "-dirty");
    s->dirty = mark != NULL;
    if (mark) *mark = 0;
}

static tc_status choose_parts(tc_suite *s, tc_error *e)
{
    if (!s->parts) {
        for (uint32_t i = 0; i < tc_suite_part_count; i++) s->wanted[i] = true;
        return TC_OK;
    }
    for (const char *p = s->parts; *p;) {
        size_t n = strcspn(p, ",");
        bool found = false;
        for (uint32_t i = 0; i < tc_suite_part_count; i++) {
            const tc_suite_part *part = &tc_suite_parts[i];
            bool named = (!strncmp(part->id, p, n) && !part->id[n]) ||
                         (!strncmp(part->section, p, n) && !part->section[n]);
            s->wanted[i] |= named;
            found |= named;
        }
        if (!found)
            return tc_fail(e, TC_ARGUMENT, "--parts: %.*s is no part and no section", (int)(n < 60 ? n : 60),
                           p);
        p += n + (p[n] == ',');
    }
    return TC_OK;
}

// Linears and the embedding; norms and other vectors are left out.
static uint64_t count_parameters(const tc_bench *b)
{
    const tc_footprint *f = &b->footprint;
    uint64_t routed = (uint64_t)f->moe_layers * b->desc.top_k * f->expert_multiply_adds;
    uint64_t all = (uint64_t)f->moe_layers * b->desc.experts * f->expert_multiply_adds;
    uint64_t embedding = b->desc.tied_embeddings ? 0 : (uint64_t)b->desc.vocab * b->desc.hidden;
    return f->token_multiply_adds - routed + all + f->head_multiply_adds + embedding;
}

static tc_status read_model(tc_suite *s, tc_error *e)
{
    tc_checkpoint *checkpoint = NULL;
    tc_bench *b = &s->b;
    TC_TRY(tc_checkpoint_open(b->model, &checkpoint, e));
    b->desc = *tc_checkpoint_desc(checkpoint);
    tc_status status = tc_footprint_of(checkpoint, tc_quantise_named(b->o.quantise), &b->footprint, e);
    if (status == TC_OK) tc_footprint_head(&b->footprint, &b->desc, b->o.head);
    snprintf(s->model_hash, sizeof s->model_hash, "%s", tc_checkpoint_hash(checkpoint));
    snprintf(s->family, sizeof s->family, "%s", b->desc.family);
    tc_checkpoint_free(checkpoint);
    if (status != TC_OK) return status;
    s->parameters = count_parameters(b);
    return tc_run_tokenizer(b->model, &s->tokenizer, e);
}

// --text, or heldout.txt in the model's folder or the one above.
static tc_status read_heldout(tc_suite *s, tc_error *e)
{
    static const char *const places[] = {"heldout.txt", "../heldout.txt"};
    char path[TC_STORE_PATH_BYTES];
    size_t bytes;
    if (s->text) return tc_read_file(s->text, HELDOUT_BYTES_MAX, &s->heldout, &bytes, e);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(path, sizeof path, "%s/%s", s->b.model, places[i]);
        if (tc_read_file(path, HELDOUT_BYTES_MAX, &s->heldout, &bytes, e) == TC_OK) return TC_OK;
    }
    snprintf(s->heldout_reason, sizeof s->heldout_reason,
             "no held-out text of this model: name one with --text");
    return TC_OK;
}

static tc_status make_output(const tc_suite *s, tc_error *e)
{
    if (mkdir(s->output, 0755) == 0 || errno == EEXIST) return TC_OK;
    return tc_fail_errno(e, TC_IO, "%s", s->output);
}

static tc_status prepare(tc_suite *s, tc_error *e)
{
    TC_TRY(choose_parts(s, e));
    read_commit(s);
    TC_TRY(read_model(s, e));
    TC_TRY(read_heldout(s, e));
    TC_TRY(tc_machine_open(s->b.o.threads, &s->b.machine, e));
    tc_host_read(&s->b.machine, &s->host);
    TC_TRY(make_output(s, e));
    return tc_suite_file_open(s, e);
}

static tc_status run_suite(tc_suite *s, uint32_t *ret_failed, tc_error *e)
{
    tc_status status = prepare(s, e);
    tc_progress_name(&s->bar, "bench");
    if (status == TC_OK) status = run_parts(s, ret_failed, e);
    tc_progress_clear(&s->bar);
    if (s->file) {
        tell_end(s);
        tc_suite_clean(s);
    }
    bool written = s->file != NULL;
    tc_status closed = tc_suite_file_close(s, status == TC_OK ? e : NULL);
    // Of what there is, even after an interruption: it says what is missing.
    if (written && closed == TC_OK) closed = tc_report_write(s->output, status == TC_OK ? e : NULL);
    if (s->b.machine.team) tc_machine_close(&s->b.machine);
    tc_tokenizer_free(s->tokenizer);
    free(s->heldout);
    return status == TC_OK ? closed : status;
}

int tc_suite_main(tc_suite *s)
{
    tc_error e;
    uint32_t failed = 0;
    const struct sigaction stop = {.sa_handler = on_signal};
    struct sigaction old_int, old_term;
    s->full = !strcmp(s->suite, "full");
    s->repetitions = s->b.repetitions ? s->b.repetitions : s->full ? 5 : 3;
    s->next_id = 1;
    sigaction(SIGINT, &stop, &old_int);
    sigaction(SIGTERM, &stop, &old_term);
    tc_status status = run_suite(s, &failed, &e);
    sigaction(SIGINT, &old_int, NULL);
    sigaction(SIGTERM, &old_term, NULL);
    if (status != TC_OK) return tc_cli_fail(&e);
    printf("%s/report.html\n", s->output);
    return failed ? TC_EXIT_FAILURE : 0;
}
