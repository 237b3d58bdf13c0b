#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hours of random clients on a server whose workers are killed and stopped every few seconds, later its core and gateway too.

  soak.py --build DIR [--minutes N] [--seed N] [--clients N] [--kill-core-from FRACTION] [--log DIR]

What must hold: every answer, and every beginning of one, is its golden; a request is lost only when core or gateway were killed
while it ran, and a stream then never says that it is whole; nothing is stuck; memory, descriptors and threads do not grow.
Resident memory creeps for hours though nothing is lost (malloc touches one page more of what it has), so from time to time all clients
rest; they give free memory back then. What gateway and core hold from malloc must be what it was at earlier rests, and so must what is resident.
Prints a summary and `N passed, N failed`."""
import argparse
import collections
import json
import os
import random
import signal
import socket
import statistics
import sys
import threading
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
GROWTH_BYTES_A_REQUEST = 64  # the least leak of a request's that must show: well below any structure of ours
WORKERS = 3                  # the last is stopped, but never killed: its memory is watched over the whole run
HEAP_JITTER_BYTES = 16 << 10 # between the rests of one process, once it has met everything
RESIDENT_JITTER_BYTES = 128 << 10 # a page that is shared by two blocks stays when one of them goes
REST_S = 4                   # until gateway and core have given back what is free
RESTS = 12                   # and each is a look at both
KILLS_A_MINUTE = 8           # of one worker: the supervisor gives up beyond ten
PROGRAMS = {"gateway": "thermocline-gat", "core": "thermocline-cor", "worker": "thermocline-wor"}


def memory(pid):
    """Anonymous bytes, all resident bytes, descriptors and threads of a process; None when it is gone."""
    try:
        status = dict(l.split(":", 1) for l in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in l)
        kib = {k: int(status[k].split()[0]) for k in ("RssAnon", "VmRSS")}
        return kib["RssAnon"] * 1024, kib["VmRSS"] * 1024, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])
    except (OSError, KeyError, ValueError):
        return None


def slope(points):
    """Theil and Sen: the median of the slopes of all pairs, and the bounds that hold nine tenths of them apart from chance."""
    step = max(1, len(points) // 300)
    p = points[::step]
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(p) for b in p[i + 1:] if b[0] > a[0])
    n = len(p)
    spread = 1.96 * (n * (n - 1) * (2 * n + 5) / 18) ** 0.5
    at = lambda k: slopes[min(len(slopes) - 1, max(0, int(k)))]  # noqa: E731
    return statistics.median(slopes), at((len(slopes) - spread) / 2), at((len(slopes) + spread) / 2)


class Soak:
    def __init__(self, server, cases, golden, seed, seconds, clients, kill_core_from, log=print, patience_s=90):
        import soak_clients
        self.lib, self.server, self.log, self.seconds, self.patience_s = soak_clients, server, log, seconds, patience_s
        self.random = random.Random(seed)
        self.begin = time.monotonic()
        self.end, self.cores_from = self.begin + seconds, self.begin + seconds * kill_core_from
        self.clients = [soak_clients.Client(server.port, cases, golden, seed * 1000 + i, patience_s) for i in range(clients)]
        self.lock, self.at_work = threading.Lock(), threading.Event()
        self.at_work.set()
        self.heaps = collections.defaultdict(list)  # (program, pid) -> [(s, bytes at rest held from malloc, anonymous bytes resident)]
        self.counts, self.chaos = collections.Counter(), collections.Counter()
        self.wrong, self.outages, self.asking = [], [], {}
        self.samples = collections.defaultdict(list)  # (program, pid) -> [(s, anonymous, resident, descriptors, threads)]
        self.kills = collections.defaultdict(list)
        self.back_s = collections.defaultdict(list)

    # ---- clients ----

    def excused(self, since):
        """Was core or gateway killed after `since`, or away at that time? A kill is noted before it happens."""
        with self.lock:
            return any(end is None or end > since for _, end in self.outages)

    def run_client(self, number, client):
        while time.monotonic() < self.end:
            self.at_work.wait()
            since = time.monotonic()
            self.asking[number] = since
            try:
                outcome = client.ask()
            except self.lib.Lost as error:
                outcome = "lost" if self.excused(since) else "wrong"
                if outcome == "wrong":
                    self.fail(f"lost without a reason ({error}): {client.what}")
                time.sleep(0.1)
            except Exception as error:  # whatever it is, it must be seen
                outcome = "wrong"
                self.fail(f"{type(error).__name__}: {error}: {client.what}")
            with self.lock:
                self.counts[outcome] += 1
            self.asking.pop(number, None)
            time.sleep(client.random.random() * 0.3)

    def fail(self, text):
        with self.lock:
            self.wrong.append(f"{time.monotonic() - self.begin:.1f} s: {text}")
            if len(self.wrong) <= 20:
                self.log("WRONG " + self.wrong[-1][:1500])

    # ---- what goes wrong ----

    def killable(self, program):
        now, pids = time.monotonic(), self.named(program)
        if program == "worker":
            pids = {n: p for n, p in pids.items() if n != WORKERS - 1}
        return [(n, p) for n, p in pids.items() if len([t for t in self.kills[program, n] if t > now - 60]) < KILLS_A_MINUTE]

    def named(self, program):
        """{number: pid}; workers tell their number on their command line."""
        found = {}
        for pid in self.server.pids(PROGRAMS[program]):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            except OSError:
                continue
            found[int(words[words.index("--index") + 1]) if "--index" in words else 0] = pid
        return found

    def kill(self, program):
        choice = self.killable(program)
        if not choice:
            return
        number, pid = self.random.choice(choice)
        self.kills[program, number].append(time.monotonic())
        outage = [time.monotonic(), None]
        if program != "worker":
            with self.lock:
                self.outages.append(outage)
        os.kill(pid, signal.SIGKILL)
        self.chaos[f"{program} killed"] += 1
        if program == "worker":
            return
        while time.monotonic() < outage[0] + 60 and not (self.named(program).get(0, pid) != pid and self.server.ready()):
            time.sleep(0.05)
        self.back_s[program].append(time.monotonic() - outage[0])
        time.sleep(0.2)  # who asked before it was back may hear of it now
        with self.lock:
            outage[1] = time.monotonic()
        if self.back_s[program][-1] > 50:
            self.fail(f"the {program} did not come back")

    def stop_worker(self):
        pids = list(self.named("worker").values())
        if not pids:
            return
        pid = self.random.choice(pids)
        try:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(self.random.choice([0.05, 0.3, 1, 2.5]))
            os.kill(pid, signal.SIGCONT)
            self.chaos["worker stopped"] += 1
        except ProcessLookupError:
            pass

    def knock(self):
        """Connections that say little and go."""
        held = []
        for i in range(60):
            s = socket.socket()
            s.settimeout(2)
            try:
                s.connect(("127.0.0.1", self.server.port))
                s.sendall((b"", b"GET / HT", b"POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5;" +
                           b"x=y" * 200)[i % 3])
                held.append(s)
            except OSError:
                s.close()
        time.sleep(0.3)
        for s in held:
            s.close()
        self.chaos["knocks"] += 1

    def run_chaos(self):
        while time.monotonic() < self.end - 2:
            time.sleep(self.random.uniform(1.5, 4.5))
            self.at_work.wait()
            try:
                self.harm(self.random.random())
            except Exception as error:  # the soak would go on in peace
                self.fail(f"chaos: {type(error).__name__}: {error}")

    def harm(self, how):
        if time.monotonic() > self.cores_from and how < 0.15:
            self.kill("core" if how < 0.1 else "gateway")
        elif how < 0.75:
            self.kill("worker")
        elif how < 0.93:
            self.stop_worker()
        else:
            self.knock()

    # ---- looking ----

    def sample(self):
        now = time.monotonic() - self.begin
        for program in PROGRAMS:
            for number, pid in self.named(program).items():
                if (m := memory(pid)) and (program != "worker" or number == WORKERS - 1):
                    self.samples[program, pid].append((now, *m))

    def run_sampler(self, path):
        every = max(1, min(10, self.seconds / 60))
        with open(path, "w") as log:
            while time.monotonic() < self.end:
                self.sample()
                for who, points in self.samples.items():
                    print(*who, *points[-1], file=log, flush=True)
                if int(time.monotonic() / 60) != int((time.monotonic() - every) / 60):
                    self.log(f"{(time.monotonic() - self.begin) / 60:.1f} min: {dict(self.counts)} {dict(self.chaos)}")
                time.sleep(every)

    def rest(self):
        """Everybody waits; what the programs then hold is noted."""
        self.at_work.clear()
        try:
            deadline = time.monotonic() + self.patience_s
            while self.asking and time.monotonic() < deadline:
                time.sleep(0.1)
            if self.asking or self.settle():
                return  # stuck: the end tells
            time.sleep(REST_S)
            pids = {program: self.named(program)[0] for program in ("gateway", "core")}
            resident = {program: memory(pid)[0] for program, pid in pids.items()}
            told = self.server.get("/api/v1/memory")[1]
            for program, held in (("gateway", told["gateway"]["heap_bytes"]), ("core", told["held"]["heap"])):
                self.heaps[program, pids[program]].append((time.monotonic() - self.begin, held, resident[program]))
        except (OSError, KeyError, TypeError) as error:
            self.fail(f"at rest: {type(error).__name__}: {error}")
        finally:
            self.at_work.set()

    def run_rests(self):
        for i in range(1, RESTS + 1):
            time.sleep(max(0, self.begin + self.seconds * (i - 0.5) / RESTS - time.monotonic()))
            self.rest()

    def heap_growth(self):
        lines, bad = [], []
        for (program, pid), points in self.heaps.items():
            settled = points[len(points) // 4:]
            if len(settled) < 4:
                continue
            half = len(settled) // 2
            for name, column, jitter in (("heap", 1, HEAP_JITTER_BYTES), ("resident", 2, RESIDENT_JITTER_BYTES)):
                before, after = (statistics.median(p[column] for p in part) for part in (settled[:half], settled[half:]))
                middle, low, high = slope([(p[0], p[column]) for p in settled])
                lines.append(f"{program} {pid}: {name} at rest {' '.join(str(p[column]) for p in points)} bytes: {after - before:+.0f} from half to half, "
                             f"slope {middle * 3600 / 1024:.0f} KiB/h ({low * 3600 / 1024:.0f} to {high * 3600 / 1024:.0f})")
                if after - before > (jitter if self.seconds >= 1800 else 1 << 20):  # shorter: it still meets what is new
                    bad.append(f"{name} grows: " + lines[-1])
        return lines, bad

    def growth(self):
        """Complaints about what grew, and a line for each process that lived long enough to tell."""
        lines, bad = [], []
        asked = sum(self.counts.values())
        for (program, pid), points in self.samples.items():
            settled = [p for p in points if p[0] > points[0][0] + (points[-1][0] - points[0][0]) / 4]
            if len(settled) < 20:
                continue
            passed_s = settled[-1][0] - settled[0][0]
            allowed = max(GROWTH_BYTES_A_REQUEST * asked / self.seconds, (4 << 20) / passed_s if self.seconds < 900 else 0)
            for name, column in (("anonymous", 1), ("resident", 2)):
                middle, low, high = slope([(p[0], p[column]) for p in settled])
                lines.append(f"{program} {pid}: {name} {settled[0][column] >> 10} -> {settled[-1][column] >> 10} KiB in {passed_s / 60:.1f} min, slope "
                             f"{middle * 3600 / 1024:.0f} KiB/h ({low * 3600 / 1024:.0f} to {high * 3600 / 1024:.0f})")
                if name == "anonymous" and low > 0 and middle > allowed:
                    bad.append(f"memory grows, more than {allowed * 3600 / 1024:.0f} KiB/h: " + lines[-1])
            for name, column in (("descriptors", 3), ("threads", 4)):
                half = len(settled) // 2
                before, after = max(p[column] for p in settled[:half]), min(p[column] for p in settled[half:])
                if after > before:
                    bad.append(f"{program}: {name} grow: at most {before}, then at least {after}")
            lines.append(f"{program} {pid}: descriptors {settled[0][3]} -> {settled[-1][3]}, threads {settled[0][4]} -> {settled[-1][4]}")
        return lines, bad

    def run(self, samples_path):
        threads = [threading.Thread(target=self.run_client, args=(i, c), daemon=True) for i, c in enumerate(self.clients)]
        threads += [threading.Thread(target=self.run_chaos, daemon=True), threading.Thread(target=self.run_sampler, args=(samples_path,), daemon=True),
                    threading.Thread(target=self.run_rests, daemon=True)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(max(0.1, self.end + 2 * self.patience_s - time.monotonic()))
        stuck = [f"client {n} since {time.monotonic() - since:.0f} s" for n, since in self.asking.items()]
        quiet = self.settle()
        lines, bad = [a + b for a, b in zip(self.growth(), self.heap_growth())]
        for line in lines:
            self.log(line)
        for program, times in self.back_s.items():
            self.log(f"{program} killed {len(times)} times, ready again after {statistics.median(times):.2f} s, at most {max(times):.2f} s")
        self.log(f"{dict(self.counts)}, {dict(self.chaos)} in {(time.monotonic() - self.begin) / 60:.1f} min")
        checks = {"every answer is its golden, and none is lost": self.wrong, "nothing is stuck": stuck + quiet, "nothing grows": bad,
                  "something was asked, killed and cancelled": [] if self.counts["ok"] and self.chaos["worker killed"] and
                  self.counts["cancelled"] else ["no"]}
        return checks

    def settle(self):
        """Complaints when the server does not come to rest after the last client."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                health, now = self.server.get("/api/v1/health")[1], self.server.statistics()
                if now["workers_up"] == WORKERS and now["running"] == health["waiting"] == 0:
                    return []
            except (OSError, KeyError, TypeError):
                pass
            time.sleep(0.3)
        return [f"not at rest: {self.server.get('/api/v1/health')}"]


