#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Constraints against judges that know nothing of them: texts drawn under a schema are validated by jsonschema, texts
drawn under a regular expression are matched by re (and texts near them must be judged alike), grammars are compared with
a recogniser that tries everything. Masks are compared on the way with trying every token (grammar_tool.c)."""
import argparse
import datetime
import functools
import ipaddress
import json
import random
import re
import subprocess
import sys
import urllib.parse
import uuid
from decimal import Decimal
from pathlib import Path

import jsonschema

sys.path.insert(0, str(Path(__file__).parent))
import schemas  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
checker = jsonschema.FormatChecker(formats=[])


def format_check(name):
    """Formats are about strings only."""
    return lambda judge: checker.checks(name, raises=ValueError)(lambda v: not isinstance(v, str) or judge(v))


format_check("date")(lambda v: datetime.date.fromisoformat(v) is not None)
format_check("time")(lambda v: datetime.time.fromisoformat(v).tzinfo is not None)
format_check("date-time")(lambda v: datetime.datetime.fromisoformat(v).tzinfo is not None)
format_check("uuid")(lambda v: str(uuid.UUID(v)) == v.lower())
format_check("email")(lambda v: re.fullmatch(r"[^\s@]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", v) is not None)
format_check("ipv4")(lambda v: ipaddress.IPv4Address(v) is not None)
format_check("ipv6")(lambda v: ipaddress.IPv6Address(v) is not None)
format_check("uri")(lambda v: bool(urllib.parse.urlsplit(v).scheme) and bool(urllib.parse.urlsplit(v).netloc))
format_check("hostname")(lambda v: len(v) <= 253 and all(re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", x) for x in v.split(".")))


class Tool:
    """grammar-tool, one case at a time."""

    def __init__(self, program, tokenizer):
        self.process = subprocess.Popen([program, tokenizer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")

    def ask(self, **case):
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"grammar-tool died on {json.dumps(case)}")
        return json.loads(line)


class Counts:
    def __init__(self):
        self.passed = self.failed = self.completed = self.refused = 0

    def check(self, good, what):
        self.passed += bool(good)
        self.failed += not good
        if not good:
            print("FAILED", what)


def validator_of(schema):
    """Draft 2020-12, with OpenAPI's nullable, which jsonschema does not know."""
    def nullable(s):
        if isinstance(s, list):
            return [nullable(x) for x in s]
        if not isinstance(s, dict):
            return s
        s = {k: v if k in ("const", "enum", "required") else nullable(v) for k, v in s.items()}
        if s.get("nullable") is True and isinstance(s.get("type"), str):
            s["type"] = [s["type"], "null"]
        return s
    return jsonschema.Draft202012Validator(nullable(json.loads(json.dumps(schema), parse_float=Decimal)), format_checker=checker)


def check_schemas(tool, counts, r, cases):
    done = 0
    while done < cases:
        schema = schemas.Schemas(r).document()
        answer = tool.ask(kind="json_schema", text=json.dumps(schema), sample=6, seed=r.getrandbits(40), max_tokens=600, oracle=1)
        if answer["status"] != "ok":
            # Only what is documented as not supported, or a schema that nothing satisfies, may be refused.
            counts.refused += 1
            known = "not supported" in answer["error"] or "do not exclude" in answer["error"] or "no text can ever match" in answer["error"] or "is supported" in answer["error"] or "without end" in answer["error"]
            counts.check(known, ("refused", answer, schema))
            continue
        done += 1
        counts.check("failure" not in answer, (answer, schema))
        validator = validator_of(schema)
        for sample in answer["samples"]:
            if not sample["done"]:
                continue
            counts.completed += 1
            try:
                value = json.loads(sample["text"], parse_float=Decimal)
                error = jsonschema.exceptions.best_match(validator.iter_errors(value))
            except ValueError as e:
                error = e
            counts.check(error is None, (str(error)[:300], sample["text"], json.dumps(schema)))


