# SPDX-License-Identifier: Apache-2.0
"""Many users of the real programs at once: whatever the mix (joins, hang-ups, slow readers, shared beginnings,
several choices), each answer is that of the same request alone, on a server without a prefix cache."""
import http.client
import json
import random
import socket
import threading
import time
import unittest

from harness import DEMO, Server

STEM = "In the beginning the old king and his three sons lived by the sea, and every morning "


def plan(seed):
    """Requests of one mix. Beginnings are shared; all are seeded, so that answers can be compared."""
    r = random.Random(seed)
    requests = []
    for i in range(12):
        text = STEM * r.choice([0, 1, 3, 6, 9]) + r.choice(["they went ", "she said ", ""]) + f"number {r.randrange(40)}"
        requests.append({"prompt": text, "max_tokens": r.choice([4, 24, 60]), "temperature": r.choice([0, 1.0]),
                         "seed": r.randrange(1 << 30), "n": r.choice([1, 1, 1, 3]), "priority": r.randrange(-2, 3)})
    return requests


class ManyUsers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.alone = Server(DEMO, 1, "--prefix-cache", 0)
        cls.shared = Server(DEMO, 2, "--sessions", 6, "--chunk-ms", 5)

    @classmethod
    def tearDownClass(cls):
        cls.alone.stop()
        cls.shared.stop()

    def complete(self, server, request):
        status, answer = server.post("/v1/completions", request)
        self.assertEqual(status, 200, answer)
        return [c["text"] for c in sorted(answer["choices"], key=lambda c: c["index"])], answer["usage"]

    def hang_up(self, request, read_bytes):
        """Asks for a stream and leaves after some of it."""
        with socket.create_connection(("127.0.0.1", self.shared.port)) as s:
            body = json.dumps({**request, "max_tokens": 2000, "stream": True}).encode()
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            s.settimeout(20)
            while read_bytes > 0:
                read_bytes -= len(s.recv(4096)) or read_bytes

    def slow(self, request):
        """A stream read a little at a time; the text of its only choice."""
        c = http.client.HTTPConnection("127.0.0.1", self.shared.port, timeout=60)
        c.request("POST", "/v1/completions", json.dumps({**request, "n": 1, "stream": True}))
        answer, data = c.getresponse(), b""
        while piece := answer.read(300):
            data += piece
            time.sleep(0.002)
        events = [e[6:] for e in data.decode().split("\n\n") if e.startswith("data: ")]
        self.assertEqual(events.pop(), "[DONE]")
        return ["".join(json.loads(e)["choices"][0]["text"] for e in events)]

    def test_mixes(self):
        for seed in range(2):
            requests, got = plan(seed), {}
            expected = [self.complete(self.alone, r)[0] for r in requests]

            def user(i):
                time.sleep(random.Random(seed * 100 + i).random() * 0.2)
                got[i] = self.slow(requests[i]) if i % 5 == 4 else self.complete(self.shared, requests[i])[0]

            users = [threading.Thread(target=user, args=(i,)) for i in range(len(requests))]
            users += [threading.Thread(target=self.hang_up, args=(requests[i], 200 + 900 * i)) for i in range(3)]
            for t in users:
                t.start()
            for t in users:
                t.join()
            for i, request in enumerate(requests):
                self.assertEqual(got.get(i), expected[i][:1] if i % 5 == 4 else expected[i], f"seed {seed}, request {request}")

    def test_next_turn_is_mostly_cached(self):
        first = {"prompt": STEM * 20, "max_tokens": 130, "temperature": 0}
        texts, before = self.complete(self.shared, first)
        second = {**first, "prompt": first["prompt"] + texts[0] + " And then the youngest said: "}
        texts, usage = self.complete(self.shared, second)
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        self.assertGreater(cached, before["prompt_tokens"] + 120)  # nearly all of the answer, too
        self.assertEqual(texts, self.complete(self.alone, second)[0])
        self.assertEqual(self.complete(self.alone, second)[1]["prompt_tokens_details"]["cached_tokens"], 0)

    def test_turn_after_turn(self):
        """Each turn goes on where the last answer ended, and says what it says without any of it."""
        for seed in range(3):
            prompt, known = STEM * (1 + 5 * seed), 0
            for turn in range(5):
                ask = {"prompt": prompt, "max_tokens": 5 + 13 * turn, "temperature": 0.8, "seed": seed, "frequency_penalty": 0.1 * seed}
                texts, usage = self.complete(self.shared, ask)
                self.assertEqual(texts, self.complete(self.alone, ask)[0], f"seed {seed}, turn {turn}")
                cached = usage["prompt_tokens_details"]["cached_tokens"]
                self.assertGreaterEqual(cached, known - 72, f"seed {seed}, turn {turn}")  # 64, and where words join tokens may be others
                known = usage["prompt_tokens"] + usage["completion_tokens"]
                prompt += texts[0] + f"\n\nTurn {turn}. And then"

    def test_a_deadline_passes(self):
        status, answer = self.shared.post("/api/v1/generate", {"prompt": STEM * 40, "max_tokens": 2000, "deadline_ms": 5})
        self.assertEqual((status, answer["error"]["code"]), (504, "deadline_exceeded"))


if __name__ == "__main__":
    unittest.main()
