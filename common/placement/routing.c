// SPDX-License-Identifier: Apache-2.0
// Owns: the bytes of a routing trace, and the collection of its steps.
#include "common/placement/routing.h"
#include "common/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct file_header {
    char magic[8];
    uint32_t version, layers, experts, top_k;
    uint64_t expert_bytes;
    char model_hash[32];
    uint8_t moe[TC_CACHE_LAYERS_MAX / 8];
} file_header;
_Static_assert(sizeof(file_header) == 96, "header of a routing trace");

typedef struct frame_header {
    uint32_t session;
    uint16_t tokens;
    uint8_t flags, zero;
} frame_header;
_Static_assert(sizeof(frame_header) == 8, "header of a frame");

static const char MAGIC[8] = {'t', 'c', 'r', 'o', 'u', 't', 'e', 's'};
enum { BUFFER_BYTES = 1 << 20 };

static uint32_t bits_of(uint32_t experts)
{
    return experts > 1 ? 32 - (uint32_t)__builtin_clz(experts - 1) : 1;
}

static uint32_t moe_layers(const tc_routing_info *info)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < info->layers; i++) n += tc_routing_has_experts(info, i);
    return n;
}

static size_t frame_bytes(const tc_routing_info *info, uint32_t tokens)
{
    return ((size_t)tokens * moe_layers(info) * info->top_k * bits_of(info->experts) + 7) / 8;
}

static tc_status check_info(const tc_routing_info *info, const char *what, tc_error *e)
{
    if (info->layers < 1 || info->layers > TC_CACHE_LAYERS_MAX || info->experts < 1 || info->experts > 4096 ||
        info->top_k < 1 || info->top_k > TC_ROUTING_TOP_K_MAX || info->top_k > info->experts ||
        moe_layers(info) < 1)
        return tc_fail(e, TC_FORMAT, "%s: %u layers, %u with experts, top %u of %u experts", what,
                       info->layers, info->layers <= TC_CACHE_LAYERS_MAX ? moe_layers(info) : 0, info->top_k,
                       info->experts);
    return TC_OK;
}

// ---- writer ----

struct tc_routing_writer {
    tc_routing_info info;
    int fd, error; // errno of the first failed write
    size_t held;
    uint8_t buffer[BUFFER_BYTES];
    char path[1024];
};

static void flush(tc_routing_writer *w)
{
    for (size_t done = 0; done < w->held && !w->error;) {
        ssize_t n = write(w->fd, w->buffer + done, w->held - done);
        if (n < 0 && errno != EINTR) w->error = errno;
        if (n > 0) done += (size_t)n;
    }
    w->held = 0;
}

static void put(tc_routing_writer *w, const void *bytes, size_t count)
{
    const uint8_t *from = bytes;
    while (count) {
        size_t room = BUFFER_BYTES - w->held, n = count < room ? count : room;
        memcpy(w->buffer + w->held, from, n);
        w->held += n;
        from += n;
        count -= n;
        if (w->held == BUFFER_BYTES) flush(w);
    }
}

tc_status tc_routing_create(const char *path, const tc_routing_info *info, tc_routing_writer **ret,
                            tc_error *e)
{
    TC_TRY(check_info(info, path, e));
    tc_routing_writer *w = tc_alloc(TC_MEM_OTHER, 1, sizeof *w);
    if (!w) return tc_fail(e, TC_NOMEM, "out of memory for a routing trace");
    w->info = *info;
    w->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (w->fd < 0) {
        tc_free(w);
        return tc_fail_errno(e, TC_IO, "%s", path);
    }
    strncpy(w->path, path, sizeof w->path - 1);
    file_header header = {.version = info->expects ? TC_ROUTING_VERSION : 1,
                          .layers = info->layers,
                          .experts = info->experts,
                          .top_k = info->top_k,
                          .expert_bytes = info->expert_bytes};
    memcpy(header.magic, MAGIC, sizeof MAGIC);
    memcpy(header.model_hash, info->model_hash, sizeof header.model_hash);
    memcpy(header.moe, info->moe, sizeof header.moe);
    put(w, &header, sizeof header);
    *ret = w;
    return TC_OK;
}

