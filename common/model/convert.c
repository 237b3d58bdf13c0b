// SPDX-License-Identifier: Apache-2.0
// Owns: the plan of a converted model (which tensors, how long, in which shard) and its files. All sizes are
// known before the first weight is read, so headers come first; a quantisation state is padded to one length
// for that. What the tensors hold: convert_data.c.
#include "common/base/json.h"
#include "common/model/convert_internal.h"
#include "common/model/dtype.h"
#include "common/model/source.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = TC_MODEL_PATH_BYTES + 64, FILE_BYTES_MAX = 128 << 20 };

static const char *const suffixes[NF4_PARTS] = {".weight",
                                                ".weight.absmax",
                                                ".weight.nested_absmax",
                                                ".weight.nested_quant_map",
                                                ".weight.quant_map",
                                                ".weight.quant_state.bitsandbytes__nf4"};

// ---- the plan ----

static void name_of(const converter *v, const item *i, char ret[TC_TENSOR_NAME_BYTES])
{
    tc_model_tensor_name(v->d, i->role, i->layer, i->expert, ret);
}

// Linears that bitsandbytes leaves alone: named in llm_int8_skip_modules.
static bool stays(tc_role role)
{
    return role == TC_EMBED || role == TC_HEAD || role == TC_ROUTER || role == TC_SHARED_ROUTER ||
           role == TC_DN_CONV;
}

static tc_status add_item(converter *v, const item *add)
{
    if (v->count == v->room) {
        uint32_t room = v->room ? v->room * 2 : 1024;
        item *items = realloc(v->items, room * sizeof *items);
        if (!items) return tc_fail(v->e, TC_NOMEM, "%s: no memory for its plan", v->folder);
        v->items = items;
        v->room = room;
    }
    v->items[v->count++] = *add;
    return TC_OK;
}

// The type that a tensor which is not made NF4 is written in: its own, or what it dequantises to.
// Embeddings and head of 32 bits become 16.
static tc_status choose_item_dtype(converter *v, item *i, const char *base, const char *full)
{
    tc_weight w = {0};
    i->dtype = tc_checkpoint_dtype(v->c, full);
    if (i->dtype == TC_OTHER && i->kind == ITEM_MATRIX) {
        TC_TRY(tc_checkpoint_weight(v->c, base, i->rows, i->cols, &w, v->e));
        i->dtype = w.dtype;
        tc_weight_free(&w);
    }
    bool large = i->role == TC_EMBED || i->role == TC_HEAD;
    if (i->dtype == TC_OTHER || (large && i->dtype == TC_F32)) i->dtype = v->dtype;
    return TC_OK;
}

static tc_status add_role(converter *v, tc_role role, uint32_t layer)
{
    char base[TC_TENSOR_NAME_BYTES], full[TC_TENSOR_NAME_BYTES + 16];
    item i = {.role = role, .layer = layer};
    bool whole = tc_convert_whole(role);
    name_of(v, &i, base);
    if (!*base) return TC_OK;
    tc_model_tensor_shape(v->d, role, layer, &i.rows, &i.cols);
    snprintf(full, sizeof full, "%s%s", base, whole ? "" : ".weight");
    if (!tc_checkpoint_has(v->c, full)) return TC_OK;
    i.kind = i.cols == 1 || role == TC_DN_CONV ? ITEM_VECTOR
             : v->o->dense || stays(role)      ? ITEM_MATRIX
                                               : ITEM_NF4;
    if (i.kind == ITEM_MATRIX && !stays(role))
        i.dtype = v->dtype; // dense: what NF4 dequantises to
    else if (i.kind != ITEM_NF4)
        TC_TRY(choose_item_dtype(v, &i, base, full));
    TC_TRY(add_item(v, &i));
    snprintf(full, sizeof full, "%s.bias", base);
    if (whole || !tc_checkpoint_has(v->c, full)) return TC_OK;
    i.kind = ITEM_VECTOR;
    i.bias = true;
    i.cols = 1;
    TC_TRY(choose_item_dtype(v, &i, base, full));
    return add_item(v, &i);
}

