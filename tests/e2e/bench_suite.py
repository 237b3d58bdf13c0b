# SPDX-License-Identifier: Apache-2.0
"""`thermocline bench MODEL --suite`: every part of the quick suite on a model of a megabyte, what results.jsonl holds,
going on after an interruption, and what is refused."""
import json
import shutil
import signal
import subprocess
import tempfile
import unittest
from pathlib import Path

from harness import CACHE, DEMO, ENVIRONMENT, FIXTURES, PROGRAM, error_lines, verb

PARTS = ["throughput.decode", "throughput.carriers", "throughput.prompt", "throughput.users", "placement.strategies",
         "memory.timeline", "swap.latency", "inputs.types", "load.ready", "latency.open-loop", "quality.perplexity",
         "quality.agreement", "quality.determinism"]
SECTIONS = ["throughput", "placement", "memory", "swap", "inputs", "load", "latency", "quality", "peers"]


def byte_letters():
    """The letters that byte-level tokenizers write bytes with."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    more = iter(range(256, 512))
    return [chr(b if b in plain else next(more)) for b in range(256)]


def small_model(folder):
    """A fixture of 256 tokens with a tokenizer of bytes, long enough for every text."""
    shutil.copytree(FIXTURES / "next-nf4" / "model", folder)
    tokenizer = {"version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None,
                 "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
                 "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
                 "model": {"type": "BPE", "dropout": None, "unk_token": None, "vocab": {c: b for b, c in enumerate(byte_letters())},
                           "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "heldout.txt").write_text("The cold water lies below the warm water. " * 40)
    return folder


def records_of(output):
    return [json.loads(line) for line in (Path(output) / "results.jsonl").read_text().splitlines()]


def parts_of(output):
    return {r["id"]: r for r in records_of(output) if r["record"] == "part"}


class Suite(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="suite-", dir=CACHE))
        cls.model = small_model(cls.folder / "small")
        cls.golden = cls.folder / "golden"
        cls.golden.mkdir()
        (cls.golden / "next-nf4").symlink_to(FIXTURES / "next-nf4")

    def command(self, output, *more, suite="quick"):
        return ["bench", self.model, "--suite", suite, "--output", output, "--repetitions", 1, *more]

    def bench(self, output, *more):
        return verb(*self.command(output, *more), timeout=600)

    def test_quick_does_every_part(self):
        output = self.folder / "all"
        done = self.bench(output, "--golden", self.golden)
        self.assertEqual(done.returncode, 0, done.stderr)
        run, *rest = records_of(output)
        self.assertEqual((run["record"], run["schema"], run["suite"], run["parts"]), ("run", 1, "quick", PARTS))
        self.assertEqual((run["model"]["family"], run["model"]["path"], run["model"]["experts"]), ("qwen3_next", "small", 12))
        self.assertTrue(run["commit"] and run["machine"]["cpu"] and run["machine"]["read_bytes_per_s"] > 0, run)
        self.assertTrue(run["machine"]["name"].startswith(run["machine"]["cpu"]))  # what it is, not whose
        parts = parts_of(output)
        self.assertEqual(list(parts), PARTS)
        for name, part in parts.items():
            self.assertEqual((part["state"], part["reason"]), ("done", ""), name)
            self.assertIn(part["section"], SECTIONS)
            self.assertTrue(part["method"].endswith(".") and part["seconds"] >= 0, part)
            self.assertTrue([r for r in rest if r.get("part") == name], f"{name}: no figures")
        ids = [r["id"] for r in rest]
        self.assertEqual(len(ids), len(set(ids)))
        self.check_figures(rest)
        self.assertFalse((output / "work").exists())
        for name in ("report.html", "report.md"):
            for section in ("Throughput", "Placement", "Quality"):
                self.assertIn(section, (output / name).read_text())
        self.check_going_on(output)

    def check_figures(self, rest):
        by = {}
        for r in rest:
            by.setdefault(r["record"], []).append(r)
        for f in by["figure"]:
            self.assertTrue(f["values"] and all(isinstance(v, (int, float)) for v in f["values"]), f)
            self.assertTrue(f["unit"] and f["better"] in ("higher", "lower", "none") and f["series"], f)
            self.assertTrue(f["roofline"] is None or f["roofline"] > 0, f)
        figures = {f["figure"] for f in by["figure"]}
        self.assertLessEqual({"decode-context", "decode-carrier", "prompt-length", "decode-users", "placement-speed", "placement-hits",
                              "placement-moved", "memory-planned", "input-decode", "input-hits", "load-ready", "capacity",
                              "first-token-by-load", "between-tokens-by-load", "perplexity", "divergence", "reference-agreement",
                              "determinism"}, figures)
        policies = {f["series"] for f in by["figure"] if f["figure"] == "placement-hits"}
        self.assertEqual(policies, {"all cold", "static top-k", "lru", "decayed", "predictive", "all hot"})
        hits = {f["series"]: f["values"][-1] for f in by["figure"] if f["figure"] == "placement-hits" and f["x"] in (0, 100)}
        self.assertEqual(hits, {"all cold": 0, "all hot": 100})
        held = {t["series"]: max(b for _, b in t["points"]) for t in by["timeline"]}
        self.assertGreater(held["keys and values in use"], 0)
        for f in by["figure"]:
            if f["figure"] in ("determinism", "reference-agreement") and f["series"] != "fast":
                self.assertEqual(f["values"], [100.0], f)
        perplexity = {f["x"]: f["values"][0] for f in by["figure"] if f["figure"] == "perplexity"}
        self.assertEqual(set(perplexity), {"NF4, exact", "NF4, float", "NF4, fast", "bf16"})
        for value in perplexity.values():
            self.assertLess(abs(value / perplexity["NF4, exact"] - 1), 0.05)
        for s in by["stack"]:
            self.assertTrue(all(x["value"] >= 0 for x in s["shares"]), s)
        for d in by["distribution"]:
            self.assertEqual(sum(count for _, count in d["buckets"]), d["count"])
            quantiles = [d["quantiles"][q] for q in ("0.05", "0.25", "0.5", "0.75", "0.95", "0.99")]
            self.assertEqual(quantiles, sorted(quantiles))
        self.assertLessEqual({"swap-latency", "first-token", "between-tokens"}, {d["figure"] for d in by["distribution"]})
        swaps = {d["series"] for d in by["distribution"] if d["figure"] == "swap-latency"}
        self.assertLessEqual({"promotion and demotion, idle", "promotion and demotion, under load"}, swaps)
        for m in by["matrix"]:
            self.assertEqual((len(m["values"]), {len(row) for row in m["values"]}), (5, {12}))
        self.assertEqual(len(by["matrix"]), 7)
        for t in by["timeline"]:
            seconds = [at for at, _ in t["points"]]
            self.assertEqual(seconds, sorted(seconds))

    def check_going_on(self, output):
        """All done: nothing is run again. One part's end lost, with half a line behind: that part alone is."""
        path = output / "results.jsonl"
        whole = path.read_bytes()
        again = self.bench(output, "--golden", self.golden)
        self.assertEqual((again.returncode, path.read_bytes()), (0, whole))
        self.assertEqual(again.stderr.count("done before"), len(PARTS))
        lines = whole.decode().splitlines(keepends=True)
        kept = [line for line in lines if "load.ready" not in (json.loads(line).get("part"), json.loads(line).get("id"))]
        path.write_text("".join(kept) + '{"record":"figure","id":"load.rea')
        again = self.bench(output, "--golden", self.golden)
        self.assertEqual((again.returncode, again.stderr.count("done before")), (0, len(PARTS) - 1), again.stderr)
        self.assertEqual(path.read_text().count("\n"), len(lines))
        self.assertEqual(parts_of(output)["load.ready"]["state"], "done")

    def test_interrupted(self):
        output = self.folder / "interrupted"
        wanted = "throughput.carriers,load.ready,memory"
        command = [str(PROGRAM), *map(str, self.command(output, "--parts", wanted))]
        process = subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   text=True)
        said = ""
        for line in process.stderr:
            said += line
            if "throughput.carriers: done" in line:
                process.send_signal(signal.SIGINT)
                break
        said += process.stderr.read()
        process.stderr.close()
        self.assertEqual(process.wait(60), 130, said)
        self.assertIn("memory.timeline", (output / "report.md").read_text())  # which says that it is missing
        self.assertIn("missing: memory.timeline, load.ready", said)
        self.assertEqual(list(parts_of(output)), ["throughput.carriers"])
        self.assertFalse([r for r in records_of(output) if r.get("part", "throughput.carriers") != "throughput.carriers"])
        done = self.bench(output, "--parts", wanted)
        self.assertEqual((done.returncode, done.stderr.count("done before")), (0, 1), done.stderr)
        self.assertEqual(list(parts_of(output)), ["throughput.carriers", "memory.timeline", "load.ready"])
        self.assertNotIn("missing", done.stderr)

    def test_another_run_is_left_alone(self):
        output = self.folder / "another"
        self.assertEqual(self.bench(output, "--parts", "throughput.carriers").returncode, 0)
        path = output / "results.jsonl"
        whole = path.read_bytes()
        other = json.dumps({**records_of(output)[0], "commit": "0000000"}) + "\n"
        cases = ((whole, ("--threads", 1), "options"), (other.encode(), (), "commit"), (b'{"record":"part"}\n', (), "begin"),
                 (b"nonsense\n", (), "line 1"))
        for content, more, word in cases:
            with self.subTest(word):
                path.write_bytes(content)
                done = self.bench(output, "--parts", "throughput.carriers", *more)
                self.assertEqual((done.returncode, len(error_lines(done.stderr))), (1, 1), done.stderr)
                self.assertIn(word, error_lines(done.stderr)[0])
                self.assertEqual(path.read_bytes(), content)
        done = self.bench(output, "--parts", "quality.agreement", "--restart")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([r["record"] for r in records_of(output)], ["run", "part"])
        self.assertEqual(parts_of(output)["quality.agreement"]["state"], "skipped")
        self.assertIn("--golden", parts_of(output)["quality.agreement"]["reason"])

    def test_a_part_that_fails_does_not_end_the_suite(self):
        output = self.folder / "failed"
        done = self.bench(output, "--parts", "quality.agreement,throughput.carriers", "--golden", self.folder / "nowhere")
        self.assertEqual(done.returncode, 1)
        self.assertIn("failed: quality.agreement", done.stderr)
        self.assertEqual({k: v["state"] for k, v in parts_of(output).items()},
                         {"throughput.carriers": "done", "quality.agreement": "failed"})
        self.assertIn("nowhere", parts_of(output)["quality.agreement"]["reason"])

    def test_refusals(self):
        out = self.folder / "refused"
        usage = (["bench", DEMO, "--suite", "quick"], ["bench", DEMO, "--output", out], ["bench", DEMO, "--parts", "load"],
                 ["bench", DEMO, "--suite", "other", "--output", out], ["bench", "decode", DEMO, "--suite", "quick", "--output", out],
                 ["bench", DEMO, "--suite", "quick", "--output", out, "--json"])
        for arguments in usage:
            with self.subTest(arguments=arguments):
                done = verb(*arguments)
                self.assertEqual((done.returncode, done.stdout, len(error_lines(done.stderr))), (2, "", 1), done.stderr)
        for more in (["--parts", "sleep"], ["--parts", ","], ["--text", "/nowhere/text"]):
            with self.subTest(more=more):
                done = self.bench(out, *more)
                self.assertEqual((done.returncode, len(error_lines(done.stderr))), (1, 1), done.stderr)
        done = verb("bench", self.model, "--suite", "quick", "--output", "/nowhere/at/all")
        self.assertEqual((done.returncode, len(error_lines(done.stderr))), (1, 1), done.stderr)
        self.assertFalse(out.exists())


if __name__ == "__main__":
    unittest.main()
