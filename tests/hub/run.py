#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`thermocline pull` against a hub that misbehaves.

  run.py --build DIR [--only NAME]      ends with "N passed, N failed"

Owns: a small hub (description, ranges, redirects, checksums) and the ways in which it lies: connections dropped, lengths
that are wrong, ranges ignored, 429 with Retry-After, bytes changed, files that are only named; and what must hold in the cache after each.
Standard library only.
"""
import argparse
import hashlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """files: path -> bytes. how: faults by name, see Handler."""
    daemon_threads = True

    def __init__(self, files, **how):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.how = files, how
        self.requests, self.lock, self.now, self.most, self.sent = [], threading.Lock(), 0, 0, 0
        self.left = dict(how.get("times", {}))
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, address):
        pass                                            # a client that hangs up is part of the test

    def description(self):
        entries = []
        for path, data in self.files.items():
            entry = {"rfilename": path, "size": len(data), "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
            if path.endswith((".safetensors", ".gguf")):
                entry |= {"blobId": "ab" * 20, "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}
            entries.append({"rfilename": path} if self.how.get("bare") else entry)
        return {"id": "owner/name", "sha": COMMIT, "siblings": self.how.get("siblings", entries)}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def once(self, fault):
        """Whether the fault still happens: always, or the given number of times."""
        with self.server.lock:
            if fault not in self.server.how.get("faults", ()):
                return False
            if fault in self.server.left:
                self.server.left[fault] -= 1
                return self.server.left[fault] >= 0
            return True

    def reply(self, code, body=b"", **headers):
        self.send_response(code)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, path = self.server, unquote(urlsplit(self.path).path)
        with hub.lock:
            if self.command != "HEAD":
                hub.requests.append((self.path, self.headers.get("Range"), self.headers.get("Authorization"), time.monotonic()))
            hub.now += 1
            hub.most = max(hub.most, hub.now)
        try:
            self.answer(hub, path)
        finally:
            with hub.lock:
                hub.now -= 1

    def answer(self, hub, path):
        if "token" in hub.how and self.headers.get("Authorization") != f"Bearer {hub.how['token']}":
            return self.reply(*hub.how.get("refusal", (401,)))
        if "always" in hub.how:
            return self.reply(*hub.how["always"][:1], **hub.how["always"][1])
        if path.startswith("/api/models/"):
            if self.once("429 description"):
                return self.reply(429, Retry_After=1)
            if not path.startswith("/api/models/owner/name/revision/" + hub.how.get("revision", "")):
                return self.reply(404)
            return self.reply(200, hub.how.get("raw") or json.dumps(hub.description()).encode())
        name = path.split(f"/resolve/{COMMIT}/")[-1] if "/resolve/" in path else path.removeprefix("/cdn/").removeprefix("/api/resolve-cache/")
        data = hub.files.get(name)
        if data is None:
            return self.reply(404)
        if not name.endswith((".safetensors", ".gguf")):    # the hub's own small files: their git sums, behind a cache of its own
            if "/resolve/" in path and hub.how.get("cache"):
                return self.reply(307, b"see there", Location="/api/resolve-cache/" + name)
            etag = hub.how.get("etag", 'W/"%s"') % hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            return self.reply(200, data, ETag=etag)
        if "redirect" in hub.how and "/resolve/" in path:
            linked = {"X_Linked_Size": len(data), "X_Linked_ETag": f'"{hashlib.sha256(data).hexdigest()}"'} | hub.how.get("linked", {})
            return self.reply(302, b"Found. Redirecting", Location=hub.how["redirect"] + "/cdn/" + name, **{k: v for k, v in linked.items() if v})
        if self.once("429"):
            wait = hub.how.get("wait", {"Retry_After": 1})
            return self.reply(429, **(wait() if callable(wait) else wait))
        if self.once("503"):
            return self.reply(503)
        self.file(hub, data)

    def file(self, hub, data):
        begin = int(self.headers["Range"].removeprefix("bytes=").split("-")[0]) if "Range" in self.headers else 0
        if begin and self.once("no ranges"):
            begin = 0
        said = 0 if begin and self.once("other range") else begin
        body = bytearray(data[begin:])
        if self.once("corrupt"):
            body[len(body) // 2] ^= 1
        self.send_response(206 if "Range" in self.headers and (begin or said != begin) else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {said}-{len(data) - 1}/{len(data)}")
        if self.once("longer"):
            body += b"more" * 1000
        length = len(body) + (5000 if self.once("promises more") else 0)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.once("drop"):
            body = body[:hub.how.get("drop_after", 100000)]
        for at in range(0, len(body), 65536):
            self.wfile.write(body[at:at + 65536])
            hub.sent += len(body[at:at + 65536])
            if "slow" in hub.how:
                time.sleep(hub.how["slow"])
        if len(body) < length or "promises more" in hub.how.get("faults", ()):
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True


def files_of(size=500_000):
    rng = __import__("random").Random(size)
    return {"config.json": b'{"model_type": "qwen3_moe"}', "tokenizer.json": b"{}",
            **{f"model-0000{i}-of-00003.safetensors": rng.randbytes(size + i) for i in (1, 2, 3)},
            "README.md": b"not needed", "original/consolidated.safetensors": b"not needed either"}


class Caller:
    def __init__(self, o, scratch):
        self.o, self.scratch, self.cache = o, scratch, scratch / "cache" / "hub"

    def environment(self, hub, **more):
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE", "http", "HTTP", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"))}
        return {**keep, "HF_HUB_CACHE": str(self.cache), "HF_HOME": str(self.scratch / "home"), "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9",
                "THERMOCLINE_PULL_WAIT_MS": "20", **more}

    def __call__(self, hub, *arguments, **more):
        return subprocess.run([self.o.thermocline, *arguments], capture_output=True, text=True, env=self.environment(hub, **more), timeout=60)

    def pull(self, hub, *arguments, **more):
        return self(hub, "pull", "owner/name", *arguments, **more)

    def model(self):
        return self.cache / "models--owner--name"


def check_cache(call, files, said):
    """The hub's own layout, every byte right."""
    assert said.returncode == 0, said.stderr
    model = call.model()
    snapshot = model / "snapshots" / COMMIT
    assert said.stdout == f"{snapshot}\n", said.stdout
    assert (model / "refs" / "main").read_text() == COMMIT
    for path, data in files.items():
        if path in ("README.md",) or "/" in path:
            assert not (snapshot / path).exists(), path
            continue
        link = snapshot / path
        assert link.is_symlink() and link.resolve().parent == (model / "blobs").resolve(), path
        weights = path.endswith((".safetensors", ".gguf"))
        want = hashlib.sha256(data).hexdigest() if weights else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        assert link.resolve().name == want and link.read_bytes() == data, path
    assert not list((model / "blobs").glob("*.incomplete"))


