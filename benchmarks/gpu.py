#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Everything that is promised of the GPU, in one run: a model of the full shape made in memory, then start, synchronisation floor, decode,
prompts, users, memory; one table beside the targets and what llama.cpp was measured at, and JSON.

  gpu.py [MODEL-DIR] [--device cuda|cpu] [--vram 14GiB] [--json FILE] [--build DIR] [--parts LIST] [--seconds N]

Needs python3 alone (torch, where it is, measures the link and the card's memory) and a built tree: --build DIR with cli/, gpu-core/,
expert-worker/ and benchmarks/ in it. No network. The model is 40 GB of shared memory and 3 GB of disk, kept for the next run; --drop frees it.
  --shape tiny-next --layers 4 --device cpu --prompts 64,128 --users 2 --tokens 16   tries everything in a minute

Owns: the order, the table, the targets. Refuses: to measure (`thermocline bench` does).
"""
import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]
import figures  # noqa: E402

ROOT = HERE.parent
FULL_SHAPE = "qwen3-next-80b"
PARTS = ("own", "floor", "cold", "shared", "dialled", "ahead", "prompts", "users")
WORST_PART_S = 240  # a part that takes longer hangs
# llama.cpp: measured on an H100 host with 16 cores, Q4_0 of the same shape, the experts of 11 of 48 layers on the GPU (decode cold: of none).
LLAMACPP = {"cold": 37.1, "shared": 37.1, "dialled": 47.5, "ahead": 47.5, "prompt 512": 148, "prompt 2048": 521, "prompt 8192": 1461,
            "users 4": 67, "users 8": 73, "users 16": 84, "vram": 13.8 * 1e9 / 2**30}
# What each figure has to reach: bound, and whether more is better.
TARGETS = {"cold": (75, True), "shared": (75, True), "ahead": (140, True), "prompt 512": (800, True), "prompt 2048": (2500, True),
           "prompt 8192": (6000, True), "floor": (1.0, False), "users 4": (180, True), "users 8": (220, True), "users 16": (300, True),
           "p95": (10, False), "start": (5, False)}


def say(text):
    print(f"gpu: {text}", file=sys.stderr, flush=True)


# ---- the model ----


def files_under(folder):
    return {str(p): p.stat().st_size for p in folder.glob("*") if p.is_file()} if folder.is_dir() else {}


def arena_of(o):
    """The files of shared memory that hold the experts; None: they are not (all) there."""
    with contextlib.suppress(OSError, ValueError):
        made = json.loads((o.model / "made.json").read_text())
        if made["recipe"] == recipe(o) and made["arena"] and files_under(o.arena_dir).items() >= made["arena"].items():
            return made["arena"]
    return None


def recipe(o):
    return {k: getattr(o, k) for k in ("shape", "layers", "experts", "vocab", "seed", "router_zipf", "router_locality")}


def make_model(o):
    """Seconds it took; 0: it was there."""
    if arena_of(o):
        say(f"the model is there: {o.model}")
        return 0.0
    if o.model.exists() and not (o.model / "made.json").exists() and any(o.model.iterdir()):
        if (o.model / "config.json").exists():
            say(f"{o.model} is somebody's model: taken as it is")
            return 0.0
        sys.exit(f"gpu: error: {o.model} is neither a model nor empty")
    drop(o)
    o.model.mkdir(parents=True)
    o.arena_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    before = files_under(o.arena_dir)
    command = [o.build / "benchmarks/thermocline-make-checkpoint", "--shape", o.shape, "--seed", o.seed, "--memory", o.model / "cache",
               "--arena-dir", o.arena_dir]
    for name in ("layers", "experts", "vocab", "router_zipf", "router_locality"):
        if getattr(o, name) is not None:
            command += [f"--{name.replace('_', '-')}", getattr(o, name)]
    say(f"making {o.shape} with random weights in {o.model} and {o.arena_dir}")
    started = time.monotonic()
    (o.model / "made.json").write_text("{}")  # ours, whatever becomes of it
    if subprocess.run([str(c) for c in [*command, o.model]], check=False).returncode:
        sys.exit("gpu: error: the model could not be made")
    took = time.monotonic() - started
    arena = {path: size for path, size in files_under(o.arena_dir).items() if path not in before and not path.endswith(".lock")}
    (o.model / "made.json").write_text(json.dumps({"recipe": recipe(o), "arena": arena, "seconds": took}))
    say(f"made in {took:.1f} s: {sum(arena.values()) / 1e9:.1f} GB of experts in memory")
    return took


def drop(o):
    """Only what this program made."""
    made = {}
    with contextlib.suppress(OSError, ValueError):
        made = json.loads((o.model / "made.json").read_text()).get("arena", {})
    for path in made:
        with contextlib.suppress(OSError):
            Path(path).unlink()
    if (o.model / "made.json").exists():
        shutil.rmtree(o.model)


# ---- the machine ----

TORCH = """
import json, time, torch
def best(work, bytes, n):
    work(); torch.cuda.synchronize(); seconds = []
    for _ in range(n):
        t = time.perf_counter(); work(); torch.cuda.synchronize(); seconds.append(time.perf_counter() - t)
    return bytes / min(seconds) / 1e9
n = 1 << 30
host = torch.empty(n, dtype=torch.uint8, pin_memory=True)
card = torch.empty(n, dtype=torch.uint8, device="cuda"); other = torch.empty_like(card)
print(json.dumps({"card": torch.cuda.get_device_name(0), "link_gb_per_s": best(lambda: card.copy_(host, non_blocking=True), n, 5),
                  "card_gb_per_s": best(lambda: other.copy_(card), 2 * n, 10)}))
"""


def look_at_card(o):
    """Roofs of link and card by torch; {} where it is not there. In a process of its own, so that nothing of it stays on the card."""
    if o.device != "cuda":
        return {}
    try:
        done = subprocess.run([sys.executable, "-c", TORCH], capture_output=True, text=True, timeout=90, check=True)
        return json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
        say(f"link and card are not measured: {str(error)[:100]}")
        return {}


class CardMemory:
    """The driver's own count while it runs: the most that nvidia-smi says is used on the card, above what was used before."""

    def __init__(self, on):
        self.before = self.read() if on else None
        self.peak, self.end = self.before, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        if self.before is not None:
            self.thread.start()

    @staticmethod
    def read():
        try:
            done = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"], capture_output=True, text=True,
                                  timeout=20, check=True)
            return int(done.stdout.split()[0])
        except (subprocess.SubprocessError, OSError, ValueError, IndexError):
            return None

    def watch(self):
        while not self.end.wait(0.5):
            now = self.read()
            if now is not None and now > self.peak:
                self.peak = now

    def stop(self):
        """MiB, or None."""
        self.end.set()
        if self.before is None:
            return None
        self.thread.join()
        return self.peak - self.before


