#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What counting costs, in instructions: valgrind (callgrind) counts those of one program at a time, which no other load of the machine
changes, in a build that counts and in one that does not (-Dcounting=false; counting.py says how it is made).

  instructions.py --with build --without build-bare [--model DIR] [--json] [--only NAME ...]

A reading of the clock is a call into the kernel's page, which valgrind does not see: readings are counted, and timed by themselves.
Threads sleep where they would look for work (--spin-us 0), because that depends on time. Cost: half a nanosecond for each instruction
that counting added (what is added are adds and stores: it takes less), and the time of one reading for each of those, over what the
program is on a CPU for a unit without valgrind (the fastest tenth of 60 windows). `in all`: the programs that a token or a request
goes through, one after the other. Request ids cannot be built away: theirs are the instructions, with what they call, of the source
lines that speak of them.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IDS = re.compile(r"request_id|X-Request-Id|request->name|\bname_bytes = .*request")
# name: (program counted, who computes experts, requests, tokens of each, function within which is counted or None)
CASES = {"core, a token": ("core", False, 1, 24, "tc_sched_step"),
         "core with a worker, a token": ("core", True, 1, 24, "tc_sched_step"),
         "worker, a token": ("worker", True, 1, 24, None),
         "gateway, a token": ("gateway", False, 8, 250, None),
         "core, a request of one token": ("core", False, 8, 1, "tc_sched_step"),
         "gateway, a request of one token": ("gateway", False, 200, 1, None)}
IN_ALL = {"a token, in all": ("core with a worker, a token", "worker, a token", "gateway, a token"),
          "a request of one token, in all": ("core, a request of one token", "gateway, a request of one token")}
INSTRUCTION_NS = 0.5


def parse(path):
    """(instructions, {function: calls}, {(file, line): instructions of a source line with what it calls}) of a callgrind dump."""
    names, calls, lines, total = {"fl": {}, "fn": {}}, Counter(), Counter(), 0
    where, line, called = "", 0, False
    for row in open(path):
        key, _, value = row.rstrip().partition("=")
        if key in ("fl", "fi", "fe", "fn", "cfn", "cfi", "cfl"):
            table = names["fn" if key.endswith("fn") else "fl"]
            number, _, name = value.partition(" ")
            if name:
                table[number] = name
            if key in ("fl", "fi", "fe"):
                where = table[number]
            elif key == "cfn":
                callee = table[number]
        elif key == "calls":
            calls[re.split("[@']", callee)[0]] += int(value.split()[0])
            called = True
        elif row[0] in "+-*0123456789" and len(row.split()) == 2:
            position, cost = row.split()
            line = line if position == "*" else line + int(position) if position[0] in "+-" else int(position)
            lines[where, line] += int(cost)
            if not called:
                total += int(cost)
            called = False
        elif key == "fn":
            line = 0
    return total, calls, lines


def speaks_of_ids(where, line, cache={}):
    path = ROOT / where[where.rfind("../") + 3:] if "../" in where else None
    if not path or not path.is_file():
        return False
    if path not in cache:
        cache[path] = path.read_text().splitlines()
    return 0 < line <= len(cache[path]) and IDS.search(cache[path][line - 1]) is not None


