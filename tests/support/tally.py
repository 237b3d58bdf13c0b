#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts test cases in meson's testlog.json: cmocka's own counts where a program prints them, else one a program."""
import json
import re
import sys

PASSED = re.compile(r"^\[  PASSED  \] (\d+) test", re.M)
FAILED = re.compile(r"^\[  FAILED  \] (?:tests: )?(\d+) test", re.M)
SKIPPED = re.compile(r"^\[  SKIPPED \] (?:tests: )?(\d+) test", re.M)


def tally(path):
    passed = failed = skipped = 0
    with open(path, encoding="utf-8") as log:
        for line in log:
            test = json.loads(line)
            text = (test.get("stdout") or "") + "\n" + (test.get("stderr") or "")
            p, f, s = (sum(map(int, pattern.findall(text))) for pattern in (PASSED, FAILED, SKIPPED))
            if test["result"] == "SKIP":
                s = max(s, 1)
            elif test["result"] not in ("OK", "EXPECTEDFAIL"):
                f = max(f, 1)  # killed, timed out, or a sanitizer's exit code
            elif p + f + s == 0:
                p = 1
            passed, failed, skipped = passed + p, failed + f, skipped + s
    return passed, failed, skipped


if __name__ == "__main__":
    p, f, s = tally(sys.argv[1])
    print(f"{p} passed, {f} failed, {s} skipped")
    sys.exit(f != 0)
