// SPDX-License-Identifier: Apache-2.0
// Owns: the test of the packed store: every element equals the checkpoint's, damaged and foreign files are
// refused, and no failure, crash or second packer leaves anything but a whole file under the name.
#include "common/base/mem.h"
#include "common/model/dtype.h"
#include "common/model/store_pack.h"
#include "tests/unit/model/support.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

// A qwen3_moe checkpoint of nothing but experts. Which are stored how:
typedef enum how { ALL_BF16, ALL_NF4, MIXED } how;

static void add_nf4(builder *b, const char *base, uint32_t rows, uint32_t cols, uint64_t *seed)
{
    char name[256], json[256];
    uint32_t n = rows * cols, blocks = (n + 63) / 64;
    uint8_t *codes = malloc(n / 2);
    float *scale = malloc(blocks * sizeof *scale), levels[16];
    for (uint32_t i = 0; i < n / 2; i++) codes[i] = (uint8_t)next_random(seed);
    for (uint32_t i = 0; i < blocks; i++) scale[i] = random_float(seed);
    for (int i = 0; i < 16; i++) levels[i] = (float)(i - 8) / 8.0f;
    snprintf(name, sizeof name, "%s.weight", base);
    add_tensor(b, name, "U8", n / 2, 1, codes, n / 2);
    snprintf(name, sizeof name, "%s.weight.absmax", base);
    add_tensor(b, name, "F32", blocks, 1, scale, blocks * sizeof *scale);
    snprintf(name, sizeof name, "%s.weight.quant_map", base);
    add_tensor(b, name, "F32", 16, 1, levels, sizeof levels);
    snprintf(json, sizeof json,
             "{\"quant_type\":\"nf4\",\"blocksize\":64,\"dtype\":\"bfloat16\",\"shape\":[%u,%u]}", rows,
             cols);
    snprintf(name, sizeof name, "%s.weight.quant_state.bitsandbytes__nf4", base);
    add_tensor(b, name, "U8", strlen(json), 1, json, strlen(json));
    free(codes);
    free(scale);
}

static void add_bf16(builder *b, const char *base, uint32_t rows, uint32_t cols, uint64_t *seed)
{
    char name[256];
    uint16_t *data = malloc(rows * cols * sizeof *data);
    for (uint32_t i = 0; i < rows * cols; i++) data[i] = tc_float_to_bf16(random_float(seed));
    snprintf(name, sizeof name, "%s.weight", base);
    add_tensor(b, name, "BF16", rows, cols, data, rows * cols * sizeof *data);
    free(data);
}

static void put_model(const scratch *s, how kind, uint32_t layers, uint32_t experts, uint32_t width,
                      uint32_t hidden)
{
    builder b = {0};
    uint64_t seed = width + hidden;
    static const char *const parts[] = {"gate_proj", "up_proj", "down_proj"};
    put_moe_config(s, layers, experts, width, hidden);
    for (uint32_t l = 0; l < layers; l++)
        for (uint32_t x = 0; x < experts; x++)
            for (int p = 0; p < 3; p++) {
                char base[128];
                snprintf(base, sizeof base, "model.layers.%u.mlp.experts.%u.%s", l, x, parts[p]);
                // Mixed: the last expert's gate in layer 0, and all of up in layer 1, are not 4-bit.
                bool dense =
                    kind == ALL_BF16 ||
                    (kind == MIXED && ((l == 0 && x == experts - 1 && p == 0) || (l == 1 && p == 1)));
                (dense ? add_bf16 : add_nf4)(&b, base, p == 2 ? hidden : width, p == 2 ? width : hidden,
                                             &seed);
            }
    finish(&b, s, "model.safetensors");
}

static tc_checkpoint *open_model(const scratch *s)
{
    tc_checkpoint *c;
    tc_error e;
    if (tc_checkpoint_open(s->path, &c, &e) != TC_OK) fail_msg("%s", e.text);
    return c;
}

static tc_pack_options options_in(const scratch *s, char cache[300])
{
    snprintf(cache, 300, "%s/a/cache", s->path);
    return (tc_pack_options){.cache_dir = cache};
}

