// SPDX-License-Identifier: Apache-2.0
// Owns: what a model family is: tensor names by role, and how its config.json becomes a tc_model_desc.
// A new family is one file that defines a tc_family, and one line in the table of model.c.
#pragma once

#include "common/base/json.h"
#include "common/model/model.h"

typedef struct tc_family {
    const char *model_type;
    // {L} stands for the layer, {E} for the expert. NULL: the family has no such tensor.
    const char *names[TC_ROLES];
    // Fills the fields that differ between families. *desc holds what is common (config_common) and zeros.
    tc_status (*read)(const tc_json_object *config, tc_model_desc *desc);
} tc_family;

extern const tc_family tc_family_qwen3_next, tc_family_qwen3_moe;

// Pieces that families share (config.c). All leave absent fields at the value that *desc holds.
tc_status tc_config_common(const tc_json_object *config, tc_model_desc *desc);
tc_status tc_config_attention(const tc_json_object *config, tc_model_desc *desc);
// Experts, and which layers have them: mlp_only_layers, decoder_sparse_step.
tc_status tc_config_experts(const tc_json_object *config, tc_model_desc *desc);
// theta and the fraction of a head that is rotated, from rope_scaling, rope_parameters or the top level.
tc_status tc_config_rope(const tc_json_object *config, tc_model_desc *desc, double *ret_factor);
// The ids of `field` (one or a list), each below desc->vocab. Absent: nothing changes.
tc_status tc_config_token_ids(const tc_json_object *o, const char *field, uint32_t vocab,
                              uint32_t ids[TC_EOS_MAX], uint32_t *count);