static void put_experts(tc_routing_writer *w, uint32_t tokens, const int32_t *experts)
{
    const tc_routing_info *info = &w->info;
    uint32_t bits = bits_of(info->experts), held = 0;
    uint64_t word = 0;
    for (uint32_t i = 0; i < tokens * info->layers; i++) {
        if (!tc_routing_has_experts(info, i % info->layers)) continue;
        for (uint32_t k = 0; k < info->top_k; k++) {
            word |= (uint64_t)(uint32_t)experts[(size_t)i * info->top_k + k] << held;
            for (held += bits; held >= 8; held -= 8, word >>= 8) put(w, &word, 1);
        }
    }
    if (held) put(w, &word, 1);
}

void tc_routing_segment(tc_routing_writer *w, uint32_t session, uint32_t flags, uint32_t tokens,
                        const int32_t *chosen, const int32_t *expected)
{
    if (w->error || tokens < 1 || tokens > TC_ROUTING_TOKENS_MAX) return;
    if (!w->info.expects) expected = NULL;
    if (expected) flags |= TC_ROUTING_EXPECTED;
    frame_header header = {session, (uint16_t)tokens, (uint8_t)flags, 0};
    put(w, &header, sizeof header);
    put_experts(w, tokens, chosen);
    if (expected) put_experts(w, tokens, expected);
}

tc_status tc_routing_close(tc_routing_writer *w, tc_error *e)
{
    if (!w) return TC_OK;
    tc_status status = TC_OK;
    flush(w);
    if (close(w->fd) < 0 && !w->error) w->error = errno;
    if (w->error)
        status = tc_fail(e, TC_IO, "%s: %s: the routing trace is not whole", w->path, strerror(w->error));
    tc_free(w);
    return status;
}

// ---- in memory ----

tc_status tc_routes_begin(const tc_routing_info *info, tc_routes *ret, tc_error *e)
{
    TC_TRY(check_info(info, "routing trace", e));
    *ret = (tc_routes){.info = *info};
    ret->counts = tc_alloc(TC_MEM_OTHER, (size_t)info->layers * info->experts, sizeof *ret->counts);
    return ret->counts ? TC_OK : tc_fail(e, TC_NOMEM, "out of memory for a routing trace");
}

void tc_routes_free(tc_routes *r)
{
    free(r->steps);
    free(r->uses);
    free(r->expected);
    tc_free(r->counts);
    *r = (tc_routes){0};
}

static bool grow(void **list, uint64_t *room, uint64_t needed, size_t size)
{
    if (needed <= *room) return true;
    uint64_t more = *room * 2 > needed ? *room * 2 : needed + 1024;
    void *moved = realloc(*list, more * size);
    if (!moved) return false;
    *list = moved;
    *room = more;
    return true;
}

// Adds the segment's experts to those of its step, `list`, once each, by layer. Returns how many there are.
static uint32_t count_uses(tc_routes *r, tc_expert_use *list, uint32_t count, uint32_t tokens,
                           const int32_t *experts)
{
    const tc_routing_info *info = &r->info;
    uint32_t n = 0;
    for (uint32_t i = 0; i < count; i++)
        r->counts[list[i].layer * info->experts + list[i].expert] = list[i].count;
    for (uint32_t i = 0; i < tokens * info->layers; i++) {
        uint32_t layer = i % info->layers;
        if (!tc_routing_has_experts(info, layer)) continue;
        for (uint32_t k = 0; k < info->top_k; k++)
            r->counts[layer * info->experts + (uint32_t)experts[(size_t)i * info->top_k + k]]++;
    }
    for (uint32_t i = 0; i < info->layers * info->experts; i++) {
        if (!r->counts[i]) continue;
        list[n++] =
            (tc_expert_use){(uint16_t)(i / info->experts), (uint16_t)(i % info->experts), r->counts[i]};
        r->counts[i] = 0;
    }
    return n;
}

// Of each layer, what most tokens expect comes first.
static void sort_expected(tc_expert_use *list, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++) {
        tc_expert_use moved = list[i];
        uint32_t at = i;
        for (; at && list[at - 1].layer == moved.layer && list[at - 1].count < moved.count; at--)
            list[at] = list[at - 1];
        list[at] = moved;
    }
}

