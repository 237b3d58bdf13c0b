# SPDX-License-Identifier: Apache-2.0
"""What the programs tell a service manager (sd_notify), heard on sockets of ours: ready only when it is true, what is waited for,
the watchdog fed, reloading and ready again whether the new configuration is good or not, stopping."""
import os
import re
import signal
import socket
import tempfile
import time
import unittest
from pathlib import Path

from harness import CACHE, DEMO, eventually
from pieces import Pieces

WATCHDOG_S = 2


class Listener:
    """A manager's socket: what one program said, each message as {word: value}, in order, with the time it was heard."""

    def __init__(self, abstract=False):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        path = tempfile.mktemp(prefix="notify-", dir=CACHE)
        self.socket.bind("\0" + path if abstract else path)
        self.environment = {"NOTIFY_SOCKET": "@" + path if abstract else path, "WATCHDOG_USEC": str(WATCHDOG_S * 1000000)}
        self.heard = []

    def all(self):
        while True:
            try:
                text = self.socket.recv(4096).decode()
            except BlockingIOError:
                return self.heard
            self.heard.append((time.monotonic(), dict(line.split("=", 1) for line in text.split("\n"))))

    def words(self, since=0):
        """The state words among the messages after the first `since`; the watchdog's beats and texts left out."""
        return [word for _, m in self.all()[since:] for word in m if word in ("READY", "RELOADING", "STOPPING")]

    def status(self):
        return next((m["STATUS"] for _, m in reversed(self.all()) if "STATUS" in m), "")


class Managed(Pieces):
    def __init__(self, **options):
        self.conf = Path(tempfile.mkstemp(suffix=".conf", dir=CACHE)[1])
        self.listeners = {name: Listener(abstract=name == "worker") for name in ("core", "worker", "gateway")}
        config = ("--config", self.conf)
        super().__init__(1, core=config, gateway=config, worker={0: config}, start=(), shard="partition", **options)

    def start(self, program, index=0):
        kept = self.environment
        self.environment = {**kept, **self.listeners[program].environment}
        try:
            return super().start(program, index)
        finally:
            self.environment = kept


@unittest.skipUnless(DEMO.exists(), "demo/model is not there")
class Manager(unittest.TestCase):
    def reload(self, server, program, text, says):
        """SIGHUP with that configuration: RELOADING, at a time that is told, then READY, and nothing else."""
        listener = server.listeners[program]
        since, before, said = len(listener.all()), time.monotonic(), len(server.log(program))
        server.conf.write_text(text)
        server.send(program, signal.SIGHUP)
        self.assertTrue(eventually(lambda: listener.words(since)[-1:] == ["READY"]), (program, listener.words(since)))
        self.assertEqual(listener.words(since), ["RELOADING", "READY"], program)
        told = next(m for _, m in listener.all()[since:] if "RELOADING" in m)
        self.assertEqual(told["RELOADING"], "1")
        at = int(told["MONOTONIC_USEC"]) / 1e6  # of the clock that Python's is
        self.assertTrue(before <= at <= time.monotonic(), (before, at))
        self.assertIn(says, server.log(program)[said:], program)

    def test_a_life(self):
        with Managed() as server:
            core, worker, gateway = (server.listeners[name] for name in ("core", "worker", "gateway"))
            # Nobody computes experts: the core has its weights, is not ready, and says why.
            self.assertTrue(eventually(lambda: core.status() == "waiting: no expert worker is connected", 60), core.all())
            self.assertEqual(core.words(), [])
            server.start("worker")
            for listener, status in ((worker, r"partition 0 of 1, 1 threads, \d+ MiB resident"),
                                     (core, r"serving \S+, 1 of 1 workers"), (gateway, r"serving \S+: \d+ running.*")):
                self.assertTrue(eventually(lambda: listener.words() == ["READY"], 60), listener.all())
                self.assertTrue(eventually(lambda: re.fullmatch(status, listener.status())), listener.all())
            for program, listener in server.listeners.items():
                self.assertTrue(eventually(lambda: sum("WATCHDOG" in m for _, m in listener.all()) >= 3, 3 * WATCHDOG_S), program)
            for program in ("core", "worker", "gateway"):
                self.reload(server, program, "log-level = debug\n", "configuration applied")
                self.reload(server, program, "nonsense = 1\n", "the configuration stays as it was")
            # The core goes and comes: the worker says so, and takes it back.
            server.conf.write_text("")
            server.kill("core")
            self.assertTrue(eventually(lambda: worker.status().startswith("no core at ipc://")), worker.all())
            since = len(core.all())
            server.start("core")
            self.assertTrue(eventually(lambda: core.words(since) == ["READY"], 60), core.all())
            self.assertTrue(eventually(lambda: worker.status().startswith("partition 0 of 1")), worker.all())
            self.assertTrue(eventually(server.ready))
            self.assertEqual(server.generate("In", max_tokens=2, temperature=0)["tokens_generated"], 2)
            for program in ("gateway", "core", "worker"):
                listener = server.listeners[program]
                since = len(listener.all())
                server.send(program, signal.SIGTERM)
                self.assertEqual(server.running[program, 0].wait(20), 0)
                self.assertEqual(listener.words(since), ["STOPPING"], program)

    def test_what_stands_still_is_not_fed(self):
        """A worker whose call never ends, and a core that waits for it, keep silent: so a manager can tell."""
        with Managed() as server:
            server.worker_options[0] = (*server.worker_options[0], "--fault", "stall-after=0")
            server.start("worker")
            worker = server.listeners["worker"]
            self.assertTrue(eventually(lambda: server.ready() and sum("WATCHDOG" in m for _, m in worker.all()) >= 2, 60))
            client = socket.create_connection(("127.0.0.1", server.port), 10)
            body = b'{"prompt": "In"}'
            client.sendall(b"POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            time.sleep(0.5)
            since = len(worker.all())
            time.sleep(WATCHDOG_S)
            self.assertEqual([m for _, m in worker.all()[since:]], [])
            client.close()
            for program in ("core", "worker"):  # neither would end soon by itself
                server.kill(program)

    def test_no_manager_no_harm(self):
        """A socket that nobody reads, one that is not there, and names that are none."""
        listener = Listener()
        listener.socket.close()
        for name in (listener.environment["NOTIFY_SOCKET"], "/nonexistent/socket", "relative", "@", "/" + "x" * 200):
            with self.subTest(name[:20]):
                server = Pieces(0, core=["--expert-source", "inprocess"], start=(), environment={"NOTIFY_SOCKET": name})
                try:
                    self.assertTrue(eventually(server.ready, 60), server.text())
                finally:
                    self.assertEqual(set(server.stop().values()), {0})


if __name__ == "__main__":
    unittest.main()
