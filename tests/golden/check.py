#!/usr/bin/env python3
"""Compares `thermocline eval` with the golden fixtures and prints a table; ends with `N passed, N failed`.

This file owns the rules of comparison (README.md explains them). It needs the standard library and numpy.

  check.py --thermocline PATH [--fixtures DIR] [--only NAME] [--workers 1,2,4]
           [--precision exact|float|fast] [--shard partition,slice] [--single] [--messages] [--keep DIR]

One process is started for each fixture, precision, shard kind and number of workers; it gets all prompts at once.
--single asks for every prompt in a process of its own too, and the answers must be the same to the bit.
--messages runs the last precision once more for each shard kind, calls travelling as messages: the same bits again.
"""
import argparse
import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

STEPS = 32
EXACT = 1e-4                     # of the largest golden logit of the prompt
NOISE = 4                        # times the reference's own bf16 noise, for the default precision
TIMEOUT = 600


class Broken(Exception):
    """The program failed, or what it wrote cannot be compared."""


@functools.cache
def arenas():
    """A folder of shared memory for the experts of this run."""
    folder = tempfile.mkdtemp(prefix="tc-golden-", dir="/dev/shm")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def load_fixture(folder):
    fixture = json.loads((folder / "expected.json").read_text())
    config = json.loads((folder / "model" / "config.json").read_text())
    fixture["config"] = config.get("text_config", config)
    for prompt in fixture["prompts"]:
        for key in ("logits", "experts", "margins"):
            prompt[key] = np.load(folder / prompt[key])
        prompt.setdefault("rows", list(range(len(prompt["ids"]))))
    return fixture


def run(program, folder, request, scratch, precision, workers, shard, plane=None):
    """Starts the program once; returns its stdout as JSON and its two arrays."""
    ids, logits, experts = (scratch / n for n in ("ids.json", "logits.npy", "experts.npy"))
    ids.write_text(json.dumps(request))
    for file in (logits, experts):
        file.unlink(missing_ok=True)
    command = [program, "eval", str(folder / "model"), "--ids", str(ids), "--greedy", str(STEPS), "--logits", str(logits),
               "--experts", str(experts), "--precision", precision, "--workers", str(workers)]
    command += ["--shard", shard] if shard else []
    command += ["--data-plane", plane] if plane else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT,
                              env={**os.environ, "THERMOCLINE_ARENA_DIR": arenas()})
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Broken(str(error)) from error
    if done.returncode:
        raise Broken(f"exit {done.returncode}: {(done.stderr.strip() or 'nothing on stderr').splitlines()[-1]}")
    try:
        answer = json.loads(done.stdout)
        arrays = [np.load(file, allow_pickle=False) for file in (logits, experts)]
    except (ValueError, OSError) as error:
        raise Broken(f"output cannot be read: {error}") from error
    return answer, *arrays


def cut(fixture, answer, logits, experts):
    """Checks the shapes and cuts the concatenated answer into one dict for each prompt."""
    config, prompts = fixture["config"], fixture["prompts"]
    answers = answer.get("prompts", [answer]) if isinstance(answer, dict) else None
    if not isinstance(answers, list) or len(answers) != len(prompts):
        raise Broken(f"stdout: expected {len(prompts)} prompts")
    total = sum(len(p["ids"]) for p in prompts)
    for name, array, shape, dtype in (
            ("logits", logits, (total, config["vocab_size"]), np.float32),
            ("experts", experts, (config["num_hidden_layers"], total, config["num_experts_per_tok"]), np.int32)):
        if array.shape != shape or array.dtype != dtype:
            raise Broken(f"{name}: {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}")
    if not np.isfinite(logits).all():
        raise Broken("logits: not all finite")
    at, out = 0, []
    for prompt, got in zip(prompts, answers):
        count = len(prompt["ids"])
        if got["prompt_tokens"] != count or len(got["ids"]) != STEPS or len(got["gaps"]) != STEPS:
            raise Broken(f"stdout: prompt_tokens {got['prompt_tokens']}, {len(got['ids'])} ids, {len(got['gaps'])} gaps")
        out.append({**got, "logits": logits[at:at + count], "experts": experts[:, at:at + count]})
        at += count
    return out


