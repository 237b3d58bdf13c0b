# SPDX-License-Identifier: Apache-2.0
"""Calls by shared memory and by message: the same bits, and nothing left behind in shared memory."""
import json
import os
import signal
import tempfile
import unittest
from pathlib import Path

from harness import CACHE, DEMO, FIXTURES, Server, eventually, verb

SMALL = FIXTURES / "next-nf4" / "model"
IDS = [(7 * i) % 97 + 1 for i in range(40)]


def segments():
    return {path.name for path in Path("/dev/shm").glob("thermocline-*-*")}


class Carriers(unittest.TestCase):
    def test_same_bits_whatever_carries_them(self):
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            ids, out = Path(folder) / "ids.json", Path(folder) / "logits.npy"
            ids.write_text(json.dumps({"ids": IDS}))

            def logits(*arguments):
                done = verb("eval", SMALL, "--ids", ids, "--logits", out, "--log-level", "info", *arguments)
                self.assertEqual(done.returncode, 0, done.stderr)
                return out.read_bytes(), done.stderr

            want, _ = logits("--workers", 0)
            for workers in (1, 2, 4):
                for shard in ("partition", "slice"):
                    for plane in ("shm", "nng"):
                        with self.subTest(workers=workers, shard=shard, plane=plane):
                            got, log = logits("--workers", workers, "--shard", shard, "--data-plane", plane)
                            self.assertEqual(got, want)
                            self.assertEqual("calls go by shared memory" in log, plane == "shm")

    @unittest.skipUnless(DEMO.exists(), "demo/model is not there")
    def test_nothing_is_left_in_shared_memory(self):
        before = segments()
        with Server(DEMO, 2) as server:
            want = server.generate("In the beginning", max_tokens=16, temperature=0)["text"]
            self.assertLessEqual(len(segments() - before), 1)  # the bell; the workers' segments have no names any more
            for program in ("thermocline-wor", "thermocline-cor"):
                victim, count = server.pids(program)[0], len(server.pids(program))
                os.kill(victim, signal.SIGKILL)
                self.assertTrue(eventually(lambda: victim not in server.pids(program) and
                                           len(server.pids(program)) == count))
                self.assertTrue(eventually(lambda: server.ready() and server.statistics()["workers_up"] == 2, 20))
                self.assertEqual(server.generate("In the beginning", max_tokens=16, temperature=0)["text"], want)
                self.assertTrue(eventually(lambda: len(segments() - before) <= 1))
        self.assertEqual(segments() - before, set())


if __name__ == "__main__":
    unittest.main()
