#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""GGUF files against the `gguf` package, the golden fixtures, and the same weights as safetensors.

  run.py --build DIR [--only NAME]      ends with "N passed, N failed"

Owns: what must be equal. Every block type to the bit as the package dequantises it; the reference implementation's logits
through GGUF files under the golden rules; logits and tokens of a GGUF model to the bit those of its float32 twin; texts
tokenized as tokenizer.json does. Hostile files are tests/unit/model/gguf_test.c's.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

import models

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "golden"))
import check as golden  # noqa: E402  (its rules, here too)
import nf4_reference  # noqa: E402

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
         "MXFP4"]
SERVED = ["Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4", "F16", "BF16"]  # the types promised by name
EXACT = {"F32", "F16", "BF16", "Q4_0", "IQ4_NL", "IQ4_XS", "MXFP4"}  # packed without losing a bit
ROUNDED = 0.002  # of the largest logit: how far 16 bits may carry the others
EIGHT = 0.02     # and 8 bits
PROMPT = [7, 3, 250, 19, 100, 64, 5, 88]


def test_blocks(o, scratch):
    """Any codes, any finite scales."""
    rng = np.random.default_rng(1)
    for deviation in (None, 0.05):
        path = scratch / "blocks.gguf"
        w = gguf.GGUFWriter(path, "none")
        want = []
        for name in TYPES:
            which, data = models.random_blocks(rng, name, 24, 512, deviation)
            w.add_tensor(name, data, raw_dtype=which)
            want.append(models.dequantise(which, data).ravel())
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        out = subprocess.run([o.build / "tests/gguf/gguf-tool", path], capture_output=True)
        assert out.returncode == 0, out.stderr
        got = np.frombuffer(out.stdout, np.uint32).reshape(len(TYPES), -1)
        for name, have, expected in zip(TYPES, got, want):
            differ = have != expected.view(np.uint32)
            assert not differ.any(), f"{name}: {differ.sum()} of {differ.size} differ, first at {differ.argmax()}"
        yield f"{len(TYPES)} types, {got.size} elements, " + ("any scale" if deviation is None else "usual scales")


def fixture_gguf(name, folder, **how):
    """A golden fixture's model as a GGUF file in a new folder."""
    stored_as, raw = models.read_safetensors(ROOT / "tests/golden/fixtures" / name / "model"), {}
    for base in [n.removesuffix("_blocks") for n in stored_as if n.endswith("_blocks")]:
        blocks, at = models.mxfp4_blocks(stored_as, base), f"blk.{base.split('.')[2]}.ffn_"
        for part, rows in (("gate", blocks[:, 0::2]), ("up", blocks[:, 1::2])) if "gate_up" in base else (("down", blocks),):
            raw[f"{at}{part}_exps.weight"] = gguf.GGMLQuantizationType.MXFP4, np.ascontiguousarray(rows)
    folder.mkdir(parents=True)
    config = golden.load_fixture(ROOT / "tests/golden/fixtures" / name)["config"]
    models.write_gguf(folder / "m.gguf", config, models.dequantised(stored_as), raw=raw, **how)


def test_golden(o, scratch):
    """The reference implementation's logits through GGUF files: tensors kept as they are, fused, in parts; MXFP4 as blocks."""
    for name, how in (("moe-f16", {}), ("next-bf16", {}), ("next-bf16", {"fused": True}), ("next-bf16", {"split_max_tensors": 7}),
                      ("moe-nf4", {}), ("next-nf4", {}), ("mixtral-nf4", {}), ("gptoss-bf16", {}), ("gptoss-mxfp4", {})):
        fixture = golden.load_fixture(ROOT / "tests/golden/fixtures" / name)
        folder = scratch / f"{name}-{'-'.join(how)}"
        fixture_gguf(name, folder / "model", **how)
        request = {"prompts": [p["ids"] for p in fixture["prompts"]]}
        answer = golden.run(o.thermocline, folder, request, scratch, "exact", 2, "partition")
        wrong = [c for p, got in zip(fixture["prompts"], golden.cut(fixture, *answer)) for c in golden.compare(p, got, "exact")[1]]
        assert not wrong, f"{name} {how}: {wrong}"
        yield f"{name} {how or ''}"


