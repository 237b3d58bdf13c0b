#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests the benchmark harnesses with canned answers: parsers, ratios, bounds, random blocks. Ends with `N passed, N failed`.

Owns: a stand-in for `thermocline` (when called as `test_benchmarks.py eval|tokenize ...`; the variable NOISE is what the
precision `fast` adds to its logits). numpy only.
"""
import contextlib
import io
import json
import os
import sys
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "peers")]
import gguf_random  # noqa: E402
import instructions  # noqa: E402
import llamacpp  # noqa: E402
import quality  # noqa: E402
import shapes  # noqa: E402
import suite_others  # noqa: E402

HELP = """usage: thermocline eval MODEL --ids FILE.json [options]
  --precision exact|fast       exact: every weight rounded as the reference does
  --device cpu|auto            where attention and routers run
"""


def stand_in(argv):
    if argv[0] == "tokenize":
        for line in sys.stdin:
            print(json.dumps({"ids": list(json.loads(line)["text"].encode())}))
        return
    if "--help" in argv:
        print(HELP, end="")
        return
    option = {argv[i]: argv[i + 1] for i in range(2, len(argv), 2)}
    count = sum(map(len, json.loads(Path(option["--ids"]).read_text())["prompts"]))
    logits = np.random.default_rng(1).standard_normal((count, 256)) * 3
    if option["--precision"] == "fast":
        logits += np.random.default_rng(2).standard_normal(logits.shape) * float(os.environ["NOISE"])
    np.save(option["--logits"], logits.astype(np.float32))


class Quality(unittest.TestCase):
    def test_windows(self):
        ids = list(range(1000))
        self.assertEqual([w[0] for w in quality.windows_of(ids, 100, 0)], list(range(0, 1000, 100)))
        self.assertEqual([w[0] for w in quality.windows_of(ids, 100, 300)], [0, 300, 600])
        self.assertEqual(len(quality.windows_of(ids, 100, 10**9)), 10)
        self.assertEqual([len(w) for w in quality.windows_of(ids, 2048, 0)], [1000])

    def test_comparison_is_what_the_definitions_say(self):
        rng = np.random.default_rng(3)
        a, b = rng.standard_normal((2, 40, 11)).astype(np.float32) * 5 + 1000
        following = rng.integers(0, 11, 40)
        sums = quality.Comparison()
        sums.add(a[:17], b[:17], following[:17])
        sums.add(a[17:], b[17:], following[17:])
        got = sums.result()
        p, q = (np.exp(x - x.max(1, keepdims=True), dtype=np.float64) for x in (a, b))
        p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
        kl = (p * np.log(p / q)).sum(1)
        own, reference = (np.exp(-np.log(x[np.arange(40), following]).mean()) for x in (q, p))
        self.assertAlmostEqual(got["kl_mean"], kl.mean(), places=5)
        self.assertAlmostEqual(got["kl_max"], kl.max(), places=5)
        self.assertAlmostEqual(got["perplexity"] / own, 1, places=5)
        self.assertAlmostEqual(got["perplexity_change"], own / reference - 1, places=5)
        self.assertEqual(got["greedy_agreement"], (p.argmax(1) == q.argmax(1)).mean())

    def test_verdicts_at_the_bounds(self):
        def verdict(change, kl, error=0.0, sample=False):
            return quality.judge({"perplexity_change": change, "kl_mean": kl, "perplexity_change_error": error}, sample)["harmless"]
        self.assertTrue(verdict(0.002, 0.0019999) and verdict(-0.002, 0))
        self.assertFalse(verdict(0.00201, 0) or verdict(-0.00201, 0) or verdict(0, 0.002))
        self.assertFalse(verdict(float("nan"), 0) or verdict(0, float("nan")))
        self.assertFalse(verdict(0.003, 0, error=0.001))  # the whole text: no room
        self.assertTrue(verdict(0.003, 0, error=0.001, sample=True))
        self.assertFalse(verdict(0.0041, 0, error=0.001, sample=True))

    def test_help(self):
        self.assertEqual(quality.choices_of(HELP, "--precision"), ["exact", "fast"])
        self.assertEqual(quality.choices_of(HELP, "--head"), [])
        self.assertEqual(quality.default_variants(HELP, "nf4,int8", ""),
                         {"exact": "--precision exact", "fast": "--precision fast",
                          "fast, head nf4": "--precision fast --head nf4", "fast, head int8": "--precision fast --head int8"})

    def whole(self, noise, *more):
        with tempfile.TemporaryDirectory() as folder:
            program, text = Path(folder) / "thermocline", Path(folder) / "text"
            program.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(HERE)!r})\n"
                               "import test_benchmarks\ntest_benchmarks.stand_in(sys.argv[1:])\n")
            program.chmod(0o755)
            text.write_text("The quick brown fox.\n" * 80)
            os.environ["NOISE"] = str(noise)
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
                code = quality.main([folder, "--thermocline", str(program), "--text", str(text), "--window", "128", *more])
            return code, out.getvalue()

    def test_the_harness_finds_harm(self):
        code, text = self.whole(0.0, "--json")
        answer = json.loads(text)
        self.assertEqual((code, answer["pass"], answer["variants"]["fast"]["kl_mean"]), (0, True, 0.0))
        code, text = self.whole(1.0, "--json")
        self.assertEqual((code, json.loads(text)["pass"]), (1, False))
        self.assertEqual(self.whole(1.0, "--require", "exact")[0], 0)
        code, text = self.whole(1.0, "--count")
        self.assertIn("1 passed, 1 failed", text)
        self.assertIn("NOT HARMLESS", text)


def row(prompt, tokens, *samples):
    return {"n_prompt": prompt, "n_gen": tokens, "samples_ts": list(samples), "avg_ts": sum(samples) / len(samples)}


def decode_answer(rate, read, touched=30):
    return {"tokens_per_s": {"median": rate, "samples": [rate]}, "read_gb_per_s": {"max": read}, "token_bytes": 500_000_000,
            "experts_touched": touched, "experts_in_all": 64}


class Peer(unittest.TestCase):
    def test_answers_of_llama_bench(self):
        self.assertEqual(llamacpp.parse_bench(json.dumps([row(512, 0, 100.0, 110.5), row(0, 128, 20.25)])),
                         {"pp512": [100.0, 110.5], "tg128": [20.25]})
        for bad in ("", "[]", "{}", "[{}]", json.dumps([row(1, 0, 0.0)]), '[{"n_gen":1,"n_prompt":0,"samples_ts":[]}]', "llama: no"):
            with self.subTest(bad), self.assertRaises(SystemExit):
                llamacpp.parse_bench(bad)

    def test_answers_of_ours(self):
        lines = json.dumps(decode_answer(10.0, 20.0)) + "\n"
        self.assertEqual(llamacpp.parse_ours(lines * 2, "decode")[1]["tokens_per_s"]["median"], 10.0)
        for bad in ("", "{}", "x", lines + "x", '{"tokens_per_s":{"samples":[]}}'):
            with self.subTest(bad), self.assertRaises(SystemExit):
                llamacpp.parse_ours(bad, "decode")

    def test_heads(self):
        text = "  --head keep|nf4|bf16         what a head becomes\n"
        self.assertEqual(llamacpp.head_options("bf16", ""), [])
        self.assertEqual(llamacpp.head_options("nf4", text), ["--head", "nf4"])
        for head, known in (("int8", text), ("nf4", "")):
            with self.assertRaises(SystemExit):
                llamacpp.head_options(head, known)

    def test_ratios_are_of_the_same_turn(self):
        self.assertEqual(llamacpp.ratios([10, 40], [5, 10])["samples"], [2, 4])
        o = SimpleNamespace(tokens=128, prompt=512)
        prompt = {"tokens_per_s": {"median": 300.0}, "int8_peak_fraction": {"median": 0.5}}
        rounds = [({"tg128": decode_answer(20.0, 20.0), "pp512": prompt}, {"tg128": [10.0], "pp512": [100.0]}),
                  ({"tg128": decode_answer(30.0, 20.0), "pp512": prompt}, {"tg128": [10.0], "pp512": [200.0]}),
                  ({"tg128": decode_answer(30.0, 60.0), "pp512": prompt}, {"tg128": [60.0], "pp512": [300.0]})]
        got = llamacpp.summarise(rounds, 400_000_000, o)
        self.assertEqual((got["tg128"]["ratio"]["min"], got["tg128"]["ratio"]["median"], got["tg128"]["ratio"]["max"]), (0.5, 2.0, 3.0))
        self.assertEqual(got["tg128"]["ours_of_roofline"]["samples"], [0.5, 0.75, 0.25])
        self.assertEqual(got["tg128"]["llamacpp_of_roofline"]["samples"], [0.2, 0.2, 0.4])
        self.assertEqual(got["pp512"]["ratio"]["median"], 1.5)

    def test_a_token_reads_its_experts_only(self):
        s = shapes.shape_of("qwen3-30b-a3b", 1)
        expert = 3 * 2048 * 768 * 18 // 32
        attention = (4096 + 512 + 512 + 4096) * 2048 * 18 // 32
        floats = 4 * (2048 + 2 * 128 + 2048 + 128 * 2048 + 2048)
        self.assertEqual(shapes.token_bytes(s, "Q4_0", "BF16"), 8 * expert + attention + floats + 2 * 151936 * 2048)
        two = shapes.token_bytes(shapes.shape_of("qwen3-30b-a3b", 2), "Q4_0", "BF16")
        self.assertEqual(two - shapes.token_bytes(s, "Q4_0", "BF16"), 8 * expert + attention + floats - 4 * 2048)

    def test_shapes_are_those_of_our_checkpoints(self):
        source = (HERE / "make_checkpoint.c").read_text()
        for s in shapes.SHAPES.values():
            text = " ".join(source[source.index(f'"{s.name}"'):].split("}")[0].split())
            numbers = [float(x) for x in text.split(",")[2:]]
            self.assertEqual(numbers[1:9] + numbers[10:11],
                             [s.hidden, s.vocab, s.heads, s.kv_heads, s.head_dim, s.experts, s.top_k, s.width, s.dense])
            self.assertEqual(numbers[9], s.shared)
            self.assertEqual(numbers[-2:], [s.positions, s.theta])

    def test_rows_are_whole_blocks(self):
        for s in shapes.SHAPES.values():
            for quant in ("Q4_0", "Q4_K"):
                for name, dims, kind in shapes.tensors(s, quant, "BF16"):
                    self.assertGreater(shapes.nbytes(dims, kind), 0, name)


def decode_q4_0(raw):
    d = raw[:, :2].copy().view(np.float16).astype(np.float64)
    codes = np.concatenate([raw[:, 2:] & 15, raw[:, 2:] >> 4], axis=1).astype(np.float64)
    return d * (codes - 8)


def decode_q4_k(raw):
    d, low = (raw[:, i : i + 2].copy().view(np.float16).astype(np.float64) for i in (0, 2))
    q = raw[:, 4:16].astype(int)
    scale = np.concatenate([q[:, :4] & 63, q[:, 8:] & 15 | q[:, :4] >> 6 << 4], axis=1)
    least = np.concatenate([q[:, 4:8] & 63, q[:, 8:] >> 4 | q[:, 4:8] >> 6 << 4], axis=1)
    assert (scale == 32).all() and (least == 32).all(), "the packing of six-bit scales"
    codes = np.concatenate([raw[:, 16:] & 15, raw[:, 16:] >> 4], axis=1).astype(np.float64)
    return d * 32 * codes - low * 32


class Blocks(unittest.TestCase):
    def test_weights_are_zero_mean_and_of_the_wanted_size(self):
        decode = {"Q4_0": decode_q4_0, "Q4_K": decode_q4_k, "F32": lambda raw: raw.astype(np.float64),
                  "BF16": lambda raw: (raw.copy().view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64),
                  "Q8_0": lambda raw: raw[:, :2].copy().view(np.float16).astype(np.float64) * raw[:, 2:].view(np.int8)}
        for kind, of in decode.items():
            block, elements = shapes.BLOCKS[kind]
            raw = gguf_random.MAKERS[kind](np.random.default_rng(5), 400_000 // elements, 0.02)
            self.assertEqual(raw.dtype.itemsize * raw.shape[1], block, kind)
            values = of(raw)
            self.assertLess(abs(values.mean()), 0.02 * 0.01, kind)
            self.assertLess(abs(values.std() / 0.02 - 1), 0.01, kind)

    def test_pieces_add_up(self):
        rng = np.random.default_rng(6)
        for kind in gguf_random.MAKERS:
            shape = (3, 5, 512)
            pieces = list(gguf_random.content(rng, "blk.0.ffn_gate_exps.weight", shape, kind))
            self.assertEqual(sum(p.nbytes for p in pieces), shapes.nbytes(shape, kind))


AIPERF = """#!/usr/bin/env python3
import json, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--artifact-dir") + 1]) / "run"
folder.mkdir(parents=True)
rate = float(sys.argv[sys.argv.index("--request-rate") + 1])
some = {"unit": "ms", "p50": rate, "p95": 2 * rate, "p99": 3 * rate}
(folder / "profile_export_aiperf.json").write_text(json.dumps({"time_to_first_token": some, "inter_token_latency": some}))
"""


class Others(unittest.TestCase):
    RUN = {"record": "run", "schema": 1, "parts": ["load.ready"]}

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.path = self.folder / "results.jsonl"
        self.path.write_text(json.dumps(self.RUN) + "\n" + '{"record":"fig')

    def records(self):
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def measure(self, function):
        with contextlib.redirect_stderr(io.StringIO()):
            return suite_others.Results(self.folder).measure("peers.x", "peers", "How.", function)

    def test_half_a_line_goes_and_the_run_names_more(self):
        results = suite_others.Results(self.folder)
        results.mean(["peers.x"])
        results.mean(["peers.x"])
        self.assertEqual([r["parts"] for r in self.records()], [["load.ready"], ["load.ready", "peers.x"]])

    def test_done_is_not_run_again(self):
        def function(results):
            results.figure("peer", "a", "shape", "tokens/s", "higher", [1, 2], roofline=3)
            return "Twice."

        self.assertTrue(self.measure(function))
        figure, part = self.records()[1:]
        self.assertEqual((figure["id"], figure["values"], figure["roofline"]), ("peers.x/peer/a/shape", [1.0, 2.0], 3))
        self.assertEqual((part["state"], part["method"], part["section"]), ("done", "How. Twice.", "peers"))
        before = self.path.read_bytes()
        self.assertTrue(self.measure(function))
        self.assertEqual(self.path.read_bytes(), before)

    def test_what_cannot_be_is_skipped_and_what_breaks_failed(self):
        def function(error):
            def raises(results):
                results.figure("peer", "a", "shape", "tokens/s", "higher", [1])
                raise error
            return raises

        self.assertTrue(self.measure(function(suite_others.Skip("no network"))))
        self.assertFalse(self.measure(function(ValueError("broken"))))
        parts = self.records()[1:]
        self.assertEqual([(p["state"], p["reason"]) for p in parts], [("skipped", "no network"), ("failed", "ValueError: broken")])
        with self.assertRaises(suite_others.Skip):
            suite_others.run([sys.executable, "-c", "import sys; sys.exit('gone')"], "a peer")

    def test_the_other_client(self):
        program = self.folder / "aiperf"
        program.write_text(AIPERF)
        program.chmod(0o755)
        own = [{"record": "figure", "figure": figure, "series": "P50", "x": 50, "values": [4.0, 5.0]}
               for figure in ("first-token-by-load", "between-tokens-by-load")]
        capacity = {"record": "figure", "figure": "capacity", "values": [7.0, 8.0, 9.0]}
        self.path.write_text("".join(json.dumps(r) + "\n" for r in (self.RUN, capacity, *own)))
        options = SimpleNamespace(model=Path("model"), work=self.folder)
        server = SimpleNamespace(url="http://127.0.0.1:1")
        with mock.patch.multiple(suite_others, venv_of=lambda *_: self.folder, Server=lambda _: contextlib.nullcontext(server)):
            self.assertTrue(self.measure(suite_others.crosscheck(options)))
        figures = {(r["figure"], r["series"], r["x"]): r["values"] for r in self.records() if r["record"] == "figure" and "id" in r}
        self.assertEqual(len(figures), 14)
        self.assertEqual(figures["crosscheck-first-token", "aiperf, P95", 50], [8.0])
        self.assertEqual(figures["crosscheck-between-tokens", "aiperf, P99", 100], [24.0])
        self.assertEqual(figures["crosscheck-first-token", "our client, P50", 50], [4.0, 5.0])


class Instructions(unittest.TestCase):
    DUMP = """positions: line
