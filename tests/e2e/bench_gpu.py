# SPDX-License-Identifier: Apache-2.0
"""`./dev bench gpu` on the cpu device with a model of a megabyte: every part, the model found again and freed, figures that are not valid, and who
refuses empty experts."""
import json
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from harness import ARENAS, BUILD, CACHE, ENVIRONMENT, FIXTURES, ROOT, error_lines, verb

SMALL = FIXTURES / "next-nf4" / "model"


class Gpu(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="gpu-", dir=CACHE)))
        self.arenas = ARENAS / self.folder.name
        self.addCleanup(shutil.rmtree, self.arenas, ignore_errors=True)

    def bench(self, *more, model="model"):
        command = [ROOT / "dev", "bench", "gpu", model, "--build", BUILD, "--arena-dir", self.arenas, "--device", "cpu", "--head", "keep",
                   "--shape", "tiny-next", "--prompts", "64,96", "--users", 2, "--tokens", 12, "--repetitions", 1, *more]
        return subprocess.run([str(c) for c in command], cwd=self.folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)

    def test_every_part(self):
        done = self.bench("--json", "out.json")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        answer = json.loads((self.folder / "out.json").read_text())
        rows = {r["key"]: r for r in answer["rows"]}
        self.assertEqual(set(rows), {"start", "floor", "own", "p95", "cold", "prompt 64", "prompt 96", "users 1", "users 2"})
        for row in rows.values():
            self.assertGreater(row["achieved"], 0, row)
            self.assertTrue(row["valid"])
            self.assertIsNone(row["target"])  # of the full shape on a GPU only
            self.assertIn(row["figure"], done.stdout)
        for part in answer["parts"].values():
            self.assertIsNone(part["error"])
            for line in part["lines"]:
                self.assertEqual(line["device"], "cpu")
                self.assertGreaterEqual(line["experts_touched_a_layer"], line["experts_touched_fewest"])
        self.assertTrue(answer["parts"]["floor"]["lines"][0]["empty_experts"])
        self.assertGreater(answer["parts"]["own"]["lines"][0]["hot_bytes"], 0)
        again = self.bench("--parts", "cold")
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertIn("the model is there", again.stderr)
        self.assertEqual(self.bench("--drop").returncode, 0)
        self.assertFalse((self.folder / "model").exists())
        self.assertEqual([p for p in self.arenas.iterdir() if not p.name.endswith(".lock")], [])

    def test_what_is_not_valid_says_so(self):
        done = self.bench("--experts", 256, "--vocab", 2, "--parts", "cold,users", "--json", "out.json")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertEqual(done.stdout.count("NOT VALID"), 3)
        self.assertIn("routing has collapsed", done.stdout)
        for row in json.loads((self.folder / "out.json").read_text())["rows"]:
            self.assertFalse(row["valid"])

    def test_the_router_is_dialled(self):
        """A real decode: what comes out is what was asked for, with what layers add on the way."""
        line = {}
        for zipf, locality in ((1, 0), (1, 0.8)):  # even routing: 0.29 and 0.03
            done = self.bench("--experts", 128, "--vocab", 16384, "--parts", "cold", "--tokens", 400, "--router-zipf", zipf, "--router-locality", locality,
                              "--json", "out.json")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            line[zipf, locality] = json.loads((self.folder / "out.json").read_text())["parts"]["cold"]["lines"][0]
        popular, local = line.values()
        self.assertTrue(0.8 < popular["zipf_exponent"] < 1.4, popular["zipf_exponent"])
        self.assertGreater(popular["quarter_hit_rate"], 0.6)
        self.assertGreater(popular["repeat_fraction"], 0.08)
        self.assertGreater(local["repeat_fraction"], popular["repeat_fraction"] + 0.1)

    def test_dialled_hits_need_a_gpu(self):
        done = verb("bench", "decode", SMALL, "--device", "cpu", "--workers", 1, "--tokens", 4, "--force-hit-percent", 71)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("--force-hit-percent needs a GPU", error_lines(done.stderr)[0])

    def test_a_folder_of_somebody_is_left_alone(self):
        (self.folder / "model").mkdir()
        (self.folder / "model" / "letter").write_text("mine")
        for more in ([], ["--drop"]):
            self.bench("--parts", "cold", *more)
            self.assertEqual((self.folder / "model" / "letter").read_text(), "mine")
        self.assertEqual(self.bench("--parts", "cold").returncode, 1)

    def test_empty_experts_are_for_decode(self):
        for words in (["serve", SMALL], ["generate", SMALL, "Hello"], ["bench", "prompt", SMALL], ["bench", "users", SMALL],
                      ["bench", "decode", SMALL, "--workers", 0]):
            with self.subTest(words):
                done = verb(*words, "--empty-experts")
                self.assertIn(done.returncode, (1, 2), done.stderr)
                self.assertEqual((done.stdout, len(error_lines(done.stderr))), ("", 1), done.stderr)


if __name__ == "__main__":
    unittest.main()
