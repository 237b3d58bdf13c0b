// SPDX-License-Identifier: Apache-2.0
// Owns: reading weights out of GGUF files by the names of the family: which tensor has a role, where an
// expert's rows lie in it, and in which order files keep rows that Hugging Face keeps in another.
// Refuses: tensors of another shape than the role's, and scales that are not finite.
#include "common/base/mem.h"
#include "common/model/dtype.h"
#include "common/model/gguf_blocks.h"
#include "common/model/gguf_model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PARTS_MAX = 2, NAME_BYTES = 64, VECTOR_COUNT_MAX = 1 << 28 };

// Behind "blk.N." where a layer has it. NULL: files have no such tensor.
static const char *const names[TC_ROLES] = {
    [TC_EMBED] = "token_embd",
    [TC_FINAL_NORM] = "output_norm",
    [TC_HEAD] = "output",
    [TC_INPUT_NORM] = "attn_norm",
    [TC_POST_NORM] = "ffn_norm",
    [TC_Q] = "attn_q",
    [TC_K] = "attn_k",
    [TC_V] = "attn_v",
    [TC_O] = "attn_output",
    [TC_Q_NORM] = "attn_q_norm",
    [TC_K_NORM] = "attn_k_norm",
    [TC_SINKS] = "attn_sinks",
    [TC_DN_QKVZ] = "attn_qkv",
    [TC_DN_BA] = "ssm_ba",
    [TC_DN_CONV] = "ssm_conv1d",
    [TC_DN_NORM] = "ssm_norm",
    [TC_DN_A_LOG] = "ssm_a",
    [TC_DN_DT_BIAS] = "ssm_dt",
    [TC_DN_OUT] = "ssm_out",
    [TC_ROUTER] = "ffn_gate_inp",
    [TC_EXPERT_GATE] = "ffn_gate_exps",
    [TC_EXPERT_UP] = "ffn_up_exps",
    [TC_EXPERT_DOWN] = "ffn_down_exps",
    [TC_SHARED_GATE] = "ffn_gate_shexp",
    [TC_SHARED_UP] = "ffn_up_shexp",
    [TC_SHARED_DOWN] = "ffn_down_shexp",
    [TC_SHARED_ROUTER] = "ffn_gate_inp_shexp",
    [TC_MLP_GATE] = "ffn_gate",
    [TC_MLP_UP] = "ffn_up",
    [TC_MLP_DOWN] = "ffn_down",
};

typedef enum order {
    ORDER_KEPT,
    ORDER_ROTARY, // halves of a head that take turns, row by row, become one behind the other
    ORDER_QKVZ,   // parts [all q | all k | all v] and [all z] become [q k v z] for each key head
} order;

// Where a role's rows are.
typedef struct place {
    tc_role role;
    uint32_t layer;
    order order;
    uint32_t parts;
    char name[PARTS_MAX][NAME_BYTES];
    const tc_tensor_entry *entry[PARTS_MAX];
    uint64_t first_row, rows; // of part 0: the first that is ours, and how many the tensor has in all
} place;

static tc_status bad(const tc_checkpoint *c, const char *tensor, const tc_tensor_entry *t, tc_error *e,
                     const char *format, ...) __attribute__((format(printf, 5, 6)));
static tc_status bad(const tc_checkpoint *c, const char *tensor, const tc_tensor_entry *t, tc_error *e,
                     const char *format, ...)
{
    char reason[256];
    va_list ap;
    va_start(ap, format);
    vsnprintf(reason, sizeof reason, format, ap);
    va_end(ap);
    return tc_fail(e, TC_FORMAT, "%.150s/%.100s: tensor %s: %s", c->dir,
                   tc_names_text(&c->shard_names, t ? t->shard : 0), tensor, reason);
}

static const tc_tensor_entry *entry_of(const tc_checkpoint *c, const char *name)
{
    uint32_t id = tc_names_find(&c->table.names, name, strlen(name));
    return id == TC_NAME_NONE ? NULL : &c->table.entries[id];
}

static bool of_layer(tc_role role)
{
    return role != TC_EMBED && role != TC_FINAL_NORM && role != TC_HEAD;
}

