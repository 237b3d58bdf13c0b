# SPDX-License-Identifier: Apache-2.0
"""The HTTP interface, seen by OpenAI's client and by plain HTTP."""
import json
import threading
import unittest
import urllib.request

import openai
from harness import DEMO, Server, eventually

PROMPT = "In the beginning"
SEEDED = {"temperature": 0.8, "top_p": 0.9, "seed": 7}


@unittest.skipUnless(DEMO.exists(), "demo/model is not there")
class Api(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.client = openai.OpenAI(base_url=cls.server.url + "/v1", api_key="none", max_retries=0)
        cls.model = cls.client.models.list().data[0].id

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def complete(self, prompt=PROMPT, max_tokens=24, **options):
        return self.client.completions.create(model=self.model, prompt=prompt, max_tokens=max_tokens, **{**SEEDED, **options})

    def test_completion(self):
        answer = self.complete()
        self.assertEqual(answer.object, "text_completion")
        self.assertTrue(answer.choices[0].text)
        self.assertIn(answer.choices[0].finish_reason, ("length", "stop"))
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)

    def test_seed_repeats_and_matters(self):
        same = {self.complete().choices[0].text for _ in range(3)}
        self.assertEqual(len(same), 1)
        others = {self.complete(seed=seed, temperature=1.5).choices[0].text for seed in range(4)}
        self.assertGreater(len(others), 1)

    def test_stream_equals_whole(self):
        whole = self.complete().choices[0]
        chunks = list(self.complete(stream=True))
        text = "".join(c.choices[0].text for c in chunks if c.choices)
        self.assertEqual(text, whole.text)
        self.assertGreater(len(chunks), 3)
        reasons = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
        self.assertEqual(reasons, [whole.finish_reason])

    def test_two_clients_at_once(self):
        prompts = ["In the beginning", "The name of the file"]
        alone = [self.complete(p, 40).choices[0].text for p in prompts]
        together = [None, None]

        def work(i):
            together[i] = "".join(c.choices[0].text for c in self.complete(prompts[i], 40, stream=True) if c.choices)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(together, alone)

    def test_stop_string(self):
        text = self.complete(temperature=0).choices[0].text
        stop = text[3:6]
        answer = self.complete(temperature=0, stop=[stop]).choices[0]
        self.assertEqual(answer.text, text[:text.index(stop)])
        self.assertEqual(answer.finish_reason, "stop")

    def test_native_generate(self):
        answer = self.server.generate(PROMPT, max_tokens=20, **SEEDED)
        self.assertEqual(answer["text"], self.complete(max_tokens=20).choices[0].text)
        self.assertEqual(answer["tokens_generated"], 20)
        self.assertGreater(answer["generation_time"], 0)
        self.assertIn("expert_cache_hits", answer)

    def test_native_stream(self):
        body = json.dumps({"prompt": PROMPT, "max_tokens": 20, "stream": True, **SEEDED}).encode()
        request = urllib.request.Request(self.server.url + "/api/v1/generate", data=body,
                                         headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            lines = [json.loads(line) for line in answer]
        text = "".join(line["token"] for line in lines if "token" in line)
        self.assertEqual(text, self.server.generate(PROMPT, max_tokens=20, **SEEDED)["text"])
        self.assertEqual(lines[-1]["tokens_generated"], 20)

    def test_batch(self):
        prompts = ["In the beginning", "The file", "And he said"]
        status, answer = self.server.post("/api/v1/generate/batch", {"prompts": prompts, "max_tokens": 12, **SEEDED})
        self.assertEqual(status, 200)
        results = answer.get("results", answer)
        self.assertEqual([r["text"] for r in results],
                         [self.server.generate(p, max_tokens=12, **SEEDED)["text"] for p in prompts])

    def test_information(self):
        # Ready is when every expert can be computed; the second worker may be a moment behind.
        eventually(lambda: self.server.get("/api/v1/health")[1]["workers"]["up"] == 2)
        status, health = self.server.get("/api/v1/health")
        self.assertEqual((status, health["ready"], health["workers"]["up"]), (200, True, 2))
        status, info = self.server.get("/api/v1/model-info")
        self.assertEqual(status, 200)
        self.assertIn("qwen3_next", json.dumps(info))

    def test_errors_have_openais_body(self):
        generate, complete = "/api/v1/generate", "/v1/completions"
        cases = (
            ("not JSON", "POST", generate, b"{", 400),
            ("not an object", "POST", generate, b"[]", 400),
            ("nothing", "POST", generate, b"", 400),
            ("deep", "POST", generate, b'{"prompt":' + b"[" * 5000 + b"]" * 5000 + b"}", 400),
            ("no prompt", "POST", generate, {}, 400),
            ("prompt of a wrong type", "POST", generate, {"prompt": 7}, 400),
            ("empty prompt", "POST", generate, {"prompt": ""}, 400),
            ("max_tokens negative", "POST", generate, {"prompt": "a", "max_tokens": -1}, 400),
            ("max_tokens text", "POST", generate, {"prompt": "a", "max_tokens": "many"}, 400),
            ("temperature negative", "POST", generate, {"prompt": "a", "temperature": -0.5}, 400),
            ("top_p above 1", "POST", generate, {"prompt": "a", "top_p": 1.5}, 400),
            ("prompt beyond the context", "POST", generate, {"prompt": "word " * 20000}, 400),
            ("ids beyond the vocabulary", "POST", complete, {"model": self.model, "prompt": [1 << 30]}, 400),
            ("unknown model", "POST", complete, {"model": "no-such-model", "prompt": "a"}, 404),
            ("unknown path", "GET", "/v1/nothing", None, 404),
            ("wrong method", "GET", generate, None, 405),
            ("body too large", "POST", generate, {"prompt": "a" * (33 << 20)}, 413),
        )
        for name, method, path, body, want in cases:
            with self.subTest(name):
                try:
                    status, answer = self.server.request(method, path, body)
                except OSError as error:  # the gateway may hang up on a body it will not read
                    self.assertEqual(want, 413, error)
                    continue
                self.assertEqual(status, want, answer)
                self.assertIsInstance(answer, dict, answer)
                self.assertTrue(answer["error"]["message"])
                self.assertIn("type", answer["error"])
        self.assertTrue(self.server.ready())

    def test_openais_client_gets_its_exception(self):
        with self.assertRaises(openai.BadRequestError):
            self.complete(temperature=-1)
        with self.assertRaises(openai.NotFoundError):
            self.client.completions.create(model="no-such-model", prompt="a")
