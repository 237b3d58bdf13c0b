#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What other programs add to a report: a client of others' making, and peers on the same shape.

  suite_others.py --output DIR --model MODEL [--thermocline PATH] [--parts LIST] [--work DIR]

DIR has the results.jsonl of `thermocline bench MODEL --suite ... --output DIR`; records are appended to it as it does (docs/REPORT.md).
  latency.crosscheck   aiperf against `thermocline serve`, Poisson arrivals, beside what our own client measured at the same share
  peers.llamacpp       benchmarks/peers/llamacpp.py: decode and prompts of the same shape, by turns
  peers.transformers   transformers with bitsandbytes on the model itself, by turns
Each lives in a virtual environment of its own below --work, pinned (requirements-aiperf.txt, requirements-transformers.txt); what cannot be
installed or run here is `skipped`, with its reason. Parts that are done are not run again.

Owns: the order, the records. Refuses: to be needed: a report is whole without it.
"""
import argparse
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SHARES = (50, 100)      # % of capacity at which the clients are compared
PROMPT, ANSWER = 56, 32  # tokens: the mean of our own client's, and its answers
SECONDS = 20
TIMEOUT = 1800


class Skip(Exception):
    """The part cannot run on this machine; its text says why."""


def say(text):
    print(f"suite: {text}", file=sys.stderr, flush=True)


def run(command, what, timeout=TIMEOUT, **more):
    """Stdout; what fails is a reason to skip."""
    try:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout, check=False, **more)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Skip(f"{what}: {error}"[:300]) from error
    if done.returncode:
        lines = [line for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
        raise Skip(f"{what} failed: {lines[-1][:240] if lines else done.returncode}")
    return done.stdout


# ---- records ----


class Results:
    """The file, as far as it stands, and what is appended to it."""

    def __init__(self, output):
        self.path = output / "results.jsonl"
        text = self.path.read_bytes()
        whole = text[:text.rfind(b"\n") + 1]  # whoever wrote half a line was stopped
        if len(whole) < len(text):
            os.truncate(self.path, len(whole))
        self.records = [json.loads(line) for line in whole.decode().splitlines()]
        self.run = [r for r in self.records if r["record"] == "run"][-1]
        self.part, self.lines = None, []

    def done(self, part):
        states = [r["state"] for r in self.records if r["record"] == "part" and r["id"] == part]
        return bool(states) and states[-1] == "done"

    def mean(self, parts):
        """The run names these parts too, from now on."""
        if set(parts) <= set(self.run["parts"]):
            return
        self.run = {**self.run, "parts": self.run["parts"] + [p for p in parts if p not in self.run["parts"]]}
        self.write([self.run])

    def write(self, records):
        text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self.records += records

    def figure(self, figure, series, x, unit, better, values, roofline=None, x_unit=""):
        self.lines.append({"record": "figure", "id": f"{self.part}/{figure}/{series}/{x}", "part": self.part, "figure": figure,
                           "series": series, "x": x, "x_unit": x_unit, "unit": unit, "better": better,
                           "values": [float(v) for v in values], "roofline": roofline})

    def measure(self, part, section, method, function):
        if self.done(part):
            say(f"{part}: done before")
            return True
        self.part, self.lines, began = part, [], time.monotonic()
        state, reason, note = "done", "", ""
        say(f"{part} ...")
        try:
            note = function(self) or ""
        except Skip as skip:
            state, reason, self.lines = "skipped", str(skip), []
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            state, reason, self.lines = "failed", f"{type(error).__name__}: {error}"[:300], []
        seconds = round(time.monotonic() - began, 1)
        self.write([*self.lines, {"record": "part", "id": part, "section": section, "state": state, "reason": reason, "seconds": seconds,
                                  "method": f"{method} {note}".strip(), "parameters": {}}])
        say(f"{part}: {state} in {seconds} s{': ' + reason if reason else ''}")
        return state != "failed"


def venv_of(work, name):
    """A virtual environment with what requirements-NAME.txt pins."""
    folder, requirements = work / f"venv-{name}", HERE / f"requirements-{name}.txt"
    stamp = folder / "requirements.txt"
    if stamp.exists() and stamp.read_text() == requirements.read_text():
        return folder / "bin"
    shutil.rmtree(folder, ignore_errors=True)
    say(f"installing {name} (once) ...")
    run([sys.executable, "-m", "venv", folder], f"a virtual environment for {name}")
    hashes = ["--require-hashes"] if "--hash=" in requirements.read_text() else []
    run([folder / "bin/python", "-m", "pip", "install", "--quiet", *hashes, "-r", requirements], f"installing {name}")
    stamp.write_text(requirements.read_text())
    return folder / "bin"


# ---- the other client ----


class Server:
    def __init__(self, o):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([o.thermocline, "serve", o.model, "--listen", f"127.0.0.1:{self.port}", "--model-name", "served",
                                         "--context", "256", *o.options], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def __enter__(self):
        for _ in range(1200):
            try:
                with urllib.request.urlopen(self.url + "/api/v1/health", timeout=2) as answer:
                    if answer.status == 200:
                        return self
            except OSError:
                time.sleep(0.1)
            if self.process.poll() is not None:
                break
        self.__exit__()
        self.log.seek(0)
        raise Skip(f"the server did not get ready: {self.log.read()[-200:]}")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)


def cpu_seconds():
    """Of children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ask_aiperf(binaries, o, url, rate, folder):
    """Milliseconds: {"first": {"p50": ...}, "between": {...}}; how many requests, and how many CPUs aiperf kept busy itself."""
    count = max(10, int(rate * SECONDS))
    command = [binaries / "aiperf", "profile", "--model", "served", "--url", url, "--endpoint-type", "completions", "--streaming",
               "--tokenizer", o.model, "--request-rate", f"{rate:.3f}", "--arrival-pattern", "poisson", "--request-count", count,
               "--synthetic-input-tokens-mean", PROMPT, "--synthetic-input-tokens-stddev", 0, "--output-tokens-mean", ANSWER,
               "--output-tokens-stddev", 0, "--extra-inputs", "ignore_eos:true", "--extra-inputs", "temperature:0", "--random-seed", 1,
               "--ui", "none", "--artifact-dir", folder]
    # A folder is no hub's name: told to stay offline, aiperf would look for it among those fetched before.
    began, used = time.monotonic(), cpu_seconds()
    run(command, "aiperf", env={**os.environ, "TOKENIZERS_PARALLELISM": "false"})
    cpus = (cpu_seconds() - used) / (time.monotonic() - began)
    answer = json.loads(next(Path(folder).rglob("profile_export_aiperf.json")).read_text())
    pick = lambda key: {q: float(answer[key][q]) for q in ("p50", "p95", "p99")}  # noqa: E731
    return {"first": pick("time_to_first_token"), "between": pick("inter_token_latency")}, count, cpus