static void name_part(const tc_checkpoint *c, place *p, const char *base, uint32_t layer, const char *suffix)
{
    char *name = p->name[p->parts];
    if (of_layer(p->role))
        snprintf(name, NAME_BYTES, "blk.%u.%s%s", layer, base, suffix);
    else
        snprintf(name, NAME_BYTES, "%s%s", base, suffix);
    p->entry[p->parts++] = entry_of(c, name);
}

static void find_expert(const tc_checkpoint *c, place *p, uint32_t layer, uint32_t expert, uint32_t rows)
{
    static const char *const alone[] = {"ffn_gate", "ffn_up", "ffn_down"};
    uint64_t experts = c->desc.experts;
    char base[32];
    p->first_row = (uint64_t)expert * rows;
    p->rows = experts * rows;
    if (p->entry[0]) return;
    if (p->role != TC_EXPERT_DOWN) {
        p->parts = 0; // gate and up of an expert in one
        name_part(c, p, "ffn_gate_up_exps", layer, ".weight");
        p->first_row = (uint64_t)expert * 2 * rows + (p->role == TC_EXPERT_UP ? rows : 0);
        p->rows = experts * 2 * rows;
        if (p->entry[0]) return;
    }
    p->parts = 0; // a tensor each, in older files
    snprintf(base, sizeof base, "%s.%u", alone[p->role - TC_EXPERT_GATE], expert);
    name_part(c, p, base, layer, ".weight");
    p->first_row = 0;
    p->rows = rows;
    if (p->entry[0]) return;
    p->parts = 0; // none: missing under the name that files have today
    name_part(c, p, names[p->role], layer, ".weight");
}

// The tensor of a name of the family. entry[0] NULL: there is none; name[0] tells what was sought.
static void locate(const tc_checkpoint *c, const char *tensor, const char *weight, place *ret)
{
    const char *suffix;
    uint32_t layer, expert, rows, cols;
    *ret = (place){.parts = 0};
    snprintf(ret->name[0], NAME_BYTES, "%.60s", tensor);
    if (!tc_model_tensor_role(&c->desc, tensor, &ret->role, &layer, &expert, &suffix) || !names[ret->role])
        return;
    if (expert && expert >= c->desc.experts) return;
    ret->layer = layer;
    if (*suffix && (ret->role == TC_DN_A_LOG || ret->role == TC_DN_DT_BIAS)) return; // these are whole
    const char *base = names[ret->role];
    const char *family = c->desc.family;
    bool after = strcmp(family, "qwen3_next") == 0 || strcmp(family, "gpt_oss") == 0;
    if (ret->role == TC_POST_NORM && after) base = "post_attention_norm";
    if ((ret->role == TC_Q || ret->role == TC_K) && strcmp(family, "mixtral") == 0) ret->order = ORDER_ROTARY;
    if (ret->role == TC_DN_DT_BIAS) weight = ".bias";
    tc_model_tensor_shape(&c->desc, ret->role, layer, &rows, &cols);
    if (ret->role == TC_SINKS) weight = ".weight"; // which Hugging Face leaves out
    name_part(c, ret, base, layer, ret->role == TC_DN_A_LOG ? "" : *suffix ? suffix : weight);
    ret->rows = rows;
    if (ret->role >= TC_EXPERT_GATE && ret->role <= TC_EXPERT_DOWN) {
        bool bias = strcmp(suffix, ".bias") == 0;
        if (!bias) find_expert(c, ret, layer, expert, rows);
        if (bias) ret->first_row = expert;
    }
    if (ret->role != TC_DN_QKVZ) return;
    if (!ret->entry[0]) { // older files keep Hugging Face's order
        ret->parts = 0;
        name_part(c, ret, "ssm_in", layer, ".weight");
        return;
    }
    ret->order = ORDER_QKVZ;
    ret->rows = rows - (uint64_t)c->desc.dn_value_heads * c->desc.dn_value_dim;
    name_part(c, ret, "attn_gate", layer, ".weight");
    if (!ret->entry[1]) { // one missing is all missing, under its name
        memcpy(ret->name[0], ret->name[1], NAME_BYTES);
        ret->entry[0] = NULL;
    }
}

