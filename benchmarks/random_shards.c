// SPDX-License-Identifier: Apache-2.0
// Owns: the generator (four xorshift streams side by side, so that the compiler can use vectors) and the
// files.
#include "benchmarks/random_shards.h"

#include "common/model/dtype.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LANES = 8, BUFFER_BYTES = 4 << 20, VALUES = 4096, PATH_BYTES = 4096, PROGRESS_BYTES = 64 << 20 };

// NF4's 16 levels drawn alike have a mean of 0.023; with one 13 taken as 9 it is -0.002.
static const uint8_t code_table[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 9, 14, 15};

typedef struct generator {
    uint64_t lane[LANES];
    uint16_t codes[65536]; // two bytes of codes for each two random bytes
    uint16_t values[VALUES];
    float centre, deviation; // of values
} generator;

typedef struct writer {
    const char *directory;
    const tc_random_list *list;
    generator *random;
    uint8_t *buffer;
    uint32_t shards;
    FILE *index;
    uint64_t done, told;
    void (*progress)(uint64_t done, uint64_t total);
} writer;

// ---- the list ----

tc_status tc_random_list_add(tc_random_list *list, tc_random_tensor tensor, tc_error *e)
{
    if (list->count == list->room) {
        uint32_t room = list->room ? list->room * 2 : 256;
        tc_random_tensor *tensors = realloc(list->tensors, room * sizeof *tensors);
        if (!tensors) {
            free(tensor.name);
            if (tensor.own_literal) free((void *)(uintptr_t)tensor.literal);
            return tc_fail(e, TC_NOMEM, "no memory for %u tensors", room);
        }
        list->tensors = tensors;
        list->room = room;
    }
    list->tensors[list->count++] = tensor;
    list->bytes += tensor.bytes;
    return tensor.name ? TC_OK : tc_fail(e, TC_NOMEM, "no memory for a tensor's name");
}

void tc_random_list_free(tc_random_list *list)
{
    for (uint32_t i = 0; i < list->count; i++) {
        free(list->tensors[i].name);
        if (list->tensors[i].own_literal) free((void *)(uintptr_t)list->tensors[i].literal);
    }
    free(list->tensors);
    *list = (tc_random_list){0};
}

// ---- content ----

float tc_random_codes_deviation(void)
{
    float sum = 0.0f;
    for (int i = 0; i < 16; i++) sum += tc_nf4_levels[code_table[i]] * tc_nf4_levels[code_table[i]];
    return sqrtf(sum / 16.0f);
}

static void seed_generator(generator *g, uint64_t seed)
{
    for (int i = 0; i < LANES; i++) { // splitmix64, so that near seeds give far streams
        uint64_t z = seed += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        g->lane[i] = (z ^ (z >> 31)) | 1;
    }
    for (uint32_t i = 0; i < 65536; i++) {
        uint32_t low = code_table[i & 15] | code_table[i >> 4 & 15] << 4;
        uint32_t high = code_table[i >> 8 & 15] | code_table[i >> 12 & 15] << 4;
        g->codes[i] = (uint16_t)(low | high << 8);
    }
}

static void fill_bytes(generator *g, uint64_t *to, size_t words)
{
    for (size_t w = 0; w < words; w += LANES)
        for (int i = 0; i < LANES; i++) {
            uint64_t x = g->lane[i];
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            g->lane[i] = x;
            to[w + (size_t)i] = x;
        }
}

static void make_values(generator *g, float centre, float deviation)
{
    if (g->centre == centre && g->deviation == deviation) return;
    float reach = deviation * 1.7320508f; // of a uniform distribution
    for (uint32_t i = 0; i < VALUES; i++)
        g->values[i] = tc_float_to_bf16(centre + reach * (((float)i + 0.5f) * (2.0f / VALUES) - 1.0f));
    g->centre = centre;
    g->deviation = deviation;
}

// Up to BUFFER_BYTES of a tensor's content, from `at` on.
static void fill(generator *g, const tc_random_tensor *t, uint64_t at, uint8_t *buffer, size_t bytes)
{
    uint16_t *half = (uint16_t *)buffer;
    if (t->content == TC_FILL_LITERAL) {
        memcpy(buffer, (const char *)t->literal + at, bytes);
        return;
    }
    if (t->content == TC_FILL_CONSTANT) {
        for (size_t i = 0; i < bytes / sizeof(float); i++) ((float *)buffer)[i] = t->centre;
        return;
    }
    fill_bytes(g, (uint64_t *)buffer, (bytes + 7) / 8);
    if (t->content == TC_FILL_CODES)
        for (size_t i = 0; i < (bytes + 1) / 2; i++) half[i] = g->codes[half[i]];
    if (t->content == TC_FILL_UNIFORM)
        for (size_t i = 0; i < bytes / 2; i++) half[i] = g->values[half[i] % VALUES];
    if (t->touch) t->touch(t->touch_arg, t->touch_index, at / 2, half, bytes / 2);
}

// ---- files ----