tc_status tc_routes_add(tc_routes *r, uint32_t session, uint32_t flags, uint32_t tokens,
                        const int32_t *chosen, const int32_t *expected, tc_error *e)
{
    const tc_routing_info *info = &r->info;
    uint64_t most = (uint64_t)info->layers * info->experts;
    bool begins = flags & TC_ROUTING_STEP || !r->step_count;
    if (!grow((void **)&r->steps, &r->step_room, r->step_count + 1, sizeof *r->steps) ||
        !grow((void **)&r->uses, &r->use_room, r->use_count + most, sizeof *r->uses) ||
        (expected &&
         !grow((void **)&r->expected, &r->expected_room, r->expected_count + most, sizeof *r->expected)))
        return tc_fail(e, TC_NOMEM, "out of memory for a routing trace of %llu steps",
                       (unsigned long long)r->step_count);
    if (begins)
        r->steps[r->step_count++] =
            (tc_route_step){.first = r->use_count, .expected_first = r->expected_count, .session = session};
    tc_route_step *step = &r->steps[r->step_count - 1];
    step->count = count_uses(r, r->uses + step->first, step->count, tokens, chosen);
    r->use_count = step->first + step->count;
    if (expected) {
        tc_expert_use *list = r->expected + step->expected_first;
        step->expected_count = count_uses(r, list, step->expected_count, tokens, expected);
        sort_expected(list, step->expected_count);
        r->expected_count = step->expected_first + step->expected_count;
    }
    // Time passes by the longest segment: answers beside each other are one token of it.
    if (tokens > step->tokens) step->tokens = tokens;
    step->prompt |= flags & TC_ROUTING_PROMPT;
    r->token_count += tokens;
    return TC_OK;
}

// ---- reader ----

typedef struct reader {
    const char *path;
    int fd;
    uint64_t at, bytes;
    tc_error *e;
} reader;