class Programs:
    """Of one build; one of them under valgrind, or none."""

    def __init__(self, build, store, workers, counted=None, inside=None):
        self.folder, self.port, self.counted = Path(tempfile.mkdtemp(prefix="tc-i-", dir="/tmp")), harness.free_port(), counted
        engine, experts = f"ipc://{self.folder}/engine", f"ipc://{self.folder}/experts"
        common = ["--model", options.model, "--engine", engine]
        commands = {"core": ["gpu-core/thermocline-core", *common, "--store", store, "--experts", experts, "--expert-source",
                             "workers" if workers else "inprocess", "--workers", 1, "--threads", 1, "--prefix-cache", 0, "--device",
                             "cpu", "--sessions", 2, "--shard", "partition", "--spin-us", 0, "--call-deadline-ms", 600000],
                    "gateway": ["gateway/thermocline-gateway", *common, "--listen", f"127.0.0.1:{self.port}"]}
        if workers:
            commands["worker"] = ["expert-worker/thermocline-worker", "--connect", experts, "--store", store, "--index", 0, "--of", 1,
                                  "--threads", 1, "--shard", "partition", "--spin-us", 0]
        self.processes = {}
        with open(self.folder / "log", "w") as log:
            for name, command in commands.items():
                command = [str(Path(build).resolve() / command[0]), *map(str, command[1:])]
                if name == counted:
                    command = ["valgrind", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={self.folder}/out",
                               *([f"--toggle-collect={inside}"] if inside else []), *command]
                self.processes[name] = subprocess.Popen(command, env=harness.ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if not harness.eventually(self.ready, 300):
            raise SystemExit((self.folder / "log").read_text())

    def ask(self, method, path, body=None):
        import http.client
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request(method, path, json.dumps(body) if body else None)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def ready(self):
        try:
            return self.ask("GET", "/api/v1/health")[0] == 200
        except OSError:
            return False

    def work(self, requests, tokens):
        for _ in range(requests):
            status, answer = self.ask("POST", "/api/v1/generate", {"prompt": "In the beginning", "max_tokens": tokens, "temperature": 0,
                                                                   "ignore_eos": True})
            assert status == 200, answer

    def dump(self):
        subprocess.run(["callgrind_control", "-d", str(self.processes[self.counted].pid)], check=True, capture_output=True)

    def count(self, requests, tokens):
        """Of a window, all threads together: instructions, readings of the clock, instructions of request ids."""
        self.work(1, 2)
        self.dump()
        self.work(requests, tokens)
        self.dump()
        found = [parse(path) for path in self.folder.glob("out.2*")]
        return (sum(f[0] for f in found), sum(f[1][name] for f in found for name in ("clock_gettime", "__clock_gettime")),
                sum(cost for f in found for place, cost in f[2].items() if speaks_of_ids(*place)))

    def cpu_ns(self, program, requests, tokens):
        """Of a window, the fastest tenth."""
        tasks, spent = Path(f"/proc/{self.processes[program].pid}/task"), []
        for _ in range(60):
            before = sum(int(p.read_text().split()[0]) for p in tasks.glob("*/schedstat"))
            self.work(requests, tokens)
            spent.append(sum(int(p.read_text().split()[0]) for p in tasks.glob("*/schedstat")) - before)
        return statistics.median(sorted(spent)[:6])

    def stop(self):
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            process.wait(120)


def with_programs(*arguments, do):
    programs = Programs(*arguments)
    try:
        return do(programs)
    finally:
        programs.stop()


def clock_ns():
    """Python's own reading is slower, so that of the benchmark of the hooks."""
    done = subprocess.run([Path(options.counts) / "benchmarks" / "thermocline-bench-hooks", "1"], capture_output=True, text=True)
    return json.loads(done.stdout)["clock_ns"]


def measure(name, store, clock):
    program, workers, requests, tokens, inside = CASES[name]
    units = requests * tokens
    sides = [with_programs(build, store, workers, program, inside, do=lambda p: p.count(requests, tokens))
             for build in (options.counts, options.bare)]
    unit_ns = with_programs(options.bare, store, workers, do=lambda p: p.cpu_ns(program, requests, tokens)) / units
    (with_, read, ids), (without, read_bare, _) = sides
    added, readings = (with_ - without) / units, (read - read_bare) / units
    return {"without": without / units, "added": added, "readings_added": readings, "request_ids": ids / units, "unit_ns": unit_ns}


def main():
    store = harness.verb("pack", options.model).stdout.strip()
    clock, figures = clock_ns(), {}
    for name in (*(options.only or CASES), *IN_ALL):
        if name in CASES:
            f = measure(name, store, clock)
        elif figures.keys() >= set(IN_ALL[name]):
            f = {key: sum(figures[part][key] for part in IN_ALL[name]) for key in figures[IN_ALL[name][0]] if "percent" not in key}
        else:
            continue
        figures[name] = {**f, "cost_percent": 100 * (f["added"] * INSTRUCTION_NS + f["readings_added"] * clock) / f["unit_ns"],
                         "request_ids_percent": 100 * f["request_ids"] * INSTRUCTION_NS / f["unit_ns"]}
        if not options.json:
            print(f"{name:32} {f['without']:12,.0f} instructions in {f['unit_ns'] / 1000:7.1f} us; counting adds {f['added']:6,.0f} and "
                  f"{f['readings_added']:5.1f} readings of the clock ({clock:.0f} ns): {figures[name]['cost_percent']:.2f} %; "
                  f"request ids {f['request_ids']:,.0f}: {figures[name]['request_ids_percent']:.2f} %", flush=True)
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--with", dest="counts", required=True)
    parser.add_argument("--without", dest="bare", required=True)
    parser.add_argument("--model", default=ROOT / "demo" / "model", type=Path)
    parser.add_argument("--only", action="append", choices=CASES)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["TC_BUILD"] = str(Path(options.counts).resolve())
    sys.path.insert(0, str(ROOT / "tests" / "e2e"))
    import harness
    main()
