// SPDX-License-Identifier: Apache-2.0
// Owns: thermocline-make-checkpoint, which writes a checkpoint of a real model's shape with random weights in
// the layout that is published, for measuring where the real one is too large to fetch or not allowed.
// Refuses: to overwrite a model, and to be a model: its text is noise.
#include "benchmarks/memory_store.h"
#include "benchmarks/random_shards.h"
#include "benchmarks/routed.h"
#include "common/base/clock.h"
#include "common/base/json.h"
#include "common/base/log.h"
#include "common/model/dtype.h"
#include "common/model/model.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NF4_BLOCK = 64, NESTED_BLOCK = 256, PATH_BYTES = 4096, TOKENIZER_BYTES_MAX = 256 << 20 };
static const uint64_t shard_bytes_max = 4000000000u;

typedef struct shape {
    const char *name, *family;
    uint32_t layers, hidden, vocab, heads, kv_heads, head_dim, experts, top_k, width, shared, dense;
    uint32_t key_heads, value_heads, key_dim, value_dim, positions;
    double theta;
} shape;

static const shape shapes[] = {
    {"qwen3-next-80b", "qwen3_next", 48, 2048, 151936, 16, 2, 256, 512, 10, 512, 512, 5120, 16, 32, 128, 128,
     262144, 1e7},
    {"qwen3-30b-a3b", "qwen3_moe", 48, 2048, 151936, 32, 4, 128, 128, 8, 768, 0, 6144, 0, 0, 0, 0, 40960,
     1e6},
    {"tiny-next", "qwen3_next", 4, 256, 1024, 4, 2, 64, 16, 4, 128, 128, 512, 2, 4, 32, 32, 32768, 1e7},
    {"tiny-moe", "qwen3_moe", 4, 256, 1024, 4, 2, 64, 16, 4, 128, 0, 512, 0, 0, 0, 0, 32768, 1e6},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

typedef struct options {
    shape shape;
    bool nf4;
    uint64_t seed;
    bool routed; // by these
    double zipf, locality;
    const char *tokenizer, *directory;
    const char *memory_cache, *arena_dir; // experts go straight into an arena
} options;

// ---- config.json and the like ----

static tc_status put_text(const char *directory, const char *name, const char *text, size_t bytes,
                          tc_error *e)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wxe");
    if (!file) return tc_fail_errno(e, TC_IO, "%.300s", path);
    bool written = fwrite(text, 1, bytes, file) == bytes;
    if (fclose(file) != 0 || !written) return tc_fail_errno(e, TC_IO, "%.300s: cannot write", path);
    return TC_OK;
}

static size_t family_config(const shape *s, char *to, size_t room)
{
    if (strcmp(s->family, "qwen3_next") != 0) return 0;
    int n = snprintf(to, room,
                     "  \"full_attention_interval\": 4,\n  \"partial_rotary_factor\": 0.25,\n"
                     "  \"shared_expert_intermediate_size\": %u,\n  \"linear_num_key_heads\": %u,\n"
                     "  \"linear_num_value_heads\": %u,\n  \"linear_key_head_dim\": %u,\n  "
                     "\"linear_value_head_dim\": %u,\n"
                     "  \"linear_conv_kernel_dim\": 4,\n",
                     s->shared, s->key_heads, s->value_heads, s->key_dim, s->value_dim);
    return (size_t)n;
}

static const char quantisation[] = ",\n  \"quantization_config\": {\"quant_method\": \"bitsandbytes\", "
                                   "\"load_in_4bit\": true, \"load_in_8bit\": false,\n"
                                   "    \"bnb_4bit_quant_type\": \"nf4\", \"bnb_4bit_use_double_quant\": "
                                   "true, \"bnb_4bit_compute_dtype\": \"bfloat16\",\n"
                                   "    \"bnb_4bit_quant_storage\": \"uint8\"}";