// One by one under names of their own, however they are stored.
static tc_status add_experts(converter *v, tc_role role, uint32_t layer)
{
    item i = {.kind = v->o->dense ? ITEM_MATRIX : ITEM_NF4, .role = role, .layer = layer, .of_expert = true};
    i.dtype = v->dtype;
    tc_model_tensor_shape(v->d, role, layer, &i.rows, &i.cols);
    for (i.expert = 0; i.expert < v->d->experts; i.expert++) {
        TC_TRY(add_item(v, &i));
        if (!v->d->expert_bias) continue;
        item bias = i;
        bias.kind = ITEM_VECTOR;
        bias.bias = true;
        bias.cols = 1;
        bias.dtype = tc_checkpoint_expert_bias_dtype(v->c, role, layer, i.expert);
        if (bias.dtype == TC_OTHER) bias.dtype = v->dtype;
        TC_TRY(add_item(v, &bias));
    }
    return TC_OK;
}

static tc_status add_layer(converter *v, uint32_t layer)
{
    for (int role = 0; role < TC_ROLES; role++) {
        if (role == TC_EMBED || role == TC_FINAL_NORM || role == TC_HEAD) continue;
        bool expert = role >= TC_EXPERT_GATE && role <= TC_EXPERT_DOWN;
        if (expert && !v->d->layer[layer].moe) continue;
        TC_TRY(expert ? add_experts(v, (tc_role)role, layer) : add_role(v, (tc_role)role, layer));
    }
    return TC_OK;
}

// Parts beside the text model (model.visual.*) stay with it. Layers for speculation do not: what they are
// quantised as the new folder could not tell.
static tc_status add_others(converter *v)
{
    static const char visual[] = "model.visual.";
    for (uint32_t id = 0; !v->c->gguf && id < v->c->table.names.count; id++) {
        if (strncmp(tc_names_text(&v->c->table.names, id), visual, sizeof visual - 1) != 0) continue;
        TC_TRY(add_item(v, &(item){.kind = ITEM_COPY, .copied = id}));
        v->others = true;
    }
    return TC_OK;
}

static uint64_t item_bytes(const converter *v, const item *i)
{
    uint64_t parts[NF4_PARTS], sum = 0;
    if (i->kind == ITEM_COPY) return v->c->table.entries[i->copied].bytes;
    if (i->kind != ITEM_NF4) return (uint64_t)i->rows * i->cols * tc_dtype_bytes(i->dtype);
    tc_convert_part_sizes(i, parts);
    for (int p = 0; p < NF4_PARTS; p++) sum += parts[p];
    return sum;
}

static tc_status plan(converter *v)
{
    uint64_t most = v->o->shard_bytes ? v->o->shard_bytes : 4ull << 30, shard = 0;
    TC_TRY(add_role(v, TC_EMBED, 0));
    for (uint32_t l = 0; l < v->d->layers; l++) TC_TRY(add_layer(v, l));
    TC_TRY(add_role(v, TC_FINAL_NORM, 0));
    if (!v->d->tied_embeddings) TC_TRY(add_role(v, TC_HEAD, 0));
    TC_TRY(add_others(v));
    for (uint32_t i = 0; i < v->count; i++) {
        uint64_t bytes = item_bytes(v, &v->items[i]);
        if (shard && shard + bytes > most) {
            v->shards++;
            shard = 0;
        }
        v->items[i].shard = v->shards;
        shard += bytes;
        v->total += bytes;
    }
    v->shards++;
    return TC_OK;
}

// ---- headers ----

static void add_entry(yyjson_mut_doc *doc, yyjson_mut_val *root, const char *name, const char *dtype,
                      const uint64_t *shape, int dims, uint64_t *at, uint64_t bytes)
{
    yyjson_mut_val *entry = yyjson_mut_obj(doc);
    yyjson_mut_obj_add_str(doc, entry, "dtype", dtype);
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(doc, entry, "shape");
    for (int i = 0; i < dims; i++) yyjson_mut_arr_add_uint(doc, list, shape[i]);
    list = yyjson_mut_obj_add_arr(doc, entry, "data_offsets");
    yyjson_mut_arr_add_uint(doc, list, *at);
    *at += bytes;
    yyjson_mut_arr_add_uint(doc, list, *at);
    yyjson_mut_obj_add(root, yyjson_mut_strcpy(doc, name), entry);
}

static const char *dtype_name(tc_dtype dtype)
{
    return dtype == TC_F32 ? "F32" : dtype == TC_F16 ? "F16" : "BF16";
}

