#!/usr/bin/env python3
"""Writes the demo model as a bitsandbytes NF4 checkpoint and measures what it lost.

Owns: the published layout (names, shards, config files) and the numbers in the card that are taken after
quantisation.  Runs on the CPU.

    export.py write  RUNDIR TOKDIR MODELDIR     quantise and write the checkpoint (RUNDIR: train.py's output)
    export.py random TOKDIR MODELDIR            the same with untrained weights, for tests
    export.py check  MODELDIR [RUNDIR]          dequantise, load into the reference, compare the tensors
    export.py loss   MODELDIR heldout.u16 [RUNDIR]  held-out loss and expert usage, NF4 (and bf16)
    export.py sample MODELDIR prompts.txt       greedy and sampled continuations
"""
import glob, json, math, os, shutil, sys

import numpy as np
import torch
from safetensors.torch import load_file, save_file
import bitsandbytes.functional as bnb

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from shape import CONFIG, model_config

KEEP = ("embed_tokens", "lm_head", "norm", "conv1d", "A_log", "dt_bias", "mlp.gate.", "shared_expert_gate")
QUANT = {
    "_load_in_4bit": True, "_load_in_8bit": False, "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
    "llm_int8_enable_fp32_cpu_offload": False, "llm_int8_has_fp16_weight": False,
    "llm_int8_skip_modules": ["lm_head", "embed_tokens", "gate", "shared_expert_gate", "conv1d"],
    "llm_int8_threshold": 6.0, "load_in_4bit": True, "load_in_8bit": False, "quant_method": "bitsandbytes",
}


def trained(run):
    """The bf16 weights as train.py left them, in several files."""
    state = {}
    for f in sorted(glob.glob(f"{run}/bf16-*.safetensors")):
        state.update(load_file(f))
    return state


def split_experts(state):
    """The model class holds the experts of a layer in two tensors; a checkpoint holds one a projection."""
    out = {}
    for name, w in state.items():
        if name == "lm_head.weight" and CONFIG["tie_word_embeddings"]:
            continue
        if name.endswith("experts.gate_up_proj"):
            base = name[: -len("gate_up_proj")]
            for e in range(w.shape[0]):
                gate, up = w[e].chunk(2, dim=0)
                out[f"{base}{e}.gate_proj.weight"] = gate
                out[f"{base}{e}.up_proj.weight"] = up
        elif name.endswith("experts.down_proj"):
            base = name[: -len("down_proj")]
            for e in range(w.shape[0]):
                out[f"{base}{e}.down_proj.weight"] = w[e]
        else:
            out[name] = w
    return out


def fuse_experts(flat):
    out = {k: v for k, v in flat.items() if ".experts." not in k}
    for layer in range(CONFIG["num_hidden_layers"]):
        p = f"model.layers.{layer}.mlp.experts."
        n = CONFIG["num_experts"]
        out[p + "gate_up_proj"] = torch.stack(
            [torch.cat([flat[f"{p}{e}.gate_proj.weight"], flat[f"{p}{e}.up_proj.weight"]]) for e in range(n)])
        out[p + "down_proj"] = torch.stack([flat[f"{p}{e}.down_proj.weight"] for e in range(n)])
    return out


def order(name):
    """Layer by layer, experts by number."""
    parts = [(0, int(p)) if p.isdigit() else (1, p) for p in name.split(".")]
    return (0 if "embed_tokens" in name else 2 if name == "model.norm.weight" else 1, parts)


def write(state, tokdir, dest):
    flat = split_experts(state)
    tensors = {}
    for name in sorted(flat, key=order):
        w = flat[name].detach().to(torch.bfloat16).contiguous()
        if w.dim() == 2 and not any(k in name for k in KEEP):
            q, qs = bnb.quantize_4bit(w, blocksize=64, compress_statistics=True, quant_type="nf4", quant_storage=torch.uint8)
            tensors[name] = q
            for k, v in qs.as_dict(packed=True).items():
                tensors[f"{name}.{k}"] = v.clone()
        else:
            tensors[name] = w
    os.makedirs(dest, exist_ok=True)
    for f in os.listdir(dest):
        if f.endswith(".safetensors") or f.endswith(".json"):
            os.remove(f"{dest}/{f}")
    size = {k: v.numel() * v.element_size() for k, v in tensors.items()}
    total, acc, shards = sum(size.values()), 0, [{}, {}]
    for k, v in tensors.items():
        shards[0 if acc < total / 2 else 1][k] = v
        acc += size[k]
    index = {}
    for i, shard in enumerate(shards):
        fn = f"model-{i + 1:05d}-of-00002.safetensors"
        save_file(shard, f"{dest}/{fn}", metadata={"format": "pt"})
        index.update({k: fn for k in shard})
    json.dump({"metadata": {"total_size": total}, "weight_map": index},
              open(f"{dest}/model.safetensors.index.json", "w"), separators=(",", ":"))
    json.dump({**CONFIG, "quantization_config": QUANT}, open(f"{dest}/config.json", "w"), indent=2, sort_keys=True)
    json.dump({"bos_token_id": CONFIG["bos_token_id"], "do_sample": True, "eos_token_id": CONFIG["eos_token_id"],
               "pad_token_id": CONFIG["pad_token_id"], "temperature": 0.7, "top_k": 20, "top_p": 0.8},
              open(f"{dest}/generation_config.json", "w"), indent=2)
    for f in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{tokdir}/{f}", f"{dest}/{f}")
    print(f"{len(tensors)} tensors, {sum(os.path.getsize(f'{dest}/{f}') for f in os.listdir(dest)):,} bytes in all")