def crosscheck(o):
    def measure(results):
        capacity = [r for r in results.records if r.get("figure") == "capacity"]
        if not capacity:
            raise Skip("the server's capacity is not in these results (part latency.open-loop)")
        rate = statistics.median(capacity[-1]["values"])
        binaries = venv_of(o.work, "aiperf")
        with Server(o) as server, tempfile.TemporaryDirectory() as folder:
            for share in SHARES:
                seen, count, cpus = ask_aiperf(binaries, o, server.url, rate * share / 100, Path(folder) / str(share))
                for what, figure, own in (("first", "crosscheck-first-token", "first-token-by-load"),
                                          ("between", "crosscheck-between-tokens", "between-tokens-by-load")):
                    for quantile, value in seen[what].items():
                        results.figure(figure, f"aiperf, {quantile.upper()}", share, "ms", "lower", [value], x_unit="% of capacity")
                    for r in [r for r in results.records if r.get("figure") == own and r["x"] == share]:
                        results.figure(figure, f"our client, {r['series']}", share, "ms", "lower", r["values"], x_unit="% of capacity")
        return (f"{rate:.2f} requests/s are 100 %; {count} requests at the last share; between tokens aiperf gives means a request. It runs on the "
                f"same {os.cpu_count()} CPUs as the server and kept {cpus:.1f} of them busy itself: where that is not little, its figures are of a slower machine.")

    return measure


# ---- peers ----