static void header_nf4(const item *i, const char *base, yyjson_mut_doc *doc, yyjson_mut_val *root,
                       uint64_t *at)
{
    char name[TC_TENSOR_NAME_BYTES + 64];
    uint64_t bytes[NF4_PARTS];
    tc_convert_part_sizes(i, bytes);
    for (int p = 0; p < NF4_PARTS; p++) {
        bool floats = p == PART_NESTED || p == PART_NESTED_MAP || p == PART_MAP;
        uint64_t shape[2] = {floats ? bytes[p] / 4 : bytes[p], 1};
        snprintf(name, sizeof name, "%s%s", base, suffixes[p]);
        add_entry(doc, root, name, floats ? "F32" : "U8", shape, p == PART_CODES ? 2 : 1, at, bytes[p]);
    }
}

static void header_copy(const converter *v, const item *i, yyjson_mut_doc *doc, yyjson_mut_val *root,
                        uint64_t *at)
{
    const tc_tensor_entry *t = &v->c->table.entries[i->copied];
    add_entry(doc, root, tc_names_text(&v->c->table.names, i->copied), tc_safetensors_dtype_name(t->dtype),
              v->c->table.shapes + t->shape_at, t->dims, at, t->bytes);
}

static void header_item(const converter *v, const item *i, yyjson_mut_doc *doc, yyjson_mut_val *root,
                        uint64_t *at)
{
    char base[TC_TENSOR_NAME_BYTES], name[TC_TENSOR_NAME_BYTES + 64];
    if (i->kind == ITEM_COPY) {
        header_copy(v, i, doc, root, at);
        return;
    }
    name_of(v, i, base);
    if (i->kind == ITEM_NF4) {
        header_nf4(i, base, doc, root, at);
        return;
    }
    bool conv = i->role == TC_DN_CONV;
    uint64_t shape[3] = {i->rows, conv ? 1 : i->cols, i->cols};
    snprintf(name, sizeof name, "%s%s", base, i->bias ? ".bias" : tc_convert_whole(i->role) ? "" : ".weight");
    add_entry(doc, root, name, dtype_name(i->dtype), shape,
              conv                     ? 3
              : i->kind == ITEM_VECTOR ? 1
                                       : 2,
              at, item_bytes(v, i));
}

// ---- files ----

static void shard_name(const converter *v, uint32_t shard, char ret[64])
{
    if (v->shards == 1)
        snprintf(ret, 64, "model.safetensors");
    else
        snprintf(ret, 64, "model-%05u-of-%05u.safetensors", shard + 1, v->shards);
}

static tc_status put_header(converter *v, uint32_t shard)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = doc ? yyjson_mut_obj(doc) : NULL;
    char *text = NULL;
    size_t bytes = 0;
    uint64_t at = 0, counted = v->done;
    tc_status status;
    if (!root) TC_GOTO(tc_fail(v->e, TC_NOMEM, "%s: out of memory", v->folder));
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, yyjson_mut_obj_add_obj(doc, root, "__metadata__"), "format", "pt");
    for (uint32_t i = 0; i < v->count; i++)
        if (v->items[i].shard == shard) header_item(v, &v->items[i], doc, root, &at);
    text = yyjson_mut_write(doc, YYJSON_WRITE_NOFLAG, &bytes);
    if (!text) TC_GOTO(tc_fail(v->e, TC_NOMEM, "%s: out of memory", v->folder));
    uint64_t padded = (bytes + 7) & ~7ull;
    TC_GOTO(tc_convert_put(v, &padded, sizeof padded)); // little-endian, as all of this project
    TC_GOTO(tc_convert_put(v, text, bytes));
    TC_GOTO(tc_convert_put(v, "       ", padded - bytes));
    v->done = counted;
out:
    free(text);
    yyjson_mut_doc_free(doc);
    return status;
}

static tc_status finish_file(converter *v, const char *temporary, const char *path)
{
    if (fsync(v->fd) != 0) return tc_fail_errno(v->e, TC_IO, "%s", temporary);
    close(v->fd);
    v->fd = -1;
    return rename(temporary, path) == 0 ? TC_OK : tc_fail_errno(v->e, TC_IO, "%s", path);
}

static tc_status begin_file(converter *v, const char *name, char temporary[PATH_BYTES], char path[PATH_BYTES])
{
    snprintf(path, PATH_BYTES, "%s/%s", v->folder, name);
    snprintf(temporary, PATH_BYTES, "%s/.%s.part", v->folder, name);
    v->fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    return v->fd < 0 ? tc_fail_errno(v->e, TC_IO, "%s", temporary) : TC_OK;
}