bool tc_gguf_has(const tc_checkpoint *c, const char *tensor)
{
    place p;
    locate(c, tensor, "", &p);
    return p.entry[0] != NULL;
}

bool tc_gguf_is_4bit(const tc_checkpoint *c, const char *base)
{
    place p;
    locate(c, base, ".weight", &p);
    return p.entry[0] && p.order == ORDER_KEPT && tc_block_levels(p.entry[0]->dtype);
}

tc_dtype tc_gguf_dtype(const tc_checkpoint *c, const char *tensor)
{
    place p;
    locate(c, tensor, "", &p);
    if (!p.entry[0]) return TC_OTHER;
    switch (p.entry[0]->dtype) {
    case TC_BLOCK_F32:
        return TC_F32;
    case TC_BLOCK_F16:
        return TC_F16;
    case TC_BLOCK_BF16:
        return TC_BF16;
    default:
        return TC_OTHER;
    }
}

// ---- weights ----

static uint64_t row_bytes(const tc_tensor_entry *t, uint32_t cols)
{
    const tc_block_info *info = tc_block_info_of(t->dtype);
    return (uint64_t)cols / info->elements * info->bytes;
}

static tc_status check_shape(const tc_checkpoint *c, const place *p, uint32_t part, uint64_t rows,
                             uint32_t cols, tc_error *e)
{
    const tc_tensor_entry *t = p->entry[part];
    const uint64_t *shape = c->table.shapes + t->shape_at;
    uint64_t found = 1;
    for (uint32_t i = 0; i + 1 < t->dims; i++) found *= shape[i]; // the product was checked
    if (found == rows && shape[t->dims - 1] == cols) return TC_OK;
    return bad(c, p->name[part], t, e,
               "has %" PRIu64 " rows of %" PRIu64 ", the model needs %" PRIu64 " of %u", found,
               shape[t->dims - 1], rows, cols);
}

// Rows [first, first + count) of a part.
static tc_status read_rows(const tc_checkpoint *c, const place *p, uint32_t part, uint64_t first,
                           uint64_t count, uint32_t cols, void *ret, tc_error *e)
{
    const tc_tensor_entry *t = p->entry[part];
    const tc_shard_file *file = &c->shards[t->shard];
    uint64_t bytes = row_bytes(t, cols);
    if (tc_pread_all(file->fd, p->name[part], ret, count * bytes, file->data_at + t->begin + first * bytes,
                     e) != TC_OK)
        return tc_error_prefix(e, "%.150s/%.100s", c->dir, tc_names_text(&c->shard_names, t->shard));
    const tc_block_info *info = tc_block_info_of(t->dtype);
    uint64_t blocks = count * (cols / info->elements), wrong = tc_blocks_first_bad(t->dtype, ret, blocks);
    if (wrong == blocks) return TC_OK;
    return bad(c, p->name[part], t, e, "block %" PRIu64 " of row %" PRIu64 " is not finite",
               wrong % (cols / info->elements), first + wrong / (cols / info->elements));
}

// Where row r of the role lies.
static uint64_t source_row(const tc_model_desc *d, order how, uint64_t r, uint32_t *ret_part)
{
    *ret_part = 0;
    if (how == ORDER_ROTARY) {
        uint64_t half = d->head_dim / 2, in = r % d->head_dim;
        return r - in + in % half * 2 + in / half;
    }
    uint64_t ratio = d->dn_value_heads / d->dn_key_heads, k = d->dn_key_dim, v = ratio * d->dn_value_dim;
    uint64_t head = r / (2 * k + 2 * v), in = r % (2 * k + 2 * v), keys = (uint64_t)d->dn_key_heads * k;
    if (in < k) return head * k + in;
    if (in < 2 * k) return keys + head * k + in - k;
    if (in < 2 * k + v) return 2 * keys + head * v + in - 2 * k;
    *ret_part = 1;
    return head * v + in - 2 * k - v;
}