def tiny(family):
    """A configuration small enough for a second, wide enough for blocks of 256."""
    config = {"model_type": family, "hidden_size": 256, "vocab_size": 320, "num_hidden_layers": 2, "max_position_embeddings": 512,
              "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "rms_norm_eps": 1e-6,
              "rope_theta": 10000.0, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "norm_topk_prob": True,
              "tie_word_embeddings": False}
    if family == "qwen3_next":
        config |= {"shared_expert_intermediate_size": 256, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 32,
                   "linear_num_key_heads": 2, "linear_num_value_heads": 8, "linear_value_head_dim": 32, "partial_rotary_factor": 0.25,
                   "layer_types": ["linear_attention", "full_attention"], "hidden_act": "silu"}
    return config


def tiny_tensors(config, rng):
    """Hugging Face's names, float32."""
    h, e, w = config["hidden_size"], config["num_experts"], config["moe_intermediate_size"]
    heads, kv, d = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    matrix = lambda rows, cols: (rng.standard_normal((rows, cols)) * cols ** -0.5).astype(np.float32)
    norm = lambda n: (1 + 0.1 * rng.standard_normal(n)).astype(np.float32)
    out = {"model.embed_tokens.weight": matrix(config["vocab_size"], h) * 16, "model.norm.weight": norm(h),
           "lm_head.weight": matrix(config["vocab_size"], h)}
    mlp = lambda at: {f"{at}.gate_proj.weight": matrix(w, h), f"{at}.up_proj.weight": matrix(w, h), f"{at}.down_proj.weight": matrix(h, w)}
    for layer, kind in enumerate(config.get("layer_types", ["full_attention"] * config["num_hidden_layers"])):
        at = f"model.layers.{layer}."
        out |= {at + "input_layernorm.weight": norm(h), at + "post_attention_layernorm.weight": norm(h), at + "mlp.gate.weight": matrix(e, h)}
        for i in range(e):
            out |= mlp(f"{at}mlp.experts.{i}")
        if config["model_type"] == "qwen3_next":
            out |= mlp(at + "mlp.shared_expert") | {at + "mlp.shared_expert_gate.weight": matrix(1, h)}
        if kind == "full_attention":
            gate = 2 if config["model_type"] == "qwen3_next" else 1
            out |= {at + "self_attn.q_proj.weight": matrix(gate * heads * d, h), at + "self_attn.k_proj.weight": matrix(kv * d, h),
                    at + "self_attn.v_proj.weight": matrix(kv * d, h), at + "self_attn.o_proj.weight": matrix(h, heads * d),
                    at + "self_attn.q_norm.weight": norm(d), at + "self_attn.k_norm.weight": norm(d)}
        else:
            keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
            vh, values = config["linear_num_value_heads"], config["linear_num_value_heads"] * config["linear_value_head_dim"]
            out |= {at + "linear_attn.in_proj_qkvz.weight": matrix(2 * keys + 2 * values, h), at + "linear_attn.in_proj_ba.weight": matrix(2 * vh, h),
                    at + "linear_attn.conv1d.weight": rng.standard_normal((2 * keys + values, 1, 4)).astype(np.float32),
                    at + "linear_attn.norm.weight": norm(config["linear_value_head_dim"]),
                    at + "linear_attn.A_log": rng.uniform(0, 2, vh).astype(np.float32),
                    at + "linear_attn.dt_bias": rng.uniform(-2, 0, vh).astype(np.float32),
                    at + "linear_attn.out_proj.weight": matrix(h, values)}
    return out