static int files_in(const char *directory)
{
    int n = 0;
    DIR *d = opendir(directory);
    for (struct dirent *entry; d && (entry = readdir(d));)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (d) closedir(d);
    return n;
}

// Rounded to 8 bits: half a step of the largest of the 64 columns around.
static bool rounded(const tc_weight *w, uint64_t at, float got)
{
    float span[64], top = 0;
    tc_weight_dequantise(w, at / 64 * 64, 64, span); // rows and units are whole spans
    for (int i = 0; i < 64; i++) top = fmaxf(top, fabsf(span[i]));
    return fabsf(span[at % 64] - got) <= top / 254 * 1.0001f;
}

// Every element of every unit against the checkpoint's weight.
static void compare(const tc_checkpoint *c, const tc_store *store, tc_quantise quantise)
{
    static const tc_role roles[] = {TC_EXPERT_GATE, TC_EXPERT_UP, TC_EXPERT_DOWN};
    const tc_model_desc *d = tc_checkpoint_desc(c);
    const tc_store_info *info = tc_store_get_info(store);
    for (uint32_t l = 0; l < d->layers; l++)
        for (uint32_t x = 0; x < d->experts; x++)
            for (int p = 0; p < 3; p++) {
                char base[TC_TENSOR_NAME_BYTES];
                uint32_t rows, cols;
                tc_weight w;
                tc_error e;
                tc_model_tensor_name(d, roles[p], l, x, base);
                tc_model_tensor_shape(d, roles[p], l, &rows, &cols);
                if (tc_checkpoint_weight(c, base, rows, cols, &w, &e) != TC_OK) fail_msg("%s", e.text);
                if (quantise == TC_QUANTISE_NF4 && !w.quantised)
                    assert_int_equal(tc_weight_quantise_nf4(&w, &e), TC_OK);
                for (uint32_t u = 0; u < info->units; u++) {
                    tc_store_unit unit;
                    tc_store_get_unit(store, l, x, u, &unit);
                    const tc_matrix *m = p == 0 ? &unit.gate : p == 1 ? &unit.up : &unit.down;
                    assert_int_equal((uintptr_t)m->data % 64, 0);
                    for (uint32_t r = 0; r < m->rows; r++)
                        for (uint32_t k = 0; k < m->cols; k++) {
                            uint64_t at = p == 2 ? (uint64_t)r * cols + u * info->unit + k
                                                 : (uint64_t)(u * info->unit + r) * cols + k;
                            float want, got = tc_matrix_element(m, r, k);
                            tc_weight_dequantise(&w, at, 1, &want);
                            if (m->form.type == TC_M_Q8 ? !rounded(&w, at, got) : memcmp(&want, &got, 4) != 0)
                                fail_msg("%s unit %u [%u, %u]: %a, must be %a", base, u, r, k, got, want);
                        }
                }
                tc_weight_free(&w);
            }
}

