// SPDX-License-Identifier: Apache-2.0
// Owns: which store belongs to a model folder, for programs that are told of the model only.
#include "common/model/checkpoint.h"
#include "common/model/store.h"

tc_status tc_store_of_model(const char *model, const char *cache_dir, const char *xdg_cache_home,
                            const char *home, tc_quantise quantise, char ret[TC_STORE_PATH_BYTES],
                            tc_error *e)
{
    tc_checkpoint *checkpoint;
    char users_cache[TC_STORE_PATH_BYTES];
    if (!cache_dir) {
        TC_TRY(tc_store_cache_dir(xdg_cache_home, home, users_cache, e));
        cache_dir = users_cache;
    }
    TC_TRY(tc_checkpoint_open(model, &checkpoint, e));
    const tc_pack_options options = {.cache_dir = cache_dir, .quantise = quantise};
    tc_status status = tc_store_path_for(checkpoint, &options, ret, e);
    tc_checkpoint_free(checkpoint);
    return status;
}
