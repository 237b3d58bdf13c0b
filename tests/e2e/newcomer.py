# SPDX-License-Identifier: Apache-2.0
"""What someone types who has just cloned the project."""
import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest
from pathlib import Path

from harness import CACHE, DEMO, ENVIRONMENT, ROOT, eventually, free_port

DEV = ROOT / "dev"


@unittest.skipUnless(DEMO.exists(), "demo/model is not there")
class Newcomer(unittest.TestCase):
    def dev(self, *arguments, **options):
        return subprocess.run([DEV, *arguments], capture_output=True, text=True, env=ENVIRONMENT, stdin=subprocess.DEVNULL,
                              timeout=600, **options)

    def test_serve_from_another_folder(self):
        port = free_port()
        with tempfile.NamedTemporaryFile("w+", dir=CACHE) as out:
            process = subprocess.Popen([DEV, "serve", "--listen", f"127.0.0.1:{port}"], cwd="/", env=ENVIRONMENT,
                                       stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
            try:
                def line():
                    return re.search(r"^ +(curl .*)$", Path(out.name).read_text(), re.M) or process.poll() is not None

                found = eventually(line, 300)
                self.assertTrue(found and found is not True, Path(out.name).read_text())
                if shutil.which("curl"):
                    answer = subprocess.run(found.group(1), shell=True, capture_output=True, text=True, timeout=60)
                    self.assertIn('"token"', answer.stdout, answer.stderr)
                process.send_signal(signal.SIGINT)
                self.assertEqual(process.wait(30), 0)
                self.assertNotIn("error", Path(out.name).read_text())
            finally:
                if process.poll() is None:
                    process.kill()

    def test_quiet_twice(self):
        for _ in range(2):
            for verb in ("setup", "build"):
                done = self.dev(verb, cwd="/tmp")
                self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)
        self.assertEqual(done.stderr, "")

    def test_generate(self):
        done = self.dev("generate", "In the beginning", "--max-tokens", "8", cwd=os.path.expanduser("~"))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(done.stdout.strip())

    def test_unknown_verb(self):
        done = self.dev("fly")
        self.assertEqual(done.returncode, 1)
        self.assertIn("unknown verb", done.stderr)