static void test_round_trip(void **state)
{
    static const struct {
        how kind;
        uint32_t layers, experts, width, hidden, threads;
        tc_quantise quantise;
        const char *in_name;
        tc_matrix_type gate0, up1; // types in layer 0 and 1
    } cases[] = {
        {ALL_NF4, 2, 3, 128, 64, 0, TC_QUANTISE_USUAL, "-stored-v3.tcx", TC_M_Q4, TC_M_Q4},
        {ALL_NF4, 2, 5, 128, 64, 3, TC_QUANTISE_NF4, "-stored-v3.tcx", TC_M_Q4,
         TC_M_Q4}, // nothing left to quantise: the same store
        {ALL_BF16, 2, 3, 64, 96, 1, TC_QUANTISE_USUAL, "-stored-v3.tcx", TC_M_BF16, TC_M_BF16},
        {ALL_BF16, 2, 3, 192, 64, 2, TC_QUANTISE_NF4, "-nf4-v3.tcx", TC_M_Q4, TC_M_Q4},
        {ALL_BF16, 2, 2, 48, 96, 2, TC_QUANTISE_USUAL, "-stored-v3.tcx", TC_M_BF16, TC_M_BF16},
        {ALL_NF4, 2, 2, 48, 96, 2, TC_QUANTISE_USUAL, "-stored-v3.tcx", TC_M_BF16,
         TC_M_BF16}, // blocks straddle rows
        {MIXED, 2, 5, 128, 64, 2, TC_QUANTISE_USUAL, "-stored-v3.tcx", TC_M_F32, TC_M_BF16},
        {MIXED, 2, 5, 128, 64, 4, TC_QUANTISE_NF4, "-nf4-v3.tcx", TC_M_F32,
         TC_M_Q4}, // other levels than NF4's own
        {ALL_BF16, 2, 3, 192, 64, 2, TC_QUANTISE_INT8, "-int8-v3.tcx", TC_M_Q8, TC_M_Q8},
        {ALL_BF16, 2, 2, 48, 96, 2, TC_QUANTISE_INT8, "-int8-v3.tcx", TC_M_BF16, TC_M_BF16}, // no whole spans
        {ALL_NF4, 2, 3, 128, 64, 2, TC_QUANTISE_INT8, "-stored-v3.tcx", TC_M_Q4, TC_M_Q4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        scratch s;
        char cache[300], path[TC_STORE_PATH_BYTES], expected[TC_STORE_PATH_BYTES];
        tc_error e;
        tc_store *store;
        tc_store_unit unit;
        scratch_make(&s);
        put_model(&s, cases[i].kind, cases[i].layers, cases[i].experts, cases[i].width, cases[i].hidden);
        tc_checkpoint *c = open_model(&s);
        tc_pack_options options = options_in(&s, cache);
        options.quantise = cases[i].quantise;
        options.threads = cases[i].threads;
        assert_int_equal(tc_store_path_for(c, &options, expected, &e), TC_OK);
        if (tc_store_pack(c, &options, path, &e) != TC_OK) fail_msg("%s", e.text);
        assert_string_equal(path, expected);
        assert_non_null(strstr(path, cases[i].in_name));
        assert_int_equal(files_in(cache), 1);
        if (tc_store_open(path, &store, &e) != TC_OK) fail_msg("%s", e.text);
        const tc_store_info *info = tc_store_get_info(store);
        assert_string_equal(info->model_hash, tc_checkpoint_hash(c));
        assert_string_equal(info->family, "qwen3_moe");
        assert_int_equal(info->units, cases[i].width % 64 ? 1 : cases[i].width / 64);
        assert_true(tc_store_layer_has_experts(store, 0) &&
                    !tc_store_layer_has_experts(store, cases[i].layers));
        tc_store_get_unit(store, 0, 0, 0, &unit);
        assert_int_equal(unit.gate.form.type, cases[i].gate0);
        tc_store_get_unit(store, 1, 0, 0, &unit);
        assert_int_equal(unit.up.form.type, cases[i].up1);
        compare(c, store, cases[i].quantise);
        assert_int_equal(tc_store_verify(store, &e), TC_OK);
        tc_store_free(store);
        tc_checkpoint_free(c);
        assert_int_equal(tc_mem_bytes(TC_MEM_OTHER), 0);
        scratch_remove(&s);
    }
}

// Packs a small model and gives the path of its store.
static tc_checkpoint *packed(scratch *s, char path[TC_STORE_PATH_BYTES])
{
    char cache[300];
    tc_error e;
    scratch_make(s);
    put_model(s, ALL_NF4, 2, 3, 128, 64);
    tc_checkpoint *c = open_model(s);
    tc_pack_options options = options_in(s, cache);
    if (tc_store_pack(c, &options, path, &e) != TC_OK) fail_msg("%s", e.text);
    return c;
}

static void poke(const char *path, off_t at, const void *data, size_t bytes)
{
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, data, bytes, at), (ssize_t)bytes);
    close(fd);
}

