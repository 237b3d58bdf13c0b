# SPDX-License-Identifier: Apache-2.0
"""What the death of core or gateway costs, what a stop under load does, and what clients can do to each other: streams end with an
error and never as if whole, health says so within a second, the port stays, and well-behaved clients notice nothing."""
import http.client
import json
import multiprocessing
import os
import signal
import socket
import time
import unittest
from pathlib import Path

from harness import DEMO, Server, eventually
from pieces import Pieces, Stream, dialects, within

ASK = {"prompt": "In the beginning", "max_tokens": 48, "temperature": 0}
FOREVER = 3000  # tokens: never reached here


def resident_kib(pid):
    return int(next(l for l in Path(f"/proc/{pid}/status").read_text().splitlines() if l.startswith("VmRSS")).split()[1])


@unittest.skipUnless(DEMO.exists(), "demo/model is not there")
class Core(unittest.TestCase):
    def test_killed_amid_streams_of_every_dialect(self):
        with Server(DEMO, 2) as server:
            want = {path: Stream(server, path, body).read().text for path, body in dialects("In the beginning", FOREVER // 60).items()}
            asked = dialects("In the beginning", FOREVER)
            streams = {path: Stream(server, path, body).read(12) for path, body in asked.items()}
            began = time.monotonic()
            os.kill(server.pids("thermocline-cor")[0], signal.SIGKILL)
            down = within(lambda: server.get("/api/v1/health")[0] == 503, 5)
            for path, s in streams.items():
                s.read()
                self.assertFalse(s.done, path)
                self.assertIsNone(s.cut, path)  # an event, not a cut connection
                self.assertTrue(s.error and s.error.get("message"), path)
                n = min(len(s.text), len(want[path]))
                self.assertEqual(s.text[:n], want[path][:n], path)
                self.assertGreater(len(s.text), 0, path)
            up = within(server.ready, 20)
            first = Stream(server, "/api/v1/generate", asked["/api/v1/generate"]).read(1)
            restart = time.monotonic() - began
            self.assertTrue(first.text)
            print(f"    health 503 after {down * 1e3:.0f} ms, first token of the next request after {restart:.2f} s", flush=True)
            self.assertLess(down, 1)
            self.assertIsNotNone(up)
            self.assertLess(restart, 3)  # experts are in the arena
            again = Stream(server, "/v1/completions", dialects("In the beginning", FOREVER // 60)["/v1/completions"]).read()
            self.assertEqual((again.text, again.done), (want["/v1/completions"], True))

    def test_killed_again_and_again(self):
        with Server(DEMO, 1) as server:
            want = server.generate(**ASK)["text"]
            for _ in range(3):
                stream = Stream(server, "/v1/completions", {**ASK, "max_tokens": FOREVER}).read(6)
                os.kill(server.pids("thermocline-cor")[0], signal.SIGKILL)
                stream.read()
                self.assertTrue(stream.error and not stream.done)
                self.assertTrue(eventually(lambda: server.get("/api/v1/health")[0] != 200, 2))
                self.assertTrue(eventually(server.ready, 20))
                self.assertEqual(server.generate(**ASK)["text"], want)


@unittest.skipUnless(DEMO.exists(), "demo/model is not there")
class Device(unittest.TestCase):
    """The core's device reports an error in the middle of requests, in a pass's layers or behind them: by a hook, so that no GPU is needed."""

    PASSES = 24

    def test_in_error_amid_streams_of_every_dialect(self):
        with Server(DEMO, 0) as alone:
            want = {path: Stream(alone, path, body).read().text for path, body in dialects("In the beginning", self.PASSES).items()}
        for where in ("layers", "head"):
            with self.subTest(where), Server(DEMO, 2, "--device-fault", f"{where}-after={self.PASSES}", "--device", "cpu") as server:
                # `serve` gives up when a program ends before it has seen the server ready.
                self.assertTrue(eventually(lambda: "Ctrl-C stops everything" in server.text()), server.text())
                core = server.pids("thermocline-cor")[0]
                asked = dialects("In the beginning", FOREVER)
                streams = {path: Stream(server, path, body) for path, body in asked.items()}
                for path, s in streams.items():
                    s.read()
                    ended = time.monotonic()
                    self.assertFalse(s.done, path)
                    self.assertIsNone(s.cut, path)  # an event, not a cut connection
                    self.assertIn("the device failed while it was generating", s.error["message"], path)
                    self.assertTrue(s.text and want[path].startswith(s.text), (path, s.text))
                gateway = server.pids("thermocline-gat")
                self.assertTrue(within(lambda: server.get("/api/v1/health")[0] == 503 or server.pids("thermocline-cor") not in ([], [core]), 1))
                self.assertTrue(eventually(lambda: server.ready() and server.pids("thermocline-cor") not in ([], [core]), 20), server.text())
                print(f"    {where}: serving again {time.monotonic() - ended:.2f} s after the last stream's error", flush=True)
                self.assertIn("the device failed: cpu: a fault test broke it", server.text())
                self.assertRegex(server.text(), r"core ended with exit code 4; starting it again")
                again = Stream(server, "/v1/completions", dialects("In the beginning", self.PASSES // 2)["/v1/completions"]).read()
                self.assertTrue(again.done and want["/v1/completions"].startswith(again.text) and again.text)
                self.assertEqual(server.pids("thermocline-gat"), gateway)  # it lived through it

    def test_health_is_bad_while_it_is_gone(self):
        """Nobody starts the core again here: 503 within a second, and it stays."""
        with Pieces(1, core=["--device-fault", f"layers-after={self.PASSES}", "--device", "cpu"], shard="partition") as server:
            stream = Stream(server, "/api/v1/generate", {**ASK, "max_tokens": FOREVER}).read()
            began = time.monotonic()
            self.assertIn("the device failed", stream.error["message"])
            down = within(lambda: server.get("/api/v1/health")[0] == 503, 5)
            self.assertEqual(server.running["core", 0].wait(10), 4)
            self.assertLess(down, 1)
            print(f"    health 503 {down * 1e3:.0f} ms after the stream's error, exit {time.monotonic() - began:.2f} s after it", flush=True)
            status, answer = server.post("/api/v1/generate", ASK)
            self.assertEqual((status, answer["error"]["code"]), (503, "unavailable"))
            self.assertIsNone(server.running["worker", 0].poll())
            server.options["core"] = []
            server.start("core")
            self.assertTrue(eventually(server.ready, 20))
            self.assertEqual(server.post("/api/v1/generate", ASK)[0], 200)


@unittest.skipUnless(DEMO.exists(), "demo/model is not there")
class Gateway(unittest.TestCase):
    def test_killed_and_the_port_is_kept(self):
        """The test holds the socket, as a service manager does: who connects meanwhile waits and is answered."""
        with Pieces(1) as server:
            want = server.generate(**ASK)["text"]
            before = server.statistics()["tokens_generated"]
            stream = Stream(server, "/api/v1/generate", {**ASK, "max_tokens": FOREVER}).read(5)
            server.kill("gateway")
            stream.read()
            self.assertFalse(stream.done)
            waiting = socket.create_connection(("127.0.0.1", server.port), 10)  # nobody is there to accept
            body = json.dumps(ASK).encode()
            waiting.sendall(b"POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" %
                            len(body) + body)
            time.sleep(0.5)
            server.start("gateway")
            waiting.settimeout(60)
            answer = http.client.HTTPResponse(waiting)
            answer.begin()
            if answer.status == 503:  # the core had not answered it yet: an explicit error, and it works the next time
                self.assertTrue(eventually(server.ready))
            else:
                self.assertEqual(json.loads(answer.read())["text"], want)
            waiting.close()
            self.assertTrue(eventually(lambda: server.ready() and server.statistics()["running"] == 0))
            made = server.statistics()["tokens_generated"] - before
            self.assertLess(made, FOREVER - 500)  # the core gave up what nobody hears
            self.assertEqual(server.generate(**ASK)["text"], want)

    def test_stop_under_load(self):
        """SIGTERM: nobody new, who can end in time does and is whole, the others are told; exit code 0."""
        with Pieces(2, gateway=["--drain-seconds", 3]) as server:
            want = server.generate(**ASK)["text"]
            short = [Stream(server, "/api/v1/generate", ASK).read(2) for _ in range(4)]
            endless = {path: Stream(server, path, body).read(3) for path, body in dialects("On and on", FOREVER).items()}
            idle = socket.create_connection(("127.0.0.1", server.port), 10)
            began = time.monotonic()
            server.send("gateway", signal.SIGTERM)
            time.sleep(0.2)
            health = None
            idle.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            try:
                health = idle.recv(4096)
            except ConnectionError:
                pass
            self.assertNotIn(b" 200 ", health or b"")
            for s in short:
                s.read()
                self.assertEqual((s.text, s.done, s.error), (want, True, None))
            for path, s in endless.items():
                s.read()
                self.assertTrue(not s.done and s.error and s.error.get("message"), (path, s.error, s.cut))
            self.assertEqual(server.running["gateway", 0].wait(10), 0)
            self.assertTrue(2.5 < time.monotonic() - began < 6, time.monotonic() - began)
            self.assertEqual(set(server.stop().values()), {0})


@unittest.skipUnless(DEMO.exists(), "demo/model is not there")
class Hostile(unittest.TestCase):
    """Clients that flood, dawdle or never end beside one that asks properly: its answers stay right and timely, memory is bounded."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server(DEMO, 1, "--connections", 400, "--sessions", 8)
        cls.want = cls.server.generate(**ASK)["text"]

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    @classmethod
    def timed(cls):
        begin = time.monotonic()
        if cls.server.generate(**ASK)["text"] != cls.want:
            raise AssertionError("another answer")
        if time.monotonic() - begin > 30:
            raise AssertionError("an answer took 30 s")

    def beside(self, harm, seconds=1.0):
        """harm(stop) runs in processes of its own while proper requests are made; growth of the gateway's memory in MiB."""
        gateway, fork = self.server.pids("thermocline-gat")[0], multiprocessing.get_context("fork")
        stop, before = fork.Event(), resident_kib(gateway)
        harmful = [fork.Process(target=harm, args=(stop,), daemon=True) for _ in range(2)]
        for p in harmful:
            p.start()
        most, end, looks = before, time.monotonic() + seconds, []
        while time.monotonic() < end or len(looks) < 2:
            self.timed()
            begin = time.monotonic()
            self.assertEqual(self.server.get("/api/v1/health")[0], 200)
            looks.append(time.monotonic() - begin)
            most = max(most, resident_kib(gateway))
        stop.set()
        for p in harmful:
            p.join(30)
            self.assertEqual(p.exitcode, 0)
        self.assertLess(min(looks), 0.5)
        return (most - before) / 1024

    def connect(self):
        s = socket.create_connection(("127.0.0.1", self.server.port), 10)
        s.settimeout(10)
        return s

    def refused(self, s):
        """The status of the answer; 0 when the connection was closed without one."""
        try:
            data = s.recv(4096)
        except (ConnectionError, TimeoutError):
            return 0
        return int(data.split()[1]) if data.startswith(b"HTTP/1.1 ") else 0

    def test_connection_flood(self):
        def harm(stop):
            held = []
            while not stop.is_set():
                try:
                    held.append(self.connect())
                except OSError:
                    pass
                time.sleep(0.002)  # the machine is to have time for others: it is the gateway that is looked at
                if len(held) > 150:
                    held.pop(0).close()
            for s in held:
                s.close()
        self.assertLess(self.beside(harm), 64)

    def test_slow_headers(self):
        def harm(stop):
            held = [self.connect() for _ in range(100)]
            for s in held:
                s.sendall(b"POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nX-A: ")
            while not stop.is_set():
                for s in held:
                    try:
                        s.sendall(b"a")
                    except OSError:
                        pass
                time.sleep(0.05)
            for s in held:
                s.close()
        self.assertLess(self.beside(harm), 32)

    def test_endless_chunk_extensions_and_trailers(self):
        head = b"POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        pieces = {"extension": (b"5;", b"name=value;" * 400), "quoted": (b'5;a="', b"x" * 4096), 
                  "trailer": (b"0\r\nA: ", b"x" * 4096), "tiny chunks": (b"", b"1\r\n \r\n" * 600)}
        for name, (start, more) in pieces.items():
            with self.subTest(name):
                def harm(stop):
                    while not stop.is_set():
                        s, count, begin = self.connect(), 0, time.monotonic()
                        try:
                            s.sendall(head + start)
                            while not stop.is_set() and time.monotonic() < begin + 8:
                                s.sendall(more)
                                count += len(more)
                                time.sleep(0.002)
                        except OSError:
                            pass
                        ended = not stop.is_set()
                        if name != "tiny chunks":  # which are a body, and bounded as one
                            if ended and time.monotonic() > begin + 7:
                                raise AssertionError(f"{count} bytes were listened to")
                            status = self.refused(s)
                            if status not in (0, 400, 413, 431):
                                raise AssertionError(f"answered {status}")
                        s.close()
                self.assertLess(self.beside(harm, 0.7), 48)

    def test_slow_readers(self):
        def harm(stop):
            held = []
            for _ in range(3):
                s = socket.socket()
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                s.connect(("127.0.0.1", self.server.port))
                body = json.dumps({"prompt": "x", "max_tokens": 2000, "stream": True, "temperature": 0}).encode()
                s.sendall(b"POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                held.append(s)
            stop.wait()
            for s in held:
                s.close()
        self.assertLess(self.beside(harm), 32)
        self.assertTrue(eventually(lambda: self.server.statistics()["running"] == 0))

    def test_huge_bodies(self):
        def harm(stop):
            while not stop.is_set():
                s = self.connect()
                try:
                    s.sendall(b"POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8000000\r\n\r\n" + b" " * 7000000)
                except OSError:
                    pass
                s.close()
                time.sleep(0.2)
        self.assertLess(self.beside(harm), 300)  # bodies of all connections: 256 MiB (gateway/limits.h)


if __name__ == "__main__":
    unittest.main()
