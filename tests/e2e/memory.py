# SPDX-License-Identifier: Apache-2.0
"""The memory guard: random plans and loads in a memory cgroup of their own, with a neighbour that takes memory and gives it
back. Nobody is killed, and every refusal is explained. TC_MEMORY_PLANS: how many (default 6), from TC_MEMORY_FIRST on."""
import concurrent.futures
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from harness import CACHE, DEMO, ENVIRONMENT, PROGRAM, Server, children, eventually, free_port, verb

FIRST, PLANS = int(os.environ.get("TC_MEMORY_FIRST", "0")), int(os.environ.get("TC_MEMORY_PLANS", "6"))
MIB = 1 << 20
NEIGHBOUR = "import sys, time\nheld = bytearray(int(sys.argv[1]))\nprint('held', flush=True)\ntime.sleep(float(sys.argv[2]))"


class Group:
    """A memory cgroup of either version with a limit; None where none may be made."""

    def __init__(self, limit):
        for root, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
            self.path = Path(root) / f"thermocline-test-{os.getpid()}-{random.randrange(1 << 30)}"
            try:
                self.path.mkdir()
            except OSError:
                continue
            try:
                (self.path / name).write_text(str(limit))
                self.v2 = name == "memory.max"
                return
            except OSError:
                self.path.rmdir()
        raise unittest.SkipTest("no memory cgroup may be made here")

    def enter(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def kills(self):
        text = (self.path / ("memory.events" if self.v2 else "memory.oom_control")).read_text()
        return int(re.search(r"^oom_kill (\d+)", text, re.M).group(1))

    def remove(self):
        eventually(lambda: not (self.path / "cgroup.procs").read_text().split(), 60)
        eventually(self.gone, 10)
        if self.path.exists():
            self.path.rmdir()  # tells why not

    def gone(self):
        try:
            self.path.rmdir()
        except OSError:
            return False
        return True


class InGroup(Server):
    """A server in a group. `refused`: why it did not start, where it told."""

    def __init__(self, group, *arguments):
        self.port, self.refused = free_port(), None
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = tempfile.NamedTemporaryFile("w+", prefix="memory-", suffix=".log", dir=CACHE, delete=False)
        command = [str(PROGRAM), "serve", str(DEMO), "--listen", f"127.0.0.1:{self.port}", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=ENVIRONMENT,
                                        preexec_fn=group.enter)
        eventually(lambda: self.process.poll() is not None or self.ready(), 60)
        if self.process.poll() is not None:
            self.refused = self.text()


class Memory(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        verb("generate", DEMO, "a", "--max-tokens", 1)  # the arena is there, outside of any group

    def load(self, server, chance):
        """One random request: its status and, where refused, the reason."""
        body = {"prompt": "word " * chance.choice((1, 20, 200)), "max_tokens": chance.choice((1, 30, 400)), "ignore_eos": True}
        status, answer = server.post("/api/v1/generate", body)
        return status, answer["error"]["message"] if status != 200 else None

    def one(self, chance, tally):
        limit = chance.choice((96, 160, 192, 224, 256, 288, 320)) * MIB
        arguments = ["--workers", chance.choice((0, 1, 2)), "--context", chance.choice((512, 2048, 4096)),
                     "--sessions", chance.choice((1, 4, 16, 64)), "--log-level", "info",
                     "--hot-budget", chance.choice((0, 4 * MIB, 14 * MIB, 14 * MIB)), "--hot-link-percent", 100,
                     "--profile", Path(CACHE) / f"memory-{chance.randrange(1 << 30)}.profile"]
        if chance.random() < 0.5:
            arguments += ["--prefix-cache", chance.choice((0, 8, 32, 64, 1000)) * MIB]
        group = Group(limit)
        try:
            with InGroup(group, *arguments) as server:
                if server.refused is not None:
                    self.assertRegex(server.refused, r"MiB|does not fit|holds no", arguments)
                    tally["plans refused"] += 1
                else:
                    programs = sorted(children(server.process.pid).items())
                    self.run_load(server, group, limit, chance, tally)
                    self.assertEqual(sorted(children(server.process.pid).items()), programs)
                    tally["plans served"] += 1
            self.assertEqual(group.kills(), 0, (limit // MIB, arguments, server.text()[-2000:]))
        finally:
            group.remove()

    def run_load(self, server, group, limit, chance, tally):
        neighbour = None
        left = server.get("/api/v1/memory")[1]["head_room"]["available_bytes"]
        if chance.random() < 0.8:  # takes most of what is left, for a while
            take = max(left - chance.randrange(14, 60) * MIB, MIB)  # what is left, with python's own memory
            neighbour = subprocess.Popen([sys.executable, "-c", NEIGHBOUR, str(take), "1.5"],
                                         stdout=subprocess.PIPE, preexec_fn=group.enter)
            neighbour.stdout.readline()
        try:
            with concurrent.futures.ThreadPoolExecutor(6) as pool:
                for status, reason in pool.map(lambda c: self.load(server, c), [random.Random(chance.random()) for _ in range(16)]):
                    tally[status] = tally.get(status, 0) + 1
                    if status != 200:
                        self.assertIn(status, (400, 503))
                        self.assertRegex(reason, r"\d", reason)
            seen = server.get("/api/v1/memory")[1]
            tally["sheds"] += seen["head_room"]["sheds"]
        finally:
            if neighbour:
                neighbour.stdout.close()
                tally["neighbours killed"] += neighbour.wait() != 0

    def test_random_plans(self):
        tally = {"plans served": 0, "plans refused": 0, "sheds": 0, "neighbours killed": 0}
        for seed in range(FIRST, FIRST + PLANS):
            with self.subTest(seed=seed):
                self.one(random.Random(seed), tally)
        print(f"          {tally}")
        self.assertEqual(tally["neighbours killed"], 0)

    def test_what_plan_says_fits_is_served(self):
        for arguments in (("--context", 4096), ("--context", 512)):
            sessions = 64 if arguments[1] == 4096 else 4
            refused = verb("plan", DEMO, "--ram", "64M", "--users", sessions, *arguments)
            least = re.search(r"--ram (\d+)M fits", refused.stderr)
            self.assertTrue(least, refused.stderr)
            group = Group(int(least[1]) * MIB)
            try:
                with InGroup(group, "--workers", 1, "--sessions", sessions, *arguments) as server:
                    self.assertIsNone(server.refused, server.refused)
                    self.assertEqual(server.post("/api/v1/generate", {"prompt": "word " * 100, "max_tokens": 30})[0], 200)
                self.assertEqual(group.kills(), 0)
            finally:
                group.remove()

    def test_tier_shrinks_and_comes_back(self):
        group = Group(240 * MIB)
        try:
            with InGroup(group, "--workers", 1, "--hot-budget", 10 * MIB, "--prefix-cache", 0, "--context", 512, "--sessions", 2,
                         "--profile", Path(CACHE) / "shrink.profile") as server:
                self.assertIsNone(server.refused, server.refused)
                slots = lambda: server.get("/api/v1/expert-stats")[1]["cache_size"]  # noqa: E731
                most, left = slots(), server.get("/api/v1/memory")[1]["head_room"]["available_bytes"]
                neighbour = subprocess.Popen([sys.executable, "-c", NEIGHBOUR, str(left - 30 * MIB), "4"], preexec_fn=group.enter,
                                             stdout=subprocess.PIPE)
                neighbour.stdout.readline()
                self.assertTrue(eventually(lambda: slots() < most / 2, 6))
                self.assertIn(server.get("/api/v1/memory")[1]["state"], ("tight", "full"))
                neighbour.stdout.close()
                self.assertEqual(neighbour.wait(), 0)
                self.assertTrue(eventually(lambda: slots() > most / 8, 20))
                self.assertEqual(server.post("/api/v1/generate", {"prompt": "a", "max_tokens": 4})[0], 200)
            self.assertEqual(group.kills(), 0)
        finally:
            group.remove()


if __name__ == "__main__":
    unittest.main()