static void test_damaged(void **state)
{
    scratch s;
    char path[TC_STORE_PATH_BYTES], cache[300];
    uint8_t whole[4096];
    tc_error e = {0};
    tc_store *store = NULL;
    tc_checkpoint *c = packed(&s, path);
    int fd = open(path, O_RDONLY);
    off_t size = lseek(fd, 0, SEEK_END);
    assert_int_equal(pread(fd, whole, sizeof whole, 0), sizeof whole);
    close(fd);
    for (off_t at = 0; at < 4096; at += at < 700 ? 1 : 97) { // any byte of the header
        uint8_t byte = (uint8_t)(whole[at] ^ 0x10);
        poke(path, at, &byte, 1);
        if (tc_store_open(path, &store, &e) == TC_OK)
            fail_msg("accepted a header with byte %ld changed", (long)at);
        expect_error(&e, ".tcx: ");
        poke(path, at, &whole[at], 1);
    }
    assert_int_equal(tc_store_open(path, &store, &e), TC_OK);
    uint8_t byte, other;
    fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, &byte, 1, 5000), 1);
    close(fd);
    other = byte ^ 1;
    poke(path, 5000, &other, 1); // in the data: found by verify
    assert_int_equal(tc_store_verify(store, &e), TC_FORMAT);
    expect_error(&e, ".tcx", "layer 0", "damaged");
    poke(path, 5000, &byte, 1);
    assert_int_equal(tc_store_verify(store, &e), TC_OK);
    assert_int_equal(truncate(path, size / 2), 0);
    assert_int_equal(tc_store_verify(store, &e), TC_IO);
    expect_error(&e, "shorter");
    assert_int_equal(truncate(path, size - 1), 0);
    tc_store_free(store);
    assert_int_equal(tc_store_open(path, &store, &e), TC_FORMAT);
    expect_error(&e, ".tcx", "its header says");
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(tc_store_open(path, &store, &e), TC_FORMAT);
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(tc_store_open(path, &store, &e), TC_FORMAT);
    tc_pack_options options = options_in(&s, cache); // a broken file is packed again
    assert_int_equal(tc_store_pack(c, &options, path, &e), TC_OK);
    assert_int_equal(tc_store_open(path, &store, &e), TC_OK);
    tc_store_free(store);
    assert_int_equal(tc_store_open("/nonexistent.tcx", &store, &e), TC_NOT_FOUND);
    tc_checkpoint_free(c);
    scratch_remove(&s);
}

