# SPDX-License-Identifier: Apache-2.0
"""Hot experts: whatever policy, size or storm of evictions, every bit stays the same; operators see and change it live;
what was learned outlives the process; conversations find their experts again; memory that shrinks ends nobody."""
import json
import re
import tempfile
import threading
import unittest
from pathlib import Path
from xml.etree import ElementTree

from harness import CACHE, DEMO, FIXTURES, Server, eventually, verb

SMALL = FIXTURES / "next-nf4" / "model"
IDS = [(7 * i) % 97 + 1 for i in range(150)]
PROMPT = "The thermocline is the boundary between"


def fresh():
    """A profile that is not there yet: nothing learned by the tests before is known."""
    return "--profile", tempfile.mktemp(suffix=".profile", dir=CACHE)


def stats(server):
    return server.get("/api/v1/expert-stats")[1]


def tune(server, **settings):
    return server.post("/api/v1/expert-optimization", settings)


class SameBits(unittest.TestCase):
    def test_whatever_is_hot(self):
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            ids, out = Path(folder) / "ids.json", Path(folder) / "logits.npy"
            ids.write_text(json.dumps({"ids": IDS}))

            def run(*arguments):
                done = verb("eval", SMALL, "--ids", ids, "--logits", out, "--greedy", 40, "--log-level", "info",
                            *arguments)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual("hot tier: " in done.stderr, "--hot-budget" in arguments)
                return out.read_bytes(), done.stdout

            want = run("--workers", 0)
            cases = [("--workers", 0, "--hot-budget", "1G"), ("--workers", 1, "--hot-budget", "1G", "--hot-policy", "lfu"),
                     ("--workers", 2, "--shard", "slice", "--hot-budget", "300K", "--hot-policy", "lru"),
                     ("--workers", 2, "--hot-budget", "1M", "--data-plane", "nng", "--hot-policy", "predictive"),
                     ("--workers", 0, "--hot-budget", "500K", "--hot-policy", "predictive", "--hot-scope", "layer"),
                     ("--workers", 1, "--hot-budget", "400K", "--hot-scope", "layer")]
            for case in cases:
                with self.subTest(case=case):
                    self.assertEqual(run(*case, "--hot-link-percent", 100), want)

    def test_eviction_storms(self):
        """Three requests at once, while the tier is resized, emptied, pinned and given other policies as fast as it takes it."""
        ask = dict(max_tokens=160, temperature=0)
        prompts = [PROMPT, "NAME\n  tar - an archiving utility", "1. Buy bread\n2. Call"]
        with Server(DEMO, 1) as server:
            want = [server.generate(p, **ask)["text"] for p in prompts]
        with Server(DEMO, 1, "--hot-budget", "6M", "--hot-link-percent", 100) as server:
            got, over = [[] for _ in prompts], threading.Event()

            def talk(i):
                for _ in range(3):
                    got[i].append(server.generate(prompts[i], **ask)["text"])

            def storm():
                k = 0
                while not over.is_set():
                    k += 1
                    settings = [dict(cache_size=(k * 37) % 90), dict(policy=["lru", "predictive", "decayed", "static"][k // 4 % 4]),
                                dict(enable=k % 8 < 6), dict(unpin=[[k % 8, 3]])][k % 4]
                    status, answer = tune(server, **settings)
                    self.assertEqual(status, 200, answer)

            threads = [threading.Thread(target=talk, args=(i,)) for i in range(3)]
            stormer = threading.Thread(target=storm)
            for t in [*threads, stormer]:
                t.start()
            for t in threads:
                t.join()
            over.set()
            stormer.join()
            for texts, text in zip(got, want):
                self.assertEqual(texts, [text] * 3)
            self.assertGreater(stats(server)["evictions"], 100)
            self.assertEqual(server.statistics()["decode_allocations"], 0)


class Operators(unittest.TestCase):
    def test_live(self):
        with Server(DEMO, 1, "--hot-budget", "3M", "--hot-link-percent", 100, *fresh()) as server:
            server.generate(PROMPT, max_tokens=100, temperature=0)
            seen = stats(server)
            for name in ("cached_experts", "total_experts_tracked", "cache_hit_rate", "vram_usage_gb", "top_experts",
                         "per_layer", "evictions", "fills", "swap_latency"):
                self.assertIn(name, seen)
            self.assertEqual(seen["policy"], "decayed")
            self.assertGreater(seen["cache_hit_rate"], 0.2)
            self.assertEqual(len(seen["per_layer"]), seen["layers"])
            pairs = seen["cache_hits"] + seen["cache_misses"]  # the gateway's own figures are a little older
            self.assertTrue(eventually(lambda: stats(server)["hits"] + stats(server)["misses"] == pairs))
            self.assertEqual(sum(b["count"] for b in seen["swap_latency"]["histogram"]), seen["swap_latency"]["count"])

            status, after = tune(server, policy="lru", cache_size=16, pin=[[2, 5], [3, 1]], profiling_samples=20)
            self.assertEqual((status, after["policy"], after["cache_size"], after["pinned"]), (200, "lru", 16, 2))
            server.generate("Dear Sir,", max_tokens=60, temperature=0)
            self.assertLessEqual(stats(server)["cached_experts"], 16)
            self.assertEqual(tune(server, unpin=[[2, 5], [3, 1]])[1]["pinned"], 0)

            for bad in (dict(policy="best"), dict(cache_size=10**6), dict(pin=[[99, 0]]), dict(pin=[[0]]), dict(colour=1),
                        dict(cache_size=1, pin=[[0, 0], [0, 1]]), dict(enable="yes")):
                status, answer = tune(server, **bad)
                self.assertEqual(status, 400, bad)
                self.assertTrue(answer["error"]["message"], bad)
            self.assertEqual(stats(server)["cache_size"], 16)  # a bad one changes nothing

            tune(server, enable=False)
            before = stats(server)
            server.generate(PROMPT, max_tokens=20)
            after = stats(server)
            self.assertEqual((after["cached_experts"], after["fills"]), (0, before["fills"]))

    def test_prediction(self):
        with Server(DEMO, 1, "--hot-budget", "3M", "--hot-link-percent", 100, *fresh()) as server:
            server.generate(PROMPT, max_tokens=100, temperature=0)
            before = stats(server)
            self.assertEqual(before["prediction"]["fills"], 0)
            tune(server, policy="predictive")
            server.generate(PROMPT, max_tokens=200, temperature=0, ignore_eos=True)
            seen = stats(server)
            ahead = seen["prediction"]
            self.assertGreater(ahead["recall"], 0.6)
            self.assertGreater(ahead["used"], 100)
            self.assertLessEqual(ahead["used"] + ahead["late"], ahead["fills"])
            self.assertGreaterEqual(seen["cache_hits"] + seen["cache_misses"], ahead["expected"])
            self.assertEqual(server.statistics()["decode_allocations"], 0)
            server.generate(PROMPT, max_tokens=20, temperature=0, optimize_experts=False)
            self.assertEqual(stats(server)["fills"], seen["fills"])

    def test_untouched(self):
        with Server(DEMO, 1, "--hot-budget", "2M", "--hot-link-percent", 100, *fresh()) as server:
            answer = server.generate(PROMPT, max_tokens=40, optimize_experts=False)
            self.assertEqual(answer["expert_cache_hits"], 0)
            seen = stats(server)
            self.assertEqual((seen["cached_experts"], seen["fills"], seen["total_experts_tracked"]), (0, 0, 0))
            self.assertGreater(seen["cache_misses"], 0)

    def test_without_a_tier(self):
        with Server(DEMO, 1) as server:
            server.generate(PROMPT, max_tokens=8)
            seen = stats(server)
            self.assertEqual((seen["cached_experts"], seen["cache_hit_rate"], seen["per_layer"]), (0, None, None))
            self.assertGreater(seen["total_experts_tracked"], 0)  # the profile is always on
            self.assertEqual(tune(server, policy="lru")[0], 409)

    def test_hints(self):
        with Server(DEMO, 1, "--hot-budget", "1M", "--hot-link-percent", 100) as server:
            hints = {"pin": [[0, 1], [1, 2]], "prefetch": [[2, 3]], "profile": "letters", "conversation_id": "c1"}
            server.generate(PROMPT, max_tokens=30, expert_hints=hints)
            self.assertEqual(stats(server)["pinned"], 0)  # the request has ended
            self.assertGreater(stats(server)["prefetches"], 0)
            for bad in ({"pin": [[1]]}, {"pin": 1}, {"profile": ""}, {"conversation_id": "x" * 129}, {"pin": [[0, 1]] * 1025}):
                status, _ = server.post("/api/v1/generate", {"prompt": "a", "expert_hints": bad})
                self.assertEqual(status, 400, str(bad)[:60])
            server.generate("a", max_tokens=2, expert_hints={"pin": [[0, 1]] * 1024})


class Learned(unittest.TestCase):
    def test_a_conversation_finds_its_experts_again(self):
        """Already in the step that computes the next turn's prompt: what was announced comes while its layers are computed."""
        text = (DEMO.parent / "heldout.txt").read_text()
        texts, others = [text[i * 8000:] for i in range(8)], [text[i * 3000 + 2000:] for i in range(24)]

        def returns(warm):
            hot = pairs = 0
            with Server(DEMO, 1, "--hot-budget", "3176000", *fresh()) as server:
                def ask(prompt, tokens, conversation):
                    return server.generate(prompt, max_tokens=tokens, temperature=0, ignore_eos=True,
                                           expert_hints={"conversation_id": conversation})
                for i, own in enumerate(texts):
                    ask(own[:600], 1, f"c{i}")
                for i, own in enumerate(texts):
                    for k in range(3):
                        ask(others[3 * i + k][:200], 80, f"o{i}-{k}")
                    seen = ask(own[:640], 1, f"c{i}" if warm else f"n{i}")
                    hot += seen["expert_cache_hits"]
                    pairs += seen["expert_cache_hits"] + seen["expert_cache_misses"]
            return hot / pairs

        cold, warm = returns(False), returns(True)
        print(f"          hot of what the returning turn computes: {cold:.3f} cold, {warm:.3f} warm")
        self.assertGreater(warm, cold + 0.1)

    def test_outlives_the_process(self):
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            profile = Path(folder) / "demo.profile"
            arguments = ("--profile", profile, "--hot-budget", "3M", "--hot-link-percent", 100)
            with Server(DEMO, 1, *arguments) as server:
                server.generate(PROMPT, max_tokens=200, temperature=0, ignore_eos=True)
            kept = profile.read_bytes()
            self.assertEqual(list(Path(folder).iterdir()), [profile])
            with Server(DEMO, 1, *arguments, "--log-level", "info") as server:
                self.assertIn("routing profile of ", server.text())
                self.assertGreater(stats(server)["profile_tokens"], 150)
                server.generate(PROMPT, max_tokens=10)
                self.assertGreater(stats(server)["cached_experts"], 50)
            for damage in (kept[:-1], kept[:100] + bytes([kept[100] ^ 1]) + kept[101:], b"", kept[:30]):
                profile.write_bytes(damage)
                with Server(DEMO, 1, *arguments) as server:  # told, and begun anew
                    self.assertEqual(stats(server)["profile_tokens"], 0)
                    self.assertIn("begun anew", server.text())



class Verbs(unittest.TestCase):
    def test_profile_trace_replay(self):
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            prompts, profile, trace = Path(folder) / "p.txt", Path(folder) / "p", Path(folder) / "t.routes"
            heat, plot = Path(folder) / "heat.svg", Path(folder) / "plot.svg"
            prompts.write_text("NAME\n   cp - copy\n---\nIn the beginning\n---\n1. Bread\n2. Milk\n")
            done = verb("profile", DEMO, "--prompts", prompts, "--samples", 300, "--length", 100, "--profile", profile,
                        "--trace-routing", trace, "--svg", heat)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("a quarter of all experts", done.stdout)
            shown = verb("profile", "show", profile)
            self.assertIn("8 layers of 32 experts", shown.stdout)
            done = verb("replay", trace, "--policy", "static,lru,lfu,decayed,predictive", "--profile", profile, "--slots", "4,25%",
                        "--plot", plot, "--json")
            self.assertEqual(done.returncode, 0, done.stderr)
            rows = [json.loads(line) for line in done.stdout.splitlines()]
            self.assertEqual(len(rows), 14)
            for slots in (32, 64):
                hits = {r["policy"]: r["hit_rate"] for r in rows if r["slots"] == slots}
                ahead = hits.pop("predictive")  # fetches inside a step, which Belady's rule does not allow
                self.assertTrue(all(hits["belady"] >= h for h in hits.values()), hits)
                self.assertGreater(ahead, hits["decayed"] + 0.1)
            for picture in (heat, plot):
                ElementTree.parse(picture)
            trace.write_bytes(trace.read_bytes()[:-3])
            done = verb("replay", trace)
            self.assertEqual(done.returncode, 1)
            self.assertIn("ends in the middle of a frame", done.stderr)
            for bad in (("replay",), ("replay", trace, "--generated"), ("profile", DEMO), ("plan", DEMO), ("profile", "show")):
                self.assertEqual(verb(*bad).returncode, 2, bad)

    def test_plan(self):
        small = ("--vram", "1100M", "--ram", "2G")
        done = verb("plan", DEMO, "--vram", "2G", "--ram", "2GiB", "--users", 2)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("hot: 256 of 256 experts", done.stdout)
        done = verb("plan", DEMO, *small, "--users", 64, "--context", 4096)
        self.assertEqual(done.returncode, 1)
        nearest = re.search(r"--context (\d+) with 64 users fits|--users (\d+) with", done.stderr)
        self.assertTrue(nearest, done.stderr)
        arguments = ("--context", nearest[1], "--users", 64) if nearest[1] else ("--context", 4096, "--users", nearest[2])
        self.assertEqual(verb("plan", DEMO, *small, *arguments).returncode, 0)
        plan = json.loads(verb("plan", DEMO, "--ram", "1G", "--json").stdout)
        self.assertEqual((plan["fits"], plan["hot_experts"]), (True, 0))
        # less memory, smaller batches: no refusal before they are as small as they get
        tokens = [json.loads(verb("plan", DEMO, "--ram", f"{mib}M", "--json").stdout)["batch_tokens"] for mib in (900, 1400, 8192)]
        self.assertEqual(tokens, sorted(set(tokens)))
        done = verb("plan", DEMO, "--vram", "400MiB", "--ram", "2GiB")
        self.assertEqual(done.returncode, 1)
        vram = re.search(r"--vram (\d+)M --ram (\d+)M fits", done.stderr)
        self.assertTrue(vram, done.stderr)
        self.assertEqual(verb("plan", DEMO, "--vram", f"{vram[1]}M", "--ram", f"{vram[2]}M").returncode, 0)

    def test_plan_is_the_core_s_sum(self):
        available = int(re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())[1]) << 10
        for arguments in (("--context", 4096), ("--context", 300)):
            with Server(DEMO, 1, "--log-level", "info", "--sessions", 8, "--device", "cpu", *arguments) as server:
                self.assertTrue(server.ready())
                said = re.search(r"memory: dense weights (\d+) MiB, KV (\d+) MiB, states (\d+) MiB, scratch (\d+) MiB, constraints up to "
                                 r"(\d+) MiB", server.text())
            plan = json.loads(verb("plan", DEMO, "--ram", available, "--users", 8, "--json", *arguments).stdout)
            told = [plan[f"{what}_bytes"] >> 20 for what in ("dense", "kv", "state", "scratch", "constraints")]
            self.assertEqual(told, [int(x) for x in said.groups()])


if __name__ == "__main__":
    unittest.main()