static tc_status write_configs(const options *o, tc_error *e)
{
    const shape *s = &o->shape;
    char extra[1024] = "", text[4096];
    family_config(s, extra, sizeof extra);
    int n = snprintf(
        text, sizeof text,
        "{\n  \"model_type\": \"%s\",\n  \"num_hidden_layers\": %u,\n  \"hidden_size\": %u,\n  "
        "\"vocab_size\": %u,\n"
        "  \"num_attention_heads\": %u,\n  \"num_key_value_heads\": %u,\n  \"head_dim\": %u,\n  "
        "\"intermediate_size\": %u,\n"
        "  \"moe_intermediate_size\": %u,\n  \"num_experts\": %u,\n  \"num_experts_per_tok\": %u,\n%s"
        "  \"max_position_embeddings\": %u,\n  \"rope_theta\": %.0f,\n  \"rope_scaling\": null,\n  "
        "\"rms_norm_eps\": 1e-06,\n"
        "  \"hidden_act\": \"silu\",\n  \"norm_topk_prob\": true,\n  \"decoder_sparse_step\": 1,\n  "
        "\"mlp_only_layers\": [],\n"
        "  \"attention_bias\": false,\n  \"tie_word_embeddings\": false,\n  \"torch_dtype\": \"bfloat16\",\n"
        "  \"eos_token_id\": %u%s\n}\n",
        s->family, s->layers, s->hidden, s->vocab, s->heads, s->kv_heads, s->head_dim, s->dense, s->width,
        s->experts, s->top_k, extra, s->positions, s->theta, s->vocab > 151645 ? 151645 : s->vocab - 1,
        o->nf4 ? quantisation : "");
    TC_TRY(put_text(o->directory, "config.json", text, (size_t)n, e));
    n = snprintf(
        text, sizeof text,
        "{\n  \"do_sample\": true,\n  \"temperature\": 0.7,\n  \"top_p\": 0.8,\n  \"top_k\": 20\n}\n");
    return put_text(o->directory, "generation_config.json", text, (size_t)n, e);
}

// ---- tensors ----

typedef struct plan {
    const tc_model_desc *desc;
    bool nf4, without_experts;
    tc_routed *routed; // NULL: as the weights fall
    tc_random_list list;
    float map[256];
    tc_error *e;
} plan;

static char *join(const char *base, const char *suffix)
{
    char *name = NULL;
    return asprintf(&name, "%s%s", base, suffix) < 0 ? NULL : name;
}

static tc_status add_flat(plan *p, const char *base, const char *suffix, const char *dtype, uint64_t count,
                          uint64_t bytes, tc_random_tensor content)
{
    content.name = join(base, suffix);
    content.dtype = dtype;
    content.dims = 1;
    content.shape[0] = count;
    content.bytes = bytes;
    return tc_random_list_add(&p->list, content, p->e);
}