def near(r, text, alphabet):
    """A text a few characters away."""
    chars = list(text)
    for _ in range(r.randint(1, 2)):
        at, kind = r.randint(0, len(chars)), r.randint(0, 2)
        if kind == 0:
            chars.insert(at, r.choice(alphabet))
        elif chars and at < len(chars):
            chars[at:at + 1] = [] if kind == 1 else [r.choice(alphabet)]
    return "".join(chars)


def agree(tool, counts, r, kind, text, judge, alphabet, drawn):
    """Drawn texts are members; texts near them, and short random ones, are judged as `judge` does."""
    answer = tool.ask(kind=kind, text=text, sample=drawn, seed=r.getrandbits(40), max_tokens=60, oracle=1)
    if answer["status"] != "ok":
        counts.refused += 1
        counts.check("no text can ever match" in answer["error"], ("refused", answer, text))
        return
    # Ambiguity beyond the automaton's limit ends an answer with an error: never with a text that does not match.
    texts = [s["text"] for s in answer["samples"] if s["done"] and len(s["text"]) < 24]
    counts.completed += len(texts)
    for t in texts:
        counts.check(judge(t), ("drawn", kind, text, t))
    texts = [near(r, t, alphabet) for t in texts for _ in range(3)] + ["".join(r.choices(alphabet, k=r.randint(0, 5))) for _ in range(20)]
    answer = tool.ask(kind=kind, text=text, match=texts)
    for t, got in zip(texts, answer["match"]):
        counts.check(got is None or got == judge(t), ("judged", kind, text, t, got))


class Recogniser:
    """Whether a text is in the language of a grammar, by trying every way to split it."""

    def __init__(self, rules):
        self.rules = rules
        self.ends = functools.lru_cache(maxsize=None)(self._ends)

    def __call__(self, text):
        self.text = text
        self.ends.cache_clear()
        return len(text) in self.ends("root", 0)

    def _ends(self, name, at):
        out = set()
        for parts in self.rules[name]:
            now = {at}
            for part, repeat in parts:
                now = set().union(*[self.repeat(part, repeat, x) for x in now]) if now else set()
            out |= now
        return frozenset(out)

    def one(self, part, at):
        kind, value = part
        if kind == "text":
            return {at + len(value)} if self.text.startswith(value, at) else set()
        if kind == "class":
            return {at + 1} if at < len(self.text) and (self.text[at] in value[0]) != value[1] else set()
        return self.ends(value, at)

    def repeat(self, part, repeat, at):
        low, high = {"": (1, 1), "*": (0, 99), "+": (1, 99), "?": (0, 1), "{2}": (2, 2), "{1,3}": (1, 3)}[repeat]
        out, now = ({at} if low == 0 else set()), {at}
        for i in range(1, high + 1):
            now = set().union(*[self.one(part, x) for x in now]) if now else set()
            if i >= low:
                if now <= out and i > low:
                    break
                out |= now
            if not now:
                break
        return out


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--tool", default=ROOT / "build/tests/grammar/grammar-tool")
    p.add_argument("--tokenizer", default=ROOT / "demo/model/tokenizer.json")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--schemas", type=int, default=240)
    p.add_argument("--regexes", type=int, default=200)
    p.add_argument("--grammars", type=int, default=200)
    a = p.parse_args()
    r, counts, tool = random.Random(a.seed), Counts(), Tool(str(a.tool), str(a.tokenizer))
    check_schemas(tool, counts, r, a.schemas)
    print(f"schemas: {a.schemas}, refused {counts.refused}, completed answers {counts.completed}")
    for _ in range(a.regexes):
        text = schemas.regex(r)
        compiled = re.compile(text, re.ASCII)
        agree(tool, counts, r, "regex", text, lambda t: compiled.fullmatch(t) is not None, "abcx0é日 .\n_-]*", 4)
    print(f"with regular expressions: completed {counts.completed}, refused {counts.refused}")
    for _ in range(a.grammars):
        text, rules = schemas.grammar(r)
        agree(tool, counts, r, "grammar", text, Recogniser(rules), "abcé()", 4)
    print(f"with grammars: completed {counts.completed}, refused {counts.refused}, seed {a.seed}")
    print(f"{counts.passed} passed, {counts.failed} failed")
    return counts.failed > 0


if __name__ == "__main__":
    sys.exit(main())
