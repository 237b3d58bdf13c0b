#!/usr/bin/env python3
"""What `thermocline convert` made of the golden fixtures, loaded back by the reference implementation.

  load_back.py CONVERTED               transformers 5: dequantised by bitsandbytes, run in float32; writes converted.json,
                                       converted.npz, which tests/gguf/run.py holds the program against
  load_back.py CONVERTED --quantised   transformers 4.57: from_pretrained with 4-bit linears, as they are stored; compares

CONVERTED has a folder for each fixture: for f in fixtures/*/model: thermocline convert $f CONVERTED/$(basename $(dirname $f)).
This file owns the comparison. transformers 5 keeps all experts of a layer in one tensor, which bitsandbytes does not
quantise: it can load no model with 4-bit experts. 4.57 has linears, but not in every family (LINEAR_EXPERTS).
"""
import argparse
import json
import os
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"
import numpy as np
import torch
import transformers

from nf4_reference import digest, read_raw

FIXTURES = Path(__file__).parent / "fixtures"
LINEAR_EXPERTS = {"qwen3_next", "qwen3_moe", "mixtral", "olmoe", "glm4_moe", "deepseek_v3"}
LIMIT = 1e-4                                                         # of the largest logit


def prompt_of(name):
    return json.loads((FIXTURES / name / "expected.json").read_text())["prompts"][0]["ids"]


@torch.no_grad()
def dequantised(folders):
    import reference
    out, logits = {}, {}
    for folder in folders:
        ids = prompt_of(folder.name)
        logits[folder.name] = reference.load(folder)(torch.tensor([ids])).logits[0].numpy()
        out[folder.name] = {"sha256": digest(folder), "ids": ids}
        print(f"{folder.name}: largest logit {np.abs(logits[folder.name]).max():.2f}")
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    (FIXTURES.parent / "converted.json").write_text(json.dumps({"versions": versions, "models": out}, indent=1) + "\n")
    np.savez_compressed(FIXTURES.parent / "converted.npz", **logits)


def same_weights(model, folder):
    """Every 4-bit linear holds the codes and statistics of the files; returns how many."""
    import bitsandbytes
    raw, count = read_raw(folder), 0
    for name, module in model.named_modules():
        if not isinstance(module, bitsandbytes.nn.Linear4bit):
            continue
        name = name if name + ".weight" in raw else name.replace(".mlp.", ".block_sparse_moe.")
        state = module.weight.quant_state
        assert module.weight.data.numpy().tobytes() == raw[name + ".weight"][2], name
        assert state.absmax.numpy().tobytes() == raw[name + ".weight.absmax"][2], name
        assert state.state2.absmax.numpy().tobytes() == raw[name + ".weight.nested_absmax"][2], name
        assert list(state.shape) == json.loads(raw[name + ".weight.quant_state.bitsandbytes__nf4"][2])["shape"], name
        count += 1
    assert count == sum(n.endswith(".quant_state.bitsandbytes__nf4") for n in raw), (count, folder)
    return count


def config_of(folder):
    """What transformers 5 alone writes, under the names that 4.57 reads."""
    given, config = json.loads((folder / "config.json").read_text()), transformers.AutoConfig.from_pretrained(folder)
    if "num_local_experts" in given and given["model_type"] == "qwen3_moe":
        config.num_experts = given["num_local_experts"]
    for key, value in given.get("rope_parameters", {}).items():
        if key != "rope_type":
            setattr(config, key, value)
    return config


def run_float32(self, x):
    """A 4-bit linear by bitsandbytes' own dequantised weight: its kernels for the CPU take other ways for one row than for
    more, and its AVX-512 code has flaws (README.md)."""
    import bitsandbytes.functional as bnb
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
    state = self.weight.quant_state
    absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    weight = _dequantize_4bit_compute(self.weight.data.reshape(-1), absmax, state.code, state.blocksize, state.shape, state.dtype)
    return torch.nn.functional.linear(x, weight.float(), self.bias)


@torch.no_grad()
def quantised(folders):
    import bitsandbytes
    from transformers import AutoModelForCausalLM
    logits, worst = np.load(FIXTURES.parent / "converted.npz"), 0.0
    for folder in folders:
        family = json.loads((folder / "config.json").read_text())["model_type"]
        if family not in LINEAR_EXPERTS:
            print(f"{folder.name}: {family} has no linears for its experts here: compared dequantised only")
            continue
        model, info = AutoModelForCausalLM.from_pretrained(folder, config=config_of(folder), device_map="cpu", dtype=torch.float32,
                                                           attn_implementation="eager", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
        count = same_weights(model, folder)
        for name, module in list(model.named_modules()):             # in float32, whatever the file's dtype
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                module.forward = run_float32.__get__(module)
        for n, p in model.named_parameters():
            if p.is_floating_point():
                p.data = p.data.float()
        got, want = model(torch.tensor([prompt_of(folder.name)])).logits[0].float().numpy(), logits[folder.name]
        off = float(np.abs(got - want).max() / np.abs(want).max())
        print(f"{folder.name}: {count} linears loaded, bit for bit; logits off by {off:.1e} of the largest")
        worst = max(worst, off)
    assert worst < LIMIT, worst


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("converted", type=Path)
    parser.add_argument("--quantised", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = sorted(f for f in arguments.converted.iterdir() if (FIXTURES / f.name / "model").is_dir())
    (quantised if arguments.quantised else dequantised)(found)
