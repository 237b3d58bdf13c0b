#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds tests/fuzz/parsers.txt against the headers: a function that reads bytes from outside and has no fuzz target fails, and so
does a target without seeds, without a dictionary, or that the build does not know. Ends with `N passed, N failed`."""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FUZZ = ROOT / "tests" / "fuzz"
FOLDERS = ("cli", "common", "expert-worker", "gateway", "gpu-core", "proto")
DECLARATION = re.compile(r"\b(tc_[a-z0-9_]+)\(([^;{}()]*(?:\([^()]*\)[^;{}()]*)*)\)\s*(?:__attribute__[^;]*)?;", re.S)
# What a reader is called, and what it takes: a run of bytes, or a zero-terminated text that it is told to read.
NAMES = re.compile(r"_(parse|read|load|unpack|feed|decode|scan|expand|compile|accept|attach|take|from_header|header_check)(_[a-z0-9]+)?$")
SPAN = re.compile(r"const (char|uint8_t|void) \*\w+,\s*size_t \w+")
ENTRY = re.compile(r'"(?:[^"\\]|\\["\\]|\\x[0-9a-f]{2})+"')


def declared():
    """{function: header} of all that look like a reader."""
    found = {}
    for header in sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.h")):
        text = re.sub(r"//.*", "", header.read_text())
        for name, parameters in DECLARATION.findall(text):
            if NAMES.search(name) or SPAN.search(parameters):
                found[name] = header.relative_to(ROOT)
    return found


def listed():
    rows = {}
    for number, line in enumerate((FUZZ / "parsers.txt").read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, target, *rest = line.split(None, 2)
        if name in rows:
            raise SystemExit(f"parsers.txt:{number}: {name} is there twice")
        rows[name] = (target, rest[0] if rest else "", number)
    return rows


def calls(target, function):
    text = (FUZZ / f"{target}.c").read_text()
    for header in re.findall(r'#include "(tests/fuzz/\w+\.h|\w+\.h)"', text):
        text += (FUZZ / Path(header).name).read_text()
    return re.search(rf"\b{function}\(", text)


def target_faults(target, known):
    if not (FUZZ / f"{target}.c").exists():
        yield f"tests/fuzz/{target}.c is not there"
        return
    if target not in known:
        yield f"{target} is not in tests/fuzz/meson.build"
    seeds = [p for p in (FUZZ / "corpus" / target).glob("*") if p.stat().st_size]
    if not seeds:
        yield f"tests/fuzz/corpus/{target} has no seeds"
    if sum(p.stat().st_size for p in seeds) > 256 << 10:
        yield f"tests/fuzz/corpus/{target} is above 256 KiB"
    dictionary = FUZZ / "dictionaries" / f"{target}.dict"
    lines = dictionary.read_text().splitlines() if dictionary.exists() else []
    entries = [line for line in lines if line and not line.startswith("#")]
    if not entries:
        yield f"tests/fuzz/dictionaries/{target}.dict has no entries"
    yield from (f"{dictionary.name}: {line}: no entry" for line in entries if not ENTRY.fullmatch(line))


def faults(functions, rows, known):
    for name, header in functions.items():
        if name not in rows:
            yield f"{name} ({header}) reads from outside and is not in tests/fuzz/parsers.txt: give it a fuzz target"
    text = "\n".join(p.read_text() for folder in FOLDERS for p in (ROOT / folder).rglob("*.h"))
    for name, (target, rest, number) in rows.items():
        if name not in functions and not re.search(rf"\b{name}\(", text):
            yield f"parsers.txt:{number}: there is no {name} any more"
        elif target == "-":
            if not rest:
                yield f"parsers.txt:{number}: why does {name} need no target?"
        elif (FUZZ / f"{target}.c").exists():
            caller = rest.removeprefix("via ") if rest else name
            if not calls(target, caller):
                yield f"parsers.txt:{number}: tests/fuzz/{target}.c does not call {caller}"


def self_test(rows, known):
    """The check itself: it must find what is missing."""
    cases = {"a new parser": ({"tc_new_parse": "x.h"}, rows), "one without a reason": ({}, {"tc_json_parse": ("-", "", 1)}),
             "one that is gone": ({}, {"tc_gone_parse": ("json", "", 1)}), "one never called": ({}, {"tc_http_parser_feed": ("json", "", 1)})}
    return [f"the check does not find {what}" for what, (functions, table) in cases.items() if not list(faults(functions, table, known))]


def main():
    known = set(re.findall(r"^  '(\w+)': \[", (FUZZ / "meson.build").read_text(), re.M))
    functions, rows = declared(), listed()
    targets = {target for target, _, _ in rows.values()} - {"-"} | known | {p.stem for p in FUZZ.glob("*.c")}
    found = [*faults(functions, rows, known), *self_test(rows, known)]
    for target in sorted(targets):
        found += target_faults(target, known)
    for fault in found:
        print(fault)
    print(f"{len(functions)} readers, {len(targets)} targets")
    print(f"{len(rows) + len(targets) - min(len(found), len(rows))} passed, {len(found)} failed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
