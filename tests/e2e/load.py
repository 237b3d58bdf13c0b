# SPDX-License-Identifier: Apache-2.0
"""The gateway from outside: sockets handed over by a service manager, what `serve` passes on to it, load and slow clients by
programs of others (wrk, slowhttptest, where they are installed), and ten times more requests than can be answered."""
import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path

from harness import BUILD, CACHE, DEMO, ENVIRONMENT, Server, eventually


def health_through(address):
    c = http.client.HTTPConnection("localhost", timeout=10)
    c.sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    c.sock.settimeout(10)
    c.sock.connect(address)
    c.request("GET", "/api/v1/health")
    answer = c.getresponse()
    return answer.status, json.loads(answer.read())


@unittest.skipUnless(DEMO.exists(), "demo/model is not there")
class HandedOver(unittest.TestCase):
    """LISTEN_FDS: descriptors from 3 on are listening sockets. The gateway alone: there need be no core."""

    def start(self, sockets, count, pid=None):
        """The gateway with these sockets as descriptors 3, 4, ...; the shell's pid stays when it execs."""
        moves = " ".join(f"{3 + i}<&{100 + i}" for i in range(len(sockets)))
        closes = " ".join(f"{100 + i}<&-" for i in range(len(sockets)))
        shell = f"exec {moves} {closes}; LISTEN_PID={pid or '$$'} LISTEN_FDS={count} exec \"$@\""

        def place():
            for i, s in enumerate(sockets):
                os.dup2(s.fileno(), 100 + i, inheritable=True)

        return subprocess.Popen(["bash", "-c", shell, "bash", str(BUILD / "gateway" / "thermocline-gateway"), "--engine",
                                 f"ipc://{CACHE}/nobody", "--model", str(DEMO), "--listen", "127.0.0.1:1", "--log-level", "info"],
                                preexec_fn=place, close_fds=False, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                env=ENVIRONMENT)

    def test_tcp_and_unix_at_once(self):
        with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix, tempfile.TemporaryDirectory(dir=CACHE) as folder:
            path = f"{folder}/s"
            tcp.bind(("127.0.0.1", 0))
            unix.bind(path)
            tcp.listen()
            unix.listen()
            gateway = self.start([tcp, unix], 2)
            try:
                for address in (tcp.getsockname(), path):  # connections wait in the sockets until it accepts
                    status, body = health_through(address)
                    self.assertEqual((status, body["ready"]), (503, False))
            finally:
                gateway.terminate()
                text = gateway.communicate(timeout=20)[1]
            self.assertEqual(gateway.returncode, 0, text)
            self.assertNotIn("127.0.0.1:1,", text)  # --listen gives way

    def test_for_another_process(self):
        with socket.socket() as tcp:
            tcp.bind(("127.0.0.1", 0))
            tcp.listen()
            gateway = self.start([tcp], 1, pid=1)  # not for this one: it tries its own address, which it may have
            try:
                tcp.settimeout(0.5)
                with socket.create_connection(tcp.getsockname()) as s:
                    s.settimeout(0.5)
                    s.sendall(b"GET /api/v1/health HTTP/1.0\r\n\r\n")
                    with self.assertRaises(TimeoutError):
                        s.recv(1)
            finally:
                gateway.terminate()
                gateway.communicate(timeout=20)

    def test_what_is_no_listening_socket_is_an_error(self):
        with tempfile.TemporaryFile() as file, socket.socket() as plain:
            for sockets, count, says in (([file], 1, ""), ([plain], 0, "LISTEN_FDS=0: expected 1 to 8"), ([plain], 9, "LISTEN_FDS=9"),
                                         ([plain], "x", "LISTEN_FDS=x"), ([plain], 2, "descriptor 4")):
                with self.subTest(count=count, says=says):
                    gateway = self.start(sockets, count)
                    text = gateway.communicate(timeout=20)[1]
                    self.assertEqual(gateway.returncode, 1, text)
                    self.assertIn(says, text)