static tc_status write_shard(converter *v, uint32_t shard)
{
    char name[64], temporary[PATH_BYTES], path[PATH_BYTES];
    tc_status status;
    shard_name(v, shard, name);
    TC_TRY(begin_file(v, name, temporary, path));
    TC_GOTO(put_header(v, shard));
    for (uint32_t i = 0; i < v->count; i++)
        if (v->items[i].shard == shard) TC_GOTO(tc_convert_put_item(v, &v->items[i]));
    TC_GOTO(finish_file(v, temporary, path));
out:
    if (status != TC_OK) unlink(temporary);
    return status;
}

static tc_status write_text(converter *v, const char *name, const char *text, size_t bytes)
{
    char temporary[PATH_BYTES], path[PATH_BYTES];
    uint64_t counted = v->done;
    tc_status status;
    TC_TRY(begin_file(v, name, temporary, path));
    TC_GOTO(tc_convert_put(v, text, bytes));
    TC_GOTO(finish_file(v, temporary, path));
out:
    v->done = counted;
    if (status != TC_OK) unlink(temporary);
    return status;
}

static tc_status write_index(converter *v)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = doc ? yyjson_mut_obj(doc) : NULL, *map;
    char *text = NULL, file[64];
    size_t bytes;
    tc_status status;
    if (!root) TC_GOTO(tc_fail(v->e, TC_NOMEM, "%s: out of memory", v->folder));
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_uint(doc, yyjson_mut_obj_add_obj(doc, root, "metadata"), "total_size", v->total);
    map = yyjson_mut_obj_add_obj(doc, root, "weight_map");
    for (uint32_t i = 0; i < v->count; i++) {
        yyjson_mut_doc *one = yyjson_mut_doc_new(NULL); // the names that its header has
        yyjson_mut_val *entries = one ? yyjson_mut_obj(one) : NULL, *key, *value;
        size_t k, n;
        uint64_t at = 0;
        if (!entries) TC_GOTO(tc_fail(v->e, TC_NOMEM, "%s: out of memory", v->folder));
        header_item(v, &v->items[i], one, entries, &at);
        shard_name(v, v->items[i].shard, file);
        yyjson_mut_obj_foreach(entries, k, n, key, value) yyjson_mut_obj_add(
            map, yyjson_mut_strcpy(doc, yyjson_mut_get_str(key)), yyjson_mut_strcpy(doc, file));
        yyjson_mut_doc_free(one);
    }
    text = yyjson_mut_write(doc, YYJSON_WRITE_PRETTY_TWO_SPACES, &bytes);
    if (!text) TC_GOTO(tc_fail(v->e, TC_NOMEM, "%s: out of memory", v->folder));
    status = write_text(v, "model.safetensors.index.json", text, bytes);
out:
    free(text);
    yyjson_mut_doc_free(doc);
    return status;
}

static void add_quantisation(const converter *v, yyjson_mut_doc *doc, yyjson_mut_val *root, const char *dtype)
{
    static const char *const skipped[] = {"lm_head", "embed_tokens",       "gate",
                                          "router",  "shared_expert_gate", "conv1d"};
    yyjson_mut_val *q = yyjson_mut_obj_add_obj(doc, root, "quantization_config");
    yyjson_mut_obj_add_str(doc, q, "quant_method", "bitsandbytes");
    yyjson_mut_obj_add_bool(doc, q, "load_in_4bit", true);
    yyjson_mut_obj_add_bool(doc, q, "load_in_8bit", false);
    yyjson_mut_obj_add_str(doc, q, "bnb_4bit_quant_type", "nf4");
    yyjson_mut_obj_add_bool(doc, q, "bnb_4bit_use_double_quant", true);
    yyjson_mut_obj_add_str(doc, q, "bnb_4bit_compute_dtype", dtype);
    yyjson_mut_obj_add_str(doc, q, "bnb_4bit_quant_storage", "uint8");
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(doc, q, "llm_int8_skip_modules");
    for (size_t i = 0; i < sizeof skipped / sizeof *skipped; i++)
        yyjson_mut_arr_add_str(doc, list, skipped[i]);
    if (v->others) yyjson_mut_arr_add_str(doc, list, "model.visual");
}

// The dtype of a configuration, under the name that all versions of transformers read.
static void set_dtype(yyjson_mut_doc *doc, yyjson_mut_val *config, const char *dtype)
{
    yyjson_mut_obj_remove_key(config, "torch_dtype");
    yyjson_mut_obj_remove_key(config, "dtype");
    yyjson_mut_obj_add_str(doc, config, "torch_dtype", dtype);
}