def weights(hub):
    return [r for r in hub.requests if ".safetensors" in r[0]]


def test_layout(call):
    """The cache; then nothing is fetched twice; `ls` and `rm`."""
    files = files_of()
    hub = Hub(files, slow=0.02)
    check_cache(call, files, call.pull(hub))
    assert hub.most >= 3, f"{hub.most} requests beside each other"
    before = len(weights(hub))
    check_cache(call, files, call.pull(hub))
    assert len(weights(hub)) == before
    said = call(hub, "ls")
    assert said.stdout.startswith("owner/name  ") and "1 revision" in said.stdout, said
    assert call(hub, "rm", "owner/name").returncode == 0 and not call.model().exists()
    assert call(hub, "rm", "owner/name").returncode == 1
    assert call(hub, "ls").stdout == ""


def test_places(call):
    """HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub."""
    hub = Hub({"config.json": b"{}"})
    for variables, place in (({"HF_HUB_CACHE": "", "HF_HOME": "{}/a"}, "a/hub"), ({"HF_HUB_CACHE": "", "HF_HOME": "", "XDG_CACHE_HOME": "{}/b"}, "b/huggingface/hub"),
                             ({"HF_HUB_CACHE": "", "HF_HOME": "", "XDG_CACHE_HOME": "", "HOME": "{}/c"}, "c/.cache/huggingface/hub")):
        said = call.pull(hub, **{k: v.format(call.scratch) for k, v in variables.items()})
        assert said.stdout.startswith(f"{call.scratch}/{place}/models--owner--name/"), said


