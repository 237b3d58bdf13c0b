// SPDX-License-Identifier: Apache-2.0
// Shows: what `plan`, `inspect` and the core's own budget say of dense weights is what a core holds once it
// has loaded them, to the byte, for every family, stored form and head; that the products which rooflines
// count are those of the matrices it holds; and that the kernels are told which of these are routers. Usage:
// MODEL_DIR...
#include "common/base/team.h"
#include "common/model/dense.h"
#include "gpu-core/dev/dev.h"
#include "gpu-core/forward/weights.h"
#include "tests/support/cmocka_all.h"

#include <string.h>

static char **models;
static int model_count;

static void need(tc_status status, const char *what, const tc_error *e)
{
    if (status != TC_OK) fail_msg("%s: %s", what, e->text);
}

static void count(const tc_matrix *w, uint64_t ret[TC_M_TYPES])
{
    if (w->data) ret[w->form.type] += (uint64_t)w->rows * w->cols;
}

// By type, of one kind of round in all layers.
static void check_round(const char *model, const char *kind, const uint64_t *told, const uint64_t *held)
{
    for (int type = 0; type < TC_M_TYPES; type++)
        if (told[type] != held[type])
            fail_msg("%s: %s: %llu products of type %d are told, %llu matrices' are held", model, kind,
                     (unsigned long long)told[type], type, (unsigned long long)held[type]);
}

static void check_products(const char *model, const tc_weights *w, const tc_dense_bytes *bytes,
                           const char *head)
{
    uint64_t router[TC_M_TYPES] = {0}, mlp[TC_M_TYPES] = {0}, mixers[TC_M_TYPES] = {0};
    for (uint32_t l = 0; l < w->desc->layers; l++) {
        const tc_layer_weights *layer = &w->layer[l];
        const tc_matrix *rest[] = {&layer->mlp.gate, &layer->mlp.up, &layer->mlp.down, &layer->shared_router};
        const tc_matrix *mixer[] = {&layer->q,    &layer->k,    &layer->v,     &layer->o,
                                    &layer->q_a,  &layer->kv_a, &layer->qkvz,  &layer->ba,
                                    &layer->dn_z, &layer->dn_a, &layer->dn_out};
        for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) count(rest[i], mlp);
        for (size_t i = 0; i < sizeof mixer / sizeof *mixer; i++) count(mixer[i], mixers);
        if (layer->moe) // 16-bit ones meet float32
            router[layer->router.form.type == TC_M_BF16 ? TC_M_F32 : layer->router.form.type] +=
                (uint64_t)layer->router.rows * layer->router.cols;
        if (w->desc->kv_rank && layer->kind == TC_LAYER_FULL_ATTENTION) // so do latent keys and values
            mixers[TC_M_F32] += (uint64_t)layer->key_up.rows * layer->key_up.cols +
                                (uint64_t)layer->value_up.rows * layer->value_up.cols;
    }
    check_round(model, "projections", bytes->round[TC_DENSE_PROJECTIONS].multiply_adds, mixers);
    check_round(model, "routers", bytes->round[TC_DENSE_ROUTER].multiply_adds, router);
    check_round(model, "MLPs", bytes->round[TC_DENSE_MLP].multiply_adds, mlp);
    if (tc_dense_head_type(w->desc, bytes, head) != w->head.form.type)
        fail_msg("%s: head %s is type %d, told as another", model, head, (int)w->head.form.type);
}

static void check(const tc_checkpoint *c, const char *model, tc_team *team, tc_output output,
                  const char *head)
{
    tc_error e = {0};
    const tc_kernels *kernels;
    tc_dev_geometry geometry;
    tc_dense_bytes bytes;
    tc_dev *dev = NULL;
    tc_weights *weights = NULL;
    need(tc_kernels_get(TC_FAST, NULL, &kernels, &e), model, &e);
    tc_weights_geometry(tc_checkpoint_desc(c), &geometry);
    geometry.positions_max = 64;
    geometry.slots = 1;
    geometry.pages = 1;
    need(tc_dev_cpu_create(&geometry, team, kernels, &dev, &e), model, &e);
    need(tc_weights_load(c, dev, team, output, NULL, NULL, &weights, &e), model, &e);
    need(tc_dense_bytes_of(c, &(tc_dense_options){0}, &bytes, &e), model, &e);
    uint64_t told = bytes.embedding + bytes.rest + tc_dense_head_bytes(tc_checkpoint_desc(c), &bytes, head);
    if (told != weights->bytes)
        fail_msg("%s, head %s: %llu bytes are told, %llu are held", model, head, (unsigned long long)told,
                 (unsigned long long)weights->bytes);
    check_products(model, weights, &bytes, head);
    for (uint32_t l = 0; l < weights->desc->layers; l++) {
        const tc_layer_weights *layer = &weights->layer[l];
        if (layer->router.unrounded != layer->moe || layer->o.unrounded || layer->dn_out.unrounded)
            fail_msg("%s: layer %u: not its router alone is marked as one", model, l);
    }
    tc_weights_free(weights);
    tc_dev_free(dev);
}

static void test_every_model(void **state)
{
    (void)state;
    static const char *const heads[] = {[TC_OUTPUT_KEEP] = "keep",
                                        [TC_OUTPUT_NF4] = "nf4",
                                        [TC_OUTPUT_INT8] = "int8",
                                        [TC_OUTPUT_BF16] = "bf16"};
    const tc_team_options options = {.threads = 2};
    tc_error e = {0};
    tc_team *team = NULL;
    need(tc_team_create(&options, &team, &e), "team", &e);
    for (int m = 0; m < model_count; m++) {
        tc_checkpoint *checkpoint = NULL;
        need(tc_checkpoint_open(models[m], &checkpoint, &e), models[m], &e);
        for (int head = TC_OUTPUT_KEEP; head <= TC_OUTPUT_BF16; head++)
            check(checkpoint, models[m], team, (tc_output)head, heads[head]);
        tc_checkpoint_free(checkpoint);
    }
    tc_team_free(team);
}

int main(int argc, char **argv)
{
    models = argv + 1;
    model_count = argc - 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