// All parts whole, then their rows in the order of the family. Parts of two types become float32.
static tc_status read_reordered(const tc_checkpoint *c, const place *p, tc_weight *w, uint8_t *ret_type,
                                tc_error *e)
{
    uint8_t *part[PARTS_MAX] = {0};
    uint64_t rows[PARTS_MAX] = {p->rows, w->rows - p->rows}, bytes[PARTS_MAX];
    bool same = p->parts == 1 || p->entry[0]->dtype == p->entry[1]->dtype;
    tc_status status = TC_OK;
    for (uint32_t i = 0; i < p->parts; i++) {
        TC_GOTO(check_shape(c, p, i, rows[i], w->cols, e));
        bytes[i] = row_bytes(p->entry[i], w->cols);
        part[i] = tc_alloc(TC_MEM_OTHER, rows[i], bytes[i]);
        if (!part[i]) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: no memory for the weight", p->name[i]));
        TC_GOTO(read_rows(c, p, i, 0, rows[i], w->cols, part[i], e));
    }
    uint64_t to_bytes = same ? bytes[0] : w->cols * sizeof(float);
    w->data = tc_alloc(TC_MEM_OTHER, w->rows, to_bytes);
    if (!w->data) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: no memory for the weight", p->name[0]));
    for (uint64_t r = 0; r < w->rows; r++) {
        uint32_t which;
        uint64_t from = source_row(&c->desc, p->order, r, &which);
        uint8_t *to = (uint8_t *)w->data + r * to_bytes;
        const uint8_t *row = part[which] + from * bytes[which];
        if (same)
            memcpy(to, row, to_bytes);
        else
            tc_blocks_dequantise(p->entry[which]->dtype, row, 0, w->cols, (float *)to);
    }
    *ret_type = same ? p->entry[0]->dtype : TC_BLOCK_F32;
    w->coarse = !same && tc_block_info_of(p->entry[0]->dtype)->elements > 1 &&
                tc_block_info_of(p->entry[1]->dtype)->elements > 1;
out:
    for (uint32_t i = 0; i < PARTS_MAX; i++) tc_free(part[i]);
    return status;
}

static tc_status read_kept(const tc_checkpoint *c, const place *p, tc_weight *w, uint8_t *ret_type,
                           tc_error *e)
{
    TC_TRY(check_shape(c, p, 0, p->rows, w->cols, e));
    w->data = tc_alloc(TC_MEM_OTHER, w->rows, row_bytes(p->entry[0], w->cols));
    if (!w->data) return tc_fail(e, TC_NOMEM, "%s: no memory for the weight", p->name[0]);
    *ret_type = p->entry[0]->dtype;
    return read_rows(c, p, 0, p->first_row, w->rows, w->cols, w->data, e);
}

// Blocks of a code book as the weights of bitsandbytes are kept: codes in order, a scale for each 32.
static tc_status to_codes(tc_weight *w, uint8_t type, tc_error *e)
{
    const tc_block_info *info = tc_block_info_of(type);
    uint64_t elements = (uint64_t)w->rows * w->cols, blocks = elements / info->elements;
    uint8_t *codes = tc_alloc(TC_MEM_OTHER, elements / 2, 1);
    float *scales = tc_alloc(TC_MEM_OTHER, elements / TC_BLOCK_CODES, sizeof *scales);
    if (!codes || !scales) {
        tc_free(codes);
        tc_free(scales);
        return tc_fail(e, TC_NOMEM, "no memory for %" PRIu64 " weights", elements);
    }
    for (uint64_t b = 0; b < blocks; b++)
        tc_block_codes(type, (const uint8_t *)w->data + b * info->bytes, codes + b * info->elements / 2,
                       scales + b * info->elements / TC_BLOCK_CODES);
    tc_free(w->data);
    w->data = codes;
    w->absmax = scales;
    w->quantised = true;
    w->block = TC_BLOCK_CODES;
    memcpy(w->levels, tc_block_levels(type), sizeof w->levels);
    return TC_OK;
}

static tc_status type_weight(tc_weight *w, uint8_t type, tc_error *e)
{
    w->dtype = type == TC_BLOCK_F16 ? TC_F16 : type == TC_BLOCK_BF16 ? TC_BF16 : TC_F32;
    if (tc_block_levels(type)) return to_codes(w, type, e);
    if (tc_block_info_of(type)->elements == 1) return TC_OK;
    w->block_type = type;
    w->coarse = true;
    return TC_OK;
}

