# SPDX-License-Identifier: Apache-2.0
"""What file systems and clocks do at night: a disk that fills at any write of a packing, a cache that may not be written, packing
that is killed, a store cut while it is mapped (arenas.py has that), a wall clock that jumps. A clear error or no effect; nothing
half-written is ever taken for whole."""
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path

from harness import ARENAS, CACHE, DEMO, ENVIRONMENT, FIXTURES, PROGRAM, Server, error_lines, eventually, verb
from interposed import LIBRARY, Page
from pieces import Pieces, Stream

SMALL = FIXTURES / "next-nf4" / "model"
ASK = {"prompt": "In the beginning", "max_tokens": 200, "temperature": 0}


def steered(page, *arguments):
    return subprocess.run([str(PROGRAM), *map(str, arguments)], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
                          env={**ENVIRONMENT, **page.environment})


@unittest.skipUnless(LIBRARY.exists(), "the library is not there")
class Disk(unittest.TestCase):
    def setUp(self):
        self.cache = Path(tempfile.mkdtemp(dir=CACHE))
        self.page = Page()

    def tearDown(self):
        shutil.rmtree(self.cache, ignore_errors=True)

    def files(self):
        return sorted(p.name for p in self.cache.rglob("*") if p.is_file() and p.stat().st_size)

    def test_full_at_every_write_of_a_packing(self):
        self.page.fresh(write_at=1 << 40)
        whole = Path(steered(self.page, "pack", SMALL, "--cache-dir", self.cache).stdout.strip())
        want, count = whole.read_bytes(), self.page.writes
        self.assertGreater(count, 5)
        kept = self.files()
        tried = 0
        for on, step in ((0, 1), (1, 4)):  # one write, and all from there on
            for k in range(1, count + 1, step):
                tried += 1
                shutil.rmtree(self.cache)
                self.cache.mkdir()
                self.page.fresh(write_at=k, on=on)
                done = steered(self.page, "pack", SMALL, "--cache-dir", self.cache)
                place = f"write {k} of {count}{' and on' if on else ''}: {done.stderr}"
                self.assertEqual((done.returncode, len(error_lines(done.stderr))), (1, 1), place)
                self.assertIn("No space left on device", done.stderr, place)
                self.assertNotIn(whole.name, self.files(), place)
                self.assertEqual([n for n in self.files() if n not in kept and "lock" not in n], [], place)
                if k % 4 == 1:
                    done = verb("pack", SMALL, "--cache-dir", self.cache)
                    self.assertEqual((done.returncode, whole.read_bytes() == want), (0, True), place)
        print(f"    {tried} packings met a full disk", flush=True)

    def test_full_while_serving(self):
        """Profile, trace and routing trace cannot be written: the answers do not care."""
        page = Page()
        page.fresh()
        with Pieces(1, core=["--profile", self.cache / "p", "--trace-routing", self.cache / "r", "--trace", self.cache / "t"],
                    environment=page.environment) as server:
            want = server.generate(**ASK)["text"]
            page.set(write_at=1, on=1)
            for _ in range(3):
                self.assertEqual(server.generate(**ASK)["text"], want)
            self.assertTrue(server.ready())
            self.assertEqual(set(server.stop().values()), {0})
        for name in ("p",):  # written whole or not at all
            self.assertFalse((self.cache / name).exists() and verb("profile", "show", self.cache / name).returncode, name)

    def test_arena_full(self):
        """Shared memory is full: the sum in one error, and no share is left behind under its name."""
        before = sorted(ARENAS.iterdir())
        self.page.fresh(write_at=1, on=1)
        done = steered(self.page, "bench", "decode", SMALL, "--cache-dir", self.cache, "--workers", 1, "--tokens", 1)
        self.assertEqual((done.returncode, len(error_lines(done.stderr))), (1, 1), done.stderr)
        self.assertEqual(sorted(p for p in ARENAS.iterdir() if not p.name.endswith(".lock")),
                         [p for p in before if not p.name.endswith(".lock")])

    def test_cache_that_may_not_be_written(self):
        """As another user where we are root, whom nothing stops."""
        os.chmod(CACHE, 0o755)
        os.chmod(self.cache, 0o555)
        other = {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}
        model = Path(tempfile.mkdtemp(dir=CACHE, prefix="m")) / "model"
        shutil.copytree(SMALL, model)
        program = shutil.copy(PROGRAM, model.parent / "thermocline")
        for path in (model.parent, *model.parent.rglob("*")):
            path.chmod(0o755)
        try:
            done = subprocess.run([program, "pack", model, "--cache-dir", self.cache], capture_output=True, text=True, timeout=60, **other,
                                  env={**ENVIRONMENT, "HOME": "/nonexistent"})
        finally:
            shutil.rmtree(model.parent)
        self.assertEqual((done.returncode, len(error_lines(done.stderr))), (1, 1), done.stderr)
        self.assertRegex(done.stderr, "Permission denied|Read-only")
        self.assertEqual(list(self.cache.iterdir()), [])

    def test_killed_while_packing(self):
        want = Path(verb("pack", DEMO).stdout.strip()).read_bytes()
        for delay_s in (0.02, 0.05, 0.1, 0.2):
            process = subprocess.Popen([str(PROGRAM), "pack", str(DEMO), "--cache-dir", str(self.cache)], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, env=ENVIRONMENT)
            time.sleep(delay_s)
            process.send_signal(signal.SIGKILL)
            process.wait()
            for store in self.cache.rglob("*.tcx"):
                self.assertEqual(store.read_bytes(), want)  # whole, or not there
        done = verb("pack", DEMO, "--cache-dir", self.cache)
        store = Path(done.stdout.strip())
        self.assertEqual((done.returncode, store.read_bytes() == want), (0, True), done.stderr)
        self.assertEqual([p.name for p in self.cache.iterdir() if p.stat().st_size and p != store], [])  # what was begun is gone


@unittest.skipUnless(DEMO.exists() and LIBRARY.exists(), "demo/model or the library is not there")
class Clock(unittest.TestCase):
    def test_wall_clock_jumps(self):
        """Hours, years, back before 1970: deadlines, drains and quarantines run by another clock."""
        page = Page()
        page.fresh()
        with Pieces(2, environment=page.environment) as server:
            want = server.generate(**ASK)["text"]
            jumping = threading.Event()

            def jump():
                offsets = [3600, -3600, 365 * 86400, -20 * 365 * 86400, -70 * 365 * 86400, 0]
                while not jumping.is_set():
                    for offset in offsets:
                        page.set(clock_s=offset)
                        time.sleep(0.01)

            thread = threading.Thread(target=jump)
            thread.start()
            try:
                for _ in range(3):
                    stream = Stream(server, "/api/v1/generate", {**ASK, "deadline_ms": 60000}).read()
                    self.assertEqual((stream.text, stream.done, stream.error), (want, True, None))
                server.kill("worker", 0)
                server.start("worker", 0)
                self.assertTrue(eventually(lambda: server.statistics()["workers_up"] == 2))
                status, answer = server.post("/api/v1/generate", {**ASK, "max_tokens": 3000, "deadline_ms": 300})
                self.assertEqual((status, answer["error"]["code"]), (504, "deadline_exceeded"))
                health = server.get("/api/v1/health")
                self.assertEqual(health[0], 200, health)
            finally:
                jumping.set()
                thread.join()
            page.set(clock_s=0)
            self.assertEqual(set(server.stop().values()), {0})


if __name__ == "__main__":
    unittest.main()