// Scales lie around `middle`: middle * (1 + 0.4 * map[code]).
static tc_status add_nf4(plan *p, const char *base, uint32_t rows, uint32_t cols, float deviation)
{
    uint64_t n = (uint64_t)rows * cols, blocks = (n + NF4_BLOCK - 1) / NF4_BLOCK,
             groups = (blocks + NESTED_BLOCK - 1) / NESTED_BLOCK;
    float middle = deviation / tc_random_codes_deviation();
    char *state = NULL;
    int length = asprintf(&state,
                          "{\"quant_type\": \"nf4\", \"blocksize\": %u, \"dtype\": \"bfloat16\", \"shape\": "
                          "[%u, %u], \"nested_blocksize\": %u, "
                          "\"nested_dtype\": \"float32\", \"nested_offset\": %.9g}",
                          NF4_BLOCK, rows, cols, NESTED_BLOCK, (double)middle);
    if (length < 0) return tc_fail(p->e, TC_NOMEM, "no memory for a quantisation state");
    tc_status status = tc_random_list_add(&p->list,
                                          (tc_random_tensor){.name = join(base, ".weight"),
                                                             .dtype = "U8",
                                                             .dims = 2,
                                                             .shape = {(n + 1) / 2, 1},
                                                             .bytes = (n + 1) / 2,
                                                             .content = TC_FILL_CODES},
                                          p->e);
    if (status == TC_OK)
        status = add_flat(p, base, ".weight.absmax", "U8", blocks, blocks,
                          (tc_random_tensor){.content = TC_FILL_BYTES});
    if (status == TC_OK)
        status = add_flat(p, base, ".weight.nested_absmax", "F32", groups, groups * sizeof(float),
                          (tc_random_tensor){.content = TC_FILL_CONSTANT, .centre = 0.4f * middle});
    if (status == TC_OK)
        status = add_flat(p, base, ".weight.nested_quant_map", "F32", 256, sizeof p->map,
                          (tc_random_tensor){.content = TC_FILL_LITERAL, .literal = p->map});
    if (status == TC_OK)
        status = add_flat(p, base, ".weight.quant_map", "F32", 16, sizeof tc_nf4_levels,
                          (tc_random_tensor){.content = TC_FILL_LITERAL, .literal = tc_nf4_levels});
    if (status != TC_OK) {
        free(state);
        return status;
    }
    return add_flat(p, base, ".weight.quant_state.bitsandbytes__nf4", "U8", (uint64_t)length,
                    (uint64_t)length,
                    (tc_random_tensor){.content = TC_FILL_LITERAL, .literal = state, .own_literal = true});
}

// Of what is drawn for a role, how it is changed.
static tc_random_touch *touch_of(const plan *p, tc_role role)
{
    if (!p->routed) return NULL;
    return role == TC_EMBED                                 ? tc_routed_embedding
           : role == TC_ROUTER                              ? tc_routed_router
           : role == TC_HEAD                                ? tc_routed_head
           : role == TC_INPUT_NORM || role == TC_FINAL_NORM ? tc_routed_norm
                                                            : NULL;
}

static float deviation_of(const plan *p, tc_role role, uint32_t cols)
{
    bool adds = role == TC_O || role == TC_DN_OUT || role == TC_EXPERT_DOWN || role == TC_SHARED_DOWN;
    if (role == TC_EMBED) return 1.0f;
    return (p->routed && adds ? tc_routed_residual(p->routed) : 1.0f) / sqrtf((float)cols);
}

static tc_status add_linear(plan *p, tc_role role, uint32_t layer, uint32_t expert, bool may_quantise)
{
    char base[TC_TENSOR_NAME_BYTES];
    uint32_t rows, cols;
    tc_model_tensor_name(p->desc, role, layer, expert, base);
    tc_model_tensor_shape(p->desc, role, layer, &rows, &cols);
    float deviation = deviation_of(p, role, cols);
    if (p->nf4 && may_quantise) return add_nf4(p, base, rows, cols, deviation);
    return tc_random_list_add(&p->list,
                              (tc_random_tensor){.name = join(base, ".weight"),
                                                 .dtype = "BF16",
                                                 .dims = 2,
                                                 .shape = {rows, cols},
                                                 .bytes = 2ull * rows * cols,
                                                 .content = TC_FILL_UNIFORM,
                                                 .deviation = deviation,
                                                 .touch = touch_of(p, role),
                                                 .touch_arg = p->routed,
                                                 .touch_index = layer},
                              p->e);
}

static tc_status add_vector(plan *p, tc_role role, uint32_t layer, const char *suffix, float centre,
                            float deviation)
{
    char base[TC_TENSOR_NAME_BYTES];
    uint32_t rows, cols;
    tc_model_tensor_name(p->desc, role, layer, 0, base);
    tc_model_tensor_shape(p->desc, role, layer, &rows, &cols);
    tc_random_tensor t = {.name = join(base, suffix),
                          .dtype = "BF16",
                          .dims = role == TC_DN_CONV ? 3 : 1,
                          .shape = {rows, 1, cols},
                          .bytes = 2ull * rows * cols,
                          .content = TC_FILL_UNIFORM,
                          .centre = centre,
                          .deviation = deviation,
                          .touch = touch_of(p, role),
                          .touch_arg = p->routed};
    return tc_random_list_add(&p->list, t, p->e);
}