events: Ir
fl=(1) /b/../gateway/routes.c
fn=(1) main
10 5
+2 7
cfn=(2) clock_gettime@@GLIBC_2.17
calls=3 20
* 60
fi=(2) /b/../gateway/other.c
-1 2

fl=(3) clock.c
fn=(2)
20 60
totals: 74
"""

    def test_a_dump_is_read(self):
        with tempfile.NamedTemporaryFile("w", suffix=".out") as file:
            file.write(self.DUMP)
            file.flush()
            total, calls, lines = instructions.parse(file.name)
        self.assertEqual(total, 74)  # what is called counts where it is, once
        self.assertEqual(dict(calls), {"clock_gettime": 3})
        self.assertEqual(lines["/b/../gateway/routes.c", 12], 67)  # with what it calls
        self.assertEqual(lines["/b/../gateway/other.c", 11], 2)

    def test_lines_of_request_ids(self):
        text = (HERE.parent / "gateway" / "routes.c").read_text().splitlines()
        number = next(i for i, line in enumerate(text, 1) if "request_id" in line)
        self.assertTrue(instructions.speaks_of_ids("/x/build/../gateway/routes.c", number))
        self.assertFalse(instructions.speaks_of_ids("/x/build/../gateway/routes.c", 1))
        self.assertFalse(instructions.speaks_of_ids("???", 1))


def main():
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules[__name__])
    result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite)
    bad = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - bad} passed, {bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
