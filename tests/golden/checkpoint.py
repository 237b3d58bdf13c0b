"""The published checkpoint layout: writing one with bitsandbytes' 4-bit tensors, and reading one back.

This file owns names, shards and quantisation states. It knows nothing of model families beyond how their
fused expert tensors are called.
"""
import json
import re
from pathlib import Path

import torch
import bitsandbytes
import bitsandbytes.functional as bnb
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from safetensors import safe_open
from safetensors.torch import save_file

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
SHARD = "model-{:05d}-of-{:05d}.safetensors"
LINEAR = re.compile(r"\.(\w+_proj|in_proj_\w+|kv_a_proj_with_mqa|gate|shared_expert_gate|w[123])\.weight$")   # every nn.Linear but lm_head
FP4 = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6])                      # E2M1 without its sign


def published(name, spec):
    """The name that checkpoints have for a tensor of transformers' state dict."""
    name = name.replace("model.", spec.get("prefix", "model."), 1)
    return name.replace(".mlp.", ".block_sparse_moe.") if spec["config"]["model_type"] == "mixtral" else name


def split_experts(name, tensor, spec):
    """A fused expert tensor as the per-expert linears that checkpoints hold; any other tensor, and those of families
    (or fixtures) that store them fused, as it is."""
    part = re.search(r"(.*experts\.)(gate_up_proj|down_proj)$", name)
    if not part or spec.get("stacked"):
        yield name, tensor
        return
    gate, up, down = ("w1", "w3", "w2") if "block_sparse_moe" in name else ("gate_proj", "up_proj", "down_proj")
    for e, fused in enumerate(tensor):
        if part[2] == "down_proj":
            yield f"{part[1]}{e}.{down}.weight", fused
        else:
            yield f"{part[1]}{e}.{gate}.weight", fused.chunk(2)[0]
            yield f"{part[1]}{e}.{up}.weight", fused.chunk(2)[1]


def fuse_experts(tensors):
    """The reverse of split_experts and published over a whole state dict."""
    out, groups, biases = {}, {}, {}
    roles = {"w1": "gate", "w3": "up", "w2": "down", "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
    for name, tensor in tensors.items():
        name = name.replace(".block_sparse_moe.", ".mlp.").replace("model.language_model.", "model.")
        at = re.match(r"(.*\.mlp\.experts\.)(\d+)\.(w[123]|(?:gate|up|down)_proj)\.(weight|bias)$", name)
        if at:
            (groups if at[4] == "weight" else biases).setdefault(at[1], {})[int(at[2]), roles[at[3]]] = tensor
        else:
            out[name] = tensor
    for prefix, parts in groups.items():
        experts = range(len(parts) // 3)
        if bias := biases.get(prefix):                               # gpt_oss: transposed, gate and up by turns
            out[prefix + "gate_up_proj"] = torch.stack([torch.stack([parts[e, "gate"], parts[e, "up"]], 1).flatten(0, 1).T for e in experts])
            out[prefix + "down_proj"] = torch.stack([parts[e, "down"].T for e in experts])
            out[prefix + "gate_up_proj_bias"] = torch.stack([torch.stack([bias[e, "gate"], bias[e, "up"]], 1).flatten() for e in experts])
            out[prefix + "down_proj_bias"] = torch.stack([bias[e, "down"] for e in experts])
            continue
        out[prefix + "gate_up_proj"] = torch.stack([torch.cat([parts[e, "gate"], parts[e, "up"]]) for e in experts])
        out[prefix + "down_proj"] = torch.stack([parts[e, "down"] for e in experts])
    return out


def to_fp8(name, weight, block):
    """E4M3 with a scale a block of [block, block], as DeepSeek publishes."""
    rows, cols = weight.shape
    tiles = weight.float().reshape(rows // block, block, cols // block, block)
    scale = tiles.abs().amax((1, 3)) / 448
    codes = (tiles / scale[:, None, :, None]).reshape(rows, cols).to(torch.float8_e4m3fn)
    return {name: codes, name + "_scale_inv": scale}


def from_fp8(codes, scale):
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize
    return Fp8Dequantize(None)._dequantize_one(codes, scale, torch.bfloat16)


def to_mxfp4(name, weight):
    """[experts, in, out] as gpt_oss publishes it: [experts, out, in / 32, 16] codes, low nibble first, and exponents."""
    tiles = weight.transpose(1, 2).reshape(weight.shape[0], weight.shape[2], -1, 32)
    exponent = torch.floor(torch.log2(tiles.abs().amax(-1) / 6)) + 1
    value = tiles / torch.exp2(exponent)[..., None]
    codes = (value.abs()[..., None] - FP4).abs().argmin(-1) + 8 * (value < 0)
    packed = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
    return {name + "_blocks": packed, name + "_scales": (exponent + 127).to(torch.uint8)}


def from_mxfp4(blocks, scales):
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors
    return convert_moe_packed_tensors(blocks, scales)


def quantize(name, weight, quant_type, blocksize, double):
    """The tensors that Linear4bit saves for this weight. On one thread, so that the mean of the scales is
    summed in one order."""
    torch.set_num_threads(1)
    packed, state = bnb.quantize_4bit(weight.contiguous(), blocksize=blocksize, quant_type=quant_type,
                                      compress_statistics=double)
    return {name: packed, **{f"{name}.{k}": v for k, v in state.as_dict(packed=True).items()}}


def dequantize(name, tensors):
    """bitsandbytes' dequantised weight in its stored dtype, from the tensors of one linear.

    bnb.dequantize_4bit's AVX-512 code takes wrong scales when a row is a multiple of 16 elements but not of the
    blocksize, and flushes bf16 denormals; the package's generic code does what CUDA does, so that is the path
    taken, and where the two must agree they are compared."""
    prefix = name + "."
    state = bnb.QuantState.from_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k != name},
                                     device=torch.device("cpu"))
    absmax = state.absmax
    if state.nested:
        absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    out = _dequantize_4bit_compute(tensors[name].reshape(-1), absmax, state.code, state.blocksize,
                                   state.shape, state.dtype)
    if state.shape[-1] % state.blocksize == 0 and absmax.min() > 1e-30:
        assert torch.equal(out, bnb.dequantize_4bit(tensors[name], state)), name
    return out


def check_against_linear4bit():
    """The layout written here is what bitsandbytes' own module saves."""
    linear = torch.nn.Linear(128, 24, bias=False, dtype=torch.bfloat16)
    module = bitsandbytes.nn.Linear4bit(128, 24, bias=False, quant_type="nf4", compress_statistics=True)
    module.weight = bitsandbytes.nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4",
                                               blocksize=64, compress_statistics=True)
    saved = module.to("cpu").state_dict()
    mine = quantize("weight", linear.weight.data, "nf4", 64, True)
    assert saved.keys() == mine.keys(), (saved.keys(), mine.keys())
    assert all(torch.equal(saved[k], mine[k]) for k in saved)


