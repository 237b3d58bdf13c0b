// SPDX-License-Identifier: Apache-2.0
// Shows: what `plan`, `inspect` and the core's own budget say of dense weights is what a core holds once it
// has loaded them, to the byte, for every family, stored form and head; and that the kernels are told which
// of its matrices are routers. Usage: MODEL_DIR...
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
