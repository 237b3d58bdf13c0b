# SPDX-License-Identifier: Apache-2.0
"""Models as GGUF files, written with the `gguf` package, and the same weights as safetensors.

Owns: names, shapes and orders of llama.cpp's converter as far as our families need them (the golden fixtures, which come
from the reference implementation, judge them), blocks of every type, and a tokenizer's way into metadata.
Refuses: torch. Safetensors are read and written here, in a few lines.
"""
import json
import re
from pathlib import Path

import gguf
import numpy as np

ARCHITECTURES = {"qwen3_moe": "qwen3moe", "qwen3_next": "qwen3next", "mixtral": "llama", "gpt_oss": "gpt-oss"}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate": "ffn_gate_inp", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "linear_attn.in_proj_ba": "ssm_ba", "linear_attn.conv1d": "ssm_conv1d", "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out", "block_sparse_moe.gate": "ffn_gate_inp", "mlp.router": "ffn_gate_inp",
    "self_attn.sinks": "attn_sinks",
}
POST_NORM = {"qwen3moe": "ffn_norm", "qwen3next": "post_attention_norm", "llama": "ffn_norm", "gpt-oss": "post_attention_norm"}
W = {"w1": "gate", "w2": "down", "w3": "up"}
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "U8": np.uint8, "F8_E4M3": np.uint8}


# ---- safetensors ----

def read_safetensors(folder):
    """name -> (dtype's name, array); BF16 as its 16 bits."""
    out = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        raw = file.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        for name, entry in json.loads(raw[8:8 + length]).items():
            if name == "__metadata__":
                continue
            begin, end = (8 + length + o for o in entry["data_offsets"])
            out[name] = entry["dtype"], np.frombuffer(raw[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return out


def write_safetensors(path, tensors):
    """name -> float32 array, one shard."""
    header, at = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array, np.float32).tobytes())


def as_float(dtype, array):
    return (array.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else array.astype(np.float32)


def as_bf16(values):
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7fff + (bits >> 16 & 1)) & np.uint32(0xffff0000)).view(np.float32)


def e4m3(code):
    exponent, mantissa = code >> 3 & 15, code & 7
    value = (8 + mantissa) * 2.0 ** (exponent - 10) if exponent else mantissa * 2.0 ** -9
    return np.nan if code & 127 == 127 else -value if code & 128 else value


E4M3 = np.array([e4m3(code) for code in range(256)], np.float32)


def each_expert(config, tensors):
    """Stacked experts under the names of linears of their own; everything else as it is."""
    turned = config["model_type"] == "gpt_oss"
    for name, array in tensors.items():
        at = re.fullmatch(r"(.*\.experts\.)(gate_up|down)_proj(_bias)?", name)
        for i, expert in enumerate(array if at else ()):
            rows, end = expert.T if turned and not at[3] else expert, ".bias" if at[3] else ".weight"
            if at[2] == "down":
                yield f"{at[1]}{i}.down_proj{end}", rows
            else:
                half = len(rows) // 2
                yield f"{at[1]}{i}.gate_proj{end}", rows[0::2] if turned else rows[:half]
                yield f"{at[1]}{i}.up_proj{end}", rows[1::2] if turned else rows[half:]
        if not at:
            yield name, array