def write_pair(folder, config, name, rng, gate_type=None, tokenizer=None):
    """A GGUF file of blocks of one type and, beside it, the float32 twin of what they hold. gate_type: of attn_gate alone."""
    tensors, raw, back = tiny_tensors(config, rng), {}, {}
    for key, array in models.converted(config, tensors):
        if array.ndim < 2 or "conv1d" in key or "ffn_gate_inp" in key:  # routers stay float32, as llama.cpp keeps them
            continue
        which, data = models.random_blocks(rng, gate_type if gate_type and "attn_gate" in key else name, int(np.prod(array.shape[:-1])),
                                           array.shape[-1], float(array.std()))
        raw[key] = which, data.reshape(*array.shape[:-1], -1)
        back[key] = models.dequantise(which, data).reshape(array.shape)
    twin = {}
    for key, array in tensors.items():  # what each tensor became, in the order of Hugging Face
        if array.ndim < 2 or "conv1d" in key or "shared_expert_gate" in key or "mlp.gate." in key:
            twin[key] = array
            continue
        marked = {key: np.arange(array.size, dtype=np.float32).reshape(array.shape)}
        others = {k: np.zeros_like(v) for k, v in tensors.items() if "experts." in k and key.split(".experts.")[0] in k} if ".experts." in key else {}
        moved = dict(models.converted(config, {**others, **marked}))
        values = np.empty(array.size, np.float32)
        for part, order in moved.items():
            if ".experts." in key:
                expert = int(key.split(".experts.")[1].split(".")[0])
                if key.split(".")[-2].removesuffix("_proj") not in part:
                    continue
                values[order[expert].ravel().astype(np.int64)] = back[part][expert].ravel()
            else:
                values[order.ravel().astype(np.int64)] = back[part].ravel()
        twin[key] = values.reshape(array.shape)
    folder.mkdir()
    (folder / "twin").mkdir()
    (folder / "twin" / "config.json").write_text(json.dumps(config))
    models.write_safetensors(folder / "twin" / "model.safetensors", twin)
    if tokenizer:
        for file in ("tokenizer.json", "chat_template.jinja", "tokenizer_config.json", "generation_config.json"):
            shutil.copy(tokenizer / file, folder / "twin")
    models.write_gguf(folder / "m.gguf", config, twin, raw=raw, tokenizer=tokenizer)


def evaluate(o, scratch, model, *options):
    ids, logits = scratch / "ids.json", scratch / "logits.npy"
    ids.write_text(json.dumps({"ids": PROMPT}))
    out = subprocess.run([o.thermocline, "eval", model, "--ids", ids, "--greedy", "16", "--logits", logits, "--workers", "1", *options],
                         capture_output=True, text=True, env={**os.environ, "THERMOCLINE_ARENA_DIR": golden.arenas()})
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)["ids"], np.load(logits)


def test_same_tokens(o, scratch):
    """Every type, both families: to the bit with every bit kept; near where 16 bits are what is packed."""
    rng = np.random.default_rng(2)
    for family in ("qwen3_moe", "qwen3_next"):
        for name in TYPES if family == "qwen3_moe" else ("BF16", "Q8_0", "Q4_K", "Q6_K", "IQ4_NL", "MXFP4"):
            folder = scratch / f"{family}-{name}"
            write_pair(folder, tiny(family), name, rng)
            want, want_logits = evaluate(o, scratch, folder / "twin", "--precision", "exact")
            have, logits = evaluate(o, scratch, folder / "m.gguf", "--precision", "exact", "--quantise", "keep")
            assert have == want and logits.tobytes() == want_logits.tobytes(), f"{family} {name}: kept, but not the twin's bits"
            have, logits = evaluate(o, scratch, folder / "m.gguf", "--precision", "exact")
            # A rounded hidden state may choose another expert where two are near: the median position tells.
            off = float(np.median(np.abs(logits - want_logits).max(1)) / np.abs(want_logits).max())
            if name in EXACT:
                assert have == want and off == 0, f"{family} {name}: off by {off:.1e}"
            assert off < ROUNDED, f"{family} {name}: 16 bits carry logits off by {off:.4f}"
            shutil.rmtree(folder)
            yield f"{family} {name}: packed, the largest logit's share of what is lost {off:.1e}"