// A header that has the right hash but says what cannot be.
static void test_forged(void **state)
{
    scratch s;
    char path[TC_STORE_PATH_BYTES];
    _Alignas(64) uint8_t whole[4096], copy[4096];
    tc_error e = {0};
    tc_checkpoint *c = packed(&s, path);
    int fd = open(path, O_RDONLY);
    uint64_t size = (uint64_t)lseek(fd, 0, SEEK_END);
    assert_int_equal(pread(fd, whole, sizeof whole, 0), sizeof whole);
    close(fd);
    tc_store_header *h = (tc_store_header *)copy;
    tc_store_layer *layers = (tc_store_layer *)(h + 1);
    memcpy(copy, whole, sizeof copy);
    assert_int_equal(tc_store_header_check("x", h, sizeof copy, size, &e), TC_OK);
#define FORGE(...)                                                                                           \
    do {                                                                                                     \
        memcpy(copy, whole, sizeof copy);                                                                    \
        __VA_ARGS__;                                                                                         \
        if (h->header_bytes <= sizeof copy) tc_store_header_hash(h, &h->hash_low, &h->hash_high);            \
        if (tc_store_header_check("x", h, sizeof copy, size, &e) == TC_OK)                                   \
            fail_msg("accepted: " #__VA_ARGS__);                                                             \
    } while (0)
    FORGE(h->layers = 0);
    FORGE(h->layers = 257);
    FORGE(h->layers = 200);
    FORGE(h->layers = 1);
    FORGE(h->experts = 0);
    FORGE(h->experts = 4097);
    FORGE(h->experts = 4);
    FORGE(h->top_k = 4);
    FORGE(h->top_k = 0);
    FORGE(h->hidden = 128);
    FORGE(h->hidden = 0xffffffff);
    FORGE(h->width = 192);
    FORGE(h->unit = 0);
    FORGE(h->unit = 128);
    FORGE(h->file_bytes -= 4096);
    FORGE(h->header_bytes = 0);
    FORGE(h->header_bytes = 8192);
    FORGE(h->layout_version = 4);
    FORGE(h->model_hash[3] = 'x');
    FORGE(h->model_hash[32] = 'a');
    FORGE(memset(h->family, 'a', sizeof h->family));
    FORGE(layers[0].offset += 4096);
    FORGE(layers[0].expert_stride += 64);
    FORGE(layers[1].has_experts = 0);
    FORGE(layers[1].part[2].type = TC_M_TYPES);
    FORGE(layers[1].part[2].type = TC_M_BF16);
    FORGE(layers[1].part[2].group = 32);
    FORGE(layers[1].part[2].group = 0);
    FORGE(layers[1].part[2].nested_stride += 1);
    FORGE(layers[1].part[0].type = TC_M_Q8);
    FORGE(layers[1].part[2].round = TC_U8);
    FORGE(layers[1].part[2].levels[15] = __builtin_nanf(""));
    tc_checkpoint_free(c);
    scratch_remove(&s);
}

// ---- packing that fails ----

static int calls;

static bool stop_at_once(void *arg, uint64_t done, uint64_t total)
{
    calls++;
    return false;
}

static void test_cancelled(void **state)
{
    scratch s;
    char cache[300], path[TC_STORE_PATH_BYTES] = "";
    tc_error e;
    scratch_make(&s);
    put_model(&s, ALL_NF4, 2, 3, 128, 64);
    tc_checkpoint *c = open_model(&s);
    tc_pack_options options = options_in(&s, cache);
    options.progress = stop_at_once;
    assert_int_equal(tc_store_pack(c, &options, path, &e), TC_CANCELLED);
    assert_int_equal(calls, 1);
    assert_int_equal(path[0], 0);
    assert_int_equal(files_in(cache), 0);
    options.cache_dir = NULL;
    assert_int_equal(tc_store_pack(c, &options, path, &e), TC_ARGUMENT);
    tc_checkpoint_free(c);
    scratch_remove(&s);
}

// The disk refuses bytes after the first `limit`: one error line, and nothing is left. In a child: limits
// stick.
static void test_write_failure(void **state)
{
    static const rlim_t limits[] = {0, 4096, 10000, 40000};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        scratch s;
        char cache[300], path[TC_STORE_PATH_BYTES];
        int child_status;
        scratch_make(&s);
        put_model(&s, ALL_NF4, 2, 3, 128, 64);
        tc_checkpoint *c = open_model(&s);
        tc_pack_options options = options_in(&s, cache);
        pid_t child = fork();
        if (child == 0) {
            tc_error e = {0};
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &(struct rlimit){limits[i], limits[i]});
            tc_status status = tc_store_pack(c, &options, path, &e);
            _exit(status == TC_IO && strstr(e.text, ".tmp.") && strstr(e.text, "File too large") ? 0 : 1);
        }
        assert_int_equal(waitpid(child, &child_status, 0), child);
        assert_true(WIFEXITED(child_status) && WEXITSTATUS(child_status) == 0);
        assert_int_equal(files_in(cache), 0);
        tc_checkpoint_free(c);
        scratch_remove(&s);
    }
}

static bool die(void *arg, uint64_t done, uint64_t total)
{
    _exit(7);
}

// A packer that dies leaves its temporary file and its lock's name; the next one removes both.
static void test_crash(void **state)
{
    scratch s;
    char cache[300], path[TC_STORE_PATH_BYTES];
    tc_error e;
    int child_status;
    scratch_make(&s);
    put_model(&s, ALL_NF4, 2, 3, 128, 64);
    tc_checkpoint *c = open_model(&s);
    tc_pack_options options = options_in(&s, cache);
    assert_int_equal(tc_store_path_for(c, &options, path, &e), TC_OK);
    pid_t child = fork();
    if (child == 0) {
        options.progress = die;
        tc_store_pack(c, &options, path, NULL);
        _exit(1);
    }
    assert_int_equal(waitpid(child, &child_status, 0), child);
    assert_int_equal(WEXITSTATUS(child_status), 7);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(files_in(cache), 2);
    assert_int_equal(tc_store_pack(c, &options, path, &e), TC_OK);
    assert_int_equal(files_in(cache), 1);
    tc_checkpoint_free(c);
    scratch_remove(&s);
}