def golden_of(cases):
    import soak_clients
    from harness import DEMO, Server
    with Server(DEMO, 0, "--prefix-cache", 0) as alone:
        found = []
        for dialect, path, body in cases:
            status, answer = alone.post(path, body)
            if status != 200:
                raise AssertionError(f"{path} {body}: {status} {answer}")
            found.append(soak_clients.whole_text(dialect, answer))
    return found


def soak(seconds, seed, clients, kill_core_from, folder, log):
    """{what must hold: complaints}"""
    import soak_clients
    from harness import DEMO, Server
    cases = soak_clients.catalogue()
    golden = golden_of(cases)
    log(f"{len(cases)} requests have their goldens; seed {seed}, {clients} clients, {seconds / 60:.1f} min")
    with Server(DEMO, WORKERS, "--sessions", 6, "--prefix-cache", "8M", "--chunk-ms", 20) as server:
        checks = Soak(server, cases, golden, seed, seconds, clients, kill_core_from, log).run(Path(folder) / "samples.txt")
        code = server.stop()
        (Path(folder) / "server.log").write_text(server.text())
        checks["it stops in order"] = [] if code == 0 else [f"exit code {code}"]
    return checks


class Short(unittest.TestCase):
    def test_twenty_seconds(self):
        import tempfile
        said = []
        with tempfile.TemporaryDirectory() as folder:
            checks = soak(20, 5, 6, 0.5, folder, said.append)
        for what, complaints in checks.items():
            self.assertEqual(complaints, [], f"{what}\n" + "\n".join(said))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--kill-core-from", type=float, default=0.85, metavar="FRACTION", help="of the time, when core and gateway are killed too")
    parser.add_argument("--log", default=".", metavar="DIR", help="where samples.txt and server.log go")
    o = parser.parse_args()
    os.environ["TC_BUILD"] = str(Path(o.build).resolve())
    sys.path.insert(0, str(HERE))
    Path(o.log).mkdir(parents=True, exist_ok=True)
    checks = soak(o.minutes * 60, o.seed, o.clients, o.kill_core_from, o.log, lambda text: print(text, flush=True))
    for what, complaints in checks.items():
        print(f"{'FAILED' if complaints else 'ok':7} {what}" + "".join(f"\n        {c[:1000]}" for c in complaints[:20]), flush=True)
    failed = sum(map(bool, checks.values()))
    print(f"{len(checks) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
