#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Figures of expert placement, on the demo model with held-out prompts and on generated routes of 512 experts.

  placement.py --build DIR [--what replay,cost,policies,prediction,conversations,returns,grouping] [--device cpu|cuda] [--out DIR]

replay: hit rates of all policies by capacity, as tables and plots (thermocline replay). The rest runs servers on the demo model: what
placement takes of a step, live hit rates and swap latency by policy, what looking ahead does to hits and speed, the first tokens of conversations that come back (those they generate by replay, those they
compute live), expert reads with and without grouping."""
import argparse
import concurrent.futures
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def held_out(count=48, length=300):
    """Prompts from all over the held-out text: manual pages, prose, lists, dictionaries."""
    text = (ROOT / "demo" / "heldout.txt").read_text()
    starts = [text.index("\n", i * (len(text) // count)) + 1 for i in range(count)]
    return [text[a:a + length].rstrip() for a in starts]


def replay(program, out):
    prompts, train = out / "held.txt", ROOT / "demo" / "prompts.txt"
    prompts.write_text("\n---\n".join(held_out()) + "\n")
    for name, source, samples in (("train", train, 6000), ("held", prompts, 9600)):
        subprocess.run([program, "profile", ROOT / "demo" / "model", "--prompts", source, "--samples", str(samples), "--length", "200",
                        "--profile", out / f"{name}.profile", "--trace-routing", out / f"{name}.routes", "--svg", out / f"{name}.svg"],
                       check=True, stderr=subprocess.DEVNULL)
    subprocess.run([program, "replay", out / "held.routes", "--policy", "static,lru,lfu,decayed,predictive", "--profile", out / "train.profile",
                    "--slots", "4,8,12,16", "--plot", out / "demo-hits.svg"], check=True)
    subprocess.run([program, "replay", "--generated", "--slots", "32,64,96,128,256", "--plot", out / "generated-hits.svg"], check=True)


class Servers:
    def __init__(self, build, device):
        sys.path.insert(0, str(ROOT / "tests" / "e2e"))
        os.environ["TC_BUILD"] = str(build)
        import harness
        self.h, self.prompts, self.program = harness, held_out(), build / "cli" / "thermocline"
        # a quarter of the 256 experts
        self.quarter = ("--hot-experts", 64, "--device", "cuda", "--vram", "2G") if device == "cuda" else ("--hot-budget", "3176000")

    def start(self, *arguments):
        profile = tempfile.mktemp(suffix=".profile", dir=self.h.CACHE)
        return self.h.Server(self.h.DEMO, 1, "--prefix-cache", 0, "--profile", profile, *arguments)

    @staticmethod
    def ask(server, prompt, tokens, conversation=None):
        body = dict(prompt=prompt, max_tokens=tokens, temperature=0, ignore_eos=True)
        if conversation:
            body["expert_hints"] = {"conversation_id": conversation}
        return server.post("/api/v1/generate", body)[1]

    @staticmethod
    def figures(server):
        time.sleep(1.2)  # the gateway's figures are up to half a second old
        return {**server.get("/api/v1/expert-stats")[1], **server.get("/api/v1/model-info")[1]["statistics"]}

    def cost(self):
        for arguments in ((), self.quarter):
            with self.start(*arguments) as server:
                self.ask(server, self.prompts[0], 50)
                a = self.figures(server)
                self.ask(server, self.prompts[1], 2000)
                b = self.figures(server)
            steps, took = b["steps"] - a["steps"], b["placement_us"] - a["placement_us"]
            print(f"cost {arguments}: {took / steps:.1f} us a step, {100 * took / (b['step_us'] - a['step_us']):.3f} % of it")

    def policies(self):
        for policy in ("static", "lru", "lfu", "decayed", "predictive"):
            with self.start(*self.quarter, "--hot-policy", policy, "--hot-link-percent", 100) as server:
                for prompt in self.prompts[:16]:
                    self.ask(server, prompt[:120], 150)
                seen = self.figures(server)
            swap = seen["swap_latency"]
            print(f"live {policy}: {100 * seen['cache_hit_rate']:.2f} % hits, {seen['fills']} fills, {seen['prefetch_hits']} of "
                  f"{seen['prefetches']} prefetches used, a swap {swap['mean_us']:.0f} us, at most {swap['max_us']}")

    def prediction(self, rounds=12):
        """Both policies by turns in one server; speeds are of short answers, so that some of each fall into a quiet moment."""
        speed, hits = {}, {}
        with self.start(*self.quarter, "--hot-link-percent", 100) as server:
            for prompt in self.prompts[:6]:
                self.ask(server, prompt[:120], 150)
            for i in range(rounds):
                for policy in ("decayed", "predictive"):
                    server.post("/api/v1/expert-optimization", {"policy": policy})
                    a = server.get("/api/v1/expert-stats")[1]
                    for k in range(12):
                        start = time.monotonic()
                        self.ask(server, self.prompts[(12 * i + k) % 48][:120], 24)
                        speed.setdefault(policy, []).append(24 / (time.monotonic() - start))
                    b = server.get("/api/v1/expert-stats")[1]
                    was = hits.setdefault(policy, [0, 0])
                    was[0] += b["cache_hits"] - a["cache_hits"]
                    was[1] += b["cache_misses"] - a["cache_misses"]
            ahead = server.get("/api/v1/expert-stats")[1]["prediction"]
        for policy, (found, missed) in hits.items():
            print(f"prediction: {policy} {100 * found / (found + missed):.1f} % of pairs hot")
        ratio = statistics.median(speed["predictive"]) / statistics.median(speed["decayed"])
        top = sum(sorted(speed["predictive"])[-10:]) / sum(sorted(speed["decayed"])[-10:])
        print(f"prediction: speed against decayed {ratio:.2f} (medians), {top:.2f} (the ten best of each); {ahead}")

    def conversations(self):
        """Ten conversations go on behind their kept prompts after others had their turns; what footprints bring is replayed."""
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "t.routes"
            profile = tempfile.mktemp(suffix=".profile", dir=self.h.CACHE)
            with self.h.Server(self.h.DEMO, 0, "--profile", profile, "--trace-routing", trace) as server:
                texts = []
                for i in range(10):
                    texts.append(self.prompts[i] + self.ask(server, self.prompts[i], 150, f"c{i}")["text"])
                    self.ask(server, texts[i], 1, f"c{i}")
                for i, text in enumerate(texts):
                    for k in range(3):
                        self.ask(server, self.prompts[12 + (3 * i + k) % 30], 100, f"o{i}-{k}")
                    self.ask(server, text, 16, f"c{i}")
            subprocess.run([self.program, "replay", trace, "--policy", "decayed", "--slots", "4,8,16", "--returns", "16"], check=True)

    def tokens(self, texts):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        done = subprocess.run([self.program, "tokenize", self.h.DEMO], input=lines, text=True, capture_output=True, check=True)
        return [len(json.loads(line)["ids"]) for line in done.stdout.splitlines()]

    def cut(self, text, more, rest):
        """text with as much of `more` behind it as makes rest tokens beyond whole blocks of 64."""
        longer = [text + more[:i] for i in range(1, len(more))]
        return next(t for t, n in zip(longer, self.tokens(longer)) if n % 64 == rest)

    def returns(self):
        """Conversations about a text each come back, with more of that text, behind their kept prompts after three others had their
        turns: of the 16 tokens that the next turn computes, which are its prompt, how many pairs are hot. With answers of 100 tokens
        before, and without."""
        for answer in (100, 0):
            for budget, share in ((1588000, 12.5), (3176000, 25), (6352000, 50)):
                rates = [self.first_computed(budget, answer, warm) for warm in (False, True)]
                print(f"returns, {share} % of the experts, {answer} tokens of answer: first 16 tokens computed {rates[0]:.1f} % cold, "
                      f"{rates[1]:.1f} % warm", flush=True)

    def first_computed(self, budget, answer, warm, count=48):
        profile, texts = tempfile.mktemp(suffix=".profile", dir=self.h.CACHE), held_out(count, 1600)
        hot = pairs = counted = 0
        with self.h.Server(self.h.DEMO, 1, "--profile", profile, "--hot-budget", budget, "--hot-policy", "decayed") as server:
            turns = []
            for i, text in enumerate(texts):
                said = text[:400] + (self.ask(server, text[:400], answer, f"c{i}")["text"] if answer else "")
                turns.append(self.cut(said, text[400:800], 4))
                self.ask(server, turns[i], 1, f"c{i}")
            for i, turn in enumerate(turns):
                for k in range(3):
                    self.ask(server, texts[(i + 13 + 11 * k) % count][1300:1600], 100, f"o{i}-{k}")
                said = 800 if answer else len(turn)  # where the text goes on
                more = self.cut(turn, texts[i][said:said + 500], 16)
                seen = self.ask(server, more, 1, f"c{i}" if warm else f"n{i}")  # its one token comes of the prompt's last
                computed = seen["expert_cache_hits"] + seen["expert_cache_misses"]
                if computed == 16 * 8 * 4:  # else a piece of text is a token of several words, and a block more is computed
                    hot, pairs, counted = hot + seen["expert_cache_hits"], pairs + computed, counted + 1
        if counted < count * 3 / 4:
            raise AssertionError(f"only {counted} of {count} conversations computed 16 tokens")
        return 100 * hot / pairs

    def grouping(self):
        for steps in (0, 200, 0, 200):
            with self.start("--sessions", 4, "--group-steps", steps) as server:
                talk = lambda i, n: self.ask(server, f"{self.prompts[(3, 15, 27, 40)[i % 4]][:150]} {i}", n, f"k{i % 4}")  # noqa: E731
                for i in range(4):
                    talk(i, 150)
                a = self.figures(server)
                with concurrent.futures.ThreadPoolExecutor(48) as pool:
                    list(pool.map(lambda i: talk(i, 80), range(48)))
                b = self.figures(server)
            tokens = b["tokens_generated"] - a["tokens_generated"]
            print(f"grouping {steps}: {(b['expert_reads'] - a['expert_reads']) / tokens:.2f} expert reads a token, "
                  f"{(b['reads_shared'] - a['reads_shared']) / tokens:.2f} shared")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build")
    parser.add_argument("--what", default="replay,cost,policies,prediction,conversations,returns,grouping")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="thermocline-placement-"))
    out.mkdir(parents=True, exist_ok=True)
    for what in arguments.what.split(","):
        if what == "replay":
            replay(arguments.build / "cli" / "thermocline", out)
        else:
            getattr(Servers(arguments.build, arguments.device), what)()
    print(f"traces, profiles and plots: {out}")


if __name__ == "__main__":
    main()