static tc_status add_norm(plan *p, tc_role role, uint32_t layer)
{
    return add_vector(p, role, layer, ".weight", p->desc->norm_zero_centred ? 0.0f : 1.0f, 0.1f);
}

static tc_status add_attention(plan *p, uint32_t l)
{
    static const tc_role linears[] = {TC_Q, TC_K, TC_V, TC_O};
    for (int i = 0; i < 4; i++) TC_TRY(add_linear(p, linears[i], l, 0, true));
    TC_TRY(add_norm(p, TC_Q_NORM, l));
    return add_norm(p, TC_K_NORM, l);
}

static tc_status add_delta(plan *p, uint32_t l)
{
    TC_TRY(add_linear(p, TC_DN_QKVZ, l, 0, true));
    TC_TRY(add_linear(p, TC_DN_BA, l, 0, true));
    TC_TRY(add_linear(p, TC_DN_OUT, l, 0, true));
    TC_TRY(add_vector(p, TC_DN_CONV, l, ".weight", 0.0f, 0.5f));
    TC_TRY(add_vector(p, TC_DN_NORM, l, ".weight", 1.0f, 0.1f)); // plain in every family
    TC_TRY(add_vector(p, TC_DN_A_LOG, l, "", -1.5f, 1.4f));      // memories of a few to some hundred tokens
    return add_vector(p, TC_DN_DT_BIAS, l, "", -1.0f, 0.5f);
}

static tc_status add_experts(plan *p, uint32_t l)
{
    TC_TRY(add_linear(p, TC_ROUTER, l, 0, false));
    for (uint32_t x = 0; x < (p->without_experts ? 1 : p->desc->experts); x++) {
        TC_TRY(add_linear(p, TC_EXPERT_GATE, l, x, true));
        TC_TRY(add_linear(p, TC_EXPERT_UP, l, x, true));
        TC_TRY(add_linear(p, TC_EXPERT_DOWN, l, x, true));
    }
    if (!p->desc->shared_width) return TC_OK;
    TC_TRY(add_linear(p, TC_SHARED_GATE, l, 0, true));
    TC_TRY(add_linear(p, TC_SHARED_UP, l, 0, true));
    TC_TRY(add_linear(p, TC_SHARED_DOWN, l, 0, true));
    return add_linear(p, TC_SHARED_ROUTER, l, 0, false);
}

static tc_status add_all(plan *p)
{
    TC_TRY(add_linear(p, TC_EMBED, 0, 0, false));
    for (uint32_t l = 0; l < p->desc->layers; l++) {
        TC_TRY(add_norm(p, TC_INPUT_NORM, l));
        TC_TRY(p->desc->layer[l].kind == TC_LAYER_DELTA ? add_delta(p, l) : add_attention(p, l));
        TC_TRY(add_norm(p, TC_POST_NORM, l));
        TC_TRY(add_experts(p, l));
    }
    TC_TRY(add_norm(p, TC_FINAL_NORM, 0));
    return add_linear(p, TC_HEAD, 0, 0, false);
}

// ---- the program ----

static uint64_t started_us, told_us;

static void show(uint64_t done, uint64_t total)
{
    bool terminal = isatty(2);
    uint64_t now = tc_now_us();
    if (done < total && now - told_us < (terminal ? 200000u : 5000000u)) return;
    told_us = now;
    double seconds = (double)(now - started_us + 1) * 1e-6;
    fprintf(stderr, "%s%5.1f %%  %.2f of %.2f GB, %.0f MB/s%s", terminal ? "\r" : "",
            100.0 * (double)done / (double)total, (double)done * 1e-9, (double)total * 1e-9,
            (double)done * 1e-6 / seconds, terminal && done < total ? "" : "\n");
}