def compare(prompt, got, precision):
    """One prompt against its golden values: (columns of the table, list of complaints)."""
    wrong = []
    exact = precision == "exact"
    gold = prompt["logits"]
    scale = float(np.abs(gold).max())
    # Logits of the prompt.
    diff = np.abs(got["logits"][prompt["rows"]].astype(np.float64) - gold).max(axis=1)
    worst, limit = float(diff.max()), EXACT * scale if exact else NOISE * prompt["bf16_noise"]
    if worst > limit:
        bad = int(np.argmax(diff > limit))
        wrong.append(f"logits: off by {worst:.3g}, limit {limit:.3g}; first at position {prompt['rows'][bad]}")
    # Greedy steps. An excused mismatch ends the comparison, since the contexts differ from there on.
    slack = 2 * EXACT * scale if exact else NOISE * prompt["bf16_noise"]
    same, gap_error = 0, 0.0
    for step, (want, have) in enumerate(zip(prompt["greedy"], got["ids"])):
        if want != have:
            behind = dict(map(tuple, prompt["runners_up"][step])).get(have)
            if behind is None or behind > slack:
                what = "not among the best four" if behind is None else f"{behind:.3g} behind the best"
                wrong.append(f"greedy: step {step} is {have}, golden {want}; {what}, slack {slack:.3g}")
            break
        same += 1
        gap_error = max(gap_error, abs(got["gaps"][step] - prompt["gaps"][step]))
    if exact and gap_error > 2 * EXACT * scale:
        wrong.append(f"gaps: off by {gap_error:.3g}, limit {2 * EXACT * scale:.3g}")
    # Chosen experts, as sets. A difference is excused where the golden router was near a tie.
    differ = (np.sort(got["experts"], -1) != np.sort(prompt["experts"], -1)).any(-1)
    near = prompt["margins"] <= (EXACT if exact else NOISE * prompt["router_noise"])
    routed = prompt["experts"][:, :, 0] >= 0
    bad = differ & ~(near & routed)
    if bad.any():
        layer, position = np.argwhere(bad)[0]
        wrong.append(f"experts: {int(bad.sum())} choices differ beyond a near tie; first at layer {layer} position {position}: "
                     f"{sorted(got['experts'][layer, position].tolist())}, golden {sorted(prompt['experts'][layer, position].tolist())}")
    agree = 100.0 * (1 - (differ & routed).sum() / max(1, routed.sum()))
    return (f"{len(prompt['ids']):>4}", f"{worst / scale:.1e}", f"{limit / scale:.1e}", f"{same:>2}/{STEPS}",
            f"{gap_error:.1e}", f"{agree:.1f}%"), wrong


def same_bits(a, b):
    return a[0] == b[0] and all(x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in zip(a[1:], b[1:]))


