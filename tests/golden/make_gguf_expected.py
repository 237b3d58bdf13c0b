#!/usr/bin/env python3
"""What the reference implementation makes of the weights that GGUF files hold, for each type: gguf_types.json, .npz.

This file owns the models (tests/gguf/run.py makes the same ones, from the same seeds; hashes tell whether it does) and the
expected values: transformers in float32, and in bf16 for the noise, on what the `gguf` package dequantises.
Usage: make_gguf_expected.py [TYPE...], with gguf, torch and transformers installed.
"""
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "gguf")]
import reference  # noqa: E402
import run as gguf_run  # noqa: E402

PROMPTS = [3, 12]
MIN_GAP, MIN_MARGIN, MAX_NOISE = 0.01, 2e-4, 0.1                     # as make_fixtures.py has them


def decided(model, low, rng, length, vocab):
    for _ in range(400):
        ids = [int(x) for x in rng.integers(0, vocab, length)]
        entry, logits, experts, margins = reference.run(model, low, ids)
        if min(entry["gaps"]) > MIN_GAP and entry["min_margin"] > MIN_MARGIN and entry["bf16_noise"] < MAX_NOISE * entry["max_logit"]:
            return entry, logits, experts, margins
    raise SystemExit(f"no decided prompt of {length} tokens")


def main():
    torch.set_num_threads(1)
    models, arrays = {}, {}
    for name in gguf_run.SERVED:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "pair"
            config = gguf_run.type_pair(folder, name)
            model, low = reference.load(folder / "twin"), reference.load(folder / "twin", torch.bfloat16)
            model.routers, low.routers = reference.Routers(model), reference.Routers(low)
            prompts, rng = [], np.random.default_rng(len(models))
            for i, length in enumerate(PROMPTS):
                entry, logits, experts, margins = decided(model, low, rng, length, config["vocab_size"])
                rows = list(range(length))[-3:]
                arrays |= {f"{name}.{i}.logits": logits[rows], f"{name}.{i}.experts": experts.astype(np.int8), f"{name}.{i}.margins": margins}
                prompts.append({**entry, "rows": rows})
            models[name] = {"sha256": gguf_run.nf4_reference.digest(folder / "twin"), "prompts": prompts}
            print(f"{name}: noise {[round(p['bf16_noise'], 3) for p in prompts]} of {prompts[0]['max_logit']:.1f}", flush=True)
    text = json.dumps(models, indent=1)
    import re
    text = re.sub(r"\[[^\[\]{}]*\]", lambda m: re.sub(r"\s+", " ", m[0]).replace("[ ", "[").replace(" ]", "]"), text)
    (HERE / "gguf_types.json").write_text(text + "\n")
    np.savez_compressed(HERE / "gguf_types.npz", **arrays)


if __name__ == "__main__":
    main()