@unittest.skipUnless(DEMO.exists(), "demo/model is not there")
class PassedOn(unittest.TestCase):
    @staticmethod
    def answered(server, connections):
        """How many of so many connections, all open at once, are served."""
        with contextlib.ExitStack() as held:
            sockets = [held.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(connections)]
            seen = []
            for s in sockets:
                s.settimeout(5)
                with contextlib.suppress(ConnectionError):
                    s.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    seen.append(s.recv(100))
            return sum(b" 200 " in x for x in seen)

    def test_hosts_origins_and_connections(self):
        with Server(DEMO, 0, "--allow-host", "model.test", "--allow-host", "other.test", "--cors-origin", "https://page.test",
                    "--connections-per-peer", 5, "--connections", 40) as server:
            for host, want in (("model.test", 200), ("other.test", 200), ("third.test", 403)):
                self.assertEqual(server.request("GET", "/v1/models", headers={"Host": host})[0], want)
            c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            c.request("GET", "/v1/models", headers={"Origin": "https://page.test"})
            self.assertEqual(c.getresponse().getheader("Access-Control-Allow-Origin"), "https://page.test")
            c.close()
            # once the connections above are gone for the server, too
            self.assertTrue(eventually(lambda: self.answered(server, 6) == 5))
            self.assertTrue(eventually(server.ready))


@unittest.skipUnless(DEMO.exists(), "demo/model is not there")
class Outside(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(DEMO, 0, "--queue-requests", 8, "--sessions", 4)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    @unittest.skipUnless(shutil.which("wrk"), "wrk is not there")
    def test_wrk(self):
        with tempfile.NamedTemporaryFile("w", suffix=".lua", dir=CACHE) as script:
            script.write('wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
                         'wrk.body = \'{"prompt": "In the", "max_tokens": 4}\'\n')
            script.flush()
            for path, more in (("/v1/models", []), ("/api/v1/generate", ["-s", script.name])):
                out = subprocess.run(["wrk", "-t1", "-c24", "-d2s", "--timeout", "30s", *more, self.server.url + path], capture_output=True, text=True,
                                     timeout=60, check=True).stdout
                self.assertNotIn("Socket errors", out, out)
                self.assertGreater(int(re.search(r"(\d+) requests in", out)[1]), 20, out)
                if not more:
                    self.assertNotIn("Non-2xx", out, out)
        self.assertTrue(self.server.ready())

    @unittest.skipUnless(shutil.which("slowhttptest"), "slowhttptest is not there")
    def test_slowhttptest(self):
        """Slow headers, slow bodies, slow reading: others are served all the while, and the slow ones are closed."""
        for mode in (["-H"], ["-B"], ["-X", "-w", "16", "-y", "32", "-n", "1", "-z", "8"]):
            with self.subTest(mode=mode[0]):
                test = subprocess.Popen(["slowhttptest", *mode, "-c", "150", "-r", "150", "-i", "1", "-l", "4", "-p", "1", "-u",
                                         self.server.url + ("/v1/completions" if mode[0] == "-B" else "/page.js")],
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                asked = 0
                while test.poll() is None:
                    begun = time.monotonic()
                    self.assertEqual(self.server.get("/api/v1/health")[0], 200)
                    self.assertLess(time.monotonic() - begun, 1)
                    asked += 1
                    time.sleep(0.2)
                self.assertGreater(asked, 3)
                out = test.communicate(timeout=20)[0]
                self.assertRegex(out, r"service available:.*YES")

    def test_ten_times_too_much(self):
        """The short form of `./dev bench overload`: all are answered or refused, those soon, and memory stays where it was."""
        def resident():
            return {p: int(Path(f"/proc/{p}/statm").read_text().split()[1]) for name in ("thermocline-core", "thermocline-gateway")
                    for p in self.server.pids(name[:15])}

        def burst(rate, seconds):
            out = subprocess.run([str(BUILD / "benchmarks" / "thermocline-gateway-load"), "overload", str(self.server.port), str(rate),
                                  str(seconds), "48"], capture_output=True, text=True, timeout=120, check=True).stdout
            return json.loads(out)

        counted, until = [], time.monotonic() + 2

        def user():
            while time.monotonic() < until:
                self.server.generate("In the beginning", max_tokens=48, ignore_eos=True)
                counted.append(1)

        threads = [threading.Thread(target=user) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        rate = 10 * len(counted) / 2
        burst(rate, 2)
        before, seen, after = resident(), burst(rate, 5), resident()
        self.assertEqual((seen["other"], seen["lost"], seen["unanswered"]), (0, 0, 0), seen)
        self.assertEqual(seen["answered"] + seen["refused"], seen["sent"])
        self.assertGreater(seen["refused"], seen["answered"])
        self.assertLess(seen["refused_median_ms"], 10, seen)
        for pid, pages in before.items():
            self.assertLess(after[pid] - pages, 8 << 20 >> 12)  # 8 MiB
        self.assertTrue(self.server.ready())


if __name__ == "__main__":
    unittest.main()