def fits(config, shard, workers):
    """Whether this model can be shared out like this: experts to give, or width slices of 64."""
    experts = config.get("num_experts") or config.get("num_local_experts") or config["n_routed_experts"]
    return workers <= (config.get("moe_intermediate_size", config.get("intermediate_size")) // 64 if shard == "slice" else experts)


class Table:
    HEAD = ("fixture", "precision", "shard", "workers", "tokens", "logits", "limit", "greedy", "gaps", "experts", "")
    WIDTH = (10, 9, 9, 7, 6, 8, 8, 6, 8, 7, 0)

    def __init__(self):
        self.passed = self.failed = 0
        self.line(self.HEAD)

    def line(self, cells):
        print("  ".join(str(c).ljust(w) for c, w in zip(cells, self.WIDTH)).rstrip(), flush=True)

    def result(self, cells, wrong):
        self.failed += bool(wrong)
        self.passed += not wrong
        self.line((*cells, "FAILED" if wrong else "ok"))
        for complaint in wrong:
            print(f"    {complaint}", flush=True)


def check(table, arguments, folder, scratch):
    fixture = load_fixture(folder)
    request = {"prompts": [p["ids"] for p in fixture["prompts"]]}
    for precision in arguments.precision:
        other = None                                                 # another shard kind's answer
        for shard in arguments.shard:
            first = None
            for workers in arguments.workers:
                head = (folder.name, precision, shard or "-", workers)
                if not fits(fixture["config"], shard, workers):
                    table.line((*head, "", "", "", "", "", "", "skipped: too small to share"))
                    continue
                try:
                    raw = run(arguments.thermocline, folder, request, scratch, precision, workers, shard)
                    answers = cut(fixture, *raw)
                except (Broken, KeyError, TypeError) as error:
                    table.result((*head, "", "", "", "", "", ""), [f"{type(error).__name__}: {error}"])
                    continue
                if first is None:                                    # later worker counts only have to repeat it
                    first, first_workers = raw, workers
                    for prompt, got in zip(fixture["prompts"], answers):
                        table.result((*head, *(cells := compare(prompt, got, precision))[0]), cells[1])
                    if other is not None and not same_bits(other, raw):
                        print("    note: this shard kind gives other bits than the one before")
                    other = raw
                    if arguments.single:
                        check_single(table, arguments, folder, scratch, fixture, answers, head)
                else:
                    wrong = [] if same_bits(first, raw) else [difference(first, raw, first_workers)]
                    table.result((*head, "all", "", "", "", "", "as first"), wrong)
            most = max((w for w in arguments.workers if fits(fixture["config"], shard, w)), default=0)
            if arguments.messages and precision == arguments.precision[-1] and first is not None and most:
                check_messages(table, arguments, folder, scratch, request, first, first_workers, (folder.name, precision, shard or "-", most))


def check_messages(table, arguments, folder, scratch, request, first, first_workers, head):
    """The other carrier: calls as messages and not through shared memory."""
    try:
        raw = run(arguments.thermocline, folder, request, scratch, head[1], head[3], head[2] if head[2] != "-" else None, "nng")
        wrong = [] if same_bits(first, raw) else [difference(first, raw, first_workers)]
    except (Broken, KeyError, TypeError) as error:
        wrong = [f"{type(error).__name__}: {error}"]
    table.result((*head, "all", "", "", "", "", "messages"), wrong)


def difference(first, raw, workers):
    if first[1].shape == raw[1].shape and (first[1] != raw[1]).any():
        row, column = np.argwhere(first[1] != raw[1])[0]
        return (f"not the bits of {workers} worker(s): {int((first[1] != raw[1]).sum())} logits differ, by at most "
                f"{float(np.abs(first[1] - raw[1]).max()):.2g}; first at row {row} token {column}")
    return f"not the bits of {workers} worker(s): experts, ids or gaps differ"


def check_single(table, arguments, folder, scratch, fixture, answers, head):
    for prompt, whole in zip(fixture["prompts"], answers):
        cells = (*head, f"{len(prompt['ids']):>4}", "", "", "", "", "single")
        try:
            raw = run(arguments.thermocline, folder, {"ids": prompt["ids"]}, scratch, head[1], head[3], arguments.shard[0])
            got = cut({**fixture, "prompts": [prompt]}, *raw)[0]
        except (Broken, KeyError, TypeError) as error:
            table.result(cells, [f"{type(error).__name__}: {error}"])
            continue
        same = (got["ids"] == whole["ids"] and got["logits"].tobytes() == whole["logits"].tobytes()
                and got["experts"].tobytes() == whole["experts"].tobytes())
        table.result(cells, [] if same else ["alone it gives other bits than among the other prompts"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--thermocline", required=True, help="the program")
    parser.add_argument("--fixtures", type=Path, default=Path(__file__).parent / "fixtures")
    parser.add_argument("--only", help="one fixture")
    parser.add_argument("--workers", default="1", type=lambda s: [int(x) for x in s.split(",")])
    parser.add_argument("--precision", default="exact", type=lambda s: s.split(","))
    parser.add_argument("--shard", default=[None], type=lambda s: s.split(","))
    parser.add_argument("--single", action="store_true")
    parser.add_argument("--messages", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder that keeps the program's last output")
    arguments = parser.parse_args()
    if not set(arguments.precision) <= {"exact", "float", "fast"} or not set(arguments.shard) <= {None, "partition", "slice"}:
        parser.error("--precision is exact, float or fast; --shard is partition or slice")
    folders = sorted(f.parent for f in arguments.fixtures.glob("*/expected.json") if arguments.only in (None, f.parent.name))
    if not folders:
        parser.error("no such fixture")
    table = Table()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
        for folder in folders:
            check(table, arguments, folder, arguments.keep or Path(scratch))
    print(f"{table.passed} passed, {table.failed} failed")
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
