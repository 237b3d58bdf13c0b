// SPDX-License-Identifier: Apache-2.0
// Owns: the arithmetic of a store file's layout, and checking a header that may come from anywhere.
#include "common/model/store_format.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

uint32_t tc_store_header_bytes(uint32_t layers)
{
    return (uint32_t)tc_store_align(sizeof(tc_store_header) + layers * sizeof(tc_store_layer),
                                    TC_STORE_ALIGN);
}

uint32_t tc_store_unit_width(uint32_t width)
{
    return width % TC_STORE_UNIT_WIDTH == 0 ? TC_STORE_UNIT_WIDTH : width;
}

void tc_store_part_shape(const tc_store_header *h, uint32_t part, uint32_t *ret_rows, uint32_t *ret_cols)
{
    *ret_rows = part == 2 ? h->hidden : h->unit;
    *ret_cols = part == 2 ? h->unit : h->hidden;
}

uint64_t tc_store_unit_layout(const tc_store_header *h, const tc_store_layer *layer,
                              uint64_t ret_at[TC_STORE_PARTS + 1])
{
    uint64_t at = 0;
    for (uint32_t p = 0; p < TC_STORE_PARTS; p++) {
        uint32_t rows, cols;
        tc_store_part_shape(h, p, &rows, &cols);
        ret_at[p] = at;
        tc_matrix_form form = tc_store_part_form(&layer->part[p]);
        at += tc_matrix_bytes(&form, rows, cols);
        at = tc_store_align(at, 64);
    }
    ret_at[TC_STORE_PARTS] = at;
    return h->biased ? tc_store_align(at + 2ull * h->unit * sizeof(float), 64) : at;
}

uint64_t tc_store_layout(const tc_store_header *h, tc_store_layer *layers)
{
    uint64_t at = h->header_bytes, unused[TC_STORE_PARTS + 1];
    for (uint32_t l = 0; l < h->layers; l++) {
        layers[l].offset = layers[l].expert_stride = 0;
        if (!layers[l].has_experts) continue;
        layers[l].offset = at;
        layers[l].expert_stride = tc_store_unit_layout(h, &layers[l], unused) * (h->width / h->unit);
        at = tc_store_align(at + layers[l].expert_stride * h->experts, TC_STORE_ALIGN);
    }
    return at;
}

void tc_store_header_hash(tc_store_header *h, uint64_t *ret_low, uint64_t *ret_high)
{
    uint64_t low = h->hash_low, high = h->hash_high;
    h->hash_low = h->hash_high = 0;
    XXH128_hash_t hash = XXH3_128bits(h, h->header_bytes);
    h->hash_low = low;
    h->hash_high = high;
    *ret_low = hash.low64;
    *ret_high = hash.high64;
}

static bool in_range(uint32_t value, uint32_t max)
{
    return value >= 1 && value <= max;
}

static bool counts_ok(const tc_store_header *h)
{
    return in_range(h->layers, TC_LAYERS_MAX) && in_range(h->experts, TC_EXPERTS_MAX) &&
           in_range(h->top_k, TC_TOP_K_MAX) && h->top_k <= h->experts && in_range(h->hidden, TC_HIDDEN_MAX) &&
           in_range(h->width, TC_WIDTH_MAX) && h->unit == tc_store_unit_width(h->width);
}

static bool activation_ok(const tc_store_header *h)
{
    return h->activation < TC_ACTIVATIONS && h->biased <= 1 && isfinite(h->act_alpha) &&
           isfinite(h->act_limit);
}

static bool texts_ok(const tc_store_header *h)
{
    return strnlen(h->model_hash, sizeof h->model_hash) == 32 &&
           strspn(h->model_hash, "0123456789abcdef") == 32 &&
           strnlen(h->family, sizeof h->family) < sizeof h->family;
}

