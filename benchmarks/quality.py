#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a precision costs in quality: perplexity on held-out text, and the distance of next-token distributions.

  quality.py MODEL [--thermocline PATH] [--text FILE] [--positions N] [--variant NAME=OPTIONS]... [--json]

Each variant is one run of `thermocline eval` with OPTIONS over the same windows of text. The reference is the variant
`exact`. Without --variant: every precision that this build knows, and, with --heads and --kv, those settings on top of
the last precision. A variant is harmless when its perplexity is within 0.2 % of the reference's and the mean KL
divergence of its next-token distributions from the reference's is below 0.002. With --positions, a sample, a change of
perplexity counts once it is beyond that bound by two standard errors. Exit code 1 when a variant that is required
(--require A,B; all by default) is not harmless.

Owns: the windows, the arithmetic, the bounds. Refuses: to decide what is the default; it says what may be.
numpy only.
"""
import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PERPLEXITY_BOUND = 0.002  # relative
KL_BOUND = 0.002          # nats, mean
ROWS = 128                # positions whose logits are in memory as float64 at once
REFERENCE = "exact"


def fail(text):
    sys.exit(f"quality: error: {text}")


def windows_of(ids, window, positions):
    """Windows spread evenly over the text, `positions` tokens in all (0: all of it); each predicts all but its first."""
    count = len(ids) // window if not positions else max(1, min(positions // window, len(ids) // window))
    if not len(ids) // window:
        return [ids]
    step = (len(ids) // window) / count
    starts = [int(i * step) * window for i in range(count)]
    return [ids[s : s + window] for s in starts]


def log_softmax(logits):
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


class Comparison:
    """Sums over positions, fed in blocks of rows: [n, vocab] logits of both sides, and the token that came next."""

    def __init__(self):
        self.reference_nll, self.nll, self.kl, self.agree = [], [], [], []

    def add(self, reference, other, following):
        a, b = log_softmax(reference), log_softmax(other)
        rows = np.arange(len(following))
        self.reference_nll.append(-a[rows, following])
        self.nll.append(-b[rows, following])
        self.kl.append((np.exp(a) * (a - b)).sum(axis=-1))
        self.agree.append(reference.argmax(axis=-1) == other.argmax(axis=-1))

    def result(self):
        reference, own, kl = (np.concatenate(x) for x in (self.reference_nll, self.nll, self.kl))
        difference = own - reference
        return {
            "positions": len(own),
            "perplexity": float(np.exp(own.mean())),
            "perplexity_change": float(np.expm1(difference.mean())),
            "perplexity_change_error": float(difference.std() / np.sqrt(len(own))),  # one standard error
            "kl_mean": float(kl.mean()),
            "kl_max": float(kl.max()),
            "greedy_agreement": float(np.concatenate(self.agree).mean()),
        }


def judge(result, sample=False):
    """Adds the verdict. A NaN is no pass."""
    room = 2 * result["perplexity_change_error"] if sample else 0.0
    result["harmless"] = bool(abs(result["perplexity_change"]) <= PERPLEXITY_BOUND + room and result["kl_mean"] < KL_BOUND)
    return result


def compare(reference_path, other_path, windows):
    reference, other = (np.load(p, mmap_mode="r") for p in (reference_path, other_path))
    total = sum(len(w) for w in windows)
    for path, logits in ((reference_path, reference), (other_path, other)):
        if logits.ndim != 2 or len(logits) != total:
            fail(f"{path}: {logits.shape} instead of logits of {total} positions")
    sums, first = Comparison(), 0
    for w in windows:
        following = np.array(w[1:])
        for at in range(0, len(following), ROWS):
            end = min(at + ROWS, len(following))
            sums.add(reference[first + at : first + end], other[first + at : first + end], following[at:end])
        first += len(w)
    return sums.result()


def choices_of(help_text, option):
    """The values an option may have, from the line of the help: `  --precision exact|fast   ...`."""
    found = re.search(rf"^\s*{re.escape(option)} (\S+\|\S+)", help_text, re.MULTILINE)
    return found.group(1).split("|") if found else []


def default_variants(help_text, heads, kv):
    precisions = [p for p in choices_of(help_text, "--precision") if p != "auto"]
    variants = {p: f"--precision {p}" for p in precisions}
    for option, values in (("--head", heads), ("--kv", kv)):
        for value in filter(None, values.split(",")):
            variants[f"{precisions[-1]}, {option[2:]} {value}"] = f"--precision {precisions[-1]} {option} {value}"
    return variants


def run(command, **more):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **more)
    if done.returncode:
        fail(f"{' '.join(map(str, command[:3]))} ... ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def tokenize(program, model, text):
    documents = [d.strip("\n") for d in text.split("<|endoftext|>")]
    lines = "".join(json.dumps({"text": d}) + "\n" for d in documents if d)
    out = run([program, "tokenize", model / "tokenizer.json"], input=lines)
    return [i for line in out.splitlines() for i in json.loads(line)["ids"]]


def table(results):
    lines = [f"{'variant':28} {'perplexity':>10} {'change':>9} {'(1 s.e.)':>9} {'mean KL':>10} {'max KL':>8} {'greedy':>7}"]
    for name, r in results.items():
        lines.append(f"{name:28} {r['perplexity']:10.4f} {100 * r['perplexity_change']:+8.3f}% {100 * r['perplexity_change_error']:8.3f}%"
                     f" {r['kl_mean']:10.6f} {r['kl_max']:8.4f} {100 * r['greedy_agreement']:6.2f}%"
                     f"  {'harmless' if r['harmless'] else 'NOT HARMLESS'}")
    return "\n".join(lines)


def evaluate(o, variants, windows):
    results = {}
    with tempfile.TemporaryDirectory(prefix="thermocline-quality-") as work:
        work = Path(work)
        (work / "ids.json").write_text(json.dumps({"prompts": windows}))
        paths = {}
        for number, (name, options) in enumerate(variants.items()):
            print(f"quality: {name} ...", file=sys.stderr, flush=True)
            paths[name] = work / f"{number}.npy"
            run([o.thermocline, "eval", o.model, "--ids", work / "ids.json", "--logits", paths[name], "--workers", o.workers,
                 *shlex.split(options)])
            results[name] = judge(compare(paths[REFERENCE], paths[name], windows), o.positions > 0)
            if name != REFERENCE:
                paths[name].unlink()  # a variant's logits are hundreds of megabytes
    return results


def variants_of(o):
    if not o.variant:
        return default_variants(run([o.thermocline, "eval", "--help"]), o.heads, o.kv)
    pairs = [v.partition("=") for v in o.variant]
    for name, equals, _ in pairs:
        if not name or not equals:
            fail(f"--variant {name}: expected NAME=OPTIONS")
    return {REFERENCE: "--precision exact", **{name: options for name, _, options in pairs}}


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=Path)
    p.add_argument("--thermocline", default=ROOT / "build/cli/thermocline", type=Path)
    p.add_argument("--text", default=ROOT / "demo/heldout.txt", type=Path, help="held-out text (demo/heldout.txt)")
    p.add_argument("--window", type=int, default=512, help="tokens the model sees at once (512)")
    p.add_argument("--positions", type=int, default=0, help="tokens in all; 0 (default): the whole text")
    p.add_argument("--variant", action="append", default=[], metavar="NAME=OPTIONS")
    p.add_argument("--heads", default="", help="nf4,int8,bf16: also these, with the last precision")
    p.add_argument("--kv", default="", help="also these types of KV, with the last precision")
    p.add_argument("--require", help="variants that must be harmless (default: all)")
    p.add_argument("--workers", default="0")
    p.add_argument("--count", action="store_true", help="end with `N passed, N failed`, as suites of tests do")
    p.add_argument("--json", action="store_true", help="one JSON object on stdout")
    o = p.parse_args(argv)
    variants = variants_of(o)
    required = o.require.split(",") if o.require else list(variants)
    if REFERENCE not in variants or not set(required) <= set(variants):
        fail(f"variants are {', '.join(variants)}; required are {', '.join(required)}")
    ids = tokenize(o.thermocline, o.model, o.text.read_text())
    windows = windows_of(ids, o.window, o.positions)
    if sum(map(len, windows)) - len(windows) < 1:
        fail(f"{o.text}: too short")
    results = evaluate(o, variants, windows)
    passed = sum(results[name]["harmless"] for name in required)
    good = passed == len(required)
    if o.json:
        print(json.dumps({"bench": "quality", "model": str(o.model), "window": o.window, "required": required,
                          "perplexity_bound": PERPLEXITY_BOUND, "kl_bound": KL_BOUND, "pass": good, "variants": results}))
    else:
        print(table(results))
        print(f"bounds: perplexity within {100 * PERPLEXITY_BOUND:g} %, mean KL below {KL_BOUND:g}: {'pass' if good else 'FAIL'}")
    if o.count:
        print(f"{passed} passed, {len(required) - passed} failed")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
