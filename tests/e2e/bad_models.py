# SPDX-License-Identifier: Apache-2.0
"""Model files are hostile: each mutation gets one error line that names the place, no crash, nothing half-written.

A case is (name, mutation, words that the line must hold, verbs that must refuse). The mutation changes a copy of a small
good model; the other verbs may accept it (`inspect` reads no weights) but must not crash.
"""
import json
import os
import re
import shutil
import struct
import tempfile
import unittest
from pathlib import Path

from harness import CACHE, FIXTURES, error_lines, verb

GOOD = FIXTURES / "next-nf4" / "model"
ALL, LATER, LAST = ("inspect", "pack", "eval"), ("pack", "eval"), ("eval",)
SHARD = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"
EXPERT = "model.layers.2.mlp.experts.1.down_proj.weight"
STATE = EXPERT + ".quant_state.bitsandbytes__nf4"


# ---- tools of the mutations ----

def split(path):
    data = path.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + n]), data[8 + n:]


def join(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def config(**fields):
    def mutate(model):
        path = model / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return mutate


def text(name, content):
    return lambda model: (model / name).write_bytes(content)


def header(change):
    """change(header) edits the parsed header of SHARD in place, or returns its new bytes."""
    def mutate(model):
        parsed, data = split(model / SHARD)
        changed = change(parsed)
        join(model / SHARD, parsed if changed is None else changed, data)
    return mutate


def index(change):
    def mutate(model):
        path = model / INDEX
        parsed = json.loads(path.read_text())
        change(parsed)
        path.write_text(json.dumps(parsed))
    return mutate


def raw(change):
    return lambda model: (model / SHARD).write_bytes(change((model / SHARD).read_bytes()))


def entry(name, **fields):
    return header(lambda h: h[name].update(fields))


def find(model, tensor):
    shard = model / json.loads((model / INDEX).read_text())["weight_map"][tensor]
    return shard, *split(shard)


def state(**fields):
    """Rewrites the quantisation state of one expert, at the end of its shard."""
    def mutate(model):
        shard, parsed, data = find(model, STATE)
        begin, end = parsed[STATE]["data_offsets"]
        old = json.loads(data[begin:end])
        new = fields.pop("raw", None) or json.dumps({**old, **fields}).encode()
        # Same length, so that no other offset moves: JSON allows trailing blanks.
        fits = new[:end - begin].ljust(end - begin)
        if len(new) > end - begin:
            new = json.dumps({**old, **fields}, separators=(",", ":")).encode()
            assert len(new) <= end - begin, "the new state is too long"
            fits = new.ljust(end - begin)
        join(shard, parsed, data[:begin] + fits + data[end:])
    return mutate


def without(tensor):
    def mutate(model):
        shard, parsed, data = find(model, tensor)
        parsed[tensor + ".gone"] = parsed.pop(tensor)
        join(shard, parsed, data)
        index(lambda i: i["weight_map"].__setitem__(tensor + ".gone", i["weight_map"].pop(tensor)))(model)
    return mutate


def overlap(h):
    names = [n for n in h if n != "__metadata__"]
    a, b = h[names[0]]["data_offsets"], h[names[1]]["data_offsets"]
    h[names[1]]["data_offsets"] = [a[0], a[0] + b[1] - b[0]]


def duplicate(h):
    body = json.dumps(h).encode()
    first = json.dumps({EXPERT: h[EXPERT]}).encode()[1:-1]
    return b"{" + first + b"," + body[1:]


def remove_shard(model):
    (model / SHARD).unlink()


def map_all_to(target):
    def change(i):
        i["weight_map"] = {name: target if shard == SHARD else shard for name, shard in i["weight_map"].items()}
    return index(change)


def outside(model):
    shutil.copy(model / SHARD, model.parent / "outside.safetensors")
    map_all_to("../outside.safetensors")(model)


CASES = [
    # config.json
    ("config missing", lambda m: (m / "config.json").unlink(), "config.json", ALL),
    ("config empty", text("config.json", b""), "config.json", ALL),
    ("config truncated", text("config.json", b'{"model_type": "qwen3_next", "hidd'), "config.json", ALL),
    ("config not an object", text("config.json", b"[1]"), "config.json", ALL),
    ("config deep", text("config.json", b'{"a":' + b"[" * 100000), "config.json", ALL),
    ("config duplicate key", lambda m: text("config.json", (m / "config.json").read_bytes().replace(
        b"{", b'{"hidden_size": 64,', 1))(m), "hidden_size", ALL),
    ("config not UTF-8", text("config.json", b'{"model_type": "\xff\xfe"}'), "config.json", ALL),
    ("family unknown", config(model_type="gpt2"), "model_type", ALL),
    ("family missing", config(model_type=None), "model_type", ALL),
    ("family of a wrong type", config(model_type=7), "model_type", ALL),
    *((f"{field} = {value}", config(**{field: value}), field, ALL)
      for field in ("hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "num_key_value_heads", "head_dim",
                    "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim",
                    "linear_conv_kernel_dim", "moe_intermediate_size", "num_experts_per_tok")
      for value in (0, -1, 1 << 31, 1 << 63)),
    ("num_experts = -1", config(num_experts=-1), "num_experts", ALL),
    ("num_experts = 2^31", config(num_experts=1 << 31), "num_experts", ALL),
    ("num_experts a text", config(num_experts="12"), "num_experts", ALL),
    ("hidden_size a fraction", config(hidden_size=128.5), "hidden_size", ALL),
    ("top_k above the experts", config(num_experts_per_tok=13), "num_experts_per_tok", ALL),
    ("key-value heads do not divide", config(num_key_value_heads=3), "num_key_value_heads", ALL),
    ("rms_norm_eps negative", config(rms_norm_eps=-1), "rms_norm_eps", ALL),
    ("rope_theta 0", config(rope_theta=0), "rope_theta", ALL),
    ("wider than the tensors", config(hidden_size=256), "model.", LATER),
    ("more experts than there are", config(num_experts=13), "experts", LATER),
    # the index
    ("index not JSON", text(INDEX, b"{"), INDEX, ALL),
    ("index without a map", text(INDEX, b"{}"), INDEX, ALL),
    ("index map not an object", text(INDEX, b'{"weight_map": []}'), INDEX, ALL),
    ("index shard not a text", index(lambda i: i["weight_map"].__setitem__(EXPERT, 5)), INDEX, ALL),
    ("shard missing", remove_shard, SHARD, ALL),
    ("shard outside the folder", outside, "outside.safetensors", ALL),
    ("shard absolute", map_all_to("/etc/passwd"), "/etc/passwd", ALL),
    ("shard is a folder", lambda m: ((m / SHARD).unlink(), (m / SHARD).mkdir()), SHARD, ALL),
    ("tensor not in its shard", index(lambda i: i["weight_map"].__setitem__(EXPERT + ".x", SHARD)), SHARD, ALL),
    # safetensors headers
    ("file empty", raw(lambda d: b""), SHARD, ALL),
    ("file of 7 bytes", raw(lambda d: d[:7]), SHARD, ALL),
    ("file truncated", raw(lambda d: d[:-1]), SHARD, ALL),
    ("file too long", raw(lambda d: d + b"x"), SHARD, ALL),
    ("header length 0", raw(lambda d: struct.pack("<Q", 0) + d[8:]), SHARD, ALL),
    ("header beyond the file", raw(lambda d: struct.pack("<Q", len(d)) + d[8:]), SHARD, ALL),
    ("header length 2^63", raw(lambda d: struct.pack("<Q", 1 << 63) + d[8:]), SHARD, ALL),
    ("header length -1", raw(lambda d: b"\xff" * 8 + d[8:]), SHARD, ALL),
    ("header not JSON", header(lambda h: b"[" * 60), SHARD, ALL),
    ("header an array", header(lambda h: b"[1,2,3]"), SHARD, ALL),
    ("header deep", header(lambda h: b'{"a":' * 50000), SHARD, ALL),
    ("header duplicate tensor", header(duplicate), EXPERT, ALL),
    ("offsets beyond the file", entry(EXPERT, data_offsets=[0, 1 << 40]), EXPERT, ALL),
    ("offsets backwards", entry(EXPERT, data_offsets=[64, 0]), EXPERT, ALL),
    ("offsets negative", entry(EXPERT, data_offsets=[-64, 0]), EXPERT, ALL),
    ("offsets one number", entry(EXPERT, data_offsets=[0]), EXPERT, ALL),
    ("offsets of other length than the shape", header(lambda h: h[EXPERT].update(shape=[1, 1])), EXPERT, ALL),
    ("offsets overlap", header(overlap), SHARD, ALL),
    ("shape overflows", entry(EXPERT, shape=[1 << 32, 1 << 32]), EXPERT, ALL),
    ("shape negative", entry(EXPERT, shape=[-1, 16384]), EXPERT, ALL),
    ("shape of many dimensions", entry(EXPERT, shape=[1] * 100), EXPERT, ALL),
    ("shape a text", entry(EXPERT, shape="big"), EXPERT, ALL),
    ("dtype unknown", entry(EXPERT, dtype="Z9"), EXPERT, ALL),
    ("dtype missing", header(lambda h: h.update({EXPERT: {k: v for k, v in h[EXPERT].items() if k != "dtype"}})), EXPERT, ALL),
    # tensors and quantisation
    ("expert missing", without(EXPERT), "experts.1.down_proj", LATER),
    ("embedding missing", without("model.embed_tokens.weight"), "embed_tokens", LAST),
    ("norm missing", without("model.norm.weight"), "model.norm", LAST),
    ("absmax missing", without(EXPERT + ".absmax"), "experts.1.down_proj", LATER),
    ("quant_map missing", without(EXPERT + ".quant_map"), "experts.1.down_proj", LATER),
    ("nested_absmax missing", without(EXPERT + ".nested_absmax"), "experts.1.down_proj", LATER),
    ("state not JSON", state(raw=b"{"), "experts.1.down_proj", LATER),
    ("state of another shape", state(shape=[64, 512]), "experts.1.down_proj", LATER),
    ("state of a larger shape", state(shape=[128, 1 << 20]), "experts.1.down_proj", LATER),
    ("state of negative shape", state(shape=[-1, 256]), "experts.1.down_proj", LATER),
    ("state block size 0", state(blocksize=0), "experts.1.down_proj", LATER),
    ("state block size 63", state(blocksize=63), "experts.1.down_proj", LATER),
    ("state block size -1", state(blocksize=-1), "experts.1.down_proj", LATER),
    ("state nested block size 0", state(nested_blocksize=0), "experts.1.down_proj", LATER),
    ("state kind unknown", state(quant_type="nf5"), "experts.1.down_proj", LATER),
    ("state dtype unknown", state(dtype="int7"), "experts.1.down_proj", LATER),
    ("state offset a text", state(nested_offset="0.1"), "experts.1.down_proj", LATER),
    # the folder itself
    ("no such folder", lambda m: shutil.rmtree(m), "model", ALL),
    ("an empty folder", lambda m: (shutil.rmtree(m), m.mkdir()), "config.json", ALL),
]


class BadModels(unittest.TestCase):
    """One test a case, made below."""

    def refuse(self, mutate, words, verbs):
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            model, cache, ids = Path(folder) / "model", Path(folder) / "cache", Path(folder) / "ids.json"
            shutil.copytree(GOOD, model)
            ids.write_text("[1, 2, 3]")
            mutate(model)
            logits = Path(folder) / "logits.npy"
            commands = {
                "inspect": ["inspect", model],
                "pack": ["pack", model, "--cache-dir", cache],
                "eval": ["eval", model, "--ids", ids, "--logits", logits, "--cache-dir", cache, "--workers", 0],
            }
            for name in ALL:
                done = verb(*commands[name])
                self.assertNotIn("Sanitizer", done.stderr)
                self.assertIn(done.returncode, (0, 1), f"{name}: {done.stderr[-3000:]}")
                if done.returncode == 0:
                    self.assertNotIn(name, verbs, f"{name} accepted it")
                    continue
                told = ("thermocline: packing ", "thermocline: experts in ")  # what it did before
                lines = [line for line in done.stderr.splitlines() if not line.startswith(told)]
                self.assertEqual(len(lines), 1, f"{name}: {done.stderr}")
                self.assertTrue(lines[0].startswith("thermocline: error: "), lines[0])
                self.assertIn(words, lines[0], name)
                self.assertGreater(len(lines[0]), len("thermocline: error: " + words) + 4, "no reason given")
                self.assertFalse(logits.exists())
                if name == "pack":
                    left = [f for f in os.listdir(cache) if f.endswith(".tcx") or ".tmp" in f] if cache.exists() else []
                    self.assertEqual(left, [])

    def test_good_model_is_accepted(self):
        with self.assertRaisesRegex(AssertionError, "accepted"):
            self.refuse(lambda model: None, "", ALL)


def add_case(name, mutate, words, verbs):
    def test(self):
        self.refuse(mutate, words, verbs)

    setattr(BadModels, "test_" + re.sub(r"\W+", "_", name.replace("-1", "minus 1")), test)


for case in CASES:
    add_case(*case)