static tc_status copy_tokenizer(const options *o, tc_error *e)
{
    char *text;
    size_t bytes;
    if (!o->tokenizer) return TC_OK;
    TC_TRY(tc_read_file(o->tokenizer, TOKENIZER_BYTES_MAX, &text, &bytes, e));
    tc_status status = put_text(o->directory, "tokenizer.json", text, bytes, e);
    free(text);
    return status;
}

static tc_status make_routed(const options *o, const tc_model_desc *desc, tc_routed **ret, tc_error *e)
{
    bool delta[TC_LAYERS_MAX];
    for (uint32_t l = 0; l < desc->layers; l++) delta[l] = desc->layer[l].kind == TC_LAYER_DELTA;
    const tc_routed_options routed = {.zipf = o->zipf,
                                      .locality = o->locality,
                                      .hidden = desc->hidden,
                                      .experts = desc->experts,
                                      .top_k = desc->top_k,
                                      .layers = desc->layers,
                                      .vocab = desc->vocab,
                                      .delta = delta,
                                      .norm_zero_centred = desc->norm_zero_centred,
                                      .seed = o->seed};
    return tc_routed_create(&routed, ret, e);
}

static tc_status make(const options *o, tc_error *e)
{
    static tc_model_desc desc;
    static plan p;
    if (mkdir(o->directory, 0755) != 0 && errno != EEXIST) return tc_fail_errno(e, TC_IO, "%s", o->directory);
    TC_TRY(write_configs(o, e));
    TC_TRY(tc_model_desc_load(o->directory, &desc, e)); // checks the numbers that were asked for, too
    TC_TRY(copy_tokenizer(o, e));
    p = (plan){.desc = &desc, .nf4 = o->nf4, .without_experts = o->memory_cache != NULL, .e = e};
    tc_nested_map(p.map);
    started_us = tc_now_us();
    tc_status status = o->routed ? make_routed(o, &desc, &p.routed, e) : TC_OK;
    float down = p.routed ? tc_routed_residual(p.routed) : 1.0f;
    if (status == TC_OK) status = add_all(&p);
    if (status == TC_OK)
        status = tc_random_shards_write(o->directory, &p.list, shard_bytes_max, o->seed, show, e);
    tc_random_list_free(&p.list);
    tc_routed_free(p.routed);
    if (status != TC_OK || !o->memory_cache) return status;
    uint64_t begin_us = tc_now_us();
    TC_TRY(tc_memory_store_make(o->directory, o->memory_cache, o->arena_dir, o->seed, down, e));
    fprintf(stderr, "experts in memory in %.1f s\n", (double)(tc_now_us() - begin_us) * 1e-6);
    return TC_OK;
}

static int usage(FILE *to)
{
    fprintf(to, "usage: thermocline-make-checkpoint --shape NAME [options] OUTDIR\n"
                "  --shape NAME      ");
    for (int i = 0; i < SHAPES; i++) fprintf(to, "%s%s", i ? " | " : "", shapes[i].name);
    fprintf(
        to,
        "\n"
        "  --layers N        fewer (or more) layers than the shape has\n"
        "  --experts N       other number of experts\n"
        "  --vocab N         other vocabulary, for a tokenizer of that size\n"
        "  --dtype nf4|bf16  how linears are stored (nf4)\n"
        "  --seed S          the same seed gives the same bytes (1)\n"
        "  --router-zipf S   experts' popularity falls by rank^-S in every layer (0 to 3; without: as it "
        "falls)\n"
        "  --router-locality P   share of a token's embedding that is its topic's, in which the text stays: "
        "a\n"
        "                    token's experts are partly the last one's (0 to 0.95)\n"
        "  --tokenizer FILE  copied as tokenizer.json, so that text can be served\n"
        "  --memory CACHE    no experts in the model: random packed ones straight into the arena, for one\n"
        "                    worker, and a store of nothing into this cache folder\n"
        "  --arena-dir DIR   where that arena is\n"
        "Writes a model directory with random weights. Its text is noise.\n");
    return to == stderr ? 2 : 0;
}

