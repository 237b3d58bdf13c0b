// SPDX-License-Identifier: Apache-2.0
// Owns: the in-process expert source. post only remembers the call; join computes it on the core's team.
#include "common/base/mem.h"
#include "gpu-core/experts/source.h"

#include <string.h>

typedef struct source_local {
    tc_expert_source source;
    tc_ffn *ffn;
    const tc_store_info *info;
    tc_expert_call call;
    tc_source_stats stats;
} source_local;

static void local_free(tc_expert_source *source)
{
    source_local *local = (source_local *)source;
    tc_ffn_free(local->ffn);
    tc_free(local);
}

static tc_status local_post(tc_expert_source *source, const tc_expert_call *call, tc_error *e)
{
    (void)e;
    source_local *local = (source_local *)source;
    local->call = *call;
    local->call.unit_begin = 0;
    local->call.unit_end = local->info->units;
    local->stats.calls++;
    local->stats.pairs += call->pair_count;
    return TC_OK;
}

static tc_status local_join(tc_expert_source *source, int64_t *sum, tc_error *e)
{
    source_local *local = (source_local *)source;
    return tc_ffn_run(local->ffn, &local->call, sum, e);
}

static void local_poll(tc_expert_source *source)
{
    (void)source;
}

static void local_stats(tc_expert_source *source, tc_source_stats *ret)
{
    *ret = ((source_local *)source)->stats;
}

static int local_fd(tc_expert_source *source)
{
    (void)source;
    return -1;
}

tc_status tc_source_local_create(const tc_store *store, tc_team *team, uint32_t tokens_max, const char *isa,
                                 tc_expert_source **ret, tc_error *e)
{
    static const tc_source_ops ops = {.free = local_free,
                                      .post = local_post,
                                      .join = local_join,
                                      .poll = local_poll,
                                      .stats = local_stats,
                                      .fd = local_fd,
                                      .in_process = true};
    source_local *local = tc_alloc(TC_MEM_OTHER, 1, sizeof *local);
    if (!local) return tc_fail(e, TC_NOMEM, "out of memory for the in-process expert source");
    local->source.ops = &ops;
    local->info = tc_store_get_info(store);
    tc_status status = tc_ffn_create(store, team, tokens_max, isa, &local->ffn, e);
    if (status != TC_OK) {
        tc_free(local);
        return status;
    }
    *ret = &local->source;
    return TC_OK;
}