def test_int8(o, scratch):
    """--quantise int8: experts of 8 bits and a scale for 64 columns, in a store of their own, whatever they were."""
    for family, name in (("qwen3_moe", "Q4_K"), ("qwen3_moe", "BF16"), ("qwen3_next", "Q8_0")):
        folder = scratch / f"{family}-{name}"
        config = tiny(family)
        write_pair(folder, config, name, np.random.default_rng(5))
        want, want_logits = evaluate(o, scratch, folder / "twin", "--precision", "exact")
        weights = 3 * config["hidden_size"] * config["moe_intermediate_size"] * config["num_experts"] * config["num_hidden_layers"]
        for precision in ("exact", "float", "fast"):
            before = set(scratch.rglob("*.tcx"))
            have, logits = evaluate(o, scratch, folder / "m.gguf", "--precision", precision, "--quantise", "int8")
            assert len(have) == len(want) and np.isfinite(logits).all()
            # A rounded hidden state may choose another expert where two are near: the median position tells.
            off = float(np.median(np.abs(logits - want_logits).max(1)) / np.abs(want_logits).max())
            assert 0 < off < EIGHT, f"{family} {name} {precision}: 8 bits carry logits off by {off:.4f}"
            if precision == "exact":
                store, = set(scratch.rglob("*.tcx")) - before
                bits = 8 * store.stat().st_size / weights
                assert "-int8-" in store.name and 8.5 <= bits < 8.6, f"{store.name}: {bits:.2f} bits a weight"
                evaluate(o, scratch, folder / "m.gguf", "--precision", precision)  # the usual packing: another store
                other, = set(scratch.rglob("*.tcx")) - before - {store}
                assert 8 * other.stat().st_size / weights > 16
        shown = subprocess.run([o.thermocline, "inspect", folder / "m.gguf", "--quantise", "int8"], capture_output=True, text=True, check=True).stdout
        assert "(8-bit)" in shown, shown
        shutil.rmtree(folder)
        yield f"{family} {name}: {bits:.2f} bits a weight, {precision}: logits off by {off:.1e}"


def type_pair(folder, name):
    """The model of one type whose expected values tests/golden/gguf_types.json holds; returns its configuration."""
    config = tiny("qwen3_moe")
    write_pair(folder, config, name, np.random.default_rng([7, TYPES.index(name)]))
    return config


def test_types_golden(o, scratch):
    """Each type under the golden rules, against the reference implementation on the dequantised weights: as they are packed
    by default, in each precision; and with every bit kept."""
    expected = json.loads((ROOT / "tests/golden/gguf_types.json").read_text())
    arrays = np.load(ROOT / "tests/golden/gguf_types.npz")
    assert list(expected) == SERVED
    for name, entry in expected.items():
        folder = scratch / name
        config = type_pair(folder, name)
        assert nf4_reference.digest(folder / "twin") == entry["sha256"], f"{name}: the weights are not those that the reference had"
        prompts = [{**p, **{k: arrays[f"{name}.{i}.{k}"] for k in ("logits", "experts", "margins")}} for i, p in enumerate(entry["prompts"])]
        (folder / "model").mkdir()
        (folder / "m.gguf").rename(folder / "model/m.gguf")
        (folder / "t").mkdir()
        (folder / "twin").rename(folder / "t/model")
        request, worst = {"prompts": [p["ids"] for p in prompts]}, []
        for where, precision in ((folder, "exact"), (folder, "float"), (folder, "fast"), (folder / "t", "exact"), (folder / "t", "fast")):
            answer = golden.run(o.thermocline, where, request, scratch, precision, 2, "partition")
            # The default packing rounds some types to 16 bits: the noise rule says what may come of it.
            rule = "exact" if precision == "exact" and (name in EXACT or where != folder) else "fast"
            for p, got in zip(prompts, golden.cut({"config": config, "prompts": prompts}, *answer)):
                cells, wrong = golden.compare(p, got, rule)
                assert not wrong, f"{name} {precision} {where.name}: {wrong}"
                worst.append(f"{cells[1]}/{cells[2]} {cells[3].strip()}")
        yield f"{name}: off/limit, tokens: {', '.join(worst)}"


def test_mixed(o, scratch):
    """Parts of one matrix in two types."""
    folder = scratch / "mixed"
    write_pair(folder, tiny("qwen3_next"), "Q4_K", np.random.default_rng(3), gate_type="Q6_K")
    want, want_logits = evaluate(o, scratch, folder / "twin", "--precision", "exact")
    have, logits = evaluate(o, scratch, folder / "m.gguf", "--precision", "exact", "--quantise", "keep")
    assert have == want and logits.tobytes() == want_logits.tobytes()
    yield "attn_qkv Q4_K, attn_gate Q6_K"