# ---- the parts ----


def common(o):
    # What a user would have, but for one worker: the arena was made for one.
    options = ["--json", "--cache-dir", o.model / "cache", "--arena-dir", o.arena_dir, "--workers", 1, "--device", o.device, "--head", o.head]
    if not (o.model / "made.json").exists():
        options = ["--json", "--workers", 1, "--device", o.device, "--head", o.head]
    if o.device == "cuda":
        options += ["--vram", o.vram.replace("iB", ""), "--settle-seconds", o.settle]
    for name in ("threads", "worker_threads"):
        if getattr(o, name):
            options += [f"--{name.replace('_', '-')}", getattr(o, name)]
    return options + o.options


def commands(o):
    """Figure and options of each part. A cpu device has no slots to dial hits with: its hot tier takes a quarter of the experts."""
    gpu = o.device == "cuda"
    decode = ["--data-plane", "shm", "--tokens", o.tokens, "--repetitions", o.repetitions]
    still = ["--hot-policy", "decayed"] if gpu else []
    hits = ["--force-hit-percent", o.hit_percent + 1]
    dial = [*hits, "--force-recall-percent", o.recall_percent] if gpu else ["--hot-budget", hot_budget(o)]
    cold = ["--hot-experts", 0, *still] if gpu else []
    return {
        "own": ("decode", [*decode, *([] if gpu else ["--hot-budget", hot_budget(o)])]),
        "floor": ("decode", [*decode, *cold, "--empty-experts", *(["--cold-experts", "workers"] if gpu else [])]),
        "cold": ("decode", [*decode, *cold, *(["--cold-experts", "workers"] if gpu else [])]),
        "shared": ("decode", [*decode, *cold]) if gpu else None,
        "dialled": ("decode", [*decode, *hits, *still]) if gpu else None,
        "ahead": ("decode", [*decode, *dial]) if gpu else None,
        "prompts": ("prompt", ["--prompts", o.prompts, "--repetitions", 3 * o.repetitions]),
        "users": ("users", ["--users", o.users, "--tokens", min(o.tokens, 48), "--repetitions", o.repetitions, *dial]),
    }


