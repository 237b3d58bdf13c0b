#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What metrics, stage clocks and looks at a trace that is off cost: a build that counts beside one that does not (-Dcounting=false),
in pairs of short requests, first one then the other, so that whatever else the machine does meets both.

  counting.py --with build --without build-bare [--model DIR] [--pairs N | --seconds N] [--json]

--seconds: ends within that time (two minutes at least say something), whatever the machine does. instructions.py counts exactly and
needs no quiet machine; this one measures what a user would.

build-bare: meson setup build-bare --buildtype=release -Dcuda=disabled -Dcounting=false && ninja -C build-bare gpu-core/thermocline-core
gateway/thermocline-gateway expert-worker/thermocline-worker. As root the programs run before others (nice -15). Ratios above 1: what
counting costs. `CPU` is what the processes were on a CPU for (schedstat), which others disturb less than the time that passed. Of each
side the tenth of its windows that was disturbed least is compared; the error is that of resampling (bootstrap), the median that of
the pairs' ratios.
"""
import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--with", dest="counts", required=True)
parser.add_argument("--without", dest="bare", required=True)
parser.add_argument("--model", default=ROOT / "demo" / "model", type=Path)
parser.add_argument("--pairs", type=int, default=1000)
parser.add_argument("--seconds", type=float, help="of all measurements together, starts and warming up included")
parser.add_argument("--json", action="store_true")
options = parser.parse_args()
os.environ["TC_BUILD"] = str(Path(options.counts).resolve())
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from harness import CACHE, ENVIRONMENT, eventually, free_port, verb  # noqa: E402

DECODED, SERVED = 16, 4  # tokens of a decode; requests of one token each that are one window of `served`
BEST = 0.1
STOPPING_S = 3  # of two sets of programs, and the last pair


class Side:
    """The programs of one build, kept running; one connection."""

    def __init__(self, build, store, workers):
        folder, self.port = Path(tempfile.mkdtemp(prefix="tc-c-", dir="/tmp")), free_port()
        engine, experts = f"ipc://{folder}/engine", f"ipc://{folder}/experts"
        common = ["--model", options.model, "--engine", engine]
        commands = [["gpu-core/thermocline-core", *common, "--store", store, "--experts", experts, "--expert-source",
                     "workers" if workers else "inprocess", "--workers", 1, "--threads", 1, "--prefix-cache", 0, "--device", "cpu",
                     "--sessions", 2, "--shard", "partition"],
                    ["gateway/thermocline-gateway", *common, "--listen", f"127.0.0.1:{self.port}"]]
        if workers:
            commands.append(["expert-worker/thermocline-worker", "--connect", experts, "--store", store, "--index", 0, "--of", 1,
                             "--threads", 1, "--shard", "partition"])
        log = open(folder / "log", "w")
        self.processes = [subprocess.Popen([str(Path(build) / c[0]), *map(str, c[1:])], env=ENVIRONMENT, stdin=subprocess.DEVNULL,
                                           stdout=log, stderr=log) for c in commands]
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        if not eventually(self.ready, 60):
            raise SystemExit((folder / "log").read_text())

    def ready(self):
        try:
            return self.ask("GET", "/api/v1/health")[0] == 200
        except OSError:
            self.connection.close()
            return False

    def ask(self, method, path, body=None):
        self.connection.request(method, path, json.dumps(body) if body else None)
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())

    def cpu_ns(self):
        return sum(int(path.read_text().split()[0]) for p in self.processes for path in Path(f"/proc/{p.pid}/task").glob("*/schedstat"))

    def window(self, requests, tokens):
        """(seconds that passed, seconds on a CPU)."""
        cpu, began = self.cpu_ns(), time.perf_counter()
        for _ in range(requests):
            status, answer = self.ask("POST", "/api/v1/generate", {"prompt": "In the beginning", "max_tokens": tokens, "temperature": 0,
                                                                   "ignore_eos": True})
            assert status == 200, answer
        return time.perf_counter() - began, (self.cpu_ns() - cpu) / 1e9

    def stop(self):
        self.connection.close()
        for p in reversed(self.processes):
            p.terminate()
        for p in self.processes:
            p.wait(20)


def undisturbed(values):
    """The median of the best tenth."""
    best = sorted(values)[:max(1, int(len(values) * BEST))]
    return statistics.median(best)


def estimate(sides):
    """Of two lists of windows, taken in turns."""
    draw, ratios = random.Random(1), []
    for _ in range(200):
        picked = [draw.choices(side, k=len(side)) for side in sides]
        ratios.append(undisturbed(picked[0]) / undisturbed(picked[1]))
    return {"ratio": undisturbed(sides[0]) / undisturbed(sides[1]), "error": statistics.stdev(ratios),
            "median": statistics.median(a / b for a, b in zip(*sides)), "best_ms": undisturbed(sides[0]) * 1e3}


def compare(store, workers, requests, tokens, until):
    sides = [Side(build, store, workers) for build in (options.counts, options.bare)]
    measured = {"time": ([], []), "CPU": ([], [])}
    try:
        for side in sides * 3:
            side.window(requests, tokens)
        pair = 0
        while pair < options.pairs if until is None else time.monotonic() < until:
            for which in ((0, 1), (1, 0))[pair % 2]:
                passed, cpu = sides[which].window(requests, tokens)
                measured["time"][which].append(passed)
                measured["CPU"][which].append(cpu)
            pair += 1
    finally:
        for side in sides:
            side.stop()
    if pair < 2:
        raise SystemExit("no time was left for two pairs")
    return {kind: {**estimate(both), "pairs": pair} for kind, both in measured.items()}


def main():
    if os.geteuid() == 0:
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    began = time.monotonic()
    store = verb("pack", options.model).stdout.strip()
    cases = {"decode, experts in the core": (False, 1, DECODED), "decode, a worker": (True, 1, DECODED), "served requests": (False, SERVED, 1)}
    figures = {}
    for i, (name, case) in enumerate(cases.items()):
        until = None
        if options.seconds is not None:  # what is left is shared by what is left to do; stopping takes its part
            until = time.monotonic() + (began + options.seconds - time.monotonic()) / (len(cases) - i) - STOPPING_S
        figures[name] = compare(store, *case, until)
    if options.json:
        print(json.dumps(figures))
        return
    print("counting / not counting: the best tenth of each, and the median of the pairs")
    for name, kinds in figures.items():
        for kind, f in kinds.items():
            print(f"{name:28} {kind:5} {f['ratio']:.4f} +- {f['error']:.4f}   median {f['median']:.3f}   ({f['best_ms']:.2f} ms, {f['pairs']} pairs)")


if __name__ == "__main__":
    main()
