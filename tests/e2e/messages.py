# SPDX-License-Identifier: Apache-2.0
"""docs/OPERATIONS.md against the sources: exit codes, the codes of HTTP errors, what running programs log as warnings and errors, and
the files that make up reasons. Whoever adds one of these explains it there."""
import fnmatch
import re
import unittest

from harness import ROOT

FOLDERS = ("common", "gateway", "gpu-core", "expert-worker", "proto", "cli")
SOURCES = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.[ch]"))
PROGRAMS = {"gateway": "thermocline-gateway", "gpu-core": "thermocline-core", "expert-worker": "thermocline-worker", "cli": "thermocline"}
TEXT = (ROOT / "docs" / "OPERATIONS.md").read_text().split("## Messages")[1]
SPANS = re.findall(r"`([^`]+)`", TEXT)
# What is logged by programs that run: errors, warnings, and the library functions through which the core's parts do.
LOUD = ("tc_error_log", "tc_warn", "say", "tc_log_request", "log")
LITERAL_LEAST = 8  # letters between two conversions: less tells nothing


def calls(text, names):
    """(name, what stands between the parentheses) of each call."""
    for found in re.finditer(r"\b(%s)\s*\(" % "|".join(names), text):
        depth, quoted, i = 1, False, found.end()
        while depth and i < len(text):
            c = text[i]
            if quoted:
                i += c == "\\"
                quoted = c != '"'
            elif c == '"':
                quoted = True
            else:
                depth += (c == "(") - (c == ")")
            i += 1
        yield found[1], text[found.end():i - 1]


def arguments(code):
    """Top-level arguments of a call."""
    found, depth, quoted, i = [""], 0, False, 0
    while i < len(code):
        c = code[i]
        if quoted and c == "\\":
            found[-1] += c
            i += 1
            c = code[i]
        elif c == '"':
            quoted = not quoted
        elif not quoted:
            depth += (c in "({[") - (c in ")}]")
            if c == "," and depth == 0:
                found.append("")
                i += 1
                continue
        found[-1] += c
        i += 1
    return found


def joined(code):
    """Adjacent string literals made one, each separate argument a string of its own."""
    code = re.sub(r'"\s*PRI[a-z]\d+\s*"', "u", code)  # a conversion's letter
    code = re.sub(r'"\s*"', "", code)
    return re.findall(r'"((?:[^"\\]|\\.)*)"', code)


def relative(path):
    return str(path.relative_to(ROOT))


class Messages(unittest.TestCase):
    def test_every_exit_code(self):
        rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", TEXT, re.M))
        found = 0
        for path in SOURCES:
            for name, value in re.findall(r"\b((?:TC_)?EXIT_[A-Z_]+) = (\d+)", path.read_text()):
                program = PROGRAMS[relative(path).split("/")[0]]
                self.assertRegex(rows[program], rf"(?:^|; ){value} ", f"{relative(path)}: {name}")
                found += 1
        self.assertGreater(found, 10)

    def test_every_code_of_an_http_error(self):
        codes = {}
        for path in SOURCES:
            if relative(path).startswith("gateway/"):
                for name, code in calls(path.read_text(), ("tc_http_refuse", "refuse")):
                    third = arguments(code)[2:3]  # (error, status, code, field, ...)
                    for word in re.findall(r'"(\w+)"', third[0] if third else ""):
                        codes.setdefault(word, relative(path))
        self.assertGreater(len(codes), 35)
        self.assertEqual({code: where for code, where in codes.items() if code not in SPANS}, {})

    def test_every_line_that_a_running_program_logs(self):
        found, missing = 0, []
        for path in SOURCES:
            if relative(path) in ("cli/top.c", "common/base/log.h"):  # `say` of another meaning; declarations
                continue
            for name, code in calls(path.read_text(), LOUD):
                if re.match(r"\s*\w+,\s*false\b", code) or "TC_LOG_DEBUG," in code.split('"')[0]:
                    continue
                for text in joined(code)[:1]:
                    pieces = re.split(r"%[-+0-9.*]*(?:ll|l|z)?[a-zA-Z]", text.replace("\\n", ""))
                    literal = max((p.strip(" :;,.()") for p in pieces), key=len)
                    if len(literal) >= LITERAL_LEAST:
                        found += 1
                        if not any(literal in span for span in SPANS):
                            missing.append(f"{relative(path)}: {literal!r} ({name})")
        self.assertEqual(missing, [])
        self.assertGreater(found, 20)

    def test_every_file_that_makes_up_reasons(self):
        patterns = [span for span in SPANS if "/" in span and span.split("/")[0] in (*FOLDERS, "*")]
        used = set()
        for path in SOURCES:
            if path.suffix != ".c" or not list(calls(path.read_text(), ("tc_fail", "tc_fail_errno"))):
                continue
            matching = [p for p in patterns if fnmatch.fnmatchcase(relative(path), p)]
            self.assertTrue(matching, relative(path))
            used.update(matching)
        self.assertEqual(set(patterns) - used, set(), "no such source any more")


if __name__ == "__main__":
    unittest.main()