def dequantised(raw):
    """read_safetensors' tensors as float32 by the names of their weights: bitsandbytes' 4 bits and FP8 with their rounding to the
    stored dtype, MXFP4 as it is."""
    out = {}
    for name, (dtype, array) in raw.items():
        state = next((n for n in raw if n.startswith(name + ".quant_state.")), None)
        if ".weight." in name or name.startswith("mtp.") or name.endswith(("_scales", "_scale_inv")):
            continue
        if name.endswith("_blocks"):
            scales = raw[name.removesuffix("_blocks") + "_scales"][1]
            levels = np.array(gguf.quants.MXFP4.kvalues, np.float32) / 2
            codes = np.stack([array & 15, array >> 4], -1).reshape(*array.shape[:-1], 32)
            values = levels[codes] * np.exp2(scales[..., None].astype(np.float32) - 127)
            out[name.removesuffix("_blocks")] = values.reshape(*array.shape[:2], -1).swapaxes(1, 2)
        elif name + "_scale_inv" in raw:
            scale = raw[name + "_scale_inv"][1]
            down, across = (s // b for s, b in zip(array.shape, scale.shape))
            out[name] = as_bf16(E4M3[array] * scale.repeat(down, 0).repeat(across, 1))
        elif state:
            entry = json.loads(raw[state][1].tobytes())
            absmax = raw[name + ".absmax"][1]
            if "nested_blocksize" in entry:
                nested = np.repeat(raw[name + ".nested_absmax"][1], entry["nested_blocksize"])[:absmax.size]
                absmax = raw[name + ".nested_quant_map"][1][absmax] * nested + np.float32(entry["nested_offset"])
            codes = np.stack([array.ravel() >> 4, array.ravel() & 15], 1).ravel()
            values = raw[name + ".quant_map"][1][codes] * np.repeat(absmax, entry["blocksize"])[:codes.size]
            if entry["dtype"] == "bfloat16":
                values = as_bf16(values)
            elif entry["dtype"] == "float16":
                values = values.astype(np.float16).astype(np.float32)
            out[name] = values[:int(np.prod(entry["shape"]))].reshape(entry["shape"])
        else:
            out[name] = as_float(dtype, array)
    return out


def mxfp4_blocks(raw, name):
    """One of Hugging Face's MXFP4 tensors as GGUF blocks [experts, rows, bytes]: only bits move."""
    array, scales = raw[name + "_blocks"][1], raw[name + "_scales"][1]
    codes = np.stack([array & 15, array >> 4], -1).reshape(*array.shape[:-1], 32)
    packed = codes[..., :16] | codes[..., 16:] << 4
    return np.concatenate([scales[..., None], packed], -1).reshape(*array.shape[:2], -1)


# ---- from Hugging Face's names to llama.cpp's ----

def split_qkvz(config, weight):
    """[q k v z] of each key head -> [all q | all k | all v] and [all z]."""
    heads, k = config["linear_num_key_heads"], config["linear_key_head_dim"]
    v = config["linear_num_value_heads"] // heads * config["linear_value_head_dim"]
    parts = np.split(weight.reshape(heads, -1, weight.shape[-1]), [k, 2 * k, 2 * k + v], axis=1)
    flat = [p.reshape(-1, weight.shape[-1]) for p in parts]
    return np.concatenate(flat[:3]), flat[3]


def permute(weight, heads):
    """Halves of each head's rows take turns: how llama.cpp rotates mixtral's pairs."""
    return weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def stacked(name, array):
    """gpt_oss: experts of a layer in one tensor, transposed, gate and up by turns."""
    part = name.rpartition(".")[2]
    if part.startswith("gate_up_proj"):
        array = array if part.endswith("_bias") else array.swapaxes(1, 2)
        yield "gate", array[:, 0::2]
        yield "up", array[:, 1::2]
    else:
        yield "down", array if part.endswith("_bias") else array.swapaxes(1, 2)


def converted(config, tensors, fused=False):
    """Yields (name, float32 array) as the converter has them. fused: gate and up of the experts in one tensor."""
    arch = ARCHITECTURES[config["model_type"]]
    experts = {}
    for name, array in tensors.items():
        top = re.fullmatch(r"(.*)\.weight", name)
        if top and top[1] in TOP:
            yield TOP[top[1]] + ".weight", array + 1 if top[1] == "model.norm" and arch == "qwen3next" else array
            continue
        at = re.fullmatch(r"model\.layers\.(\d+)\.(.*?)(\.weight|\.bias)?", name)
        block, role, suffix = f"blk.{at[1]}.", at[2], at[3] or ""
        one = re.fullmatch(r"(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(gate_proj|up_proj|down_proj|w[123])", role)
        zero_centred = arch == "qwen3next" and role.endswith("norm") and role != "linear_attn.norm"
        if re.fullmatch(r"mlp\.experts\.(gate_up|down)_proj(_bias)?", role):
            for part, rows in stacked(name, array):
                yield block + f"ffn_{part}_exps." + ("bias" if role.endswith("_bias") else "weight"), np.ascontiguousarray(rows)
        elif one:
            part = W.get(one[2]) or one[2].removesuffix("_proj")
            experts.setdefault((block, part), {})[int(one[1])] = array
        elif arch == "llama" and role in ("self_attn.q_proj", "self_attn.k_proj"):
            yield block + LAYER[role] + suffix, permute(array, config["num_attention_heads" if "q_proj" in role else "num_key_value_heads"])
        elif role == "self_attn.sinks":
            yield block + "attn_sinks.weight", array
        elif role == "post_attention_layernorm":
            yield block + POST_NORM[arch] + suffix, array + 1 if zero_centred else array
        elif role == "linear_attn.A_log":
            yield block + "ssm_a", -np.exp(array.astype(np.float64)).astype(np.float32)
        elif role == "linear_attn.dt_bias":
            yield block + "ssm_dt.bias", array
        elif role == "linear_attn.in_proj_qkvz":
            qkv, z = split_qkvz(config, array)
            yield block + "attn_qkv.weight", qkv
            yield block + "attn_gate.weight", z
        else:
            array = array.squeeze() if "conv1d" in role or "shared_expert_gate" in role else array
            yield block + LAYER[role] + suffix, array + 1 if zero_centred else array
    for block in sorted({b for b, _ in experts}):
        stack = {part: np.stack([experts[block, part][e] for e in sorted(experts[block, part])])
                 for part in ("gate", "up", "down")}
        if fused:
            yield block + "ffn_gate_up_exps.weight", np.concatenate([stack.pop("gate"), stack.pop("up")], axis=1)
        for part, array in stack.items():
            yield block + f"ffn_{part}_exps.weight", array


def add_config(w, config, arch):
    rope = config.get("rope_parameters") or {}
    if (scaling := config.get("rope_scaling") or rope).get("rope_type", scaling.get("type")) == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(scaling["factor"])
        w.add_rope_scaling_orig_ctx_len(int(scaling["original_max_position_embeddings"]))
        for key, add in (("beta_fast", w.add_rope_scaling_yarn_beta_fast), ("beta_slow", w.add_rope_scaling_yarn_beta_slow)):
            if key in scaling:
                add(scaling[key])
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    experts = config.get("num_experts", config.get("num_local_experts"))
    w.add_block_count(config["num_hidden_layers"])
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(config["hidden_size"])
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(config["num_attention_heads"])
    w.add_head_count_kv(config["num_key_value_heads"])
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_rope_freq_base(rope.get("rope_theta", config.get("rope_theta", 10000.0)))
    w.add_expert_count(experts)
    w.add_expert_used_count(config["num_experts_per_tok"])
    w.add_expert_feed_forward_length(config.get("moe_intermediate_size", config["intermediate_size"]))
    if config.get("sliding_window"):
        w.add_sliding_window(config["sliding_window"])
    if not config.get("norm_topk_prob", True):
        w.add_expert_weights_norm(False)
    if arch == "qwen3next":
        factor = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 0.25))
        w.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
        w.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
        w.add_ssm_state_size(config["linear_key_head_dim"])
        w.add_ssm_group_count(config["linear_num_key_heads"])
        w.add_ssm_time_step_rank(config["linear_num_value_heads"])
        w.add_ssm_inner_size(config["linear_value_head_dim"] * config["linear_num_value_heads"])
        w.add_rope_dimension_count(int(head_dim * factor))
        w.add_full_attention_interval(config.get("full_attention_interval", 4))
        if types := config.get("layer_types"):
            w.add_array("qwen3next.attention.recurrent_layers", [t == "linear_attention" for t in types])


