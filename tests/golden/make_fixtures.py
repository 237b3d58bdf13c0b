#!/usr/bin/env python3
"""Makes tests/golden/fixtures: tiny random models in the published checkpoint layout, and what the reference
implementation (transformers, bitsandbytes) makes of them.

This file owns the list of fixtures, the random weights and the files of expected values. checkpoint.py writes
and reads the layout; reference.py runs the models. Usage: make_fixtures.py [--only NAME] [--out DIR]
The same versions of torch, transformers and bitsandbytes give the same files again.
"""
import argparse
import json
import math
import os
import platform
import shutil
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"                              # bitsandbytes would compile small functions
import numpy as np
import torch
import bitsandbytes
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import checkpoint
import reference
from checkpoint import DTYPES

MIN_GAP = 0.01                   # between the two best tokens of every greedy step, in logits
MAX_NOISE = 0.1                  # of the bf16 run against the float32 run, as a share of the largest logit
MIN_MARGIN = 2e-4                # between the last chosen expert and the first left out, in router logits
LONG = [1, 2, 3, 7, 63, 64, 65, 130, 200]
SHORT = [3, 65, 130]
SMALL = [3, 65, 90]
# Of sigmoids the last chosen expert weighs as much as the first: a coarser precision must not choose another, so
# that its logits can be compared.
DECIDED = {"prompts": [3, 20, 40], "min_margin": 0.01, "tries": 1000}