static tc_status take(reader *in, void *to, size_t count)
{
    if (count > in->bytes - in->at)
        return tc_fail(in->e, TC_FORMAT, "%s: ends in the middle of a frame at byte %llu", in->path,
                       (unsigned long long)in->bytes);
    for (size_t done = 0; done < count;) {
        ssize_t n = pread(in->fd, (char *)to + done, count - done, (off_t)(in->at + done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return tc_fail_errno(in->e, TC_IO, "%s", in->path);
        done += (size_t)n;
    }
    in->at += count;
    return TC_OK;
}

static tc_status take_header(reader *in, tc_routing_info *ret)
{
    file_header h;
    if (in->bytes < sizeof h) return tc_fail(in->e, TC_FORMAT, "%s: too short for a routing trace", in->path);
    TC_TRY(take(in, &h, sizeof h));
    if (memcmp(h.magic, MAGIC, sizeof MAGIC) != 0)
        return tc_fail(in->e, TC_FORMAT, "%s: no routing trace", in->path);
    if (h.version < 1 || h.version > TC_ROUTING_VERSION)
        return tc_fail(in->e, TC_FORMAT, "%s: routing trace of version %u, this program reads 1 to %d",
                       in->path, h.version, TC_ROUTING_VERSION);
    *ret = (tc_routing_info){.layers = h.layers,
                             .experts = h.experts,
                             .top_k = h.top_k,
                             .expert_bytes = h.expert_bytes,
                             .expects = h.version > 1};
    memcpy(ret->model_hash, h.model_hash, sizeof h.model_hash);
    memcpy(ret->moe, h.moe, sizeof h.moe);
    return check_info(ret, in->path, in->e);
}

static tc_status unpack(const reader *in, const tc_routing_info *info, uint32_t tokens, const uint8_t *from,
                        int32_t *chosen)
{
    uint32_t bits = bits_of(info->experts), held = 0;
    uint64_t word = 0;
    for (uint32_t i = 0; i < tokens * info->layers; i++) {
        if (!tc_routing_has_experts(info, i % info->layers)) continue;
        for (uint32_t k = 0; k < info->top_k; k++) {
            for (; held < bits; held += 8) word |= (uint64_t)*from++ << held;
            uint32_t expert = (uint32_t)word & ((1u << bits) - 1);
            if (expert >= info->experts)
                return tc_fail(in->e, TC_FORMAT, "%s: expert %u of %u in the frame before byte %llu",
                               in->path, expert, info->experts, (unsigned long long)in->at);
            chosen[(size_t)i * info->top_k + k] = (int32_t)expert;
            word >>= bits;
            held -= bits;
        }
    }
    return TC_OK;
}

typedef struct frame_memory {
    uint8_t *packed;
    int32_t *chosen, *expected;
} frame_memory;

static tc_status take_experts(reader *in, const tc_routing_info *info, uint32_t tokens, uint8_t *packed,
                              int32_t *ret)
{
    TC_TRY(take(in, packed, frame_bytes(info, tokens)));
    return unpack(in, info, tokens, packed, ret);
}

static tc_status take_frame(reader *in, tc_routes *r, const frame_memory *m)
{
    frame_header h;
    const tc_routing_info *info = &r->info;
    uint32_t flags = info->expects ? 7 : 3;
    TC_TRY(take(in, &h, sizeof h));
    if (h.tokens < 1 || h.tokens > TC_ROUTING_TOKENS_MAX || h.zero || h.flags > flags)
        return tc_fail(in->e, TC_FORMAT, "%s: bad frame of %u tokens before byte %llu", in->path, h.tokens,
                       (unsigned long long)in->at);
    bool expects = h.flags & TC_ROUTING_EXPECTED;
    TC_TRY(take_experts(in, info, h.tokens, m->packed, m->chosen));
    if (expects) TC_TRY(take_experts(in, info, h.tokens, m->packed, m->expected));
    return tc_routes_add(r, h.session, h.flags, h.tokens, m->chosen, expects ? m->expected : NULL, in->e);
}

static tc_status take_frames(reader *in, tc_routes *r)
{
    tc_status status = TC_OK;
    const tc_routing_info *info = &r->info;
    size_t experts = (size_t)TC_ROUTING_TOKENS_MAX * info->layers * info->top_k;
    frame_memory m = {.packed = malloc(frame_bytes(info, TC_ROUTING_TOKENS_MAX) + 8),
                      .chosen = calloc(experts, sizeof *m.chosen),
                      .expected = calloc(experts, sizeof *m.expected)};
    if (!m.packed || !m.chosen || !m.expected)
        TC_GOTO(tc_fail(in->e, TC_NOMEM, "out of memory for a routing trace"));
    while (in->at < in->bytes) TC_GOTO(take_frame(in, r, &m));
out:
    free(m.packed);
    free(m.chosen);
    free(m.expected);
    return status;
}

tc_status tc_routes_load(const char *path, tc_routes *ret, tc_error *e)
{
    struct stat st;
    tc_routing_info info;
    tc_status status = TC_OK;
    reader in = {.path = path, .fd = open(path, O_RDONLY | O_CLOEXEC), .e = e};
    *ret = (tc_routes){0};
    if (in.fd < 0) return tc_fail_errno(e, errno == ENOENT ? TC_NOT_FOUND : TC_IO, "%s", path);
    if (fstat(in.fd, &st) < 0 || !S_ISREG(st.st_mode))
        TC_GOTO(tc_fail(e, TC_FORMAT, "%s: no regular file", path));
    in.bytes = (uint64_t)st.st_size;
    if (in.bytes > TC_ROUTING_FILE_BYTES_MAX)
        TC_GOTO(
            tc_fail(e, TC_LIMIT, "%s: a routing trace may have %llu bytes", path, TC_ROUTING_FILE_BYTES_MAX));
    TC_GOTO(take_header(&in, &info));
    TC_GOTO(tc_routes_begin(&info, ret, e));
    TC_GOTO(take_frames(&in, ret));
    if (!ret->step_count) TC_GOTO(tc_fail(e, TC_FORMAT, "%s: a routing trace without a step", path));
out:
    close(in.fd);
    if (status != TC_OK) tc_routes_free(ret);
    return status;
}