def add_tokenizer(w, folder, vocab, pre):
    """tokenizer.json as llama.cpp keeps it: texts, kinds, merges, special ids, the chat template."""
    file = json.loads((folder / "tokenizer.json").read_text())
    texts, kinds = [f"[PAD{i}]" for i in range(vocab)], [gguf.TokenType.UNUSED] * vocab
    for text, i in file["model"]["vocab"].items():
        texts[i], kinds[i] = text, gguf.TokenType.NORMAL
    for token in file["added_tokens"]:
        texts[token["id"]] = token["content"]
        kinds[token["id"]] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list(texts)
    w.add_token_types(kinds)
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in file["model"]["merges"]])
    config = json.loads((folder / "config.json").read_text())
    w.add_eos_token_id(config["eos_token_id"])
    w.add_bos_token_id(config["bos_token_id"])
    w.add_chat_template((folder / "chat_template.jinja").read_text())


def write_gguf(path, config, tensors, kind=lambda name, array: gguf.GGMLQuantizationType.F32, tokenizer=None, **how):
    """tensors: Hugging Face's names to float32. kind: the type of each matrix. `raw` in how: name -> blocks that are
    there already, of (type, array of bytes)."""
    arch = ARCHITECTURES[config["model_type"]]
    raw = how.pop("raw", {})
    w = gguf.GGUFWriter(path, arch, **{k: v for k, v in how.items() if k != "fused"})
    add_config(w, config, arch)
    if tokenizer:
        add_tokenizer(w, tokenizer, config["vocab_size"], "qwen2")
    for name, array in converted(config, tensors, how.get("fused", False)):
        if name in raw:
            w.add_tensor(name, raw[name][1], raw_dtype=raw[name][0])
            continue
        which = kind(name, array) if array.ndim > 1 and "conv1d" not in name and not name.endswith(".bias") else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(np.ascontiguousarray(array, np.float32), which)
        w.add_tensor(name, data, raw_dtype=which)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