def test_text(o, scratch):
    """The tokenizer out of metadata, and a text generated through it."""
    demo = ROOT / "demo/model"
    config = tiny("qwen3_moe") | {"vocab_size": 4096, "eos_token_id": 4093, "bos_token_id": 4093}
    folder = scratch / "text"
    write_pair(folder, config, "Q4_0", np.random.default_rng(4), tokenizer=demo)
    texts = (ROOT / "demo/heldout.txt").read_text().split("\n\n")[:200] + ["  <|im_end|> \u00e9e\u0301 12 345\n\n\t'S", ""]
    lines = "".join(json.dumps({"text": t}) + "\n" for t in texts)
    out = [subprocess.run([o.thermocline, "tokenize", path], input=lines, capture_output=True, text=True)
           for path in (demo / "tokenizer.json", folder / "m.gguf")]
    assert all(r.returncode == 0 for r in out), out[1].stderr
    assert out[0].stdout == out[1].stdout and len(out[0].stdout.splitlines()) == len(texts)
    yield f"{len(texts)} texts"
    said = [subprocess.run([o.thermocline, "generate", path, "In the beginning", "--precision", "exact", "--workers", "1", "--temperature", "0", "--max-tokens", "24"],
                           capture_output=True, text=True, env={**os.environ, "THERMOCLINE_ARENA_DIR": golden.arenas()})
            for path in (folder / "twin", folder / "m.gguf")]
    assert all(r.returncode == 0 for r in said), [r.stderr for r in said]
    assert said[0].stdout == said[1].stdout and len(said[0].stdout) > 20, [r.stdout for r in said]
    yield "a text generated"


def write_tokenizer(path, kind, data):
    """A file of metadata alone: a vocabulary as llama.cpp's converter writes that of mixtral, or of gpt_oss."""
    w = gguf.GGUFWriter(path, "llama" if kind == "llama" else "gpt-oss")
    if kind == "llama":
        w.add_tokenizer_model("llama")
        w.add_token_list([t for t, _, _ in data])
        w.add_token_scores([s for _, s, _ in data])
        w.add_token_types([k for _, _, k in data])
        w.add_add_bos_token(False)
        w.add_unk_token_id(0)
    else:
        special = {t["id"]: t["content"] for t in data["added_tokens"]}
        texts = {i: t for t, i in data["model"]["vocab"].items()} | special
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre(kind)
        w.add_token_list([texts[i] for i in range(len(texts))])
        w.add_token_types([gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(len(texts))])
        w.add_token_merges([" ".join(m) for m in data["model"]["merges"]])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def test_tokenizers(o, scratch):
    """Scores with bytes as a fallback, and GPT-4o's splits: as `sentencepiece` and `tokenizers` have it (make_tokenizers.py)."""
    data = ROOT / "tests/gguf/data"
    lines = [json.loads(line) for line in (data / "tokenizers.jsonl").read_text().splitlines()]
    for kind, vocabulary in json.loads((data / "tokenizers.json").read_text()).items():
        path = scratch / f"{kind}.gguf"
        write_tokenizer(path, kind, vocabulary)
        for way, options, key in ((False, ["--no-special"] if kind == "llama" else [], "ids"), (True, ["--decode"], "text")):
            mine = [x for x in lines if x["kind"] == kind and x.get("decode", False) == way]
            text = "".join(json.dumps({k: v for k, v in x.items() if k != key}) + "\n" for x in mine)
            out = subprocess.run([o.thermocline, "tokenize", *options, path], input=text, capture_output=True, text=True)
            assert out.returncode == 0, out.stderr
            have = [json.loads(line)[key] for line in out.stdout.splitlines()]
            wrong = [(x, h) for x, h in zip(mine, have) if x[key] != h]
            assert len(have) == len(mine) and not wrong, f"{kind}: {len(wrong)} of {len(mine)} differ, first {wrong[:3]}"
            yield f"{kind}: {len(mine)} {'decoded' if way else 'texts'}"


def edited(source, folder, name, change):
    """A copy of a model with one of its JSON files changed: by keys, or by a function."""
    shutil.copytree(source, folder)
    (folder / name).chmod(0o644)
    value = json.loads((folder / name).read_text())
    change(value) if callable(change) else value.update(change)
    (folder / name).write_text(json.dumps(value))
    return folder


def renamed_dtype(folder, old, new):
    """The first tensor of a type in the header of the first shard gets another."""
    path = sorted(folder.glob("*.safetensors"))[0]
    path.chmod(0o644)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = raw[8:8 + length].replace(f'"dtype":"{old}"'.encode(), f'"dtype":"{new}"'.encode(), 1)
    assert len(header) == length and header != raw[8:8 + length]
    path.write_bytes(raw[:8] + header + raw[8 + length:])
    return folder


