#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding of one user in transformers with bitsandbytes: transformers_bnb.py MODEL [--tokens N] [--prompt N]. One JSON object.

Owns: the peer's run. Refuses: comparing. Needs torch, transformers, bitsandbytes, accelerate (benchmarks/requirements-transformers.txt).
"""
import argparse
import json
import time

import bitsandbytes
import torch
import transformers

p = argparse.ArgumentParser(description=__doc__)
p.add_argument("model")
p.add_argument("--tokens", type=int, default=32)
p.add_argument("--prompt", type=int, default=32)
o = p.parse_args()
device = "cuda" if torch.cuda.is_available() else "cpu"
model = transformers.AutoModelForCausalLM.from_pretrained(o.model, device_map=device, dtype=torch.bfloat16).eval()
torch.manual_seed(1)
ids = torch.randint(0, model.config.vocab_size - 4, (1, o.prompt), device=device)


def generate(tokens):
    began = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
                             pad_token_id=0)
    assert out.shape[1] == o.prompt + tokens, out.shape
    return time.perf_counter() - began


generate(4)  # warm
long, short = generate(o.tokens + 1), generate(1)  # the difference is decoding alone
print(json.dumps({"tokens_per_s": o.tokens / (long - short), "prompt_s": short, "device": device, "torch": torch.__version__,
                  "transformers": transformers.__version__, "bitsandbytes": bitsandbytes.__version__}))