static tc_status write_config(converter *v)
{
    char what[TC_MODEL_PATH_BYTES], *text = NULL, *made = NULL;
    size_t bytes;
    yyjson_doc *read = NULL;
    yyjson_mut_doc *doc = NULL;
    tc_status status;
    TC_TRY(tc_model_text(v->model, TC_FILE_CONFIG, FILE_BYTES_MAX, &text, &bytes, what, v->e));
    TC_GOTO(tc_json_parse(what, text, bytes, TC_JSON_DEPTH_MAX, &read, v->e));
    doc = yyjson_doc_mut_copy(read, NULL);
    if (!doc) TC_GOTO(tc_fail(v->e, TC_NOMEM, "%s: out of memory", what));
    yyjson_mut_val *root = yyjson_mut_doc_get_root(doc);
    const char *dtype = v->dtype == TC_F16 ? "float16" : "bfloat16";
    set_dtype(doc, root, dtype);
    if (yyjson_mut_is_obj(yyjson_mut_obj_get(root, "text_config")))
        set_dtype(doc, yyjson_mut_obj_get(root, "text_config"), dtype);
    yyjson_mut_obj_remove_key(root, "quantization_config");
    if (!v->o->dense) add_quantisation(v, doc, root, dtype);
    made = yyjson_mut_write(doc, YYJSON_WRITE_PRETTY_TWO_SPACES, &bytes);
    if (!made) TC_GOTO(tc_fail(v->e, TC_NOMEM, "%s: out of memory", what));
    status = write_text(v, "config.json", made, bytes);
out:
    free(made);
    free(text);
    yyjson_doc_free(read);
    yyjson_mut_doc_free(doc);
    return status;
}

static tc_status copy_small(converter *v)
{
    static const struct {
        tc_model_file file;
        const char *name;
    } files[] = {{TC_FILE_GENERATION, "generation_config.json"},
                 {TC_FILE_TOKENIZER, "tokenizer.json"},
                 {TC_FILE_TOKENIZER_CONFIG, "tokenizer_config.json"},
                 {TC_FILE_CHAT_TEMPLATE, "chat_template.jinja"}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char *text;
        size_t bytes;
        tc_status status = tc_model_text(v->model, files[i].file, FILE_BYTES_MAX, &text, &bytes, NULL, v->e);
        if (status == TC_NOT_FOUND) continue;
        if (status != TC_OK) return status;
        status = write_text(v, files[i].name, text, bytes);
        free(text);
        if (status != TC_OK) return status;
    }
    return TC_OK;
}

static tc_status make_folder(const char *folder, tc_error *e)
{
    static const char *const taken[] = {"config.json", "model.safetensors", "model.safetensors.index.json"};
    char path[PATH_BYTES];
    if (strlen(folder) >= TC_MODEL_PATH_BYTES) return tc_fail(e, TC_LIMIT, "%.64s...: path too long", folder);
    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        return tc_fail_errno(e, TC_IO, "%s: cannot make the folder", folder);
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, taken[i]);
        if (access(path, F_OK) == 0)
            return tc_fail(e, TC_ARGUMENT, "%s is there already: name a new folder", path);
    }
    return TC_OK;
}

// The dtype of the embedding, where that is of 16 bits, else bf16.
static tc_status choose_dtype(converter *v)
{
    char base[TC_TENSOR_NAME_BYTES];
    tc_weight w = {0};
    tc_model_tensor_name(v->d, TC_EMBED, 0, 0, base);
    TC_TRY(tc_checkpoint_weight(v->c, base, v->d->vocab, v->d->hidden, &w, v->e));
    v->dtype = w.dtype == TC_F16 ? TC_F16 : TC_BF16;
    tc_weight_free(&w);
    return TC_OK;
}

tc_status tc_convert_nf4(const tc_checkpoint *checkpoint, const char *model, const char *folder,
                         const tc_convert_options *options, tc_error *e)
{
    converter v = {.c = checkpoint,
                   .d = tc_checkpoint_desc(checkpoint),
                   .o = options,
                   .model = model,
                   .folder = folder,
                   .fd = -1,
                   .e = e};
    tc_status status;
    TC_GOTO(make_folder(folder, e));
    TC_GOTO(choose_dtype(&v));
    TC_GOTO(plan(&v));
    for (uint32_t s = 0; s < v.shards; s++) TC_GOTO(write_shard(&v, s));
    if (v.shards > 1) TC_GOTO(write_index(&v));
    TC_GOTO(copy_small(&v));
    TC_GOTO(write_config(&v)); // last: without it the folder is no model
out:
    if (v.fd >= 0) close(v.fd);
    free(v.items);
    return status;
}