def test_drops(call):
    """Connections that end early, again and again: each goes on where the last one stopped."""
    files = files_of()
    hub = Hub(files, faults={"drop"}, drop_after=100_000)
    check_cache(call, files, call.pull(hub, "--jobs", "2"))
    ranges = [r[1] for r in weights(hub) if r[1]]
    assert len(ranges) >= 12, ranges
    assert hub.sent < 1.3 * sum(len(d) for p, d in files.items() if p.startswith("model")), f"{hub.sent} bytes were sent"


def test_lengths(call):
    """More than was announced, more promised than there is, ranges ignored, other ranges than asked for."""
    for fault in ("longer", "promises more", "no ranges", "other range"):
        files = files_of(200_000)
        hub = Hub(files, faults={fault, "drop"}, times={fault: 2, "drop": 3}, drop_after=50_000)
        check_cache(call, files, call.pull(hub))
        shutil.rmtree(call.cache)
    hub = Hub(files_of(200_000), faults={"longer"})
    said = call.pull(hub)
    assert said.returncode == 1 and "more than it announced" in said.stderr, said.stderr
    assert not list((call.model() / "snapshots").glob("*/*.safetensors"))
    assert len([r for r in weights(hub)]) <= 3 * 7, "attempts are bounded"


def test_corrupt(call):
    """Bytes that changed: fetched again once; then it is an error, and no blob has the name."""
    files = files_of(100_000)
    hub = Hub(files, faults={"corrupt"}, times={"corrupt": 2})
    said = call.pull(hub)
    check_cache(call, files, said)
    assert "checksum" in said.stderr
    shutil.rmtree(call.cache)
    said = call.pull(Hub(files, faults={"corrupt"}))
    assert said.returncode == 1 and "checksum" in said.stderr, said.stderr
    assert not [b for b in (call.model() / "blobs").iterdir() if len(b.name) == 64]


def test_busy(call):
    """429 with Retry-After is waited for; 503 is tried again; for ever, it is given up."""
    files = files_of(50_000)
    hub = Hub(files, faults={"429", "429 description"}, times={"429": 1, "429 description": 1})
    started = time.monotonic()
    check_cache(call, files, call.pull(hub, "--jobs", "1"))
    assert time.monotonic() - started >= 2, "Retry-After: 1, twice"
    shutil.rmtree(call.cache)
    check_cache(call, files, call.pull(Hub(files, faults={"503"}, times={"503": 5})))
    shutil.rmtree(call.cache)
    hub = Hub(files, faults={"503"})
    said = call.pull(hub)
    assert said.returncode == 1 and "503" in said.stderr and "attempts" in said.stderr, said.stderr
    assert len(weights(hub)) <= 3 * 7


def test_rate_limit(call):
    """429 says when: as a date, and as the hub's own RateLimit header."""
    files = files_of(5000)
    date = lambda: {"Retry_After": formatdate(time.time() + 2.5, usegmt=True)}
    for wait, least in ((date, 1), ({"RateLimit": '"resolvers";r=0;t=2'}, 2)):
        hub = Hub(files, faults={"429"}, times={"429": 1}, wait=wait)
        started = time.monotonic()
        check_cache(call, files, call.pull(hub, "--jobs", "1"))
        assert time.monotonic() - started >= least, wait
        shutil.rmtree(call.cache)


def test_headers(call):
    """A hub whose description only names files: sizes and checksums come from the files' own answers, X-Linked-ETag of what
    lies elsewhere, ETag else, through redirects within the hub and not beyond."""
    files = files_of(20_000)
    cdn = Hub(files)
    there = f"http://localhost:{cdn.server_port}"
    for how in ({}, {"etag": '"%s"'}, {"cache": True}, {"redirect": there}, {"redirect": there, "cache": True, "token": "secret"}):
        hub = Hub(files, bare=True, **how)
        check_cache(call, files, call.pull(hub, HF_TOKEN="secret"))
        shutil.rmtree(call.cache)
    assert all(r[2] is None for r in cdn.requests), "the token went to another host"
    for how, text in (({"etag": '"md5-%.8s"'}, "tells no checksum"), ({"redirect": there, "linked": {"X_Linked_ETag": None}}, "tells no checksum"),
                      ({"redirect": there, "linked": {"X_Linked_Size": None}}, "tells no size"),
                      ({"redirect": there, "linked": {"X_Linked_Size": 19_000}}, "more than it announced"),
                      ({"redirect": there, "linked": {"X_Linked_ETag": '"%s"' % ("ab" * 32)}}, "checksum that the hub tells")):
        said = call.pull(Hub(files, bare=True, **how))
        assert said.returncode == 1 and text in said.stderr, (how, said.stderr)
        assert not list(call.cache.glob("*/snapshots/*/*.safetensors")), how


