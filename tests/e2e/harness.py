# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests share: where things are, running a verb, and a server with all its processes."""
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("TC_BUILD", ROOT / "build"))
PROGRAM = BUILD / "cli" / "thermocline"
DEMO = ROOT / "demo" / "model"
FIXTURES = ROOT / "tests" / "golden" / "fixtures"
TIMEOUT_S = 120

# Stores are packed into a cache of our own, shared by all tests of a run.
CACHE = Path(tempfile.mkdtemp(prefix="thermocline-e2e-"))
# So are arenas, in a folder of shared memory.
ARENAS = Path(tempfile.mkdtemp(prefix="tc-e2e-arenas-", dir="/dev/shm"))
ENVIRONMENT = {**os.environ, "XDG_CACHE_HOME": str(CACHE), "THERMOCLINE_ARENA_DIR": str(ARENAS)}
ENVIRONMENT.pop("XDG_RUNTIME_DIR", None)  # so that runtime folders are where leftovers() looks


def clean_up():
    shutil.rmtree(CACHE, ignore_errors=True)
    shutil.rmtree(ARENAS, ignore_errors=True)


import atexit  # noqa: E402  (belongs to the lines above)

atexit.register(clean_up)


def verb(*arguments, **options):
    """Runs `thermocline ARGUMENTS` to its end."""
    options.setdefault("timeout", TIMEOUT_S)
    return subprocess.run([str(PROGRAM), *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT,
                          stdin=None if "input" in options else subprocess.DEVNULL, **options)


def error_lines(stderr):
    return [line for line in stderr.splitlines() if line.startswith("thermocline: error: ")]


def leftovers(pid):
    """Runtime folders that a supervisor with that pid left behind."""
    return list(Path("/tmp").glob(f"thermocline-{os.geteuid()}-{pid}-*"))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def eventually(condition, timeout_s=10.0):
    """The first true value of condition(), or its last value when the time is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(0.02)


def children(pid):
    """{pid: program} of the direct children of a process, zombies left out."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        name, rest = text[text.index("(") + 1:text.rindex(")")], text[text.rindex(")") + 2:].split()
        if int(rest[1]) == pid and rest[0] != "Z":
            found[int(stat.parent.name)] = name
    return found


class Server:
    """`thermocline serve` on a free port, with everything it starts."""

    def __init__(self, model=DEMO, workers=2, *arguments):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = tempfile.NamedTemporaryFile("w+", prefix="serve-", suffix=".log", dir=CACHE, delete=False)
        command = [str(PROGRAM), "serve", str(model), "--listen", f"127.0.0.1:{self.port}", "--workers", str(workers),
                   *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=ENVIRONMENT)
        if not eventually(lambda: self.process.poll() is not None or self.ready(), 60) or self.process.poll() is not None:
            self.stop()
            raise AssertionError("the server did not get ready:\n" + self.text())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def text(self):
        return Path(self.log.name).read_text()

    def ready(self):
        try:
            return self.get("/api/v1/health")[0] == 200
        except OSError:
            return False

    def request(self, method, path, body=None, headers=None):
        """(status, parsed or raw body); errors of HTTP are answers too."""
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        request = urllib.request.Request(self.url + path, data=data, method=method,
                                         headers={"Content-Type": "application/json", **(headers or {})})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, body):
        return self.request("POST", path, body)

    def generate(self, prompt, **fields):
        status, answer = self.post("/api/v1/generate", {"prompt": prompt, **fields})
        if status != 200:
            raise AssertionError(f"{status}: {answer}")
        return answer

    def statistics(self):
        """The counters of model-info, and the gauges of health, in one dict."""
        info, health = self.get("/api/v1/model-info")[1], self.get("/api/v1/health")[1]
        return {**info.get("statistics", info), "running": health["running"], "workers_up": health["workers"]["up"]}

    def pids(self, program):
        return sorted(pid for pid, name in children(self.process.pid).items() if name.startswith(program))

    def stop(self, signal_number=signal.SIGTERM):
        """Exit code; kills after a while."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