static bool part_ok(const tc_store_header *h, const tc_store_part *part, uint32_t p)
{
    uint32_t rows, cols;
    tc_store_part_shape(h, p, &rows, &cols);
    if (part->type >= TC_M_TYPES || part->round > TC_BF16) return false;
    if (part->type == TC_M_Q8)
        return part->group == TC_SPAN_COLS && part->nested_stride == 0 && cols % TC_SPAN_COLS == 0;
    if (part->type != TC_M_Q4) return part->group == 0 && part->nested_stride == 0;
    for (int i = 0; i < 16; i++)
        if (!isfinite(part->levels[i])) return false;
    uint32_t stride = (p == 2 ? h->width : h->hidden) / TC_SPAN_COLS; // blocks of a row of the whole weight
    if (part->nested_stride && (part->nested_stride != stride || part->group != 64)) return false;
    return (part->group == 32 || part->group == 64) && cols % TC_SPAN_COLS == 0;
}

static tc_status check_layers(const char *what, const tc_store_header *h, uint64_t file_bytes, tc_error *e)
{
    const tc_store_layer *layers = (const tc_store_layer *)(h + 1);
    tc_store_layer *expected = calloc(h->layers, sizeof *expected);
    tc_status status = TC_OK;
    if (!expected) return tc_fail(e, TC_NOMEM, "%s: no memory for its layers", what);
    memcpy(expected, layers, h->layers * sizeof *expected);
    for (uint32_t l = 0; l < h->layers; l++)
        for (uint32_t p = 0; layers[l].has_experts && p < TC_STORE_PARTS; p++)
            if (!part_ok(h, &layers[l].part[p], p))
                TC_GOTO(tc_fail(e, TC_FORMAT,
                                "%s: layer %u, matrix %u: type, group or levels are not possible", what, l,
                                p));
    uint64_t bytes = tc_store_layout(h, expected);
    for (uint32_t l = 0; l < h->layers; l++)
        if (layers[l].offset != expected[l].offset || layers[l].expert_stride != expected[l].expert_stride)
            TC_GOTO(tc_fail(e, TC_FORMAT, "%s: layer %u: offset or stride do not fit its types", what, l));
    if (bytes != h->file_bytes)
        TC_GOTO(tc_fail(e, TC_FORMAT, "%s: the header says %" PRIu64 " bytes, its layers need %" PRIu64, what,
                        h->file_bytes, bytes));
    if (bytes != file_bytes)
        TC_GOTO(tc_fail(e, TC_FORMAT, "%s: has %" PRIu64 " bytes, its header says %" PRIu64, what, file_bytes,
                        bytes));
out:
    free(expected);
    return status;
}

tc_status tc_store_header_check(const char *what, tc_store_header *h, size_t bytes, uint64_t file_bytes,
                                tc_error *e)
{
    uint64_t low, high;
    if (bytes < sizeof *h || memcmp(h->magic, tc_store_magic, sizeof h->magic) != 0)
        return tc_fail(e, TC_FORMAT, "%s: not a packed expert store", what);
    if (h->layout_version != TC_STORE_LAYOUT_VERSION)
        return tc_fail(e, TC_UNSUPPORTED, "%s: layout version %u, this program reads %u", what,
                       h->layout_version, TC_STORE_LAYOUT_VERSION);
    if (!counts_ok(h)) return tc_fail(e, TC_FORMAT, "%s: a count in the header is out of range", what);
    if (!activation_ok(h)) return tc_fail(e, TC_FORMAT, "%s: the header's activation is not possible", what);
    if (h->header_bytes != tc_store_header_bytes(h->layers) || bytes < h->header_bytes)
        return tc_fail(e, TC_FORMAT, "%s: the header's length does not fit %u layers", what, h->layers);
    tc_store_header_hash(h, &low, &high);
    if (low != h->hash_low || high != h->hash_high)
        return tc_fail(e, TC_FORMAT, "%s: the header does not match its hash", what);
    if (!texts_ok(h))
        return tc_fail(e, TC_FORMAT, "%s: model hash or family in the header are malformed", what);
    return check_layers(what, h, file_bytes, e);
}