def test_redirected(call):
    """Another host has the bytes, and drops: each attempt goes by the hub again, and on where the last one stopped."""
    files = files_of()
    cdn = Hub(files, faults={"drop"}, drop_after=150_000)
    hub = Hub(files, redirect=f"http://localhost:{cdn.server_port}")
    check_cache(call, files, call.pull(hub))
    ranges = [r[1] for r in weights(cdn) if r[1]]
    assert len(ranges) >= 8 and len(weights(hub)) == len(weights(cdn)), (ranges, len(weights(hub)))
    assert cdn.sent < 1.3 * sum(len(d) for p, d in files.items() if p.startswith("model")), f"{cdn.sent} bytes were sent"


def test_revisions(call):
    """Names with slashes, as pull requests have; and none that is a path out of the cache."""
    files = files_of(1000)
    for revision in ("refs/pr/1", "feature/a.b-c", COMMIT):
        hub = Hub(files, revision=revision)
        said = call(hub, "pull", f"owner/name:{revision}")
        assert said.returncode == 0 and said.stdout == f"{call.model()}/snapshots/{COMMIT}\n", said
        assert f"/revision/{quote(revision, safe='')}?" in hub.requests[0][0], hub.requests[0]
        assert revision == COMMIT or (call.model() / "refs" / revision).read_text() == COMMIT
        said = call(hub, "pull", f"owner/name:{revision}", "--offline")
        assert said.returncode == 0, said.stderr
    for revision in ("a//b", "a/", "/a", "a/../b", "a/.b", "..", ""):
        assert call(Hub(files), "pull", f"owner/name:{revision}").returncode == 2, revision


def test_refusals(call):
    """What is missing, and which variable would help: one line each."""
    for code, headers, text in ((401, {"X_Error_Code": "GatedRepo"}, "gated"), (403, {"X_Error_Code": "GatedRepo"}, "HF_TOKEN"), (401, {}, "HF_TOKEN"),
                                (403, {}, "HF_TOKEN"), (401, {"X_Error_Code": "RepoNotFound"}, "no such model, or it is private"),
                                (404, {"X_Error_Code": "RevisionNotFound"}, "no such revision"), (404, {"X_Error_Code": "EntryNotFound"}, "no such file"),
                                (404, {"X_Error_Code": "RepoNotFound"}, "no such model"), (404, {}, "404")):
        said = call.pull(Hub({}, always=(code, headers)))
        assert said.returncode == 1 and text in said.stderr and said.stderr.count("\n") == 1, (code, headers, said.stderr)
    said = call.pull(Hub({}, always=(403, {})), HF_TOKEN="wrong-one")
    assert "the token that was sent (HF_TOKEN" in said.stderr and "wrong-one" not in said.stderr, said.stderr


