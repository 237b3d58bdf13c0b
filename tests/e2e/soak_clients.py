# SPDX-License-Identifier: Apache-2.0
"""The clients of a soak: a fixed catalogue of requests in every dialect, asked whole, streamed or over a WebSocket, and left in
the middle now and then. Every answer, and every beginning of one, is held against what the same request gave alone on a server
that computes its experts in the core. Refuses: to know who kills what (soak.py)."""
import http.client
import json
import random
import socket
import time

import websockets.exceptions
import websockets.sync.client

PROMPTS = ("In the beginning", "The old king", "Once upon a time there was a fisherman who", "It is said that the sea", "1 2 3",
           "Über die Grenze", "def main():", "The winter was long, and the wolves came down from the hills. " * 6)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}, "count": {"type": "integer", "minimum": 0,
          "maximum": 99}}, "required": ["city", "count"], "additionalProperties": False}


class Lost(Exception):
    """The server went away, and said so: legal when it was killed meanwhile."""


class Wrong(Exception):
    """An answer that must never be."""


def catalogue():
    """[(dialect, path, body)]: seeded, so that each has one right answer."""
    found = []
    for i, prompt in enumerate(PROMPTS):
        for temperature in (0, 0.9):
            drawn = {"temperature": temperature, "seed": 100 + i}
            found.append(("generate", "/api/v1/generate", {"prompt": prompt, "max_tokens": 24 + 5 * i, **drawn}))
            found.append(("completions", "/v1/completions", {"prompt": prompt, "max_tokens": 20, "n": 1 + i % 3, **drawn}))
            talk = [{"role": "user", "content": prompt}]
            found.append(("chat", "/v1/chat/completions", {"messages": talk, "max_tokens": 16 + 8 * (i % 3), **drawn}))
            found.append(("messages", "/v1/messages", {"messages": talk, "max_tokens": 18 + bool(temperature), "temperature": 0}))  # has no seed
        found.append(("chat", "/v1/chat/completions", {"messages": talk, "max_tokens": 40, "seed": i, "response_format":
                      {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}))
        found.append(("completions", "/v1/completions", {"prompt": prompt, "max_tokens": 12, "seed": i, "regex": "[a-z ]{10,40}\\."}))
    return found


def whole_text(dialect, answer):
    """The choices of an answer that came in one piece, as a tuple."""
    if dialect == "generate":
        return (answer["text"],)
    if dialect == "messages":
        return ("".join(b.get("text", b.get("thinking", "")) for b in answer["content"]),)
    choices = sorted(answer["choices"], key=lambda c: c["index"])
    if dialect == "completions":
        return tuple(c["text"] for c in choices)
    return tuple((c["message"].get("reasoning_content") or "") + (c["message"]["content"] or "") for c in choices)


class Reader:
    """Takes a stream's events of any dialect, one at a time."""

    def __init__(self, dialect, count):
        self.dialect, self.texts, self.done, self.error = dialect, [""] * count, False, None

    def event(self, text):
        if self.done or self.error:
            raise Wrong(f"an event behind the last one: {text[:200]}")
        if text == "[DONE]":
            self.done = True
            return
        e = json.loads(text)
        if e.get("error"):
            self.error = e["error"]
        elif self.dialect == "generate":
            self.texts[0] += e.get("token", "")
            self.done = e.get("done", False)
        elif self.dialect == "messages":
            delta = e.get("delta", {})
            self.texts[0] += delta.get("text", delta.get("thinking", ""))
            self.done = e["type"] == "message_stop"
        else:
            for c in e["choices"]:
                piece = c["text"] if self.dialect == "completions" else \
                    (c["delta"].get("reasoning_content") or "") + (c["delta"].get("content") or "")
                self.texts[c["index"]] += piece

    def line(self, line):
        line = line.decode().rstrip("\r\n")
        if self.dialect == "generate":
            if line.strip():
                self.event(line)
        elif line.startswith("data: "):
            self.event(line[6:])


class Client:
    """One client: asks until told to stop. `ask` raises Wrong; returns "ok", "cancelled", "refused" or "lost"."""

    def __init__(self, port, cases, golden, seed, patience_s):
        self.port, self.cases, self.golden, self.patience_s = port, cases, golden, patience_s
        self.random = random.Random(seed)

    def ask(self):
        number = self.random.randrange(len(self.cases))
        dialect, path, body = self.cases[number]
        want, how = self.golden[number], self.random.random()
        self.what = f"{path} {json.dumps(body)}"
        try:
            if how < 0.05:
                return self.nonsense()
            if how < 0.40:
                return self.whole(dialect, path, body, want)
            if how < 0.55 and dialect == "generate":
                return self.websocket(body, want)
            return self.stream(dialect, path, body, want, cancel=how > 0.85, slow=0.80 < how < 0.85)
        except (ConnectionError, http.client.HTTPException, websockets.exceptions.WebSocketException) as error:
            raise Lost(f"{type(error).__name__}: {error}") from error
        except TimeoutError as error:
            raise Wrong(f"no answer for {self.patience_s} s") from error

    def post(self, path, body):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.patience_s)
        c.request("POST", path, body if isinstance(body, bytes) else json.dumps(body))
        return c, c.getresponse()

    def refused(self, answer):
        """A whole error answer: the core is not there, or went away."""
        text = answer.read()
        error = json.loads(text).get("error")
        if answer.status not in (502, 503) or not error or not error.get("message"):
            raise Wrong(f"{answer.status} {text[:300]}")
        raise Lost(error["message"])

    def whole(self, dialect, path, body, want):
        c, answer = self.post(path, body)
        try:
            if answer.status != 200:
                self.refused(answer)
            got = whole_text(dialect, json.loads(answer.read()))
        finally:
            c.close()
        if got != want:
            raise Wrong(f"got {got}, want {want}")
        return "ok"

    def stream(self, dialect, path, body, want, cancel, slow):
        c, answer = self.post(path, {**body, "stream": True})
        reader, left = Reader(dialect, len(want)), self.random.randrange(1, 12) if cancel else -1
        try:
            if answer.status != 200:
                self.refused(answer)
            for line in answer:
                reader.line(line)
                left -= 1
                if left == 0:
                    break
                if slow:
                    time.sleep(0.01)
        finally:
            if cancel:  # at once, whatever is still on its way
                c.sock and c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            c.close()
            answer.close()
        return self.compare(reader, want, left == 0)

    def compare(self, reader, want, cancelled):
        if not all(w.startswith(t) for t, w in zip(reader.texts, want)):
            raise Wrong(f"got {reader.texts}, want {want}")
        if reader.done:
            if tuple(reader.texts) != want:
                raise Wrong(f"ended early: got {reader.texts}, want {want}")
            return "ok"
        if cancelled:
            return "cancelled"
        raise Lost(f"the stream ended with {reader.error}")

    def websocket(self, body, want):
        url = f"ws://127.0.0.1:{self.port}/api/v1/ws/generate"
        with websockets.sync.client.connect(url, open_timeout=self.patience_s, close_timeout=5, compression=None) as ws:
            ws.send(json.dumps({**body, "request_id": "a"}))
            other = self.random.random() < 0.5
            if other:
                ws.send(json.dumps({**body, "request_id": "b", "max_tokens": 2000}))
                ws.send(json.dumps({"cancel": "b"}))
            reader, cancelled = Reader("generate", 1), not other
            while not reader.error and not (reader.done and cancelled):
                message = json.loads(ws.recv(self.patience_s))
                if message.get("request_id") == "a":
                    reader.event(json.dumps(message))
                elif "cancelled" in message:
                    cancelled = True
                elif message.get("error"):
                    raise Lost(str(message))
        return self.compare(reader, want, False)

    def nonsense(self):
        body = self.random.choice([b"{", b"[]", b'{"prompt": 5}', b'{"prompt": "x", "max_tokens": -1}', self.random.randbytes(40)])
        c, answer = self.post("/api/v1/generate", body)
        answer.read()
        c.close()
        if answer.status not in (400, 503):
            raise Wrong(f"nonsense was answered with {answer.status}")
        return "refused"