def metadata(path, architecture="qwen3moe", **keys):
    w = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        (w.add_uint32 if isinstance(value, int) else w.add_string)(key.replace("__", "."), value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def test_unsupported(o, scratch):
    """What is not supported ends with one line that says what is: every reader, every kind of thing."""
    fixtures, demo = ROOT / "tests/golden/fixtures", ROOT / "demo/model"
    families = ("qwen3_next", "qwen3_moe", "mixtral", "olmoe", "qwen3_5_moe", "gpt_oss", "deepseek_v3", "glm4_moe")
    count = iter(range(100))
    config = lambda name, **change: edited(fixtures / name / "model", scratch / f"c{next(count)}", "config.json", change)
    text = lambda change: edited(demo, scratch / f"t{next(count)}", "tokenizer.json", change)
    pair = lambda **keys: metadata(scratch / f"g{next(count)}.gguf", **keys)
    cases = [
        ("inspect", config("moe-f16", model_type="llama"), ["model_type", "llama", *families]),
        ("inspect", config("moe-f16", quantization_config={"quant_method": "gptq", "bits": 4}), ["quant_method", "gptq", "bitsandbytes", "fp8", "mxfp4"]),
        ("inspect", config("moe-f16", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}), ["load_in_8bit", "4 bit"]),
        ("inspect", config("deepseek-fp8", quantization_config={"quant_method": "fp8", "fmt": "e5m2"}), ["fmt", "e5m2", "e4m3"]),
        ("inspect", config("mixtral-nf4", rope_scaling={"rope_type": "longrope", "factor": 2.0}), ["rope_scaling", "longrope", "default", "yarn"]),
        ("inspect", config("moe-f16", rope_parameters={"rope_type": "llama3", "rope_theta": 1e4}), ["rope_parameters", "llama3", "default", "yarn"]),
        ("inspect", config("moe-nf4", hidden_act="gelu"), ["hidden_act", "gelu", "silu"]),
        ("inspect", config("moe-nf4", use_sliding_window=True), ["use_sliding_window", "only false"]),
        ("inspect", config("deepseek-nf4", scoring_func="softmax"), ["scoring_func", "softmax", "sigmoid"]),
        ("inspect", config("deepseek-nf4", topk_method="greedy"), ["topk_method", "greedy", "noaux_tc"]),
        ("inspect", config("deepseek-nf4", kv_lora_rank=40), ["kv_lora_rank", "multiples of 16"]),
        ("inspect", renamed_dtype(config("moe-f16"), "F16", "F13"), ["F13", "F32, F16, BF16", "F8_E4M3"]),
        ("convert", renamed_dtype(config("moe-f16"), "F16", "I16"), ["I16", "F32, F16, BF16", "F8_E4M3"]),
        ("tokenize", text(lambda t: t["model"].update(type="Unigram")), ["model", "Unigram", "BPE"]),
        ("tokenize", text(lambda t: t["model"].update(type="WordPiece")), ["model", "WordPiece", "BPE"]),
        ("tokenize", text(lambda t: t.update(decoder={"type": "WordPiece"})), ["decoder", "WordPiece", "ByteLevel"]),
        ("tokenize", text(lambda t: t.update(normalizer={"type": "Lowercase"})), ["normalizer", "Lowercase", "NFC"]),
        ("tokenize", text(lambda t: t.update(pre_tokenizer={"type": "Whitespace"})), ["pre_tokenizer", "Whitespace", "ByteLevel"]),
        ("tokenize", text(lambda t: t["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="a+")), ["Regex", "a+", "Qwen 2", "Llama 3", "GPT-4o", "DeepSeek V3"]),
        ("tokenize", text(lambda t: t.update(post_processor={"type": "BertProcessing"})), ["post_processor", "BertProcessing", "ByteLevel"]),
        ("inspect", pair(architecture="mamba"), ["general.architecture", "mamba", "qwen3moe", "qwen3next", "llama", "gpt-oss"]),
        ("tokenize", pair(tokenizer__ggml__model="t5"), ["tokenizer.ggml.model", "t5", "gpt2", "llama"]),
        ("tokenize", pair(tokenizer__ggml__model="gpt2", tokenizer__ggml__pre="bloom"), ["tokenizer.ggml.pre", "bloom", "qwen2", "gpt-4o", "llama-bpe"]),
    ]
    scaled = scratch / "scaled.gguf"
    w = gguf.GGUFWriter(scaled, "qwen3moe")
    models.add_config(w, tiny("qwen3_moe"), "qwen3moe")
    w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
    w.add_tensor("token_embd.weight", np.zeros((320, 256), np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    cases.append(("inspect", scaled, ["rope.scaling.type", "longrope", "none", "yarn"]))
    typed = scratch / "typed.gguf"
    w = gguf.GGUFWriter(typed, "qwen3moe")
    models.add_config(w, tiny("qwen3_moe"), "qwen3moe")
    w.add_tensor("token_embd.weight", np.zeros((320, 66), np.uint8), raw_dtype=gguf.GGMLQuantizationType.IQ2_XXS)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    cases.append(("inspect", typed, ["token_embd.weight", "IQ2_XXS", "Q4_K", "IQ4_NL", "MXFP4"]))
    for verb, path, parts in cases:
        more = [scratch / "converted"] if verb == "convert" else []
        out = subprocess.run([o.thermocline, verb, path, *more], input="", capture_output=True, text=True)
        lines = [line for line in out.stderr.splitlines() if line.startswith("thermocline: error:")] if more else out.stderr.splitlines()
        assert out.returncode == 1 and len(lines) == 1 and not out.stdout, f"{verb} {parts}: {out.returncode} {out.stderr}"
        assert all(part in lines[0] for part in parts), f"{parts}: {lines[0]}"
        yield f"{verb}: {lines[0].split(': ', 2)[-1][:110]}"


def stored(folder):
    """name -> (dtype, shape, bytes); states as JSON values."""
    out = {}
    for name, (dtype, array) in models.read_safetensors(folder).items():
        data = array.tobytes()
        out[name] = (dtype, json.loads(data)) if ".quant_state." in name else (dtype, array.shape, data)
    return out


def test_convert(o, scratch):
    """What bitsandbytes wrote comes out as it wrote it; other inputs become models that are read back."""
    for source in (ROOT / "demo/model", ROOT / "tests/golden/fixtures/next-nf4/model", ROOT / "tests/golden/fixtures/moe-nf4/model"):
        out = scratch / f"out-{source.parent.name}"
        said = subprocess.run([o.thermocline, "convert", source, out, "--shard-size", "4M"], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        have, want = stored(out), {n: t for n, t in stored(source).items() if not n.startswith("mtp.")}
        kept = [n for n in want if ".absmax" in n and n in have]
        for name in kept:
            base = name.removesuffix(".absmax")
            for part in [n for n in want if n == base or n.startswith(base + ".")]:
                assert have[part] == want[part], part
        assert len(kept) > 20 and set(have) >= {n for n in want if not n.startswith("lm_head") and ".weight." not in n}, set(want) - set(have)
        dense = [n for n in want if n + ".absmax" not in want and ".weight." not in n and have.get(n, (None,))[0] == want[n][0]]
        assert dense and all(have[n] == want[n] for n in dense)
        config = json.loads((out / "config.json").read_text())["quantization_config"]
        assert config["quant_method"] == "bitsandbytes" and config["bnb_4bit_quant_type"] == "nf4" and config["bnb_4bit_use_double_quant"]
        said = subprocess.run([o.thermocline, "convert", source, out], capture_output=True, text=True)
        assert said.returncode == 1 and "there already" in said.stderr
        yield f"{source.parent.name}: {len(kept)} linears as they were, {len(dense)} other tensors"
    folder = scratch / "pair"
    write_pair(folder, tiny("qwen3_next"), "Q6_K", np.random.default_rng(5))
    for source in ("m.gguf", "twin"):
        said = subprocess.run([o.thermocline, "convert", folder / source, folder / f"{source}-nf4"], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
    pair = [evaluate(o, scratch, folder / f"{source}-nf4", "--precision", "exact") for source in ("m.gguf", "twin")]
    _, logits = evaluate(o, scratch, folder / "twin", "--precision", "exact")
    a, b = (stored(folder / f"{source}-nf4") for source in ("m.gguf", "twin"))
    differ = [n for n in a if a[n] != b[n] and not n.endswith(("A_log", "norm.weight"))]  # out of -exp and 1 + w: nearly the same
    assert a.keys() == b.keys() and not differ, differ
    off = float(np.median(np.abs(pair[0][1] - logits).max(1)) / np.abs(logits).max())
    assert pair[0][0] and off < 0.5, off
    yield f"GGUF and safetensors: the same NF4; off by {off:.2f} of the largest logit on a random model"


def check_codes(out, config, values):
    """Every linear that is NF4 holds what bitsandbytes makes of the values, by its recipe in numpy."""
    raw, values, count = models.read_safetensors(out), dict(models.each_expert(config, values)), 0
    for name in [n.removesuffix(".absmax") for n in raw if n.endswith(".weight.absmax")]:
        want = nf4_reference.quantize(values[name], "nf4", 64, True)
        state = json.loads(raw[name + ".quant_state.bitsandbytes__nf4"][1].tobytes())
        assert state["shape"] == list(values[name].shape), name
        assert (raw[name][1].ravel() == want["packed"]).all() and (raw[name + ".absmax"][1] == want["absmax"]).all(), name
        assert (raw[name + ".nested_absmax"][1] == want["nested_absmax"]).all(), name
        assert np.float32(state["nested_offset"]) == want["offset"], name
        count += 1
    for name, array in values.items():
        if name.endswith(("norm.weight", ".bias", "sinks", "e_score_correction_bias", "gate.weight")) and array.ndim < 2:
            assert (models.as_float(*raw[name]) == array).all(), name
    experts = config.get("num_experts") or config.get("num_local_experts") or config["n_routed_experts"]
    assert count >= 3 * experts, count
    return count


def test_convert_families(o, scratch):
    """Every family and stored form as NF4: the tensors that the reference implementation has loaded back
    (tests/golden/load_back.py), and its logits; codes as bitsandbytes makes them. The same out of GGUF files."""
    reference = json.loads((ROOT / "tests/golden/converted.json").read_text())["models"]
    logits = np.load(ROOT / "tests/golden/converted.npz")
    for name, entry in reference.items():
        source, out = ROOT / "tests/golden/fixtures" / name, scratch / name / "model"
        out.parent.mkdir()
        said = subprocess.run([o.thermocline, "convert", source / "model", out], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        assert nf4_reference.digest(out) == entry["sha256"], f"{name}: not the tensors that the reference loaded"
        _, have, _ = golden.run(o.thermocline, out.parent, {"ids": entry["ids"]}, scratch, "exact", 1, None)
        off = float(np.abs(have - logits[name]).max() / np.abs(logits[name]).max())
        assert off < golden.EXACT, f"{name}: off by {off:.1e}"
        codes = 0
        if "nf4" not in name and "f32" not in name:  # those stay as they were
            config = golden.load_fixture(source)["config"]
            values = models.dequantised(models.read_safetensors(source / "model"))
            codes = check_codes(out, config, values)
        yield f"{name}: logits off by {off:.1e}, {codes} linears quantised"
    for name in ("moe-f16", "next-bf16", "gptoss-bf16", "gptoss-mxfp4", "mixtral-nf4"):
        fixture_gguf(name, scratch / f"{name}-gguf")
        out = scratch / f"{name}-gguf-nf4"
        said = subprocess.run([o.thermocline, "convert", scratch / f"{name}-gguf", out], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        config = golden.load_fixture(ROOT / "tests/golden/fixtures" / name)["config"]
        values = models.dequantised(models.read_safetensors(ROOT / "tests/golden/fixtures" / name / "model"))
        yield f"{name} as GGUF: {check_codes(out, config, values)} linears quantised"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", type=Path, required=True)
    p.add_argument("--only")
    o = p.parse_args()
    o.build = o.build.resolve()
    o.thermocline = o.build / "cli/thermocline"
    passed = failed = 0
    for name, test in [(n, t) for n, t in globals().items() if n.startswith("test_") and o.only in (None, n)]:
        with tempfile.TemporaryDirectory() as scratch:
            os.environ["XDG_CACHE_HOME"] = scratch
            try:
                for line in test(o, Path(scratch)):
                    print(f"{name}: {line}: ok", flush=True)
                    passed += 1
            except (AssertionError, golden.Broken) as error:
                print(f"{name}: FAILED: {error}", flush=True)
                failed += 1
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