# config.json as the published checkpoints have it (transformers 4.57): rope_theta, partial_rotary_factor and
# full_attention_interval at the top, no layer_types. Two other forms exist in the wild, see README.md.
NEXT = {
    "architectures": ["Qwen3NextForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": None, "decoder_sparse_step": 1, "eos_token_id": None, "full_attention_interval": 4,
    "head_dim": 32, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 96,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 32, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_value_head_dim": 32, "max_position_embeddings": 4096,
    "mlp_only_layers": [], "model_type": "qwen3_next", "moe_intermediate_size": 64, "norm_topk_prob": True,
    "num_attention_heads": 4, "num_experts": 8, "num_experts_per_tok": 3, "num_hidden_layers": 4,
    "num_key_value_heads": 2, "output_router_logits": False, "partial_rotary_factor": 0.25,
    "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 10000000, "router_aux_loss_coef": 0.001,
    "shared_expert_intermediate_size": 64, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.57.0.dev0", "use_cache": True, "use_sliding_window": False, "vocab_size": 256,
}
MOE = {
    "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": None, "decoder_sparse_step": 1, "eos_token_id": None, "head_dim": 32, "hidden_act": "silu",
    "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 192, "max_position_embeddings": 4096,
    "max_window_layers": 48, "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 128,
    "norm_topk_prob": True, "num_attention_heads": 4, "num_experts": 16, "num_experts_per_tok": 4,
    "num_hidden_layers": 3, "num_key_value_heads": 2, "output_router_logits": False, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
    "use_cache": True, "use_sliding_window": False, "vocab_size": 256,
}

MIXTRAL = {
    "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": None, "eos_token_id": None,
    "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 128,
    "max_position_embeddings": 4096, "model_type": "mixtral", "num_attention_heads": 4, "num_experts_per_tok": 2,
    "num_hidden_layers": 2, "num_key_value_heads": 2, "num_local_experts": 4, "output_router_logits": False,
    "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.36.0.dev0",
    "use_cache": True, "vocab_size": 128,
}
OLMOE = {
    "architectures": ["OlmoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "clip_qkv": None,
    "bos_token_id": None, "eos_token_id": None, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
    "intermediate_size": 32, "max_position_embeddings": 4096, "model_type": "olmoe", "norm_topk_prob": False,
    "num_attention_heads": 4, "num_experts": 6, "num_experts_per_tok": 3, "num_hidden_layers": 2,
    "num_key_value_heads": 4, "output_router_logits": False, "rms_norm_eps": 1e-05, "rope_scaling": None,
    "rope_theta": 10000.0, "router_aux_loss_coef": 0.01, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.46.0.dev0", "use_cache": True, "vocab_size": 128,
}
GLM4 = {
    "architectures": ["Glm4MoeForCausalLM"], "attention_bias": True, "attention_dropout": 0.0, "eos_token_id": None,
    "first_k_dense_replace": 1, "head_dim": 32, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
    "intermediate_size": 64, "max_position_embeddings": 4096, "model_type": "glm4_moe", "moe_intermediate_size": 64,
    "n_group": 1, "n_routed_experts": 6, "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": 4,
    "num_experts_per_tok": 3, "num_hidden_layers": 2, "num_key_value_heads": 2, "num_nextn_predict_layers": 1,
    "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 1000000,
    "routed_scaling_factor": 2.5, "tie_word_embeddings": False, "topk_group": 1, "torch_dtype": "bfloat16",
    "transformers_version": "4.54.0", "use_cache": True, "use_qk_norm": True, "vocab_size": 128,
}
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"], "attention_bias": True, "attention_dropout": 0.0, "eos_token_id": None,
    "experts_per_token": 2, "head_dim": 16, "hidden_act": "silu", "hidden_size": 64, "initial_context_length": 64,
    "initializer_range": 0.02, "intermediate_size": 64, "layer_types": ["sliding_attention", "full_attention"],
    "max_position_embeddings": 2048, "model_type": "gpt_oss", "num_attention_heads": 8, "num_experts_per_tok": 2,
    "num_hidden_layers": 2, "num_key_value_heads": 2, "num_local_experts": 6, "output_router_logits": False,
    "rms_norm_eps": 1e-05, "rope_theta": 150000,
    "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 64,
                     "rope_type": "yarn", "truncate": False},
    "router_aux_loss_coef": 0.9, "sliding_window": 24, "swiglu_limit": 7.0, "tie_word_embeddings": False,
    "transformers_version": "4.55.0.dev0", "use_cache": True, "vocab_size": 128,
}
DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "eos_token_id": None,
    "ep_size": 1, "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
    "intermediate_size": 64, "kv_lora_rank": 32, "max_position_embeddings": 2560, "model_type": "deepseek_v3",
    "moe_intermediate_size": 64, "moe_layer_freq": 1, "n_group": 4, "n_routed_experts": 8, "n_shared_experts": 1,
    "norm_topk_prob": True, "num_attention_heads": 4, "num_experts_per_tok": 3, "num_hidden_layers": 2,
    "num_key_value_heads": 4, "num_nextn_predict_layers": 1, "q_lora_rank": 32, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16, "rms_norm_eps": 1e-06, "rope_theta": 10000,
    "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                     "original_max_position_embeddings": 64, "type": "yarn"},
    "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": False, "topk_group": 2,
    "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "transformers_version": "4.33.1", "use_cache": True,
    "v_head_dim": 32, "vocab_size": 128,
}
QWEN35 = {
    "attention_bias": False, "attention_dropout": 0.0, "attn_output_gate": True, "dtype": "bfloat16",
    "eos_token_id": None, "full_attention_interval": 2, "head_dim": 32, "hidden_act": "silu", "hidden_size": 64,
    "initializer_range": 0.02, "layer_types": ["linear_attention", "full_attention"], "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_value_head_dim": 16,
    "max_position_embeddings": 4096, "model_type": "qwen3_5_moe_text", "moe_intermediate_size": 64,
    "mtp_num_hidden_layers": 1, "num_attention_heads": 4, "num_experts": 6, "num_experts_per_tok": 2,
    "num_hidden_layers": 2, "num_key_value_heads": 2, "output_router_logits": False, "rms_norm_eps": 1e-06,
    "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 64, "tie_word_embeddings": False,
    "use_cache": True, "vocab_size": 128, "partial_rotary_factor": 0.25,
    "rope_parameters": {"mrope_interleaved": True, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25,
                        "rope_theta": 10000000, "rope_type": "default"},
}

