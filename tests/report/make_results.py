#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a results.jsonl as a suite would: every kind of record, every section, figures of plausible size, all made up by one seed.
  make_results.py [--seed N] [--slower FACTOR] >results.jsonl
Owns: the fixture of tests/report/check.py (data/results.jsonl is its output). The figures say nothing about any machine."""
import argparse
import json
import math
import random

POLICIES = ("all-cold", "static", "lru", "decayed", "predictive", "all-hot")
PLAN = [{"label": "original plan, least", "value": 8}, {"label": "original plan, most", "value": 12}]


class Suite:
    def __init__(self, seed, slower):
        self.random, self.slower, self.lines, self.ids = random.Random(seed), slower, [], []

    def put(self, **record):
        self.lines.append(record)

    def part(self, id, method, state="done", reason="", **parameters):
        self.ids.append(id)
        self.now = id
        self.pending = dict(record="part", id=id, section=id.split(".")[0], state=state, reason=reason,
                            seconds=round(self.random.uniform(2, 30), 2), method=method, parameters=parameters)

    def done(self):
        self.put(**self.pending)

    def round(self, value):
        return float(f"{value:.5g}")

    def figure(self, figure, series, x, unit, value, n=5, spread=0.02, roofline=None, better="higher", x_unit=None, lines=None):
        values = [min(self.round(value * (1 + self.random.gauss(0, spread))), 1.0 if unit == "share" else math.inf) for _ in range(n)]
        record = dict(record="figure", id=f"{self.now}/{figure}/{series}/{x}", part=self.now, figure=figure, series=series, unit=unit,
                      better=better, values=values, roofline=roofline and self.round(roofline))
        if x is not None:
            record["x"] = x
        if x_unit:
            record["x_unit"] = x_unit
        if lines:
            record["lines"] = lines
        self.put(**record)


def throughput(s):
    s.part("throughput.decode", "One user decodes 64 tokens behind a prompt of the given length, five times; experts in the core, in one "
           "worker and in two.", tokens=64, precision="fast")
    for x in (0, 256, 1024, 4096, 8192, 16384, 32768):
        roof = 1000 / (17 + x * 0.0016)
        for series, part in (("core", 0.86), ("1 worker", 0.79), ("2 workers", 0.82)):
            s.figure("decode-context", series, x, "tokens/s", roof * part / s.slower, roofline=roof, x_unit="tokens", lines=PLAN)
    for x in ("256 tokens", "4096 tokens", "32768 tokens"):
        attention = 900 if x[:3] == "256" else 6500 if x[0] == "4" else 48000
        s.put(record="stack", id=f"{s.now}/token-time/{x}", part=s.now, figure="token-time", x=x, unit="us", shares=[
            {"label": l, "value": v} for l, v in (("attention", attention), ("router", 410.5), ("experts", 14200), ("carrier wait", 1200),
                                                  ("head and sampling", 2100), ("rest", 350))])
    s.done()
    s.part("throughput.prompt", "A prompt of the given length until its first token, three times.")
    for x in (128, 512, 2048, 8192, 32768):
        s.figure("prompt", "prompt", x, "tokens/s", 900 * x / (x + 300) / (1 + x / 60000) / s.slower, n=3, roofline=1450, x_unit="tokens")
    s.done()
    s.part("throughput.users", "So many users decode at once, 48 tokens each; three windows.")
    for x in (1, 2, 4, 8, 16, 32):
        roof = 60 * x / (1 + 0.11 * x)
        s.figure("users", "all together", x, "tokens/s", roof * 0.8 / s.slower, n=3, roofline=roof, x_unit="users")
        s.figure("users", "each", x, "tokens/s", roof * 0.8 / x / s.slower, n=3, x_unit="users")
    s.done()


def placement(s):
    s.part("placement.policies", "The same prompts under each policy with so much memory for experts; the medians of three runs.")
    gains = dict(zip(POLICIES, (0, 0.55, 0.62, 0.71, 0.78, 1)))
    for budget in (64, 128, 256, 512):
        for policy in POLICIES:
            hit = gains[policy] ** (512 / budget * 0.35) if 0 < gains[policy] < 1 else gains[policy]
            s.figure("policy-speed", policy, budget << 20, "tokens/s", 14 + 40 * hit, n=3, x_unit="bytes")
            s.figure("policy-hits", policy, budget << 20, "share", hit, n=3, spread=0.004, x_unit="bytes")
            s.figure("policy-moved", policy, budget << 20, "bytes", 4e9 * (1 - hit), n=3, better="lower", x_unit="bytes")
    s.done()


def memory(s):
    s.part("memory.time", "The core's own account, ten times a second, while eight users come and go.")
    for series, base, grow, planned in (("weights", 1.9e9, 0, 1.9e9), ("hot experts", 5e8, 3e8, 9e8), ("KV cache", 0, 4e8, 5e8), ("arena", 3.1e9, 0, 3.2e9)):
        points = [[round(t * 1.6, 1), round(base + grow * (1 - math.exp(-t / 4.5)) * (1 if t < 18 or grow < 3.5e8 else 0.4))] for t in range(24)]
        s.put(record="timeline", id=f"{s.now}/memory/{series}", part=s.now, figure="memory", series=series, unit="bytes", points=points, planned=planned)
    s.done()


def swap(s):
    s.part("swap.latency", "Every expert is promoted and demoted 200 times, idle and with eight users decoding.")
    for series, middle in (("promotion, idle", 240), ("promotion, loaded", 610), ("demotion, idle", 12), ("demotion, loaded", 31)):
        samples = sorted(s.round(middle * math.exp(s.random.gauss(0, 0.35))) for _ in range(2000))
        bounds = [s.round(middle / 4 * 1.33 ** i) for i in range(14)]
        counts = [sum((bounds[i - 1] if i else 0) < v <= b for v in samples) for i, b in enumerate(bounds)]
        s.put(record="distribution", id=f"{s.now}/swap/{series}", part=s.now, figure="swap-latency", series=series, unit="us", count=2000,
              quantiles={q: samples[int(float(q) * 1999)] for q in ("0.5", "0.95", "0.99")}, buckets=[[b, c] for b, c in zip(bounds, counts)])
    s.done()


def inputs(s):
    s.part("inputs.kinds", "Sixteen texts of each kind, 256 tokens each, policy decayed.")
    for x, speed, hit in (("prose", 52, 0.78), ("code", 49, 0.71), ("manual pages", 50, 0.74), ("lists", 47, 0.69), ("non-English", 41, 0.55),
                          ("very short", 38, 0.51), ("very long", 33, 0.81)):
        s.figure("input-speed", "decode", x, "tokens/s", speed / s.slower, roofline=58)
        s.figure("input-hits", "hit rate", x, "share", hit, spread=0.004)
    for x in ("prose", "code"):
        rows = []
        for layer in range(12):
            weights = [math.exp(s.random.gauss(0, 1.1)) for _ in range(36)]
            rows.append([float(f"{w / sum(weights):.2g}") for w in weights])
        s.put(record="matrix", id=f"{s.now}/skew/{x}", part=s.now, figure="skew", series=x, rows="layer", columns="expert", unit="share of uses", values=rows)
    s.done()


def load(s):
    s.part("load.ready", "From the start of the programs until the first token can be asked for; three times.")
    for x, value, planned in (("cold", 74.0, 540), ("packed, file cached", 9.2, 22), ("arena resident", 0.31, None)):
        s.figure("ready", "", x, "s", value, n=3, spread=0.05, better="lower", lines=planned and [
            {"label": "original plan, " + ("first" if planned > 100 else "cached"), "value": planned}])
    s.done()


def latency(s):
    s.part("latency.open-loop", "Requests come at random times at so much of the capacity, one minute each; 64 tokens out.")
    for x in (25, 50, 75, 100, 125, 150):
        for q, f in (("P50", 1), ("P95", 2.6), ("P99", 4.8)):
            s.figure("first-token", q, x, "us", f * 46000 / max(0.08, 1.35 - x / 100), n=3, spread=0.06, better="lower", x_unit="% of capacity")
            s.figure("between-tokens", q, x, "us", f ** 0.6 * 21000 * (1 + x / 120), n=3, spread=0.04, better="lower", x_unit="% of capacity")
    s.done()
    s.part("latency.guidellm", "", state="skipped", reason="guidellm is not installed: pip install guidellm")
    s.done()


def quality(s):
    s.part("quality.heldout", "Next tokens of the held-out text against the same model in bf16, 8192 positions.")
    for x, value in (("bf16", 10.482), ("NF4 exact", 10.613), ("NF4 fast", 10.624)):
        s.figure("perplexity", "", x, "perplexity", value, n=1, spread=0, better="lower")
    for x, value in (("NF4 exact", 0.0213), ("NF4 fast", 0.0231)):
        s.figure("divergence", "", x, "nats", value, n=1, spread=0, better="lower")
    s.done()
    s.part("quality.determinism", "", state="failed", reason="2 of 48 texts differ between carriers: <shm> & \"nng\"")
    s.done()


def peers(s):
    s.part("peers.llamacpp", "The same shape and threads in llama.cpp, by turns; ours over theirs.")
    for x, value in (("decode", 1.31), ("prompt 512", 1.12), ("prompt 2048", 0.94)):
        s.figure("ratio", "llama.cpp", x, "times", value / s.slower, spread=0.03)
    s.done()
    s.ids.append("peers.transformers")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--slower", type=float, default=1)
    options = options.parse_args()
    s = Suite(options.seed, options.slower)
    for section in (throughput, placement, memory, swap, inputs, load, latency, quality, peers):
        section(s)
    run = dict(record="run", schema=1, suite="full", started="2026-01-02T03:04:05Z", commit="0123abc", dirty=False, version="0.1.0",
               machine=dict(name="example-2", cpu="Example <CPU> & Co 2.4 GHz", cores=2, threads=2, ram_bytes=8 << 30, numa_nodes=1,
                            features=["avx2", "fma"], gpu=None, vram_bytes=None, read_bytes_per_s=21.5e9, kernel="Linux 6.1"),
               model=dict(path="demo", family="qwen3_moe", hash="00ff00ff00ff00ff", parameters=3_300_000, bytes=2_400_000, experts=16,
                          layers=4, top_k=2), parts=s.ids)
    for record in [run, *s.lines]:
        print(json.dumps(record, separators=(",", ":"), ensure_ascii=False))


if __name__ == "__main__":
    main()
