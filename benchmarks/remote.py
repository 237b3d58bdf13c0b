#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a worker elsewhere costs: tokens a second with its calls by shared memory, by message, by TCP, by TLS, and by TLS over
networks of several delays (tests/support/relay.c). One worker, one stream, greedy; all cases alternate, the best of each.

  remote.py --build DIR [--model DIR] [--tokens N] [--rounds N] [--json]

Model: demo/model, or a folder made by benchmarks/make_checkpoint. The relay adds its own hop: the row `0 ms` shows what that costs.
"""
import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--build", required=True)
parser.add_argument("--model", default=ROOT / "demo" / "model", type=Path)
parser.add_argument("--tokens", type=int, default=64)
parser.add_argument("--prompt-words", type=int, default=160)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--json", action="store_true")
options = parser.parse_args()
os.environ["TC_BUILD"] = str(Path(options.build).resolve())
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from fleet import Process, Relay, certificates, tls  # noqa: E402
from harness import BUILD, CACHE, eventually, free_port, verb  # noqa: E402
import fleet  # noqa: E402

HOST = "127.0.0.1"
DELAYS_MS = (0, 0.1, 0.5, 2)
WORDS = "the first line of a file is read before any other and then what was asked for comes back in order".split()


class Case:
    """A core, a gateway and one worker that reaches it in one way."""

    def __init__(self, name, pki, scheme, plane="nng", delay_ms=None):
        self.name, port = name, free_port()
        secret = tls(pki, "core") if scheme == "tls+tcp" else []
        folder = Path(tempfile.mkdtemp(dir=CACHE))
        listen = f"ipc://{folder}/experts" if scheme == "ipc" else f"{scheme}://{HOST}:{port}"
        self.core = Process(BUILD / "gpu-core" / "thermocline-core", "--model", options.model, "--engine",
                            f"ipc://{folder}/engine", "--experts", listen, "--workers", 1, "--data-plane", plane,
                            "--prefix-cache", 0, "--device", "cpu", *secret)
        self.port = free_port()
        self.gateway = Process(BUILD / "gateway" / "thermocline-gateway", "--model", options.model, "--engine",
                               f"ipc://{folder}/engine", "--listen", f"{HOST}:{self.port}")
        self.relay = None
        if delay_ms is not None:
            self.relay = Relay(HOST, HOST, port)
            self.relay.tell(f"delay {int(delay_ms * 1000)}")
            listen = f"{scheme}://{HOST}:{self.relay.port}"
        self.worker = Process(BUILD / "expert-worker" / "thermocline-worker", "--connect", listen, "--model", options.model,
                              "--index", 0, "--of", 1, *(tls(pki, "one") if scheme == "tls+tcp" else []))
        self.url = f"http://{HOST}:{self.port}"
        if not eventually(self.ready, 60):
            raise SystemExit(f"{name}: not ready\n{self.core.text()}\n{self.worker.text()}")
        self.decode, self.prompt = [], []

    def ready(self):
        try:
            return fleet.Server.get(self, "/api/v1/health")[0] == 200
        except OSError:
            return False

    request = fleet.Server.request

    def measure(self, round_number):
        text = " ".join(WORDS[(i * 7 + round_number) % len(WORDS)] for i in range(options.prompt_words))
        status, answer = self.request("POST", "/api/v1/generate", {"prompt": text[:20], "max_tokens": options.tokens,
                                                                   "temperature": 0, "ignore_eos": True})
        assert status == 200, answer
        self.decode.append((options.tokens - 1) / answer["decode_time"])
        status, answer = self.request("POST", "/api/v1/generate", {"prompt": text, "max_tokens": 1, "temperature": 0})
        assert status == 200, answer
        self.prompt.append(answer["prompt_tokens"] / answer["prefill_time"])

    def stop(self):
        for process in (self.worker, self.gateway, self.core, self.relay):
            if process:
                process.stop()


def main():
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        pki = certificates(Path(folder) / "pki", HOST)
        assert verb("pack", options.model).returncode == 0
        layers = json.loads((options.model / "config.json").read_text())["num_hidden_layers"]
        plans = [("shared memory", "ipc", "shm"), ("message, ipc", "ipc", "nng"), ("message, TCP", "tcp", "nng"),
                 ("message, TLS", "tls+tcp", "nng"), *((f"TLS, {ms} ms each way", "tls+tcp", "nng", ms) for ms in DELAYS_MS)]
        best = {}
        for round_number in range(options.rounds):
            for name, scheme, *rest in plans:
                case = Case(name, pki, scheme, *rest)
                try:
                    case.measure(-1)  # warm
                    for _ in range(2):
                        case.measure(round_number)
                finally:
                    case.stop()
                decode, prompt = best.get(name, (0, 0))
                best[name] = max(decode, *case.decode[1:]), max(prompt, *case.prompt[1:])
        base = best[plans[0][0]][0]
        if options.json:
            print(json.dumps({"model": str(options.model), "layers": layers, "cases": best}))
            return
        print(f"{'carrier':24} {'tokens/s':>9} {'us a call more':>15} {'prompt tokens/s':>16}")
        for name, (decode, prompt) in best.items():
            print(f"{name:24} {decode:9.1f} {(1 / decode - 1 / base) * 1e6 / layers:15.0f} {prompt:16.0f}")


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"({time.monotonic() - began:.0f} s)", file=sys.stderr)