# quant: (type, blocksize, double). dtype: of the weights before quantisation and of all that is not quantised,
# but for the names in "dtypes" (ends of tensor names). keep: linears left as they are. None in "config" drops a key.
FIXTURES = {
    "next-nf4": {
        "seed": 101, "config": {**NEXT, "hidden_size": 128, "moe_intermediate_size": 256, "num_experts": 12,
                                "num_experts_per_tok": 4, "num_hidden_layers": 5, "mlp_only_layers": [0, 1, 4]},
        "quant": ("nf4", 64, True), "dtype": "bf16", "keep": ["mlp.gate"], "prompts": LONG, "shards": 3,
    },
    "next-f32": {                                                    # config as transformers 5 saves it
        "seed": 102, "config": {**NEXT, "num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": False, "tie_word_embeddings": True, "mlp_only_layers": [1],
                                "rope_theta": ..., "partial_rotary_factor": ..., "rope_scaling": ...,
                                "full_attention_interval": ..., "torch_dtype": ..., "dtype": "float32",
                                "transformers_version": "5.24.0",
                                "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"],
                                "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5}},
        "quant": ("nf4", 64, True), "dtype": "f32", "dtypes": {"layernorm.weight": "f16"}, "keep": [],
        "prompts": SHORT, "shards": 2,
    },
    "next-fp4": {
        "seed": 103, "config": {**NEXT, "num_experts": 6, "full_attention_interval": 2, "torch_dtype": "float16"},
        "quant": ("fp4", 128, False), "dtype": "f16",
        "keep": ["mlp.gate", "0.linear_attn.in_proj_qkvz", "0.linear_attn.out_proj", "2.linear_attn.in_proj_ba",
                 "1.self_attn.q_proj", "1.self_attn.v_proj", "3.self_attn.k_proj", "3.self_attn.o_proj",
                 "0.mlp.shared_expert.gate_proj", "1.mlp.shared_expert.up_proj", "2.mlp.shared_expert.down_proj",
                 "0.mlp.shared_expert_gate", "0.mlp.experts.2.gate_proj", "0.mlp.experts.2.up_proj",
                 "0.mlp.experts.2.down_proj", "1.mlp.experts.5.down_proj", "2.mlp.experts.0.gate_proj",
                 "3.mlp.experts.4.up_proj"],
        "prompts": SHORT, "shards": 2,
    },
    "next-bf16": {                                                   # both full_attention_interval and layer_types
        "seed": 104, "config": {**NEXT, "num_hidden_layers": 2, "num_experts": 6, "num_experts_per_tok": 2, "full_attention_interval": 2, "head_dim": 16,
                                "layer_types": ["linear_attention", "full_attention"], "attention_bias": True},
        "quant": None, "dtype": "bf16", "dtypes": {"A_log": "f32", "linear_attn.norm.weight": "f32"},
        "mtp": True, "prompts": SHORT, "shards": 2,
    },
    "moe-nf4": {
        "seed": 105, "config": {**MOE, "mlp_only_layers": [1]},
        "quant": ("nf4", 64, True), "dtype": "bf16", "keep": ["mlp.gate"], "prompts": LONG, "shards": 2,
    },
    "moe-f16": {                                                     # config as transformers 5 saves it
        "seed": 106, "config": {**MOE, "hidden_size": 96, "moe_intermediate_size": 48, "intermediate_size": 80,
                                "num_experts": ..., "num_local_experts": 10, "num_experts_per_tok": 3,
                                "vocab_size": 300, "decoder_sparse_step": 2, "attention_bias": True, "head_dim": 20,
                                "rope_theta": ..., "rope_scaling": ..., "torch_dtype": ..., "dtype": "float16",
                                "transformers_version": "5.24.0",
                                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        "quant": None, "dtype": "f16", "prompts": SHORT, "shards": 2,
    },
    "mixtral-nf4": {
        "seed": 201, "config": {**MIXTRAL, "sliding_window": 40},
        "quant": ("nf4", 64, True), "dtype": "bf16", "keep": ["gate"], "prompts": SMALL, "shards": 2,
    },
    "olmoe-bf16": {
        "seed": 202, "config": {**OLMOE, "clip_qkv": 1.5},
        "quant": None, "dtype": "bf16", "prompts": SMALL, "shards": 2,
    },
    "glm4-nf4": {
        "seed": 203, "config": {**GLM4, "n_routed_experts": 4, "num_experts_per_tok": 2},
        **DECIDED,
        "quant": ("nf4", 64, True), "dtype": "bf16", "dtypes": {"e_score_correction_bias": "f32"},
        "keep": ["mlp.gate"], "shards": 2,
    },
    "gptoss-mxfp4": {
        "seed": 204, "config": GPT_OSS, "stacked": True, "mxfp4": True,
        "quant": None, "dtype": "bf16", "prompts": SMALL, "shards": 2,
    },
    "gptoss-bf16": {
        "seed": 205, "config": {**GPT_OSS, "num_local_experts": 4, "hidden_size": 48, "intermediate_size": 40, "num_attention_heads": 4},
        "stacked": True, "quant": None, "dtype": "bf16", "prompts": SMALL, "shards": 1,
    },
    "deepseek-fp8": {
        "seed": 306, "config": {**DEEPSEEK, "qk_rope_head_dim": 32}, "fp8": 32, "quant": None, "dtype": "bf16",
        "dtypes": {"e_score_correction_bias": "f32"}, "prompts": SMALL, "shards": 2,
    },
    "deepseek-nf4": {                                                # as the smaller models of the line: q in one step
        "seed": 207, "config": {**DEEPSEEK, "q_lora_rank": None, "n_group": 1, "topk_group": 1, "n_routed_experts": 4, "num_experts_per_tok": 2,
                                "attention_bias": True},
        "quant": ("nf4", 64, True), "dtype": "bf16", "keep": ["mlp.gate"], "shards": 2, **DECIDED,
    },
    "qwen35-bf16": {
        "seed": 208, "config": {**QWEN35, "num_experts": 4, "moe_intermediate_size": 32}, "stacked": True, "prefix": "model.language_model.", "quant": None,
        "dtype": "bf16", "dtypes": {"A_log": "f32", "linear_attn.norm.weight": "f32"}, "mtp": True, "prompts": SMALL, "shards": 2,
    },
    "qwen35-nf4": {                                                  # the text model alone
        "seed": 209, "config": {**QWEN35, "linear_num_key_heads": 4},
        "quant": ("nf4", 64, True), "dtype": "bf16", "keep": ["mlp.gate"], "prompts": SMALL, "shards": 2,
    },
}


def resemble(tensor, like, unlike):
    """Makes the rows `unlike` of a tensor resemble its rows `like`."""
    tensor[unlike] = 0.8 * tensor[like] + 0.6 * tensor[unlike]


def random_weight(name, shape, config, generator):
    """One random tensor in float32. The scales keep every branch of the model alive: residual branches as large
    as the stream, logits with a spread of a few units, decided routers with favourites, memories of 1 to 200 tokens.
    DeltaNet keys resemble queries, as trained ones do: the output norm divides by |q . k|, and where that comes
    near zero any rounding decides the sign of the whole head."""
    zero_centred, tied = config["model_type"] in ("qwen3_next", "qwen3_5_moe_text"), config["tie_word_embeddings"]
    heads, dim = config.get("linear_num_key_heads", 0), config.get("linear_key_head_dim", 0)
    def normal(std):
        return torch.randn(shape, generator=generator) * std
    if name.endswith("norm.weight"):
        gated = name.endswith("linear_attn.norm.weight")
        return normal(0.25) + (0 if zero_centred and not gated else 1)
    if name.endswith("A_log"):
        return torch.log(0.01 * 1600 ** torch.rand(shape, generator=generator))       # 0.01 .. 16
    if name.endswith("in_proj_qkv.weight"):
        weight = normal(1.2 / math.sqrt(shape[-1]))
        resemble(weight, slice(0, heads * dim), slice(heads * dim, 2 * heads * dim))
        return weight
    if name.endswith("sinks"):
        return normal(1.0) + 1
    if name.endswith("e_score_correction_bias"):
        return normal(0.1)
    if name.endswith("dt_bias"):
        return normal(1.0) + 0.5
    if name.endswith("conv1d.weight"):
        weight = normal(0.5)
        resemble(weight, slice(0, heads * dim), slice(heads * dim, 2 * heads * dim))
        return weight
    if name.endswith("in_proj_qkvz.weight"):
        weight = normal(1.2 / math.sqrt(shape[-1]))
        resemble(weight.view(heads, -1, shape[-1]).transpose(0, 1), slice(0, dim), slice(dim, 2 * dim))
        return weight
    if name.endswith((".bias", "_bias")):
        return normal(0.4)
    fan_in = shape[-2] if config["model_type"] == "gpt_oss" and len(shape) == 3 else shape[-1]
    if name.endswith("embed_tokens.weight"):
        common = torch.randn(fan_in, generator=generator)            # gives routers their favourites
        return normal(3.5 / math.sqrt(fan_in)) + 0.1 * common if tied else normal(1.0) + (0.9 if zero_centred else 0.5) * common
    if name.endswith("lm_head.weight"):
        return normal(3.5 / math.sqrt(fan_in))
    if name.endswith("mlp.gate.weight") and "n_group" in config:     # sigmoids: no larger, or their tops are all ties
        return normal(1.2 / math.sqrt(fan_in))
    if name.endswith(("mlp.gate.weight", "mlp.router.weight", "block_sparse_moe.gate.weight")):
        return normal(3.5 / math.sqrt(fan_in))
    if name.endswith(("down_proj", "down_proj.weight", "w2.weight", "o_proj.weight", "out_proj.weight")):
        return normal(1.4 / math.sqrt(fan_in))
    return normal(1.2 / math.sqrt(fan_in))


def quantization_config(spec):
    """What transformers writes beside 4-bit weights. Neither it nor the skip list is exhaustive or binding: blocksize,
    dtypes and what is quantised at all stand only in the tensors."""
    quant_type, _, double = spec["quant"]
    compute = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}[spec["dtype"]]
    return {"_load_in_4bit": True, "_load_in_8bit": False, "bnb_4bit_compute_dtype": compute,
            "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": quant_type, "bnb_4bit_use_double_quant": double,
            "llm_int8_enable_fp32_cpu_offload": False, "llm_int8_has_fp16_weight": False,
            "llm_int8_skip_modules": ["lm_head", *spec["keep"]], "llm_int8_threshold": 6.0, "load_in_4bit": True,
            "load_in_8bit": False, "quant_method": "bitsandbytes"}