static bool parse_number(const char *text, uint64_t max, uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno || *text < '0' || *text > '9' || *end || number > max) return false;
    *ret = number;
    return true;
}

static bool parse_real(const char *text, double max, double *ret)
{
    char *end;
    *ret = strtod(text, &end);
    return end != text && !*end && *ret >= 0 && *ret <= max;
}

static bool pick_shape(const char *name, shape *ret)
{
    for (int i = 0; i < SHAPES; i++)
        if (strcmp(shapes[i].name, name) == 0) {
            *ret = shapes[i];
            return true;
        }
    return false;
}

static bool parse_options(int argc, char **argv, options *o, int *ret_exit)
{
    static const struct option table[] = {{"shape", 1, 0, 's'},
                                          {"layers", 1, 0, 'l'},
                                          {"experts", 1, 0, 'x'},
                                          {"vocab", 1, 0, 'v'},
                                          {"dtype", 1, 0, 'd'},
                                          {"seed", 1, 0, 'r'},
                                          {"tokenizer", 1, 0, 't'},
                                          {"memory", 1, 0, 'm'},
                                          {"arena-dir", 1, 0, 'a'},
                                          {"router-zipf", 1, 0, 'z'},
                                          {"router-locality", 1, 0, 'y'},
                                          {"help", 0, 0, 'h'},
                                          {0}};
    uint64_t layers = 0, experts = 0, vocab = 0;
    bool shaped = false, ok = true;
    for (int c; ok && (c = getopt_long(argc, argv, "h", table, NULL)) != -1;) {
        switch (c) {
        case 's':
            ok = shaped = pick_shape(optarg, &o->shape);
            break;
        case 'l':
            ok = parse_number(optarg, TC_LAYERS_MAX, &layers) && layers > 0;
            break;
        case 'x':
            ok = parse_number(optarg, TC_EXPERTS_MAX, &experts) && experts > 0;
            break;
        case 'v':
            ok = parse_number(optarg, TC_VOCAB_MAX, &vocab) && vocab > 0;
            break;
        case 'd':
            o->nf4 = strcmp(optarg, "nf4") == 0;
            ok = o->nf4 || strcmp(optarg, "bf16") == 0;
            break;
        case 'r':
            ok = parse_number(optarg, UINT64_MAX, &o->seed);
            break;
        case 't':
            o->tokenizer = optarg;
            break;
        case 'm':
            o->memory_cache = optarg;
            break;
        case 'a':
            o->arena_dir = optarg;
            break;
        case 'z':
            ok = o->routed = parse_real(optarg, TC_ZIPF_MAX, &o->zipf);
            break;
        case 'y':
            ok = o->routed = parse_real(optarg, TC_LOCALITY_MAX, &o->locality);
            break;
        case 'h':
            *ret_exit = usage(stdout);
            return false;
        default:
            *ret_exit = usage(stderr);
            return false;
        }
        if (!ok) fprintf(stderr, "thermocline-make-checkpoint: \"%s\" is not possible here\n", optarg);
    }
    if (!ok || !shaped || optind != argc - 1) {
        *ret_exit = usage(stderr);
        return false;
    }
    o->directory = argv[optind];
    if (layers) o->shape.layers = (uint32_t)layers;
    if (experts) o->shape.experts = (uint32_t)experts;
    if (vocab) o->shape.vocab = (uint32_t)vocab;
    if (o->shape.top_k > o->shape.experts) o->shape.top_k = o->shape.experts;
    return true;
}

int main(int argc, char **argv)
{
    options o = {.nf4 = true, .seed = 1};
    tc_error e;
    int code = 0;
    tc_log_init("make-checkpoint", TC_LOG_INFO, false);
    if (!parse_options(argc, argv, &o, &code)) return code;
    if (make(&o, &e) == TC_OK) return 0;
    tc_error_log("%s", e.text);
    return 1;
}
