# SPDX-License-Identifier: Apache-2.0
"""Core, workers and gateway started one by one by the test, which stands where a service manager would: each process may have options
of its own, may be killed for good, and the gateway's socket is the test's. Refuses: to start anything again by itself."""
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from harness import BUILD, CACHE, DEMO, ENVIRONMENT, TIMEOUT_S, Server, eventually, verb

FOLDERS = {"core": "gpu-core", "worker": "expert-worker", "gateway": "gateway"}
# The environment of the gateway must hold its own pid, which only it knows: the shell becomes the program.
LISTENING = 'LD_PRELOAD=$TC_PRELOAD LISTEN_PID=$$ exec "$@"'


class Pieces(Server):
    """`worker` maps an index to options of that worker; only the indices in `start` are started."""

    def __init__(self, workers=2, core=(), gateway=(), worker=None, start=None, model=DEMO, environment=None, shard="slice"):
        self.workers, self.model, self.worker_options, self.shard = workers, model, worker or {}, shard
        self.options = {"core": [*map(str, core)], "gateway": [*map(str, gateway)]}
        self.environment = {**ENVIRONMENT, **(environment or {})}
        self.folder = Path(tempfile.mkdtemp(prefix="tc-p-", dir="/tmp"))
        self.store = verb("pack", model).stdout.strip()
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(512)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.running, self.logs = {}, {}
        try:
            self.start("core")
            for i in range(workers) if start is None else start:
                self.start("worker", i)
            self.start("gateway")
            if start is None and not eventually(lambda: self.ready() and self.statistics()["workers_up"] == workers, 60):
                raise AssertionError("not ready:\n" + self.text())
        except BaseException:
            self.stop()
            raise

    def command(self, program, index=0):
        found = [str(BUILD / FOLDERS[program] / f"thermocline-{program}")]
        engine, experts = f"ipc://{self.folder}/engine", f"ipc://{self.folder}/experts"
        if program == "core":
            return [*found, "--model", str(self.model), "--store", self.store, "--engine", engine, "--experts", experts, "--workers",
                    str(self.workers), "--shard", self.shard, "--threads", "2", *self.options["core"]]
        if program == "worker":
            return [*found, "--connect", experts, "--store", self.store, "--index", str(index), "--of", str(self.workers), "--shard",
                    self.shard, "--threads", "1", *map(str, self.worker_options.get(index, ()))]
        return [*found, "--engine", engine, "--model", str(self.model), *self.options["gateway"]]

    def start(self, program, index=0):
        log = self.logs.setdefault((program, index), open(self.folder / f"{program}-{index}.log", "ab"))
        command, kept = self.command(program, index), {}
        if program == "gateway":
            def hand_over():
                os.dup2(self.socket.fileno(), 3)
                os.set_inheritable(3, True)  # where it was that one already
            command = ["/bin/sh", "-c", LISTENING, "sh", *command]
            # Descriptor 3 is made between fork and exec; close_fds would take it away again.
            kept = {"preexec_fn": hand_over, "close_fds": False}
        environment = self.environment
        if program == "gateway":  # what is preloaded is for it, not for the shell
            environment = {**environment, "LISTEN_FDS": "1", "TC_PRELOAD": environment.get("LD_PRELOAD", "")}
            environment.pop("LD_PRELOAD", None)
        self.running[program, index] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, **kept)
        return self.running[program, index]

    def ready(self):
        """The socket is there even when nobody accepts: not for long, then."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            c.request("GET", "/api/v1/health")
            return c.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            c.close()

    def text(self):
        return "".join(f"--- {path.name}\n{path.read_text(errors='replace')}" for path in sorted(self.folder.glob("*.log")))

    def log(self, program, index=0):
        return (self.folder / f"{program}-{index}.log").read_text(errors="replace")

    def pids(self, program):
        short = {"thermocline-wor": "worker", "thermocline-cor": "core", "thermocline-gat": "gateway"}.get(program, program)
        return [p.pid for (name, _), p in sorted(self.running.items()) if name == short and p.poll() is None]

    def send(self, program, number, index=0):
        self.running[program, index].send_signal(number)

    def kill(self, program, index=0):
        self.send(program, signal.SIGKILL, index)
        return self.running[program, index].wait(10)

    def __exit__(self, kind, *_):
        if kind:
            print(self.text()[-6000:])
        self.stop()

    def stop(self, signal_number=signal.SIGTERM):
        """{(program, index): exit code} of those that still ran; gateway first, as the units order it."""
        codes = {}
        for name in ("gateway", "core", "worker"):
            group = {k: p for k, p in self.running.items() if k[0] == name and p.poll() is None}
            for p in group.values():
                p.send_signal(signal.SIGCONT)
                p.send_signal(signal_number)
            for key, p in group.items():
                try:
                    codes[key] = p.wait(20)
                except subprocess.TimeoutExpired:
                    p.kill()
                    codes[key] = p.wait()
        for log in self.logs.values():
            log.close()
        self.socket.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        return codes


class Stream:
    """One streamed answer, read event by event. `text` grows; `done` when it ended well, `error` is what it ended with else."""

    def __init__(self, server, path, body, timeout_s=TIMEOUT_S):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout_s)
        self.connection.request("POST", path, json.dumps({**body, "stream": True}))
        self.answer = self.connection.getresponse()
        self.path, self.text, self.done, self.error, self.cut = path, "", False, None, None
        if self.answer.status != 200:
            self.error = json.loads(self.answer.read()).get("error")

    def event(self, text):
        if text == "[DONE]":
            self.done = True
            return
        e = json.loads(text)
        if e.get("error") or e.get("type") in ("error", "response.failed"):
            self.error = e.get("error") or e["response"]["error"]
        elif self.path.endswith("/generate"):
            self.text += e.get("token", "")
            self.done = e.get("done", False)
        elif self.path.endswith("/messages"):
            self.text += e.get("delta", {}).get("text", "")
            self.done = e["type"] == "message_stop"
        elif self.path.endswith("/responses"):
            self.text += e["delta"] if e["type"] == "response.output_text.delta" else ""
            self.done = e["type"] in ("response.completed", "response.incomplete")
        else:
            for c in e["choices"]:
                self.text += c["text"] if "text" in c else c["delta"].get("content") or ""

    def read(self, pieces=-1):
        """Up to so many more lines with something in them; all of the rest without a number."""
        while pieces and not self.cut:
            try:
                line = self.answer.readline()
            except (OSError, http.client.HTTPException) as error:
                self.cut = error
                break
            if not line:
                if not self.done and not self.error and self.answer.status == 200:
                    self.cut = ConnectionError("the answer was cut")
                break
            line = line.decode().strip()
            if self.path.endswith("/generate"):
                line and self.event(line)
            elif line.startswith("data: "):
                self.event(line[6:])
            pieces -= bool(line)
        return self

    def close(self):
        self.connection.close()
        self.answer.close()


# One stream in each dialect, long enough to be in the middle of something for a while.
def dialects(prompt, max_tokens):
    talk = [{"role": "user", "content": prompt}]
    return {"/api/v1/generate": {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0},
            "/v1/completions": {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0},
            "/v1/chat/completions": {"messages": talk, "max_tokens": max_tokens, "temperature": 0},
            "/v1/messages": {"messages": talk, "max_tokens": max_tokens, "temperature": 0},
            "/v1/responses": {"input": prompt, "max_output_tokens": max_tokens, "temperature": 0}}


def within(condition, timeout_s, every_s=0.002):
    """Seconds until condition() was true, or None."""
    begin = time.monotonic()
    while time.monotonic() - begin < timeout_s:
        if condition():
            return time.monotonic() - begin
        time.sleep(every_s)
    return None