def hot_budget(o):
    return max(1 << 20, sum((arena_of(o) or {}).values()) // 4)


def run_parts(o, began):
    """{part: {"lines": [...], "error": text or None, "seconds": s}}"""
    result = {}
    for part, what in commands(o).items():
        if part not in o.parts or not what:
            continue
        left = o.seconds - (time.monotonic() - began)
        if left < 20:
            result[part] = {"lines": [], "error": "no time left", "seconds": 0.0}
            say(f"{part}: no time left")
            continue
        say(f"{part}: bench {what[0]} {' '.join(str(x) for x in what[1])}")
        started = time.monotonic()
        lines, error = figures.bench(o.build / "cli/thermocline", what[0], o.model, [*common(o), *what[1]], min(left, WORST_PART_S))
        result[part] = {"lines": lines, "error": error, "seconds": time.monotonic() - started}
        say(f"{part}: {'; '.join(figures.short(x) for x in lines) or 'nothing'}{', ' + error if error else ''} "
            f"({result[part]['seconds']:.0f} s)")
    return result


# ---- the table ----


def byte_model(line, roofs, shared):
    """Tokens a second that a step's bytes allow: cold experts out of the host's memory (and over the link, where it takes a share), the rest out
    of the card's, one after the other. None: a roof is not known."""
    read = line["read_gb_per_s"]["max"]
    experts = line.get("token_expert_bytes", line.get("step_expert_bytes"))
    whole = line.get("token_bytes", line.get("step_bytes"))
    if experts is None or not read:
        return None
    cold = experts * (1 - (line.get("dialled_hit_rate", line.get("hit_rate")) or 0))
    card = roofs.get("card_gb_per_s") or (read if line.get("device") == "cpu" else None)
    if not card:
        return None
    side = read + (roofs.get("link_gb_per_s", 0) if shared else 0)
    return line.get("users", 1) / (cold / 1e9 / side + (whole - cold) / 1e9 / card)


def prompt_model(line, roofs):
    """What streaming every expert that is not hot over the link allows, when each is needed once."""
    link = roofs.get("link_gb_per_s")
    if not link or "hot_bytes" not in line:
        return None
    return line["prompt_tokens"] / (max(line["experts_bytes"] - line["hot_bytes"], 1) / 1e9 / link)


def row(key, name, unit, value, model=None, valid=True, note=""):
    """Targets and the peer's figures are of the full shape on a GPU: promised() takes them away elsewhere."""
    target, more = TARGETS.get(key, (None, True))
    reached = None if target is None or value is None else valid and (value >= target if more else value <= target)
    return {"key": key, "figure": name, "unit": unit, "achieved": value, "target": target, "more_is_better": more, "llamacpp": LLAMACPP.get(key),
            "model": model, "valid": valid, "reached": reached, "note": note}


def routing(line):
    if "experts_touched_a_layer" not in line:
        return ""
    text = f"{line['experts_touched_a_layer']:.0f} experts a layer in {line['tokens_looked_at']} tokens"
    hits = line.get("dialled_hit_rate", line.get("hit_rate"))
    return text + (f", hits {hits:.2f}" if hits else "")


def decode_rows(o, parts, roofs):
    names = {"own": f"decode, 1 user, {o.vram}, routed by the model", "cold": "decode, 1 user, experts on the CPU workers",
             "shared": "decode, 1 user, experts on workers and link",
             "dialled": f"decode, 1 user, {o.vram}, {o.hit_percent} % hits, nothing fetched ahead",
             "ahead": f"decode, 1 user, {o.vram}, {o.hit_percent} % hits, {o.recall_percent} % of routes expected"}
    for part, name in names.items():
        for line in parts.get(part, {"lines": []})["lines"]:
            yield row(part, name, "tok/s", line["tokens_per_s"]["median"], byte_model(line, roofs, part != "cold"), line["valid"], routing(line))
            if part == "ahead" or (part == "own" and "ahead" not in parts):
                yield row("p95", "  time between tokens, P95", "ms", line["token_ms_p95"]["median"], valid=line["valid"],
                          note=f"P50 {line['token_ms_p50']['median']:.1f} ms")


def rows_of(o, parts, roofs, card_mib):
    for line in parts.get("own", {"lines": []})["lines"]:
        yield row("start", "start, filled arena, to the first token", "s", line["start_s"])
    for line in parts.get("floor", {"lines": []})["lines"]:
        yield row("floor", f"synchronisation, {line['model']['layers']} layers, empty experts", "ms", line["synchronisation_ms"]["median"],
                  note=f"step {line['step_us']['total_us'] / 1000:.2f} ms")
    yield from decode_rows(o, parts, roofs)
    for line in parts.get("prompts", {"lines": []})["lines"]:
        yield row(f"prompt {line['prompt_tokens']}", f"prompt of {line['prompt_tokens']}, {o.vram}", "tok/s", line["tokens_per_s"]["median"],
                  prompt_model(line, roofs), line["valid"], routing(line))
    for line in parts.get("users", {"lines": []})["lines"]:
        yield row(f"users {line['users']}", f"{line['users']} users decoding", "tok/s", line["tokens_per_s"]["median"], byte_model(line, roofs, True),
                  line["valid"], routing(line))
    yield from memory_rows(o, parts, card_mib)


def memory_rows(o, parts, card_mib):
    lines = [line for p in parts.values() for line in p["lines"] if line.get("device_peak_bytes")]
    if lines:
        line = max(lines, key=lambda x: x["device_peak_bytes"])
        yield vram_row("peak VRAM, the core's count", line["device_peak_bytes"] / 2**30, line["device_budget_bytes"] / 2**30)
    if card_mib is not None and lines:
        yield vram_row("peak VRAM, nvidia-smi", card_mib / 1024, lines[0]["device_budget_bytes"] / 2**30)


def vram_row(name, gib, budget):
    return row("vram", name, "GiB", gib) | {"target": budget, "more_is_better": False, "reached": gib <= budget}


def promised(o, rows):
    """The rows as they are where they mean something, and without bounds where another shape or device was measured."""
    full = o.device == "cuda" and o.shape == FULL_SHAPE and not (o.layers or o.experts or o.vocab)
    return rows if full else [r | {"target": None, "llamacpp": None, "reached": None} for r in rows]


def number(x):
    return "-" if x is None else f"{x:.0f}" if abs(x) >= 100 else f"{x:.1f}" if abs(x) >= 10 else f"{x:.2f}"


def print_table(rows, out=sys.stdout):
    head = ("figure", "achieved", "target", "llama.cpp (measured, Q4_0)", "byte model", "verdict", "")
    table = [head]
    for r in rows:
        bound = "-" if r["target"] is None else f"{'>=' if r['more_is_better'] else '<='} {number(r['target'])}"
        share = f" ({r['achieved'] / r['model']:.2f})" if r["model"] and r["achieved"] is not None else ""
        verdict = "NOT VALID" if not r["valid"] else "-" if r["reached"] is None else "reached" if r["reached"] else "not reached"
        table.append((r["figure"], f"{number(r['achieved'])} {r['unit']}", bound, number(r["llamacpp"]), number(r["model"]) + share, verdict, r["note"]))
    width = [max(len(line[i]) for line in table) for i in range(len(head))]
    for line in table:
        print("  ".join(text.ljust(w) if i in (0, 6) else text.rjust(w) for i, (text, w) in enumerate(zip(line, width))).rstrip(), file=out)


# ---- the program ----


def options(argv):
    p = argparse.ArgumentParser(prog="./dev bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", nargs="?", type=Path, help="where the model is, or is made (build-bench/gpu-SHAPE)")
    p.add_argument("--build", type=Path, default=ROOT / "build")
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    p.add_argument("--vram", default="14GiB")
    p.add_argument("--shape", default=FULL_SHAPE)
    for name in ("layers", "experts", "vocab", "threads", "worker-threads"):
        p.add_argument(f"--{name}", type=int)
    p.add_argument("--router-zipf", type=float, default=0.8, help="exponent by which experts' popularity falls (0.8; 0: all alike)")
    p.add_argument("--router-locality", type=float, default=0.5, help="share of a token's embedding that is its topic's (0.5)")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--head", default="nf4", help="the output head (nf4, as llama.cpp's was 4-bit)")
    p.add_argument("--hit-percent", type=int, default=70)
    p.add_argument("--recall-percent", type=int, default=72,
                   help="of the dialled routes that the layer before expected (72: what the demo model's routers reach)")
    p.add_argument("--tokens", type=int, default=128)
    p.add_argument("--repetitions", type=int, default=3)
    p.add_argument("--prompts", default="512,2048,8192")
    p.add_argument("--users", type=int, default=16)
    p.add_argument("--settle", type=int, default=8, help="seconds between ready and measuring: the experts' memory is pinned meanwhile")
    p.add_argument("--parts", default=",".join(PARTS))
    p.add_argument("--arena-dir", type=Path, default=Path(f"/dev/shm/thermocline-bench-{os.getuid()}"))
    p.add_argument("--json", type=Path, metavar="FILE")
    p.add_argument("--seconds", type=float, default=1e9, help="parts that would begin later are left out")
    p.add_argument("--drop", action="store_true", help="free the model's memory, and end")
    p.add_argument("--option", dest="options", action="append", default=[], help="one more word for `thermocline bench` (--option=--isa --option=avx2)")
    o = p.parse_args(argv)
    o.parts = o.parts.split(",")
    wrong = [x for x in o.parts if x not in PARTS]
    if wrong:
        p.error(f"--parts: {', '.join(wrong)}: not of {', '.join(PARTS)}")
    o.build = o.build.resolve()
    o.model = (o.model or ROOT / "build-bench" / f"gpu-{o.shape}").resolve()
    return o


def main(argv=None):
    o = options(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if o.drop:
        drop(o)
        return 0
    began = time.monotonic()
    made_s = make_model(o)
    roofs = look_at_card(o)
    memory = CardMemory(o.device == "cuda")
    parts = run_parts(o, began)
    rows = promised(o, list(rows_of(o, parts, roofs, memory.stop())))
    print_table(rows)
    lines = [line for p in parts.values() for line in p["lines"]]
    if lines:
        machine, model = lines[0]["machine"], lines[0]["model"]
        print(f"{machine['cpu']}, {machine['cpus']} CPUs, {roofs.get('card', o.device)}; {o.shape}, {model['layers']} layers; read bandwidth "
              f"{max(x['read_gb_per_s']['max'] for x in lines if 'read_gb_per_s' in x):.0f} GB/s, link {number(roofs.get('link_gb_per_s'))}, card "
              f"{number(roofs.get('card_gb_per_s'))} GB/s; model made in {made_s:.0f} s; {time.monotonic() - began:.0f} s in all; commit {lines[0]['commit']}")
    failed = {part: p["error"] for part, p in parts.items() if p["error"]}
    for part, error in failed.items():
        print(f"{part}: {error}")
    if o.json:
        o.json.write_text(json.dumps({"bench": "gpu", "rows": rows, "parts": parts, "roofs": roofs, "made_s": made_s, "recipe": recipe(o),
                                      "seconds": time.monotonic() - began}, indent=1) + "\n")
    return 1 if failed or not all(r["valid"] for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
