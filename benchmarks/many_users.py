#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures a whole server under many users; ratios come from one run.

  many_users.py turn2     first token of a conversation's next turn, against computing all of it
  many_users.py users     8 streams at once, against the roofline of the experts they read together
  many_users.py sched     the scheduler's own time a step with 64 streams
  many_users.py admission time between a stream's tokens while a long prompt is admitted
  many_users.py overload  ten times the requests it can answer, for a minute

  --build DIR (build)  --model DIR (demo/model)  further words go to `thermocline serve`

Prints one JSON object a benchmark. Refuses: targets.
"""
import argparse
import http.client
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Server:
    def __init__(self, build, model, *words):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.process = subprocess.Popen(
            [str(build / "cli" / "thermocline"), "serve", str(model), "--listen", f"127.0.0.1:{self.port}",
             "--log-level", "error", *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for _ in range(6000):
            try:
                if self.get("/api/v1/health").get("ready"):
                    break
            except (OSError, ValueError):
                pass
            if self.process.poll() is not None:
                sys.exit("the server ended")
            time.sleep(0.05)
        self.info = self.get("/api/v1/model-info")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def get(self, path):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        c.request("GET", path)
        return json.loads(c.getresponse().read())

    def statistics(self):
        time.sleep(1.2)  # the gateway asks twice a second
        return self.get("/api/v1/model-info")["statistics"]

    def resident(self):
        """Bytes by program."""
        found = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                name, rest = re.match(r"\d+ \((.*)\) (.*)", stat.read_text()).groups()
                if int(rest.split()[1]) == self.process.pid:
                    rss = int((stat.parent / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
                    found[name] = found.get(name, 0) + rss
            except OSError:
                pass
        return found

    def stream(self, prompt, max_tokens, seed=1):
        """(seconds to the first event, times of all events, usage)"""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        c.connect()
        c.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begun, times, usage = time.monotonic(), [], None
        c.request("POST", "/v1/completions", json.dumps(
            {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "seed": seed, "stream": True,
             "stream_options": {"include_usage": True}}))
        answer = c.getresponse()
        while line := answer.readline():
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if event["choices"] and event["choices"][0]["text"]:
                    times.append(time.monotonic())
                usage = event.get("usage") or usage
        return (times[0] - begun if times else None), times, usage

    def answer(self, prompt, max_tokens):
        """The answer's tokens."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        c.request("POST", "/v1/completions", json.dumps(
            {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "return_token_ids": True}))
        return json.loads(c.getresponse().read())["choices"][0]["token_ids"]


def ids(server, count, seed):
    r = random.Random(seed)
    return [r.randrange(300, server.info["vocab"] - 300) for _ in range(count)]


def turn2(build, model, words):
    with Server(build, model, *words) as server:
        answer, question = 200, 32
        size = min(4000, server.info["context"] - 100)
        warm, cold, cached = [], [], []
        for i in range(5):
            first = ids(server, size - answer - question, 10 + i)
            second = first + server.answer(first, answer) + ids(server, question, 50 + i)
            seconds, _, usage = server.stream(second, 2)
            warm.append(seconds)
            cached.append(usage["prompt_tokens_details"]["cached_tokens"])
            cold.append(server.stream(ids(server, size, 100 + i), 2)[0])
        print(json.dumps({"bench": "turn2", "prompt_tokens": size, "answer_tokens": answer, "question_tokens": question,
                          "cached_tokens": cached[0],
                          "first_token_warm_ms": round(statistics.median(warm) * 1e3, 2),
                          "first_token_cold_ms": round(statistics.median(cold) * 1e3, 2),
                          "ratio": round(statistics.median(warm) / statistics.median(cold), 4)}), flush=True)


def read_bytes(build, model):
    """Bytes of one expert of one layer, and dense bytes that every step reads, as `inspect` tells them."""
    text = subprocess.run([str(build / "cli" / "thermocline"), "inspect", str(model)], capture_output=True, text=True,
                          check=True).stdout
    unit = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    each = re.search(r"([\d.]+) (\w+) each", text)
    dense = re.search(r"a token reads .* of experts, ([\d.]+) (\w+) of dense", text)
    return float(each[1]) * unit[each[2]], float(dense[1]) * unit[dense[2]]