static tc_status write_all(int fd, const char *path, const void *data, size_t bytes, tc_error *e)
{
    for (const char *from = data; bytes > 0;) {
        ssize_t n = write(fd, from, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return tc_fail_errno(e, TC_IO, "%.300s: cannot write", path);
        from += n;
        bytes -= (size_t)n;
    }
    return TC_OK;
}

static char *make_header(const tc_random_list *list, uint32_t first, uint32_t end, size_t *ret_bytes)
{
    char *text = NULL;
    uint64_t at = 0;
    FILE *stream = open_memstream(&text, ret_bytes);
    if (!stream) return NULL;
    fprintf(stream, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (uint32_t i = first; i < end; i++) {
        const tc_random_tensor *t = &list->tensors[i];
        fprintf(stream, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name, t->dtype);
        for (uint32_t d = 0; d < t->dims; d++) fprintf(stream, "%s%" PRIu64, d ? "," : "", t->shape[d]);
        fprintf(stream, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, at + t->bytes);
        at += t->bytes;
    }
    fprintf(stream, "}");
    for (long n = ftell(stream); n % 8 != 0; n++) fputc(' ', stream);
    if (fclose(stream) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

static tc_status write_data(writer *w, int fd, const char *path, uint32_t first, uint32_t end, tc_error *e)
{
    size_t used = 0; // small tensors gather in the buffer
    for (uint32_t i = first; i < end; i++) {
        const tc_random_tensor *t = &w->list->tensors[i];
        if (t->content == TC_FILL_UNIFORM) make_values(w->random, t->centre, t->deviation);
        for (uint64_t at = 0; at < t->bytes;) {
            size_t part = BUFFER_BYTES - used;
            // A cut in the middle of an element would shift all that follow.
            part = part < t->bytes - at ? part & ~(size_t)7 : (size_t)(t->bytes - at);
            // Filling works in words: into the second half, then moved to where it belongs.
            fill(w->random, t, at, w->buffer + BUFFER_BYTES, part);
            memcpy(w->buffer + used, w->buffer + BUFFER_BYTES, part);
            at += part;
            used += part;
            w->done += part;
            if (used > BUFFER_BYTES - 8) {
                TC_TRY(write_all(fd, path, w->buffer, used, e));
                used = 0;
            }
            if (w->progress && (w->done - w->told >= PROGRESS_BYTES || w->done == w->list->bytes))
                w->progress(w->told = w->done, w->list->bytes);
        }
    }
    return write_all(fd, path, w->buffer, used, e);
}

static tc_status write_shard(writer *w, uint32_t shard, uint32_t first, uint32_t end, tc_error *e)
{
    char name[64], path[PATH_BYTES];
    size_t header_bytes = 0;
    tc_status status;
    snprintf(name, sizeof name, "model-%05u-of-%05u.safetensors", shard + 1, w->shards);
    snprintf(path, sizeof path, "%s/%s", w->directory, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) return tc_fail_errno(e, TC_IO, "%.300s", path);
    char *header = make_header(w->list, first, end, &header_bytes);
    if (!header) TC_GOTO(tc_fail(e, TC_NOMEM, "no memory for a header"));
    uint64_t length = header_bytes;
    TC_GOTO(write_all(fd, path, &length, sizeof length, e));
    TC_GOTO(write_all(fd, path, header, header_bytes, e));
    TC_GOTO(write_data(w, fd, path, first, end, e));
    for (uint32_t i = first; i < end; i++)
        fprintf(w->index, "%s\n    \"%s\": \"%s\"", i ? "," : "", w->list->tensors[i].name, name);
out:
    free(header);
    if (close(fd) != 0 && status == TC_OK) status = tc_fail_errno(e, TC_IO, "%.300s", path);
    return status;
}

// End of the shard that starts with tensor `first`.
static uint32_t shard_end(const tc_random_list *list, uint32_t first, uint64_t shard_bytes)
{
    uint64_t bytes = list->tensors[first].bytes;
    uint32_t end = first + 1;
    while (end < list->count && bytes + list->tensors[end].bytes <= shard_bytes)
        bytes += list->tensors[end++].bytes;
    return end;
}

static tc_status write_shards(writer *w, uint64_t shard_bytes, tc_error *e)
{
    for (uint32_t i = 0; i < w->list->count; i = shard_end(w->list, i, shard_bytes)) w->shards++;
    for (uint32_t i = 0, shard = 0, end; i < w->list->count; i = end, shard++) {
        end = shard_end(w->list, i, shard_bytes);
        TC_TRY(write_shard(w, shard, i, end, e));
    }
    return TC_OK;
}

tc_status tc_random_shards_write(const char *directory, const tc_random_list *list, uint64_t shard_bytes,
                                 uint64_t seed, void (*progress)(uint64_t done, uint64_t total), tc_error *e)
{
    char path[PATH_BYTES];
    writer w = {.directory = directory, .list = list, .progress = progress};
    tc_status status;
    w.random = calloc(1, sizeof *w.random);
    w.buffer = malloc(2 * BUFFER_BYTES + LANES * sizeof(uint64_t));
    if (!w.random || !w.buffer) TC_GOTO(tc_fail(e, TC_NOMEM, "no memory for buffers"));
    seed_generator(w.random, seed);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", directory);
    w.index = fopen(path, "wxe");
    if (!w.index) TC_GOTO(tc_fail_errno(e, TC_IO, "%.300s", path));
    fprintf(w.index, "{\n  \"metadata\": {\"total_size\": %" PRIu64 "},\n  \"weight_map\": {", list->bytes);
    TC_GOTO(write_shards(&w, shard_bytes, e));
    fprintf(w.index, "\n  }\n}\n");
out:
    if (w.index && (ferror(w.index) | fclose(w.index)) && status == TC_OK)
        status = tc_fail_errno(e, TC_IO, "%.300s", path);
    free(w.buffer);
    free(w.random);
    return status;
}
