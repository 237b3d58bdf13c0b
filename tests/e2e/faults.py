# SPDX-License-Identifier: Apache-2.0
"""What must not happen when processes die and clients leave."""
import json
import os
import shutil
import signal
import socket
import time
import unittest

import openai
from harness import DEMO, Server, children, error_lines, eventually, leftovers, verb

LONG = {"prompt": "The first line of the file", "max_tokens": 400, "temperature": 0.7, "seed": 3}


def stream(server, fields=LONG, on_token=None):
    """Text of a stream; on_token(number) is called with each chunk."""
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    text = []
    for number, chunk in enumerate(client.completions.create(model=model, stream=True, **fields)):
        text += [c.text for c in chunk.choices]
        if on_token:
            on_token(number)
    return "".join(text)


@unittest.skipUnless(DEMO.exists(), "demo/model is not there")
class Faults(unittest.TestCase):
    def test_killed_workers_change_no_token(self):
        for shard in ("partition", "slice"):
            for victims in (1, 2):
                with self.subTest(shard=shard, victims=victims), Server(DEMO, 2, "--shard", shard) as server:
                    undisturbed = stream(server)
                    killed = []

                    def kill(number):
                        if number == 10:
                            killed.extend(server.pids("thermocline-wor")[:victims])
                            for pid in killed:
                                os.kill(pid, signal.SIGKILL)

                    self.assertEqual(stream(server, on_token=kill), undisturbed)
                    self.assertEqual(len(killed), victims)
                    # In this order: statistics may be from before the kill.
                    self.assertTrue(eventually(lambda: server.statistics()["workers_lost"] >= victims))
                    self.assertTrue(eventually(lambda: server.statistics()["workers_up"] == 2))
                    self.assertFalse(set(killed) & set(server.pids("thermocline-wor")))

    def test_stopped_worker_costs_time_only(self):
        with Server() as server:
            undisturbed = stream(server, {**LONG, "max_tokens": 60})
            victim = server.pids("thermocline-wor")[0]

            def freeze(number):
                if number == 5:
                    os.kill(victim, signal.SIGSTOP)

            try:
                self.assertEqual(stream(server, {**LONG, "max_tokens": 60}, freeze), undisturbed)
            finally:
                try:
                    os.kill(victim, signal.SIGCONT)
                except ProcessLookupError:
                    pass

    def test_client_that_hangs_up_stops_its_generation(self):
        with Server() as server:
            before = server.statistics()["tokens_generated"]
            body = json.dumps({**LONG, "max_tokens": 3000, "stream": True}).encode()
            with socket.create_connection(("127.0.0.1", server.port)) as s:
                s.sendall(b"POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                          b"Content-Length: %d\r\n\r\n" % len(body) + body)
                seen = b""
                while seen.count(b'"token"') < 5:
                    block = s.recv(4096)
                    self.assertTrue(block, seen)
                    seen += block
            time.sleep(1.5)  # the gateway asks the core for its counters about once a second
            after = server.statistics()
            self.assertEqual(after["running"], 0)
            self.assertTrue(5 <= after["tokens_generated"] - before < 1000, (before, after))
            time.sleep(1.5)
            self.assertEqual(server.statistics()["tokens_generated"], after["tokens_generated"])
            server.generate("Still", max_tokens=4)

    def test_killed_core_fails_requests_and_comes_back(self):
        with Server() as server:
            want = server.generate("In the beginning", max_tokens=16, temperature=0)["text"]

            def kill(number):
                if number == 5:
                    os.kill(server.pids("thermocline-cor")[0], signal.SIGKILL)

            with self.assertRaises((openai.APIError, AssertionError)):
                self.assertEqual(len(stream(server, {**LONG, "max_tokens": 2000}, kill)), -1)
            self.assertTrue(eventually(server.ready, 20))
            self.assertEqual(server.generate("In the beginning", max_tokens=16, temperature=0)["text"], want)

    def test_killed_gateway_comes_back(self):
        with Server() as server:
            os.kill(server.pids("thermocline-gat")[0], signal.SIGKILL)
            self.assertTrue(eventually(server.ready, 10))
            server.generate("Again", max_tokens=4)

    def test_signals_end_everything(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(number.name), Server() as server:
                started = children(server.process.pid)
                self.assertEqual(len(started), 4)
                self.assertEqual(server.stop(number), 0)
                self.assertEqual([pid for pid in started if os.path.exists(f"/proc/{pid}")], [])
                self.assertEqual(leftovers(server.process.pid), [])

    def test_stop_in_mid_generation(self):
        with Server() as server:
            stopped = []

            def stop(count):
                if count == 5:
                    server.process.send_signal(signal.SIGTERM)
                    stopped.append(time.monotonic())

            try:
                stream(server, {**LONG, "max_tokens": 3000}, stop)
            except openai.APIError:
                pass
            except Exception as error:  # the connection may simply end
                self.assertIn(type(error).__module__.split(".")[0], ("httpx", "httpx2", "httpcore", "httpcore2"), error)
            self.assertEqual(server.process.wait(30), 0)
            self.assertLess(time.monotonic() - stopped[0], 20)

    def test_killed_supervisor_takes_all_with_it(self):
        with Server() as server:
            started = children(server.process.pid)
            server.process.kill()
            server.process.wait()
            self.assertTrue(eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in started), 15))
            for folder in leftovers(server.process.pid):  # nobody was left to remove it
                shutil.rmtree(folder)

    def test_worker_that_keeps_crashing_ends_the_server(self):
        with Server(DEMO, 1) as server:
            deadline = time.monotonic() + 60
            while server.process.poll() is None and time.monotonic() < deadline:
                for pid in server.pids("thermocline-wor"):
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                time.sleep(0.01)
            self.assertEqual(server.process.poll(), 1, server.text()[-2000:])
            self.assertIn("keeps crashing", error_lines(server.text())[-1])

    def test_address_in_use(self):
        with Server() as server:
            second = verb("serve", DEMO, "--listen", f"127.0.0.1:{server.port}", "--workers", 1, "--log-level", "warn")
            self.assertEqual(second.returncode, 1)
            self.assertEqual(len(error_lines(second.stderr)), 1, second.stderr)
            self.assertIn(f"127.0.0.1:{server.port}", second.stderr)
            self.assertTrue(server.ready())