static void test_missing_expert(void **state)
{
    scratch s;
    char cache[300], path[TC_STORE_PATH_BYTES];
    tc_error e;
    scratch_make(&s);
    put_model(&s, ALL_NF4, 2, 3, 128, 64);
    put_moe_config(&s, 2, 4, 128, 64); // says one expert more
    tc_checkpoint *c = open_model(&s);
    tc_pack_options options = options_in(&s, cache);
    assert_int_equal(tc_store_pack(c, &options, path, &e), TC_NOT_FOUND);
    expect_error(&e, s.path, "experts.3.gate_proj.weight is missing");
    assert_int_equal(files_in(cache), 0);
    tc_checkpoint_free(c);
    scratch_remove(&s);
}

// ---- two packers ----

typedef struct rival {
    const tc_checkpoint *checkpoint;
    tc_pack_options options;
    char path[TC_STORE_PATH_BYTES];
    tc_status status;
    uint64_t packed_bytes;
} rival;

static bool note(void *arg, uint64_t done, uint64_t total)
{
    rival *r = arg;
    if (done > r->packed_bytes) r->packed_bytes = done;
    return true;
}

static void *compete(void *arg)
{
    rival *r = arg;
    r->options.progress = note;
    r->options.arg = r;
    r->status = tc_store_pack(r->checkpoint, &r->options, r->path, NULL);
    return NULL;
}

static void test_two_packers(void **state)
{
    scratch s;
    char cache[300];
    pthread_t threads[2];
    rival rivals[2] = {0};
    scratch_make(&s);
    put_model(&s, ALL_NF4, 2, 8, 128, 128);
    tc_checkpoint *c = open_model(&s);
    tc_pack_options options = options_in(&s, cache);
    for (int i = 0; i < 2; i++) {
        rivals[i].checkpoint = c;
        rivals[i].options = options;
        pthread_create(&threads[i], NULL, compete, &rivals[i]);
    }
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    assert_int_equal(rivals[0].status, TC_OK);
    assert_int_equal(rivals[1].status, TC_OK);
    assert_string_equal(rivals[0].path, rivals[1].path);
    assert_true((rivals[0].packed_bytes == 0) != (rivals[1].packed_bytes == 0)); // one did the work
    assert_int_equal(files_in(cache), 1);
    tc_store *store;
    tc_error e;
    assert_int_equal(tc_store_open(rivals[0].path, &store, &e), TC_OK);
    assert_int_equal(tc_store_verify(store, &e), TC_OK);
    tc_store_free(store);
    tc_checkpoint_free(c);
    scratch_remove(&s);
}

static void test_cache_dir(void **state)
{
    char path[TC_STORE_PATH_BYTES] = "before", longest[1200];
    tc_error e;
    assert_int_equal(tc_store_cache_dir("/xdg", "/home/u", path, &e), TC_OK);
    assert_string_equal(path, "/xdg/thermocline");
    assert_int_equal(tc_store_cache_dir("relative", "/home/u", path, &e), TC_OK);
    assert_string_equal(path, "/home/u/.cache/thermocline");
    assert_int_equal(tc_store_cache_dir("", "/home/u", path, &e), TC_OK);
    assert_int_equal(tc_store_cache_dir(NULL, NULL, path, &e), TC_ARGUMENT);
    memset(longest, 'a', sizeof longest);
    longest[0] = '/';
    longest[sizeof longest - 1] = '\0';
    assert_int_equal(tc_store_cache_dir(longest, NULL, path, &e), TC_LIMIT);
    assert_string_equal(path, "/home/u/.cache/thermocline"); // untouched
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_forged),         cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_write_failure),  cmocka_unit_test(test_crash),
        cmocka_unit_test(test_missing_expert), cmocka_unit_test(test_two_packers),
        cmocka_unit_test(test_cache_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