def test_interrupted(call):
    """Ctrl-C keeps what has arrived; the next pull asks for the rest only."""
    files = files_of(2_000_000)
    hub = Hub(files, slow=0.05)
    process = subprocess.Popen([call.o.thermocline, "pull", "owner/name"], env=call.environment(hub), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while hub.sent < 1_500_000:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, (process.returncode, err)
    partial = {p.name: p.stat().st_size for p in (call.model() / "blobs").glob("*.incomplete")}
    assert partial and all(partial.values()), partial
    fast = Hub(files)
    check_cache(call, files, call.pull(fast))
    asked = {r[1] for r in weights(fast)}
    assert asked == {f"bytes={n}-" for n in partial.values()}, (asked, partial)


def test_token(call):
    """A token goes to the hub and to no other host; without one the refusal says what is missing."""
    files = files_of(10_000)
    cdn = Hub(files)
    hub = Hub(files, token="secret", redirect=f"http://localhost:{cdn.server_port}")
    said = call.pull(hub)
    assert said.returncode == 1 and "HF_TOKEN" in said.stderr, said.stderr
    check_cache(call, files, call.pull(hub, HF_TOKEN="secret"))
    assert cdn.requests and all(r[2] is None for r in cdn.requests), "the token went to another host"
    shutil.rmtree(call.cache)
    (call.scratch / "home").mkdir()
    (call.scratch / "home" / "token").write_text("secret\n")
    check_cache(call, files, call.pull(hub))
    assert "secret" not in call.pull(Hub(files, token="other")).stderr


def test_offline(call):
    """Offline only the cache is asked; a hub that cannot be reached leaves what the cache has."""
    said = call.pull(None, HF_HUB_OFFLINE="1")
    assert said.returncode == 1 and "offline" in said.stderr, said.stderr
    files = files_of(1000)
    hub = Hub(files)
    check_cache(call, files, call.pull(hub))
    count = len(hub.requests)
    for said in (call.pull(hub, HF_HUB_OFFLINE="1"), call.pull(hub, "--offline"), call(hub, "pull", f"owner/name:{COMMIT}", "--offline")):
        check_cache(call, files, said)
    assert len(hub.requests) == count
    said = call.pull(None)
    check_cache(call, files, said)
    assert "cannot be reached" in said.stderr


def test_proxy(call):
    """http_proxy is used, no_proxy spares."""
    files = files_of(1000)
    hub = Hub(files)
    check_cache(call, files, call.pull(hub, HF_ENDPOINT="http://hub.invalid", http_proxy=hub.url))
    assert all(r[0].startswith("http://hub.invalid/") for r in hub.requests), hub.requests[:2]
    shutil.rmtree(call.cache)
    check_cache(call, files, call.pull(hub, http_proxy="http://127.0.0.1:9", no_proxy="127.0.0.1"))


def test_choice(call):
    """Several GGUF files: named, and chosen by a pattern; small files come along."""
    files = {"m-Q4_K_M.gguf": b"a" * 1000, "m-Q8_0-00001-of-00002.gguf": b"b" * 1000, "m-Q8_0-00002-of-00002.gguf": b"c" * 1000, "params.json": b"{}"}
    hub = Hub(files)
    said = call.pull(hub)
    assert said.returncode == 1 and "m-Q4_K_M.gguf, m-Q8_0-00001-of-00002.gguf" in said.stderr, said.stderr
    said = call.pull(hub, "--include", "*Q8_0*")
    check_cache(call, {p: d for p, d in files.items() if "Q4" not in p}, said)
    assert not (call.model() / "snapshots" / COMMIT / "m-Q4_K_M.gguf").exists()
    assert call.pull(hub, "--include", "*Q9*").returncode == 1 or not list((call.model() / "snapshots" / COMMIT).glob("*Q9*"))


def test_hostile(call):
    """Descriptions that lie, each refused with what is wrong; limits at N and N + 1."""
    good = {"rfilename": "config.json", "size": 2, "blobId": hashlib.sha1(b"blob 2\0{}").hexdigest()}
    for change, text in (({"rfilename": "../config.json"}, "rfilename"), ({"rfilename": "/etc/passwd.json"}, "rfilename"), ({"rfilename": "a/../../b.json"}, "rfilename"),
                         ({"rfilename": ""}, "rfilename"), ({"rfilename": "a\u0000b.json"}, "rfilename"), ({"rfilename": "a\nb.json"}, "rfilename"),
                         ({"rfilename": "n" * 508 + ".json"}, "rfilename"), ({"rfilename": 7}, "rfilename"), ({"size": -1}, "size"), ({"size": 1 << 63}, "size"),
                         ({"size": None}, "size"), ({"blobId": "zz" * 20}, "blobId"), ({"blobId": "ab" * 32}, "blobId"), ({"blobId": "../" * 13 + "a"}, "blobId"),
                         ({"lfs": {"sha256": "ab", "size": 2}}, "lfs.sha256"), ({"lfs": {"size": 2}}, "lfs.sha256")):
        said = call.pull(Hub({"config.json": b"{}"}, siblings=[{**good, **change}]))
        assert said.returncode == 1 and text in said.stderr, (change, said.stderr)
    assert not (call.scratch / "cache" / "config.json").exists()
    said = call.pull(Hub({"config.json": b"{}"}, siblings=[good, good]))
    assert said.returncode == 1 and "twice" in said.stderr
    for raw, text in ((b"<html>", "not"), (b"{}", "sha"), (b'{"sha": "../../x"}', "sha"), (json.dumps({"sha": COMMIT}).encode(), "siblings"), (b"[" * 100, ""),
                      (json.dumps({"sha": COMMIT, "siblings": []}).encode(), "no file")):
        said = call.pull(Hub({}, raw=raw))
        assert said.returncode == 1 and text in said.stderr, (raw, said.stderr)
    many = [{**good, "rfilename": f"f{i}.json"} for i in range(4097)]
    said = call.pull(Hub({}, siblings=many))
    assert said.returncode == 1 and "4096" in said.stderr, said.stderr
    said = call.pull(Hub({}, siblings=many[:4096]))
    assert said.returncode == 1 and "404" in said.stderr, said.stderr         # taken; then the files are not there
    description = json.dumps({"sha": COMMIT, "siblings": [good]}).encode()
    limit = 16 << 20
    files = {"config.json": b"{}"}
    assert call.pull(Hub(files, raw=description + b" " * (limit - len(description)))).returncode == 0
    said = call.pull(Hub(files, raw=description + b" " * (limit + 1 - len(description))))
    assert "cannot be reached" in said.stderr or said.returncode == 1, said
    for name, fine in (("o" * 96 + "/n", True), ("o" * 97 + "/n", False), ("o/" + "n" * 96, True), ("o/" + "n" * 97, False), ("o/n:" + "r" * 128, True),
                       ("o/n:" + "r" * 129, False), ("../n", False), ("o/..", False), ("o/n:../x", False), ("o--p/n", False), ("o/n/m", False)):
        assert (call(Hub({}), "pull", name).returncode != 2) == fine, name


def test_models(call):
    """OWNER/NAME where a model is wanted: inspected, generated from, served."""
    demo = ROOT / "demo/model"
    hub = Hub({p.name: p.read_bytes() for p in demo.iterdir()})
    arenas = tempfile.mkdtemp(prefix="tc-hub-", dir="/dev/shm")
    more = {"THERMOCLINE_ARENA_DIR": arenas, "XDG_CACHE_HOME": str(call.scratch / "xdg")}
    try:
        said = call(hub, "inspect", "owner/name", **more)
        assert said.returncode == 0 and said.stdout.startswith("family     qwen3_next"), said
        said = call(hub, "generate", "owner/name", "In the beginning", "--max-tokens", "8", "--workers", "1", **more)
        assert said.returncode == 0 and said.stdout.strip(), said
        server = subprocess.Popen([call.o.thermocline, "serve", "owner/name", "--listen", f"unix:{call.scratch}/s", "--workers", "1"],
                                  env=call.environment(hub, **more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines = []
        for line in server.stdout:
            lines.append(line)
            if "Thermocline serves owner/name" in line:
                break
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)
        assert any("serves owner/name" in line for line in lines), lines
        assert len([r for r in hub.requests if r[0].endswith(".safetensors")]) == 2, "each shard once, for all of them"
    finally:
        shutil.rmtree(arenas, ignore_errors=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", type=Path, required=True)
    p.add_argument("--only")
    o = p.parse_args()
    o.thermocline = o.build.resolve() / "cli/thermocline"
    passed = failed = 0
    for name, test in [(n, t) for n, t in globals().items() if n.startswith("test_") and o.only in (None, n)]:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                started = time.monotonic()
                test(Caller(o, Path(scratch)))
                print(f"{name}: ok ({time.monotonic() - started:.1f} s)", flush=True)
                passed += 1
            except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
                print(f"{name}: FAILED: {type(error).__name__}: {str(error)[:2000]}", flush=True)
                failed += 1
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
