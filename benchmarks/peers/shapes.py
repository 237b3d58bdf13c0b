# SPDX-License-Identifier: Apache-2.0
"""The shapes that benchmarks compare at, as lists of tensors under llama.cpp's names, and their bytes.

The numbers are those of benchmarks/make_checkpoint.c. Owns: which tensor has which shape and which class of precision.
Refuses: content (gguf_random.py).
"""
from dataclasses import dataclass, replace
from math import prod

# Bytes of a block, elements of a block.
BLOCKS = {"F32": (4, 1), "BF16": (2, 1), "Q8_0": (34, 32), "Q4_0": (18, 32), "Q4_K": (144, 256)}


@dataclass(frozen=True)
class Shape:
    name: str
    architecture: str
    layers: int
    hidden: int
    vocab: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    top_k: int
    width: int
    dense: int
    positions: int
    theta: float
    shared: int = 0
    key_heads: int = 0
    value_heads: int = 0
    state: int = 0  # key and value dimension of Gated DeltaNet
    rotary: float = 1.0


SHAPES = {s.name: s for s in (
    Shape("qwen3-30b-a3b", "qwen3moe", 12, 2048, 151936, 32, 4, 128, 128, 8, 768, 6144, 40960, 1e6),
    Shape("qwen3-next-80b", "qwen3next", 8, 2048, 151936, 16, 2, 256, 512, 10, 512, 5120, 262144, 1e7, 512, 16, 32, 128, 0.25),
    Shape("tiny-moe", "qwen3moe", 4, 256, 1024, 4, 2, 64, 16, 4, 128, 512, 32768, 1e6),
)}


def shape_of(name, layers=None):
    return replace(SHAPES[name], layers=layers or SHAPES[name].layers)


def is_attention(shape, layer):
    return not shape.state or (layer + 1) % 4 == 0


def type_for(kind, cols, quant):
    """K-quants have blocks of 256 columns: a row that is no multiple takes Q4_0, as llama.cpp's own tools fall back."""
    return "Q4_0" if kind == quant == "Q4_K" and cols % 256 else kind


def layer_tensors(s, n):
    """(name, shape with the columns last, class): class "q" is quantised, "f" float32."""
    b, h = f"blk.{n}.", s.hidden
    yield b + "attn_norm.weight", (h,), "f"
    if is_attention(s, n):
        q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        yield b + "attn_q.weight", (2 * q if s.state else q, h), "q"
        yield b + "attn_k.weight", (kv, h), "q"
        yield b + "attn_v.weight", (kv, h), "q"
        yield b + "attn_output.weight", (h, q), "q"
        yield b + "attn_q_norm.weight", (s.head_dim,), "f"
        yield b + "attn_k_norm.weight", (s.head_dim,), "f"
    else:
        keys, values = s.key_heads * s.state, s.value_heads * s.state
        yield b + "attn_qkv.weight", (2 * keys + values, h), "q"
        yield b + "attn_gate.weight", (values, h), "q"
        yield b + "ssm_ba.weight", (2 * s.value_heads, h), "q"
        yield b + "ssm_out.weight", (h, values), "q"
        yield b + "ssm_conv1d.weight", (2 * keys + values, 4), "f"
        yield b + "ssm_dt.bias", (s.value_heads,), "f"
        yield b + "ssm_a", (s.value_heads,), "f"
        yield b + "ssm_norm.weight", (s.state,), "f"
    yield b + ("post_attention_norm.weight" if s.state else "ffn_norm.weight"), (h,), "f"
    yield b + "ffn_gate_inp.weight", (s.experts, h), "f"  # llama.cpp keeps routers in float32
    yield b + "ffn_gate_exps.weight", (s.experts, s.width, h), "q"
    yield b + "ffn_up_exps.weight", (s.experts, s.width, h), "q"
    yield b + "ffn_down_exps.weight", (s.experts, h, s.width), "q"
    if s.shared:
        yield b + "ffn_gate_inp_shexp.weight", (h,), "f"
        yield b + "ffn_gate_shexp.weight", (s.shared, h), "q"
        yield b + "ffn_up_shexp.weight", (s.shared, h), "q"
        yield b + "ffn_down_shexp.weight", (h, s.shared), "q"


def tensors(s, quant, head):
    """(name, shape, type) of the whole model."""
    yield "token_embd.weight", (s.vocab, s.hidden), type_for(quant, s.hidden, quant)
    for n in range(s.layers):
        for name, shape, kind in layer_tensors(s, n):
            yield name, shape, "F32" if kind == "f" else type_for(quant, shape[-1], quant)
    yield "output_norm.weight", (s.hidden,), "F32"
    yield "output.weight", (s.vocab, s.hidden), type_for(head, s.hidden, quant)


def nbytes(shape, kind):
    block, elements = BLOCKS[kind]
    assert shape[-1] % elements == 0, (shape, kind)
    return prod(shape) // elements * block


def token_bytes(s, quant, head):
    """What a decoded token has to read: all but the embedding, of the experts only those chosen; and the recurrent state."""
    total = 0.0
    for name, shape, kind in tensors(s, quant, head):
        if name != "token_embd.weight":
            total += nbytes(shape, kind) * (s.top_k / s.experts if "_exps." in name else 1)
    delta = sum(not is_attention(s, n) for n in range(s.layers))
    return int(total) + delta * s.value_heads * s.state * s.state * 4