def llamacpp(o):
    def measure(results):
        if not shutil.which("cmake"):
            raise Skip("cmake is missing: llama.cpp cannot be built")
        out = run([sys.executable, HERE / "peers/llamacpp.py", "--json", "--shape", o.shape, "--layers", o.layers, "--quant", "Q4_0,Q4_K",
                   "--head", "nf4", "--rounds", o.rounds, "--tokens", 64, "--prompt", 256, "--thermocline", o.thermocline, "--work", o.work],
                  "llamacpp.py", timeout=3600)
        for answer in map(json.loads, out.splitlines()):
            for name, f in answer["figures"].items():
                what = "decode" if name.startswith("tg") else "prompt"
                x = f"{answer['shape']}, {answer['quant']}"
                roof = lambda side: (statistics.median(f[side]["samples"]) / f[f"{side}_of_roofline"]["median"]  # noqa: E731
                                     if f"{side}_of_roofline" in f else None)
                results.figure(f"peer-{what}", "thermocline", x, "tokens/s", "higher", f["ours"]["samples"], roof("ours"))
                results.figure(f"peer-{what}", "llama.cpp", x, "tokens/s", "higher", f["llamacpp"]["samples"], roof("llamacpp"))
                results.figure("peer-ratio", f"{what}, ours / llama.cpp", x, "times", "higher", f["ratio"]["samples"])
        return f"{answer['layers']} layers of random weights, {answer['threads']} threads each side, {answer['peer']}, {o.rounds} turns."

    return measure


def ours_once(o, tokens):
    out = run([o.thermocline, "bench", "decode", o.model, "--json", "--data-plane", "shm", "--tokens", tokens, "--prompt-tokens", 32,
               "--repetitions", 1, *o.options], "thermocline bench decode")
    return json.loads(out.splitlines()[-1])["tokens_per_s"]["median"]


def transformers(o):
    def measure(results):
        binaries = venv_of(o.work, "transformers")
        rates, ratios = {"thermocline": [], "transformers": []}, []
        for turn in range(o.rounds):
            peer = lambda: json.loads(run([binaries / "python", HERE / "peers/transformers_bnb.py", o.model, "--tokens", 32],  # noqa: E731
                                          "transformers").splitlines()[-1])
            first = turn % 2 == 0
            own = ours_once(o, 32) if first else None
            seen = peer()
            own = own or ours_once(o, 32)
            rates["thermocline"].append(own)
            rates["transformers"].append(seen["tokens_per_s"])
            ratios.append(own / seen["tokens_per_s"])
        name = o.model.resolve().name
        for series, values in rates.items():
            results.figure("peer-decode-itself", series, name, "tokens/s", "higher", values)
        results.figure("peer-ratio", "decode, ours / transformers + bitsandbytes", name, "times", "higher", ratios)
        return f"transformers {seen['transformers']}, bitsandbytes {seen['bitsandbytes']}, torch {seen['torch']} on {seen['device']}, {o.rounds} turns."

    return measure


PARTS = {
    "latency.crosscheck": ("latency", "The same server under Poisson arrivals that aiperf makes, at shares of the capacity that our own client "
                                      "measured; our client's figures of the same share beside it.", crosscheck),
    "peers.llamacpp": ("peers", "The same shape, threads and class of precision in llama.cpp, by turns in one run; each side's roofline is its own "
                                "bytes over the read bandwidth of the turn.", llamacpp),
    "peers.transformers": ("peers", "The model itself in transformers with bitsandbytes' 4-bit weights, greedy decoding of one user, by turns.",
                           transformers),
}


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--output", type=Path, required=True)
    p.add_argument("--model", type=Path, required=True)
    p.add_argument("--thermocline", type=Path, default=ROOT / "build/cli/thermocline")
    p.add_argument("--work", type=Path, default=ROOT / "build-peers", help="where environments, sources and models are kept")
    p.add_argument("--parts", default=",".join(PARTS))
    p.add_argument("--shape", default="qwen3-30b-a3b", help="of peers.llamacpp")
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--rounds", type=int, default=3, help="turns of the peers")
    o, o.options = p.parse_known_args(argv)
    o.thermocline, o.work, o.model = o.thermocline.resolve(), o.work.resolve(), o.model.resolve()
    wanted = [part for part in PARTS if part in o.parts.split(",")]
    o.work.mkdir(parents=True, exist_ok=True)
    results = Results(o.output)
    results.mean(wanted)
    good = [results.measure(part, PARTS[part][0], PARTS[part][1], PARTS[part][2](o)) for part in wanted]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