def build(folder, spec, config):
    """Writes config.json and the shards."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    text = config.get("text_config", config)
    with torch.device("meta"):
        model = reference.make(reference.text_config(folder))
    generator = torch.Generator().manual_seed(spec["seed"])
    tensors = {}
    for name, meta in model.state_dict().items():
        if name == "lm_head.weight" and text["tie_word_embeddings"]:
            continue
        weight = random_weight(name, tuple(meta.shape), text, generator)
        for piece, tensor in checkpoint.split_experts(checkpoint.published(name, spec), weight, spec):
            ends = [d for end, d in spec.get("dtypes", {}).items() if piece.endswith(end)]
            tensor = tensor.to(DTYPES[ends[0] if ends else spec["dtype"]])
            kept = any(piece.endswith(k + ".weight") for k in spec.get("keep", []))
            if spec.get("mxfp4") and piece.endswith(("experts.gate_up_proj", "experts.down_proj")):
                tensors.update(checkpoint.to_mxfp4(piece, tensor.float()))
            elif spec.get("fp8") and checkpoint.LINEAR.search(piece) and not piece.endswith("mlp.gate.weight"):
                tensors.update(checkpoint.to_fp8(piece, tensor, spec["fp8"]))
            elif spec["quant"] and checkpoint.LINEAR.search(piece) and not kept:
                tensors.update(checkpoint.quantize(piece, tensor, *spec["quant"]))
            else:
                tensors[piece] = tensor
    if spec.get("mtp"):                                              # published models carry these; the reference ignores them
        hidden = text["hidden_size"]
        if "text_config" in config:
            tensors["model.visual.merger.norm.weight"] = torch.ones(hidden, dtype=DTYPES[spec["dtype"]])
        tensors["mtp.fc.weight"] = torch.randn(hidden, 2 * hidden, generator=generator).to(DTYPES[spec["dtype"]])
        tensors["mtp.norm.weight"] = torch.randn(hidden, generator=generator).to(DTYPES[spec["dtype"]])
    checkpoint.write(folder, tensors, spec["shards"])


def provenance(seed):
    return {"seed": seed, "torch": torch.__version__, "transformers": transformers.__version__,
            "bitsandbytes": bitsandbytes.__version__, "numpy": np.__version__, "python": platform.python_version(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "path": "float32, eager attention, eager experts, torch DeltaNet (chunked prompt, recurrent steps)"}


def stored_rows(count, whole):
    """Positions whose logits are kept: all of a short prompt; of a long one the start, both sides of every
    border of 64, and the end. Any wrong position shows at the later ones through the caches."""
    if count <= 7 or whole:
        return list(range(count))
    keep = set(range(4)) | set(range(count - 8, count))
    for border in range(64, count, 64):
        keep |= set(range(border - 4, min(border + 5, count)))
    return sorted(keep)


def make_model(out, name):
    spec = FIXTURES[name]
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    config = {k: v for k, v in spec["config"].items() if v is not ...}
    if spec["quant"]:
        config["quantization_config"] = quantization_config(spec)
    if spec.get("fp8"):
        config["quantization_config"] = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                                         "weight_block_size": [spec["fp8"], spec["fp8"]]}
    if spec.get("mxfp4"):
        config["quantization_config"] = {"modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router",
                                                                    "model.embed_tokens", "lm_head"], "quant_method": "mxfp4"}
    if spec.get("prefix"):                                           # the text part of a model that sees, too
        config = {"architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe", "image_token_id": 1,
                  "text_config": config, "tie_word_embeddings": False, "transformers_version": "4.57.0.dev0",
                  "video_token_id": 2, "vision_config": {"depth": 1, "hidden_size": 16, "model_type": "qwen3_5_moe"}}
    text = config.get("text_config", config)
    build(folder / "model", spec, config)
    torch.set_num_threads(1)
    model, low = reference.load(folder / "model"), reference.load(folder / "model", torch.bfloat16)
    model.routers, low.routers = reference.Routers(model), reference.Routers(low)
    rng = np.random.default_rng(spec["seed"])
    prompts, seen, used = [], set(), np.zeros(text.get("num_experts") or text.get("num_local_experts") or text["n_routed_experts"])
    for i, length in enumerate(spec["prompts"]):
        for attempt in range(spec.get("tries", 60)):                                    # a prompt whose every choice is decided in float32
            ids = [int(x) for x in rng.integers(0, text["vocab_size"], length)]
            entry, logits, experts, margins = reference.run(model, low, ids)
            if (min(entry["gaps"]) > MIN_GAP and entry["min_margin"] > spec.get("min_margin", MIN_MARGIN)
                    and entry["bf16_noise"] < MAX_NOISE * entry["max_logit"]):
                break
        else:
            raise SystemExit(f"{name}: no decided prompt of {length} tokens")
        seen |= set(ids) | set(entry["greedy"])
        used += np.bincount(experts[experts >= 0], minlength=len(used))
        rows = stored_rows(length, length == 65 and spec["prompts"] is LONG)
        entry.update(logits=f"p{i}.logits.npy", experts=f"p{i}.experts.npy", margins=f"p{i}.margins.npy")
        if len(rows) < length:
            entry["rows"] = rows
        np.save(folder / entry["logits"], logits[rows])
        np.save(folder / entry["experts"], experts)
        np.save(folder / entry["margins"], margins)
        prompts.append(entry)
        print(f"  {name} {length:4} tokens: std {logits.std():.2f} max {entry['max_logit']:.1f} noise {entry['bf16_noise']:.2f}"
              f" min gap {min(entry['gaps']):.4f} router noise {entry['router_noise']:.3f}"
              f" min margin {entry['min_margin']:.1e} tries {attempt + 1} drift {entry['drift']:.1e} distinct {len(set(entry['greedy']))}", flush=True)
    # An end-of-sequence id that no run meets, so that a program may stop at it or not.
    eos = next(i for i in range(text["vocab_size"]) if i not in seen)
    text["eos_token_id"] = eos
    (folder / "model" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"do_sample": True, "eos_token_id": eos, "pad_token_id": eos, "temperature": 0.7, "top_k": 20,
                  "top_p": 0.8, "transformers_version": config.get("transformers_version", "4.57.0.dev0")}
    (folder / "model" / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    if not spec["quant"] and not spec.get("fp8") and not spec.get("mxfp4") and not spec.get("prefix"):   # the reference can load these by itself: it must agree
        direct = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager",
                                                      experts_implementation="eager")
        ids = torch.tensor([prompts[1]["ids"]])
        with torch.no_grad():
            assert torch.equal(direct(ids).logits, model(ids).logits), "from_pretrained differs"
    expected = {"model_type": text["model_type"], "provenance": provenance(spec["seed"]), "prompts": prompts}
    text = json.dumps(expected, indent=1)
    (folder / "expected.json").write_text(compact(text) + "\n")
    share = np.sort(used / used.sum())[::-1]
    print(f"  {name} expert use, sorted: {' '.join(f'{x:.2f}' for x in share)}")


def compact(text):
    """JSON with its innermost lists on one line."""
    import re
    return re.sub(r"\[[^\[\]{}]*\]", lambda m: re.sub(r"\s+", " ", m[0]).replace("[ ", "[").replace(" ]", "]"), text)


# name, quant_type, blocksize, double_quant, dtype, rows, cols, what is special about the values
CASES = [
    ("nf4-64-dq-bf16", "nf4", 64, 1, "bf16", 24, 64, ""),
    ("nf4-64-bf16", "nf4", 64, 0, "bf16", 24, 64, ""),
    ("nf4-64-dq-f16", "nf4", 64, 1, "f16", 17, 50, ""),              # 850 elements: a short last block
    ("nf4-64-dq-f32", "nf4", 64, 1, "f32", 13, 96, ""),              # rows of 1.5 blocks
    ("nf4-32-dq-bf16", "nf4", 32, 1, "bf16", 72, 130, ""),           # 293 scales: two nested blocks
    ("nf4-128-dq-bf16-outlier", "nf4", 128, 1, "bf16", 10, 128, "outlier"),
    ("nf4-256-f16", "nf4", 256, 0, "f16", 9, 80, ""),
    ("nf4-4096-dq-bf16", "nf4", 4096, 1, "bf16", 66, 64, ""),        # one whole block and a short one
    ("nf4-64-dq-bf16-zeros", "nf4", 64, 1, "bf16", 16, 64, "zeros"),
    ("nf4-64-bf16-zero-tail", "nf4", 64, 0, "bf16", 5, 30, "zero-tail"),
    ("nf4-64-dq-f32-tiny", "nf4", 64, 1, "f32", 12, 64, "tiny"),
    ("nf4-64-bf16-tiny", "nf4", 64, 0, "bf16", 12, 64, "tiny"),
    ("nf4-64-dq-f16-ties", "nf4", 64, 1, "f16", 16, 64, "ties"),
    ("nf4-64-dq-bf16-odd", "nf4", 64, 1, "bf16", 7, 27, ""),         # 189 elements: the last byte is half used
    ("nf4-64-dq-bf16-one-block", "nf4", 64, 1, "bf16", 1, 64, ""),   # one scale: the nested scale is 0
    ("fp4-64-dq-bf16", "fp4", 64, 1, "bf16", 24, 64, ""),
    ("fp4-128-f16", "fp4", 128, 0, "f16", 15, 70, ""),
    ("fp4-32-f32-ties", "fp4", 32, 0, "f32", 16, 48, "ties"),
    ("fp4-256-dq-f16-outlier", "fp4", 256, 1, "f16", 20, 64, "outlier"),
    ("fp4-4096-bf16-zeros", "fp4", 4096, 0, "bf16", 64, 65, "zeros"),
]
# Tensors of next-bf16 whose NF4 form is stored too: the whole road from a bf16 checkpoint to a packed store.
FROM_MODEL = [("next-bf16.layers.0.mlp.experts.3.gate_proj", "model.layers.0.mlp.experts.3.gate_proj.weight"),
              ("next-bf16.layers.1.mlp.experts.5.up_proj", "model.layers.1.mlp.experts.5.up_proj.weight"),
              ("next-bf16.layers.1.mlp.experts.5.down_proj", "model.layers.1.mlp.experts.5.down_proj.weight")]


def case_values(name, rows, cols, kind, dtype):
    generator = torch.Generator().manual_seed(sum(name.encode()))
    w = torch.randn(rows, cols, generator=generator) * 0.05
    w *= torch.exp(0.7 * torch.randn(rows, 1, generator=generator))
    flat = w.view(-1)
    if kind == "outlier":
        flat[flat.numel() // 3] = 97.5
    if kind == "zeros":
        w[rows // 2] = 0
        w[0] = -0.0
    if kind == "zero-tail":
        flat[-22:] = 0
    if kind == "tiny":                                               # around and below the smallest normal number
        w *= torch.logspace(-36, -42, rows).unsqueeze(1)
    if kind == "ties":                                               # multiples of 1/24 of the top, so that FP4 ties happen
        w = torch.randint(-24, 25, (rows, cols), generator=generator).float() / 24
        w[:, 0] = 1
    return w.to(DTYPES[dtype])


def make_bnb(out):
    folder = out / "bnb"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = {}
    for file in sorted((out / "next-bf16" / "model").glob("*.safetensors")):
        model.update(load_file(file))
    cases = [(c[:7], case_values(c[0], c[5], c[6], c[7], c[4])) for c in CASES]
    cases += [((name, "nf4", 64, 1, "bf16", *model[key].shape), model[key]) for name, key in FROM_MODEL]
    lines = []
    for case, source in cases:
        name, quant_type, blocksize, double = case[:4]
        tensors = checkpoint.quantize("X.weight", source, quant_type, blocksize, bool(double))
        tensors["dequantized"] = checkpoint.dequantize("X.weight", dict(tensors))
        tensors["source"] = source.contiguous()
        assert tensors["dequantized"].shape == source.shape and tensors["dequantized"].dtype == source.dtype
        save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
        lines.append(" ".join(str(v) for v in case))
    (folder / "cases.txt").write_text("\n".join(lines) + "\n")
    code = bitsandbytes.functional.create_dynamic_map().numpy()
    (folder / "dynamic_map.txt").write_text("".join(f"0x{b:08x} {v.item().hex()}\n" for b, v in zip(code.view(np.uint32), code)))
    print(f"  bnb: {len(lines)} cases")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "fixtures")
    parser.add_argument("--only")
    arguments = parser.parse_args()
    checkpoint.check_against_linear4bit()
    for name in FIXTURES:
        if arguments.only in (None, name):
            make_model(arguments.out, name)
    if arguments.only in (None, "bnb", "next-bf16"):
        make_bnb(arguments.out)


if __name__ == "__main__":
    main()