# ---- blocks of every type ----

def random_blocks(rng, name, rows, cols, deviation=None):
    """Bytes [rows, bytes of a row] of one type: any codes, and scales that give weights of about that deviation, or (None)
    any scale that is finite."""
    which = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[which]
    blocks = rng.integers(0, 256, (rows * cols // elements, size), np.uint8)
    halves = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2),
              "Q6_K": (208,), "MXFP4": (), "BF16": (), "F32": ()}.get(name, (0,))
    # The deviation of a weight whose scales are 1, and the mean that a minimum has to take off.
    unit = {"Q8_0": 74, "Q4_0": 4.6, "Q4_1": 4.6, "Q5_0": 9.2, "Q5_1": 9.2, "IQ4_NL": 70, "IQ4_XS": 1300, "Q2_K": 10, "Q3_K": 42,
            "Q4_K": 170, "Q5_K": 340, "Q6_K": 1360}.get(name, 1)
    for i, at in enumerate(halves):
        if deviation is None:
            scale = (rng.standard_normal(len(blocks)) * 10.0 ** rng.uniform(-6, 3, len(blocks))).astype(np.float16)
            scale[~np.isfinite(scale)] = 1
        else:
            scale = np.full(len(blocks), deviation / unit * (1 if i == 0 else {"Q2_K": 1.5}.get(name, -7.5 if name[-1] == "1" else 7.5)), np.float16)
        blocks[:, at:at + 2] = scale.reshape(-1, 1).view(np.uint8)
    if name == "Q6_K" and deviation is not None:
        blocks[:, 192:208] = rng.integers(48, 96, (len(blocks), 16))
    if name == "MXFP4":
        blocks[:, 0] = rng.integers(0, 253, len(blocks)) if deviation is None else 128 + round(np.log2(deviation / 5))
    if name in ("BF16", "F32"):
        values = (rng.standard_normal(len(blocks)) * (deviation or 3)).astype(np.float32)
        bits = values.view(np.uint32)
        blocks = ((bits >> 16).astype(np.uint16) if name == "BF16" else bits).reshape(-1, 1).view(np.uint8)
    if name == "F16":
        blocks = (rng.standard_normal(len(blocks)) * (deviation or 3)).astype(np.float16).reshape(-1, 1).view(np.uint8)
    return which, np.ascontiguousarray(blocks.reshape(rows, -1))


def dequantise(which, data):
    if which == gguf.GGMLQuantizationType.F32:
        return data.view(np.float32)
    if which == gguf.GGMLQuantizationType.F16:
        return data.view(np.float16).astype(np.float32)
    return gguf.quants.dequantize(data, which)
