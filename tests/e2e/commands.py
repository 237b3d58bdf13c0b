# SPDX-License-Identifier: Apache-2.0
"""The verbs that need no gateway."""
import json
import os
import re
import tempfile
import unittest
from pathlib import Path

import numpy as np
from harness import CACHE, DEMO, FIXTURES, error_lines, verb

SMALL = FIXTURES / "next-nf4" / "model"
needs_demo = unittest.skipUnless(DEMO.exists(), "demo/model is not there")


class Commands(unittest.TestCase):
    def ok(self, *arguments, **options):
        done = verb(*arguments, **options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    @needs_demo
    def test_generate(self):
        first, again = (self.ok("generate", DEMO, "In the beginning", "--max-tokens", 24, "--seed", 5) for _ in range(2))
        self.assertGreater(len(first.stdout), 10)
        self.assertEqual(first.stdout, again.stdout)
        self.assertIn("tokens/s", first.stderr)
        self.assertEqual([line for line in again.stderr.splitlines() if "tokens/s" not in line], [])

    @needs_demo
    def test_generate_does_not_depend_on_workers(self):
        texts = {self.ok("generate", DEMO, "And it came to pass", "--max-tokens", 40, "--seed", 1, "--workers", n).stdout
                 for n in (0, 1, 2)}
        self.assertEqual(len(texts), 1)

    @needs_demo
    def test_quick_test(self):
        done = self.ok("quick-test", DEMO)
        self.assertEqual(done.stdout.splitlines()[-1], "PASS")
        for stage in ("open", "tokenize", "pack", "start", "load", "prefill", "decode"):
            self.assertIn(f"  {stage} ", done.stdout)

    def test_inspect(self):
        done = self.ok("inspect", SMALL, "--ram", "90G", "--vram", "14G")
        for text in ("qwen3_next", "routed experts", "packed experts", "a token reads", "fits", "hot on the GPU"):
            self.assertIn(text, done.stdout)
        self.assertIn("does not fit", self.ok("inspect", SMALL, "--ram", "100K").stdout)

    def test_pack_once(self):
        with tempfile.TemporaryDirectory(dir=CACHE) as cache:
            first = self.ok("pack", SMALL, "--cache-dir", cache)
            path = Path(first.stdout.strip())
            stamp = path.stat().st_mtime_ns
            again = self.ok("pack", SMALL, "--cache-dir", cache)
            self.assertEqual((first.stdout, path.stat().st_mtime_ns), (again.stdout, stamp))
            self.assertIn("already packed", again.stderr)
            content = path.read_bytes()
            self.ok("pack", SMALL, "--cache-dir", cache, "--force")
            self.assertNotEqual(path.stat().st_mtime_ns, stamp)
            self.assertEqual(path.read_bytes(), content)

    @needs_demo
    def test_tokenize_round_trip(self):
        texts = ["In the beginning", "caf\u00e9 \U0001f600\n\ttabs", "", "a  b   c"]
        lines = "".join(json.dumps({"text": t}) + "\n" for t in texts)
        ids = self.ok("tokenize", DEMO / "tokenizer.json", input=lines).stdout
        back = self.ok("tokenize", "--decode", DEMO / "tokenizer.json", input=ids).stdout
        self.assertEqual([json.loads(line)["text"] for line in back.splitlines()], texts)

    def evaluate(self, folder, workers, shard, precision):
        prompts = {"prompts": [[5, 9, 2], list(range(3, 73))]}
        ids, logits, experts = (Path(folder) / n for n in ("ids.json", "logits.npy", "experts.npy"))
        ids.write_text(json.dumps(prompts))
        done = self.ok("eval", SMALL, "--ids", ids, "--greedy", 12, "--logits", logits, "--experts", experts,
                       "--workers", workers, "--shard", shard, "--precision", precision)
        return done.stdout, logits.read_bytes(), experts.read_bytes()

    def test_eval_is_the_same_for_any_workers(self):
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            for precision in ("exact", "float", "fast"):
                want = self.evaluate(folder, 0, "partition", precision)
                for shard in ("partition", "slice"):
                    for workers in (1, 2, 4):
                        with self.subTest(precision=precision, shard=shard, workers=workers):
                            got = self.evaluate(folder, workers, shard, precision)
                            self.assertEqual([a == b for a, b in zip(got, want)], [True] * 3)

    def test_eval_output(self):
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            self.evaluate(folder, 0, "partition", "exact")
            logits, experts = np.load(f"{folder}/logits.npy"), np.load(f"{folder}/experts.npy")
            self.assertEqual((logits.shape, logits.dtype), ((73, 256), np.float32))
            self.assertEqual((experts.shape, experts.dtype), ((5, 73, 4), np.int32))
            self.assertTrue((experts[0] == -1).all() and (experts[2] >= 0).all())
            self.assertEqual(sorted(os.listdir(folder)), ["experts.npy", "ids.json", "logits.npy"])
            single = Path(folder) / "one.json"
            single.write_text("[5, 9, 2]")
            answer = json.loads(self.ok("eval", SMALL, "--ids", single, "--greedy", 2, "--workers", 0).stdout)
            self.assertEqual((answer["prompt_tokens"], len(answer["ids"]), len(answer["gaps"])), (3, 2, 2))

    def test_eval_refuses_bad_ids(self):
        cases = ("", "{", "[]", "{}", "[[]]", "[1.5]", "[-1]", "[4294967296]", "[256]", '["a"]', '{"ids": 3}',
                 '{"prompts": [[1], 2]}', "[" * 70)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            ids = Path(folder) / "ids.json"
            for text in cases:
                with self.subTest(text):
                    ids.write_text(text)
                    done = verb("eval", SMALL, "--ids", ids, "--logits", Path(folder) / "l.npy", "--workers", 0)
                    self.assertEqual((done.returncode, done.stdout, len(error_lines(done.stderr))), (1, "", 1), done.stderr)
                    self.assertEqual(os.listdir(folder), ["ids.json"])

    def test_usage_errors(self):
        cases = (["nonsense"], ["inspect"], ["inspect", SMALL, "extra"], ["inspect", SMALL, "--what"], ["eval", SMALL],
                 ["inspect", SMALL, "--ram"], ["inspect", SMALL, "--ram", "many"], ["generate", SMALL],
                 ["serve", SMALL, "--workers", "65"], ["serve", SMALL, "--shard", "other"], ["bench", "sleep", SMALL])
        for arguments in cases:
            with self.subTest(arguments=arguments):
                done = verb(*arguments)
                self.assertEqual((done.returncode, done.stdout, len(done.stderr.splitlines())), (2, "", 1), done.stderr)
                self.assertEqual(len(error_lines(done.stderr)), 1)

    def test_help(self):
        for name in ("serve", "generate", "pack", "inspect", "quick-test", "eval", "bench"):
            self.assertIn(f"usage: thermocline {name}", self.ok(name, "--help").stdout)
        for name in ("help", "--help", "version", "--version"):
            self.assertIn("thermocline", self.ok(name).stdout)

    def check_roofline(self, answer):
        """The roof of bytes and products is the sum of its rounds, and never below that of the bytes, which stays."""
        roof = answer["roofline"]
        rounds = roof["rounds"]
        for name, r in rounds.items():
            self.assertEqual(r["roof_us"], max(r["bytes_us"], r["products_us"]), name)
        for name in ("projections", "attention", "routers", "experts", "head"):
            self.assertTrue(rounds[name]["gop"] > 0 and rounds[name]["peak_gop_per_s"] > 0 and rounds[name]["product"], name)
        self.assertAlmostEqual(sum(r["roof_us"] for r in rounds.values()), roof["step_us"], places=3)
        self.assertAlmostEqual(sum(r["bytes_us"] for r in rounds.values()), roof["bytes_alone_us"], places=3)
        self.assertGreater(answer["rounds_roofline_fraction"]["min"], 0)
        if "roofline_fraction" in answer:
            self.assertGreaterEqual(answer["rounds_roofline_fraction"]["max"], answer["roofline_fraction"]["max"] * (1 - 1e-9))
        else:
            self.assertEqual(answer["bench"], "prompt")  # whose products are told against the peak

    def test_serve_takes_what_the_table_of_options_says(self):
        table = (Path(__file__).parents[2] / "common/base/settings.def").read_text()
        rows = re.findall(r'^X\(\w+, "([^"]+)", \w+, "[^"]*", [^"]*"[^"]*", ([^,]*), ([^,]*),', table, re.M)
        names = [name for name, programs, flags in rows if "S" in programs.split(" | ") and "INTERNAL" not in flags]
        self.assertGreater(len(names), 45)
        told = self.ok("serve", "--help").stdout
        self.assertEqual([name for name in names if f"  --{name} " not in told], [])

    def test_bench_prints_json(self):
        options = {"decode": ["--tokens", 8, "--repetitions", 2], "prompt": ["--prompt-tokens", 32, "--repetitions", 1],
                   "users": ["--users", 3, "--tokens", 6, "--repetitions", 1], "load": ["--workers", 1],
                   "context": ["--positions", 64, "--tokens", 4, "--repetitions", 2], "kernels": ["--repetitions", 1]}
        lines = {"decode": 3, "prompt": 1, "users": 3, "load": 3, "context": 2, "kernels": 4}
        figure = {"load": "load_s", "kernels": "expert_gb_per_s"}
        for what, more in options.items():
            with self.subTest(what):
                done = self.ok("bench", what, SMALL, "--json", *more)
                answers = [json.loads(line) for line in done.stdout.splitlines()]
                self.assertEqual(len(answers) % lines[what], 0, done.stdout)
                for answer in answers:
                    spread = answer[figure.get(what, "tokens_per_s")]
                    self.assertTrue(0 < spread["min"] <= spread["median"] <= spread["max"], spread)
                    self.assertTrue(answer["machine"]["cpu"] and answer["commit"], answer)
                if what in ("decode", "prompt", "users", "context"):
                    for answer in answers:
                        self.assertIs(answer["valid"], True)
                        self.assertGreaterEqual(answer["experts_touched_a_layer"], answer["experts_touched_fewest"])
                        self.assertLessEqual(answer["experts_touched"], answer["experts_in_all"])
                if what in ("decode", "prompt", "users"):
                    for answer in answers:
                        self.check_roofline(answer)
                if what == "decode":
                    for answer in answers:
                        self.assertLessEqual(answer["token_ms_p50"]["max"], answer["token_ms_p95"]["max"])
                        self.assertEqual((answer["decode_allocations"], answer["expert_retries"]), (0, 0))
                        self.assertGreater(answer["read_gb_per_s"]["min"], 0)
                        self.assertGreater(answer["experts_touched"], 0)
                        self.assertLessEqual(answer["experts_touched"], answer["experts_in_all"])
                        parts = answer["step_us"]
                        self.assertAlmostEqual(sum(v for k, v in parts.items() if k != "total_us"), parts["total_us"], delta=1)
                if what == "users":
                    self.assertEqual([a["users"] for a in answers], [1, 2, 3])
                    for a in answers:  # read once however many chose it: no more than token by token, no fewer than one's
                        self.assertLessEqual(a["expert_reads_per_step"]["max"], a["token_by_token_reads"])
                        self.assertGreaterEqual(a["expert_reads_per_step"]["min"], answers[0]["token_by_token_reads"])
                    self.assertEqual(answers[0]["reads_saved_fraction"], 0)


if __name__ == "__main__":
    unittest.main()
