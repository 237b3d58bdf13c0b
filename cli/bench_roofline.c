// SPDX-License-Identifier: Apache-2.0
// Owns: which product each kind of matrix meets, and the sum over rounds.
#include "cli/bench_roofline.h"

#include <string.h>

const char *const tc_roof_keys[TC_ROOF_KINDS] = {"projections", "attention", "routers", "mlp",
                                                 "experts",     "head",      "rest"};

// Names of matrix_peak.c by what the core calls its kernels; NULL: no such product is known. TC_FAST keeps
// activations in two planes of 8 bits, so an operation is two; AVX2 meets four tokens and more with 16 bits,
// pairs a half of the columns.
static const struct isa {
    const char *name, *floats, *int8, *int16, *bf16;
} isas[] = {
    {"exact", "plain float", NULL, NULL, NULL},
    {"scalar", "plain float", NULL, NULL, NULL},
    {"avx2", "avx2 fma", "avx2 maddubs", "avx2 madd", NULL},
    {"avx512", "avx512 fma", "avx512 maddubs", NULL, NULL},
    {"avx512vnni", "avx512 fma", "avx512 vnni", NULL, NULL},
    {"avx512vbmi", "avx512 fma", "avx512 vnni", NULL, NULL},
    {"avx512bf16", "avx512 fma", "avx512 vnni", NULL, "avx512 bf16"},
    {"avx512pairs", "avx512 fma", "avx512 vnni", "avx512 pairs", "avx512 bf16"},
    {"amx", "avx512 fma", "amx int8", NULL, "amx bf16"},
};
enum { ISAS = sizeof isas / sizeof *isas };

typedef struct product {
    const char *name;
    double gop_per_s; // 0: not known
} product;

static double peak_of(const tc_matrix_peak *peak, const char *unit)
{
    for (uint32_t i = 0; unit && i < peak->count; i++)
        if (!strcmp(peak->unit[i].name, unit)) return peak->unit[i].gop_per_s;
    return 0;
}

static product product_of(const tc_roof_model *m, tc_matrix_type type)
{
    const struct isa *isa = NULL;
    for (int i = 0; i < ISAS; i++)
        if (!strcmp(isas[i].name, m->isa)) isa = &isas[i];
    if (!isa) return (product){"", 0};
    const bool fast = !strcmp(m->precision, "fast");
    if (fast && (type == TC_M_Q4 || type == TC_M_Q8)) {
        double planes = peak_of(m->peak, isa->int8) / 2, whole = peak_of(m->peak, isa->int16);
        return planes >= whole ? (product){planes > 0 ? "int8 in two planes" : "", planes}
                               : (product){"int16", whole};
    }
    if (fast && type == TC_M_BF16 && isa->bf16) return (product){"bf16", peak_of(m->peak, isa->bf16)};
    return (product){"float32", peak_of(m->peak, isa->floats)};
}

// Adds `multiply_adds` of a type to a round.
static void add_products(const tc_roof_model *m, tc_roof_round *r, tc_matrix_type type, double multiply_adds)
{
    const product p = product_of(m, type);
    const double gop = 2e-9 * multiply_adds;
    if (gop <= 0) return;
    if (gop >= r->gop) { // more than all before it together
        r->product = p.name;
        r->gop_per_s = p.gop_per_s;
    }
    r->gop += gop;
    if (p.gop_per_s > 0) r->products_us += gop / p.gop_per_s * 1e6;
}

// Positions that the tokens of a step see, together, of a layer with that window (0: none).
static double positions_seen(const tc_roof_step *s, uint64_t window)
{
    double sum = 0;
    for (uint32_t i = 0; i < s->run_tokens; i++) {
        uint64_t seen = s->position + i + 1;
        sum += (double)(window && seen > window ? window : seen);
    }
    return sum * s->runs;
}

// Scores and weighted values; for DeltaNet three multiply-adds an element of the state (docs/MODEL.md).
static double attention_multiply_adds(const tc_model_desc *d, const tc_roof_step *s)
{
    const double whole = positions_seen(s, 0), cut = positions_seen(s, d->sliding_window);
    const double a_position = d->kv_rank ? 2.0 * d->kv_rank + d->rotary_dim : 2.0 * d->head_dim;
    const double state = 3.0 * d->dn_value_heads * d->dn_key_dim * d->dn_value_dim;
    double sum = 0;
    for (uint32_t l = 0; l < d->layers; l++)
        sum += d->layer[l].kind == TC_LAYER_DELTA
                   ? state * s->runs * s->run_tokens
                   : a_position * d->heads * (d->layer[l].sliding ? cut : whole);
    return sum;
}

static void dense_round(const tc_roof_model *m, tc_dense_kind kind, double tokens, tc_roof_round *r)
{
    const tc_dense_round *held = &m->footprint->dense.round[kind];
    r->bytes = (double)held->bytes;
    for (int type = 0; type < TC_M_TYPES; type++)
        add_products(m, r, (tc_matrix_type)type, tokens * (double)held->multiply_adds[type]);
}

void tc_roof_of(const tc_roof_model *m, const tc_roof_step *s, tc_roof *ret)
{
    const tc_footprint *f = m->footprint;
    const double tokens = s->runs * s->run_tokens;
    tc_roof roof = {0};
    tc_roof_round *r = roof.round;
    uint64_t head = tc_dense_head_bytes(m->desc, &f->dense, m->head);
    for (int i = 0; i < TC_ROOF_KINDS; i++) r[i].product = "";
    dense_round(m, TC_DENSE_PROJECTIONS, tokens, &r[TC_ROOF_PROJECTIONS]);
    dense_round(m, TC_DENSE_ROUTER, tokens, &r[TC_ROOF_ROUTERS]);
    dense_round(m, TC_DENSE_MLP, tokens, &r[TC_ROOF_MLP]);
    r[TC_ROOF_ATTENTION].bytes = s->cache_bytes;
    add_products(m, &r[TC_ROOF_ATTENTION], TC_M_F32, attention_multiply_adds(m->desc, s));
    r[TC_ROOF_EXPERTS].bytes = s->expert_bytes;
    add_products(m, &r[TC_ROOF_EXPERTS], f->expert_matrix,
                 tokens * m->desc->top_k * f->moe_layers * (double)f->expert_multiply_adds);
    r[TC_ROOF_HEAD].bytes = (double)(head ? head : f->dense.embedding);
    add_products(m, &r[TC_ROOF_HEAD], tc_dense_head_type(m->desc, &f->dense, m->head),
                 s->head_rows * (double)f->head_multiply_adds);
    double left = s->bytes;
    for (int i = 0; i < TC_ROOF_REST; i++) left -= r[i].bytes;
    r[TC_ROOF_REST].bytes = left > 0 ? left : 0;
    for (int i = 0; i < TC_ROOF_KINDS; i++) {
        r[i].bytes_us = r[i].bytes * 1e-3 / m->read_gb_per_s;
        r[i].us = r[i].bytes_us > r[i].products_us ? r[i].bytes_us : r[i].products_us;
        roof.us += r[i].us;
    }
    roof.bytes_us = s->bytes * 1e-3 / m->read_gb_per_s;
    *ret = roof;
}