def read(dest):
    """The checkpoint back as a state dict of the model class, every weight dequantised to bfloat16."""
    raw = {}
    for f in sorted(set(json.load(open(f"{dest}/model.safetensors.index.json"))["weight_map"].values())):
        raw.update(load_file(f"{dest}/{f}"))
    flat = {}
    for name, w in raw.items():
        if name.endswith(".weight") and f"{name}.absmax" in raw:
            stats = {k[len(name) + 1:]: v for k, v in raw.items() if k.startswith(name + ".")}
            qs = bnb.QuantState.from_dict(stats, device=torch.device("cpu"))
            flat[name] = bnb.dequantize_4bit(w, qs)
        elif ".weight." not in name:
            flat[name] = w
    return fuse_experts(flat)


def load(state):
    from transformers import Qwen3NextForCausalLM
    model = Qwen3NextForCausalLM(model_config()).float().eval()
    missing, unexpected = model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    return model


def held_out(model, path, windows=48, length=512):
    """Mean loss in nats over windows spread evenly over the held-out tokens, and how the experts were used."""
    data = torch.from_numpy(np.fromfile(path, dtype=np.uint16).astype(np.int64))
    starts = torch.linspace(0, len(data) - length - 1, windows).long()
    counts, per_context, hooks = {}, {}, []
    for i, layer in enumerate(model.model.layers):
        def hook(mod, args, out, i=i):
            idx = out[2] if isinstance(out, tuple) else out
            c = torch.bincount(idx.reshape(-1), minlength=CONFIG["num_experts"]).float()
            counts[i] = counts.get(i, 0) + c
            per_context.setdefault(i, []).append(entropy(c))
        hooks.append(layer.mlp.gate.register_forward_hook(hook))
    losses = []
    with torch.no_grad():
        for s in starts:
            x = data[s:s + length + 1]
            logits = model(x[None, :-1]).logits[0].float()
            losses.append(torch.nn.functional.cross_entropy(logits, x[1:]).item())
    for h in hooks:
        h.remove()
    use = {i: {"entropy": entropy(c), "entropy_one_context": float(np.mean(per_context[i])),
               "busiest": (c.max() / c.mean()).item(), "idlest": (c.min() / c.mean()).item()} for i, c in counts.items()}
    return float(np.mean(losses)), use


def entropy(c):
    p = c / c.sum()
    return float(-(p[p > 0] * p[p > 0].log2()).sum())


def main():
    cmd, a = sys.argv[1], sys.argv[2:]
    torch.set_num_threads(2)
    torch.manual_seed(1)
    if cmd == "write":
        write(trained(a[0]), a[1], a[2])
    elif cmd == "random":
        from transformers import Qwen3NextForCausalLM
        write(Qwen3NextForCausalLM(model_config()).state_dict(), a[0], a[1])
    elif cmd == "check":
        state = read(a[0])
        load(state)
        if len(a) > 1:
            want = trained(a[1])
            for k, v in state.items():
                d = (v.float() - want[k].float()).norm() / want[k].float().norm()
                if "layers.0." in k or "layers." not in k:
                    print(f"{k:50s} {d:.4f}")
        print("loads into the reference model")
    elif cmd == "loss":
        for label, state in [("nf4", read(a[0]))] + ([("bf16", trained(a[2]))] if len(a) > 2 else []):
            loss, use = held_out(load(state), a[1])
            print(f"{label}: {loss:.4f} nats a token, perplexity {math.exp(loss):.2f}")
            for i, u in use.items():
                print(f"  layer {i}: " + ", ".join(f"{k} {v:.2f}" for k, v in u.items()))
    elif cmd == "sample":
        from tokenizers import Tokenizer
        tok = Tokenizer.from_file(f"{a[0]}/tokenizer.json")
        model = load(read(a[0]))
        for prompt in open(a[1]).read().split("\n---\n"):
            prompt = prompt.rstrip("\n").replace("\\n", "\n")
            ids = torch.tensor([tok.encode(prompt).ids])
            for label, kw in (("greedy", dict(do_sample=False, temperature=None, top_p=None, top_k=None)), ("sampled", dict(do_sample=True, temperature=0.7, top_p=0.8, top_k=20))):
                with torch.no_grad():
                    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=120, pad_token_id=CONFIG["pad_token_id"], **kw)
                print(f"=== {label}\n{tok.decode(out[0].tolist(), skip_special_tokens=False)}\n", flush=True)


if __name__ == "__main__":
    main()