def write(folder, tensors, shards):
    """Writes the shards and their index. The first border that can do so splits a weight from its statistics."""
    folder = Path(folder)
    names = list(tensors)
    total = sum(t.nbytes for t in tensors.values())
    parts, start, size = [], 0, 0
    for i, name in enumerate(names):
        size += tensors[name].nbytes
        quantised = name + ".absmax" in tensors
        splits = quantised or not any(n.endswith(".absmax") for n in names)
        if len(parts) < shards - 1 and splits and size >= total * (len(parts) + 1) / shards:
            parts.append(names[start:i + 1])
            start = i + 1
    parts.append(names[start:])
    index = {"metadata": {"total_size": total}, "weight_map": {}}
    for i, part in enumerate(parts):
        file = SHARD.format(i + 1, len(parts)) if len(parts) > 1 else "model.safetensors"
        save_file({n: tensors[n].contiguous() for n in part}, folder / file, metadata={"format": "pt"})
        index["weight_map"].update({n: file for n in part})
    if len(parts) > 1:
        index["weight_map"] = dict(sorted(index["weight_map"].items()))
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def read(folder):
    """A checkpoint as a fused state dict in float32, every 4-bit weight dequantised through its stored dtype.
    What is quantised is decided by the presence of a quantisation state."""
    tensors = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            tensors.update({name: opened.get_tensor(name) for name in opened.keys()})
    out, used = {}, set()
    for name in [n for n in tensors if n + ".absmax" in tensors]:
        group = {n: t for n, t in tensors.items() if n == name or n.startswith(name + ".")}
        out[name] = dequantize(name, group)
        used |= group.keys()
    for name in [n for n in tensors if n + "_scale_inv" in tensors]:
        out[name] = from_fp8(tensors[name], tensors[name + "_scale_inv"])
        used |= {name, name + "_scale_inv"}
    for name in [n.removesuffix("_blocks") for n in tensors if n.endswith("_blocks")]:
        out[name] = from_mxfp4(tensors[name + "_blocks"], tensors[name + "_scales"])
        used |= {name + "_blocks", name + "_scales"}
    out.update({n: t for n, t in tensors.items() if n not in used and not n.startswith(("mtp.", "model.visual."))})
    return fuse_experts({n: t.float() for n, t in out.items()})