tc_status tc_gguf_weight(const tc_checkpoint *c, const char *base, uint32_t rows, uint32_t cols,
                         tc_weight *ret, tc_error *e)
{
    tc_weight w = {.rows = rows, .cols = cols};
    uint8_t type = TC_BLOCK_F32;
    uint32_t role_rows, role_cols;
    place p;
    tc_status status;
    locate(c, base, ".weight", &p);
    if (!p.entry[0])
        return tc_fail(e, TC_NOT_FOUND, "%.250s: tensor %s is missing (%s)", c->dir, p.name[0], base);
    tc_model_tensor_shape(&c->desc, p.role, p.layer, &role_rows, &role_cols);
    if (rows != role_rows || cols != role_cols)
        return tc_fail(e, TC_ARGUMENT, "%s: [%u, %u] is asked for, the model has [%u, %u]", base, rows, cols,
                       role_rows, role_cols);
    TC_GOTO(p.order != ORDER_KEPT ? read_reordered(c, &p, &w, &type, e) : read_kept(c, &p, &w, &type, e));
    TC_GOTO(type_weight(&w, type, e));
    if (c->keep) w.coarse = false;
    *ret = w;
    w = (tc_weight){0};
out:
    tc_weight_free(&w);
    return status;
}

tc_status tc_gguf_weight_like(const tc_checkpoint *c, const char *base, tc_weight *ret, tc_error *e)
{
    place p;
    locate(c, base, ".weight", &p);
    if (!p.entry[0])
        return tc_fail(e, TC_NOT_FOUND, "%.250s: tensor %s is missing (%s)", c->dir, p.name[0], base);
    uint8_t type = p.entry[0]->dtype;
    bool blocks = tc_block_info_of(type)->elements > 1;
    if (p.parts > 1 && p.entry[1]->dtype != type) { // float32, of which some came from blocks
        ret->coarse = !c->keep && blocks && tc_block_info_of(p.entry[1]->dtype)->elements > 1;
        return TC_OK;
    }
    ret->dtype = type == TC_BLOCK_F16 ? TC_F16 : type == TC_BLOCK_BF16 ? TC_BF16 : TC_F32;
    ret->quantised = tc_block_levels(type) != NULL;
    ret->block = ret->quantised ? TC_BLOCK_CODES : 0;
    ret->coarse = !c->keep && blocks && !ret->quantised;
    return TC_OK;
}

tc_status tc_gguf_vector(const tc_checkpoint *c, const char *tensor, uint64_t count, float **ret, tc_error *e)
{
    place p;
    tc_status status = TC_OK;
    uint8_t *data = NULL;
    float *values = NULL;
    locate(c, tensor, "", &p);
    if (!p.entry[0])
        return tc_fail(e, TC_NOT_FOUND, "%.250s: tensor %s is missing (%s)", c->dir, p.name[0], tensor);
    const tc_tensor_entry *t = p.entry[0];
    const tc_block_info *info = tc_block_info_of(t->dtype);
    bool slice = p.role >= TC_EXPERT_GATE && p.role <= TC_EXPERT_DOWN; // a bias: a row an expert
    uint64_t found = t->bytes / info->bytes * info->elements, rows = slice ? c->desc.experts : 1;
    if (count > VECTOR_COUNT_MAX || found != count * rows || count % info->elements)
        return bad(c, p.name[0], t, e, "holds %" PRIu64 " elements, the model needs %" PRIu64, found,
                   count * rows);
    data = tc_alloc(TC_MEM_OTHER, row_bytes(t, (uint32_t)count), 1);
    values = tc_alloc(TC_MEM_WEIGHTS, count, sizeof *values);
    if (!data || !values) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: no memory", p.name[0]));
    TC_GOTO(read_rows(c, &p, 0, slice ? p.first_row : 0, 1, (uint32_t)count, data, e));
    tc_blocks_dequantise(t->dtype, data, 0, count, values);
    *ret = values;
    values = NULL;
out:
    tc_free(values);
    tc_free(data);
    return status;
}
