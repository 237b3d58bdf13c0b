# SPDX-License-Identifier: Apache-2.0
"""Random GGUF files of a shape, written with the `gguf` package that llama.cpp's source carries.

Blocks are drawn, not quantised: every code is random, scales are the same everywhere, the mean is zero and the deviation
of a weight is 1/sqrt(columns), so that activations keep their size from layer to layer and routing spreads.
Owns: the content of tensors and the metadata. Refuses: to be a model. numpy only.
"""
import sys
import types
from pathlib import Path

import numpy as np
import shapes

PART_BYTES = 64 << 20
CODES_DEVIATION = 4.183  # of 4-bit codes around 8, 0 drawn as 8
K_DEVIATION = 4.610      # of 4-bit codes around 7.5


def q4_0(rng, blocks, deviation):
    out = np.empty((blocks, 18), np.uint8)
    out[:, :2] = np.array([deviation / CODES_DEVIATION], np.float16).view(np.uint8)
    codes = np.array([8, *range(1, 16)], np.uint8)  # a code of 0 would be -8 with no +8 against it
    pairs = (codes[np.arange(256) & 15] | codes[np.arange(256) >> 4] << 4).astype(np.uint8)
    out[:, 2:] = pairs[rng.integers(0, 256, (blocks, 16), np.uint8)]
    return out


def q4_k(rng, blocks, deviation):
    """d * scale * code - dmin * min with all scales and mins 32: zero mean where dmin = 7.5 d."""
    d = deviation / (32 * K_DEVIATION)
    out = np.empty((blocks, 144), np.uint8)
    out[:, :4] = np.array([d, 7.5 * d], np.float16).view(np.uint8)
    out[:, 4:12] = 0xA0  # six bits of 32, and the two high bits of the other half's 32
    out[:, 12:16] = 0    # the low four bits of these
    out[:, 16:] = rng.integers(0, 256, (blocks, 128), np.uint8)
    return out


def q8_0(rng, blocks, deviation):
    out = np.empty((blocks, 34), np.uint8)
    out[:, :2] = np.array([deviation / 73.3], np.float16).view(np.uint8)  # deviation of codes -127..127
    out[:, 2:] = rng.integers(-127, 128, (blocks, 32), np.int8).view(np.uint8)
    return out


def bf16(rng, blocks, deviation):
    values = rng.integers(-4095, 4096, blocks, np.int32).astype(np.float32) * np.float32(deviation * 3**0.5 / 4095)
    return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(blocks, 2)


def f32(rng, blocks, deviation):
    return rng.standard_normal(blocks, np.float32).reshape(blocks, 1) * np.float32(deviation)


MAKERS = {"Q4_0": q4_0, "Q4_K": q4_k, "Q8_0": q8_0, "BF16": bf16, "F32": f32}


def vector(rng, name, shape):
    """Float tensors: norms are 1, the decay of Gated DeltaNet negative; None: a matrix like others."""
    if name.endswith("norm.weight"):
        return np.ones(shape, np.float32)
    if name.endswith("ssm_a"):
        return -np.exp(rng.uniform(-3.9, 0.9, shape)).astype(np.float32)
    if name.endswith("ssm_dt.bias"):
        return rng.uniform(-1.9, -0.1, shape).astype(np.float32)
    if name.endswith("ssm_conv1d.weight"):
        return (0.5 * rng.standard_normal(shape)).astype(np.float32)
    return None


def content(rng, name, shape, kind):
    """Pieces of a tensor, so that none of them is large."""
    made = vector(rng, name, shape) if kind == "F32" else None
    if made is not None:
        yield made
        return
    block, elements = shapes.BLOCKS[kind]
    deviation = 1.0 if name == "token_embd.weight" else shape[-1] ** -0.5
    left = shapes.nbytes(shape, kind) // block
    while left:
        count = min(left, PART_BYTES // block)
        yield MAKERS[kind](rng, count, deviation)
        left -= count


def import_gguf(source):
    """The package of llama.cpp's tree. What it imports for other purposes may be missing."""
    sys.path.insert(0, str(Path(source) / "gguf-py"))
    for name in ("yaml", "requests", "tqdm"):
        try:
            __import__(name)
        except ImportError:
            sys.modules[name] = types.ModuleType(name)
    import gguf
    return gguf


def metadata(w, s):
    w.add_vocab_size(s.vocab)
    w.add_context_length(s.positions)
    w.add_embedding_length(s.hidden)
    w.add_block_count(s.layers)
    w.add_feed_forward_length(s.dense)
    w.add_head_count(s.heads)
    w.add_head_count_kv(s.kv_heads)
    w.add_key_length(s.head_dim)
    w.add_value_length(s.head_dim)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_rope_freq_base(s.theta)
    w.add_rope_dimension_count(int(s.head_dim * s.rotary))
    w.add_expert_count(s.experts)
    w.add_expert_used_count(s.top_k)
    w.add_expert_feed_forward_length(s.width)
    if s.state:
        w.add_expert_shared_feed_forward_length(s.shared)
        w.add_ssm_conv_kernel(4)
        w.add_ssm_inner_size(s.value_heads * s.state)
        w.add_ssm_state_size(s.state)
        w.add_ssm_time_step_rank(s.value_heads)
        w.add_ssm_group_count(s.key_heads)
        w.add_full_attention_interval(4)
    w.add_tokenizer_model("none")


def write(path, shape, quant, head, source):
    gguf = import_gguf(source)
    rng = np.random.Generator(np.random.SFC64(1))
    partial = path.with_suffix(".partial")
    w = gguf.GGUFWriter(partial, shape.architecture)
    metadata(w, shape)
    every = list(shapes.tensors(shape, quant, head))
    for name, dims, kind in every:
        w.add_tensor_info(name, dims, np.dtype(np.float32 if kind == "F32" else np.float16), shapes.nbytes(dims, kind),
                          raw_dtype=gguf.GGMLQuantizationType[kind])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    out = w.fout[0]
    for name, dims, kind in every:
        w.write_padding(out, out.tell())
        for piece in content(rng, name, dims, kind):
            piece.tofile(out)
        w.write_padding(out, shapes.nbytes(dims, kind))
    w.close()
    partial.rename(path)