def users(build, model, words, count=8, tokens=96):
    bandwidth = json.loads(subprocess.run(
        [str(build / "cli" / "thermocline"), "bench", "decode", str(model), "--json", "--tokens", "32", *map(str, words)],
        capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    gb_s = bandwidth["read_gb_per_s"]["median"]
    expert, dense = read_bytes(build, model)
    with Server(build, model, "--sessions", count, *words) as server:
        server.stream(ids(server, 16, 1), 16)
        before = server.statistics()
        done = []
        threads = [threading.Thread(target=lambda i=i: done.append(server.stream(ids(server, 16, 20 + i), tokens)))
                   for i in range(count)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        after = server.statistics()
        delta = {k: after[k] - before[k] for k in after if isinstance(after[k], int)}
        first = max(d[1][0] for d in done)  # all of them stream from here
        last = min(d[1][-1] for d in done)
        streamed = sum(sum(first <= t <= last for t in d[1]) for d in done)
        bytes_read = delta["expert_reads"] * expert + delta["steps"] * dense
        step_s = delta["step_us"] / 1e6
        print(json.dumps({"bench": "users", "users": count, "tokens_per_s": round(streamed / (last - first), 2),
                          "steps": delta["steps"], "tokens_a_step": round(delta["tokens_generated"] / delta["steps"], 2),
                          "expert_reads_a_step": round(delta["expert_reads"] / delta["steps"], 1),
                          "gb_read_a_step": round(bytes_read / delta["steps"] / 1e9, 4), "machine_gb_s": round(gb_s, 2),
                          "read_gb_s": round(bytes_read / step_s / 1e9, 2),
                          "of_roofline": round(bytes_read / step_s / 1e9 / gb_s, 3),
                          "sched_us_a_step": round(delta["sched_us"] / delta["steps"], 2)}), flush=True)


def sched(build, model, words, count=64, warm_s=5, windows=16):
    """While all of them run, the starts and ends left out, in windows of half a second: who else runs on these CPUs now and then takes
    one away in the middle of the scheduler's work, for milliseconds, and that is in the mean of few windows only."""
    context = 1536  # enough for the seconds below, on a fast machine, too
    with Server(build, model, "--context", context, "--sessions", count, *words) as server:
        for i in range(count):
            threading.Thread(target=lambda i=i: server.stream(ids(server, 16, 20 + i), context - 20), daemon=True).start()
        time.sleep(warm_s)
        seen = [server.statistics()]
        for _ in range(windows):
            time.sleep(0.5)
            seen.append(server.statistics())
        deltas = [{k: b[k] - a[k] for k in b if isinstance(b[k], int)} for a, b in zip(seen, seen[1:])]
        deltas = [d for d in deltas if d["steps"] > 0]
        steps = sum(d["steps"] for d in deltas)
        all_of = lambda key: sum(d[key] for d in deltas)  # noqa: E731
        own = sorted((d["sched_us"] - d["placement_us"]) / d["steps"] for d in deltas)
        print(json.dumps({"bench": "sched", "streams": count, "steps": steps,
                          "tokens_a_step": round(all_of("tokens_generated") / steps, 2),
                          "step_us": round(all_of("step_us") / steps, 1),
                          "own_us_a_step": {"median": round(percentile(own, 0.5), 2), "least": round(own[0], 2), "most": round(own[-1], 2),
                                            "mean": round((all_of("sched_us") - all_of("placement_us")) / steps, 2)},
                          "placement_us_a_step": round(all_of("placement_us") / steps, 2)}), flush=True)
    os._exit(0)  # the streams end with the server


def gaps(times):
    return [b - a for a, b in zip(times, times[1:])]


def percentile(values, at):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * at))]


def admission(build, model, words):
    chunk_ms = int(words.pop(words.index("--chunk-ms") + 1)) if "--chunk-ms" in words else 100
    words = [w for w in words if w != "--chunk-ms"]
    with Server(build, model, "--chunk-ms", chunk_ms, *words) as server:
        size = min(4000, server.info["context"] - 100)
        server.stream(ids(server, size, 1), 2)  # what a prompt token takes is known
        undisturbed, disturbed, admitted = [], [], []
        for i in range(4):
            result, tokens = [], min(1200, server.info["context"] - 100)
            running = threading.Thread(target=lambda: result.append(server.stream(ids(server, 16, 5), tokens)))
            running.start()
            time.sleep(0.15)
            begun = time.monotonic()
            server.stream(ids(server, size, 200 + i), 2)
            ended = time.monotonic()
            running.join()
            times = result[0][1]
            admitted.append(ended - begun)
            disturbed += gaps([t for t in times if begun <= t <= ended])
            undisturbed += gaps([t for t in times if t > ended])
        p99, base = percentile(disturbed, 0.99), percentile(undisturbed, 0.99)
        print(json.dumps({"bench": "admission", "prompt_tokens": size, "chunk_ms": chunk_ms,
                          "admitted_in_ms": round(statistics.median(admitted) * 1e3, 1),
                          "gaps": [len(undisturbed), len(disturbed)],
                          "p99_undisturbed_ms": round(base * 1e3, 2), "p99_while_admitting_ms": round(p99 * 1e3, 2),
                          "bound_ms": round(base * 2e3 + chunk_ms, 2)}), flush=True)


def overload(build, model, words, seconds=60, tokens=32):
    with Server(build, model, "--queue-requests", 32, *words) as server:
        counted = []

        def user(until):
            while time.monotonic() < until:
                server.stream("In the beginning", tokens)
                counted.append(1)

        begun = time.monotonic()
        threads = [threading.Thread(target=user, args=(begun + 5,)) for _ in range(16)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        capacity = len(counted) / (time.monotonic() - begun)
        before = server.resident()
        load = subprocess.run([str(build / "benchmarks" / "thermocline-gateway-load"), "overload", str(server.port),
                               str(capacity * 10), str(seconds), str(tokens)], capture_output=True, text=True, check=True)
        after = server.resident()
        ready = server.get("/api/v1/health")["ready"]
        print(json.dumps({**json.loads(load.stdout), "capacity_a_second": round(capacity, 1), "ready_afterwards": ready,
                          "resident_mib_before": {k: v >> 20 for k, v in before.items()},
                          "resident_mib_after": {k: v >> 20 for k, v in after.items()}}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["turn2", "users", "sched", "admission", "overload"])
    parser.add_argument("--build", type=Path, default=ROOT / "build")
    parser.add_argument("--model", type=Path, default=ROOT / "demo" / "model")
    arguments, words = parser.parse_known_args()
    globals()[arguments.what](arguments.build, arguments.model, words)


if __name__ == "__main__":
    main()
