#!/usr/bin/env python3
"""bitsandbytes' 4-bit quantisation and dequantisation on the CPU, written again in numpy.

This file owns the executable statement of the recipe in README.md: what a C quantiser has to do to get the
same bits. It uses no torch. Run as a script it checks the stored cases of fixtures/bnb with numpy alone;
with --tensors N (where torch and bitsandbytes are installed) also N random tensors against bitsandbytes itself.
"""
import argparse
import hashlib
import json
import os
from pathlib import Path

import numpy as np

F32 = np.float32
NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
                0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                0.7229568362236023, 1.0], F32)
FP4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3], F32) / F32(12)
# The codes of FP4 in rising order of value. Of the two zeros, code 0 comes first and code 8 second: a value in
# (-0.0026, 0] becomes 0, a value in (0, 0.0026] becomes 8.
FP4_ORDER = np.array([11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3], np.uint8)
NESTED_BLOCK = 256


def midpoints(levels):
    return (levels[:-1] + levels[1:]) / F32(2)


def linspace(count):
    """torch.linspace(0.1, 1, count) in float32: from the near end up to the middle, from the far end after it.
    The far half's end - step * k is one fused multiply-add (it is vectorised so), the near half's too."""
    start, end = F32(0.1), F32(1)
    step = F32(F32(end - start) / F32(count - 1))
    i = np.arange(count)
    near = np.float64(start) + np.float64(step) * i                 # exact in float64: one rounding, as fma does
    far = np.float64(end) - np.float64(step) * (count - 1 - i)
    return np.where(i < count // 2, near, far).astype(F32)


def dynamic_map():
    """The signed 8-bit map of the nested scales: 7 decades, the highest with 64 steps a sign, then 0 and 1."""
    values = [F32(0), F32(1)]
    for i in range(7):
        edges = linspace(2 ** i + 1)
        steps = F32(10.0 ** (i - 6)) * ((edges[:-1] + edges[1:]) / F32(2))
        values += list(steps) + list(-steps)
    return np.sort(np.array(values, F32))


def torch_sum(x, lanes=8):
    """torch.sum of a contiguous float32 vector on one thread (or of fewer than 32768 elements on any number).

    Vectors are 8 wide on x86 (AVX2 code, also on machines with AVX-512). Rows of 4 vectors are summed in a
    cascade of four levels, then the left-over vectors, the 4 columns, the tail elements, and the lanes one by one."""
    x = np.asarray(x, F32)

    def cascade(rows):                                              # rows: [size, 4, width]
        size = len(rows)
        power = max(4, (max(size, 1) - 1).bit_length() // 4)
        step, mask = 1 << power, (1 << power) - 1
        acc = np.zeros((4,) + rows.shape[1:], F32)
        i = 0
        while i + step <= size:
            for _ in range(step):
                acc[0] += rows[i]
                i += 1
            for j in range(1, 4):
                acc[j] += acc[j - 1]
                acc[j - 1] = 0
                if i & (mask << (j * power)):
                    break
        while i < size:
            acc[0] += rows[i]
            i += 1
        for j in range(1, 4):
            acc[0] += acc[j]
        return acc[0]

    def row_sum(v):                                                 # v: [size, width] -> [width]
        whole = len(v) // 4
        part = cascade(v[:whole * 4].reshape(whole, 4, v.shape[1]))
        for i in range(whole * 4, len(v)):
            part[0] += v[i]
        for k in range(1, 4):
            part[0] += part[k]
        return part[0]

    if len(x) < lanes:
        return row_sum(x.reshape(-1, 1))[0]
    vectors = len(x) // lanes
    partials = row_sum(x[:vectors * lanes].reshape(vectors, lanes))
    total = F32(0)
    for value in x[vectors * lanes:]:
        total += value
    for value in partials:
        total += value
    return total


def nested_table(levels):
    """The 65536-entry table through which the CPU library finds a code: entry i stands for -1 + 2i/65535."""
    i = np.arange(65536).astype(F32)
    value = F32(-1) + (F32(2) * i) / F32(65535)
    return np.searchsorted(midpoints(levels), value, side="left").astype(np.uint8)   # midpoints below the value


MAP = dynamic_map()
TABLE = nested_table(MAP)


def quantize_nested(scales):
    """8-bit quantisation of the (centred) scales: codes u8, one float32 scale for each 256."""
    codes, absmax = np.zeros(len(scales), np.uint8), []
    for start in range(0, len(scales), NESTED_BLOCK):
        block = scales[start:start + NESTED_BLOCK]
        top = np.abs(block).max()
        absmax.append(top)
        if top == 0:
            continue                                                # every code of an all-zero block is 0
        unit = np.clip(block * (F32(1) / top), F32(-1), F32(1))
        half = (unit + F32(1)) * F32(0.5)
        at = (np.float64(half) * 65535.0 + 0.5).astype(F32)         # one rounding: it is an fma in the library
        codes[start:start + NESTED_BLOCK] = TABLE[at.astype(np.int64)]
    return codes, np.array(absmax, F32)


def quantize(values, quant_type, blocksize, double_quant):
    """values: float32 copies of the source (bf16 and f16 widen exactly), any shape, read row-major."""
    x = np.asarray(values, F32).reshape(-1)
    levels, order = (NF4, None) if quant_type == "nf4" else (FP4[FP4_ORDER], FP4_ORDER)
    unit, absmax = np.zeros(len(x) + len(x) % 2, F32), []
    tiny = F32(1e-38)
    for start in range(0, len(x), blocksize):
        block = x[start:start + blocksize]
        top = np.abs(block).max()
        if len(block) == blocksize:
            scaled = block * (F32(1) / max(top, tiny))              # whole blocks: times the reciprocal
        else:
            top = max(top, tiny)                                    # the short last block: divided, and its scale
            scaled = block / top                                    # is stored as at least 1e-38
        absmax.append(top)
        unit[start:start + len(block)] = np.clip(scaled, F32(-1), F32(1))
    codes = np.searchsorted(midpoints(levels), unit, side="left").astype(np.uint8)    # a tie takes the lower level
    if order is not None:
        codes = order[codes]
    state = {"packed": (codes[0::2] << 4) | codes[1::2], "absmax": np.array(absmax, F32)}
    if double_quant:
        offset = F32(torch_sum(state["absmax"]) / F32(len(absmax)))
        state["offset"] = offset
        state["absmax"], state["nested_absmax"] = quantize_nested(state["absmax"] - offset)
    return state


def round_to(values, dtype):
    if dtype == "f32":
        return values
    if dtype == "f16":
        return values.astype(np.float16)
    bits = values.view(np.uint32).astype(np.uint64)                 # bf16: nearest even, denormals kept
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def dequantize(packed, absmax, quant_map, blocksize, count, dtype, nested=None):
    """nested: (nested_absmax, nested_quant_map, nested_offset, nested_blocksize). bf16 comes back as its u16 bits."""
    packed = np.asarray(packed, np.uint8).reshape(-1)
    codes = np.stack([packed >> 4, packed & 15], 1).reshape(-1)[:count]
    if nested is not None:
        top, levels, offset, size = nested
        absmax = levels[absmax] * np.repeat(top, size)[:len(absmax)] + F32(offset)    # two roundings, no fma
    return round_to(quant_map[codes] * np.repeat(absmax, blocksize)[:count], dtype)


def prove(tensors):
    os.environ["TORCHDYNAMO_DISABLE"] = "1"                          # bitsandbytes would compile small functions
    import torch
    import bitsandbytes.functional as bnb
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
    names = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
    torch.set_num_threads(1)
    torch.manual_seed(11)
    code = bnb.create_dynamic_map().numpy()
    assert (code.view(np.uint32) == MAP.view(np.uint32)).all(), "dynamic map"
    assert (bnb.get_4bit_type("nf4", "cpu").numpy() == NF4).all() and (bnb.get_4bit_type("fp4", "cpu").numpy() == FP4).all()
    for n in list(range(1, 700)) + [1000, 4096, 5000, 16384, 20000, 40000, 262144 + 77]:
        x = torch.rand(n) * 3
        assert F32(torch_sum(x.numpy()) / F32(n)) == x.mean().numpy(), ("mean", n)
    rng, done, elements = np.random.default_rng(5), 0, 0
    for t in range(tensors):
        quant_type, dtype = ["nf4", "fp4"][t % 2], list(names)[t % 3]
        blocksize = [32, 64, 64, 128, 256, 512, 4096][t % 7]
        double = t % 5 != 0
        rows, cols = (int(rng.integers(1, 200)), int(rng.integers(1, 400))) if t % 4 else (512, 2048)
        w = torch.randn(rows, cols) * float(np.exp(rng.normal(-3, 2)))
        w *= torch.exp(torch.randn(rows, 1))
        if t % 6 == 1:
            w[rng.integers(rows)] = 0
        if t % 6 == 2:
            w.view(-1)[rng.integers(w.numel())] = 300.0
        if t % 6 == 3:                                               # many exact ties: multiples of 1/24 of the top
            w = torch.randint(-24, 25, (rows, cols)).float() / 24
        if t % 6 == 4:
            w *= 1e-36
        w = w.to(names[dtype])
        packed, state = bnb.quantize_4bit(w, blocksize=blocksize, quant_type=quant_type, compress_statistics=double)
        mine = quantize(w.float().numpy(), quant_type, blocksize, double)
        what = (t, quant_type, dtype, blocksize, double, rows, cols)
        assert (packed.numpy().reshape(-1) == mine["packed"]).all(), ("packed",) + what
        nested = None
        if double:
            assert state.offset.numpy() == mine["offset"], ("offset",) + what
            assert (state.state2.absmax.numpy() == mine["nested_absmax"]).all(), ("nested_absmax",) + what
            nested = (mine["nested_absmax"], MAP, mine["offset"], 256)
        assert (state.absmax.numpy() == mine["absmax"]).all(), ("absmax",) + what
        # Dequantised by bitsandbytes' generic code: its AVX-512 code reads wrong scales where rows and blocks do not align.
        absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset if double else state.absmax
        want = _dequantize_4bit_compute(packed.reshape(-1), absmax, state.code, blocksize, w.shape, w.dtype)
        if cols % blocksize == 0 and cols % 2 == 0 and w.float().abs().max() > 1e-30:
            assert torch.equal(want, bnb.dequantize_4bit(packed, state)), ("two paths",) + what
        got = dequantize(mine["packed"], mine["absmax"], NF4 if quant_type == "nf4" else FP4, blocksize, w.numel(), dtype, nested)
        bits = {"bf16": np.uint16, "f16": np.uint16, "f32": np.uint32}[dtype]
        want = (want.reshape(-1).view(torch.uint16) if dtype == "bf16" else want.reshape(-1)).numpy().view(bits)
        assert (want == got.view(bits)).all(), ("dequantised",) + what
        done, elements = done + 1, elements + w.numel()
    print(f"{done} tensors, {elements} elements: quantised and dequantised bit for bit as bitsandbytes does "
          f"(torch on {torch.backends.cpu.get_cpu_capability()})")


def read_raw(folder):
    """name -> (dtype, shape, bytes) of all tensors of a folder, as its files have them."""
    out = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        raw = file.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        for name, entry in json.loads(raw[8:8 + length]).items():
            if name != "__metadata__":
                begin, end = (8 + length + o for o in entry["data_offsets"])
                out[name] = entry["dtype"], entry["shape"], raw[begin:end]
    return out


def digest(folder):
    """One hash of all tensors of a folder: names, types, shapes, bytes."""
    h = hashlib.sha256()
    for name, (dtype, shape, data) in sorted(read_raw(folder).items()):
        h.update(f"{name} {dtype} {shape} {len(data)}\n".encode() + data)
    return h.hexdigest()


def read_safetensors(path):
    """name -> array; bf16 as its u16 bits."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    kinds = {"U8": np.uint8, "BF16": np.uint16, "F16": np.float16, "F32": np.float32}
    out = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            out[name] = np.frombuffer(data[start + begin:start + end], kinds[entry["dtype"]]).reshape(entry["shape"])
    return out


def check_cases(folder):
    words = [int(line.split()[0], 16) for line in (folder / "dynamic_map.txt").read_text().splitlines()]
    assert (np.array(words, np.uint32) == MAP.view(np.uint32)).all(), "dynamic_map.txt"
    lines = (folder / "cases.txt").read_text().splitlines()
    for line in lines:
        name, quant_type, blocksize, double, dtype, rows, cols = line.split()
        case = read_safetensors(folder / f"{name}.safetensors")
        state = json.loads(case[f"X.weight.quant_state.bitsandbytes__{quant_type}"].tobytes())
        source, count = case["source"], int(rows) * int(cols)
        assert list(source.shape) == state["shape"] == [int(rows), int(cols)], name
        wide = (source.astype(np.uint32) << 16).view(F32) if dtype == "bf16" else source.astype(F32)
        mine = quantize(wide, quant_type, int(blocksize), double == "1")
        assert (mine["packed"] == case["X.weight"].reshape(-1)).all(), (name, "packed")
        assert (mine["absmax"] == case["X.weight.absmax"]).all(), (name, "absmax")
        nested = None
        if double == "1":
            assert (mine["nested_absmax"] == case["X.weight.nested_absmax"]).all(), (name, "nested_absmax")
            assert mine["offset"] == F32(state["nested_offset"]), (name, "offset")
            nested = (case["X.weight.nested_absmax"], case["X.weight.nested_quant_map"], state["nested_offset"], state["nested_blocksize"])
        got = dequantize(case["X.weight"], case["X.weight.absmax"], case["X.weight.quant_map"], int(blocksize), count, dtype, nested)
        assert got.tobytes() == case["dequantized"].tobytes(), (name, "dequantised")
    print(f"{len(lines)} stored cases: quantised and dequantised to the same bits")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, default=0)
    arguments = parser.parse_args()
    check_cases(Path(__file__).parent / "fixtures" / "bnb")
    if arguments.tensors:
        prove(arguments.tensors)
