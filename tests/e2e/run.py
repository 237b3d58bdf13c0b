#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the end-to-end tests against the programs of a build tree.

  run.py --build DIR [MODULE...]     modules: api, clients, load, page, faults, faults_workers, faults_core,
                                     faults_files, faults_memory, soak, commands, bad_models, carriers, arenas,
                                     many_users, placement, memory, operations, messages, manager, fleet, kubernetes_base, bench_suite, bench_gpu, newcomer (default: all), openapi

Prints one line a test and ends with `N passed, N failed` (`, N skipped`).
"""
import argparse
import os
import sys
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODULES = ("commands", "bad_models", "api", "clients", "load", "page", "faults", "faults_workers", "faults_core", "faults_files", "faults_memory", "soak",
           "carriers", "arenas", "many_users", "placement", "memory", "operations", "messages", "manager", "fleet", "kubernetes_base", "bench_suite", "bench_gpu", "newcomer")


class Counter(unittest.TextTestResult):
    """One line a test; a subtest that fails counts on its own, one that passes belongs to its test."""

    passed = 0

    def startTest(self, test):
        super().startTest(test)
        self.started = time.monotonic()

    def note(self, test, word):
        print(f"  {word:7} {test.id()} ({time.monotonic() - self.started:.1f} s)", flush=True)

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1
        self.note(test, "ok")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.note(test, "FAILED")

    def addError(self, test, err):
        super().addError(test, err)
        self.note(test, "FAILED")

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err:
            self.note(subtest, "FAILED")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.note(test, f"skipped ({reason})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True, help="build tree with the programs")
    parser.add_argument("module", nargs="*", choices=[*MODULES, "openapi", []], default=[])
    arguments = parser.parse_args()
    os.environ["TC_BUILD"] = str(Path(arguments.build).resolve())
    sys.path.insert(0, str(HERE))
    suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromName(name) for name in arguments.module or MODULES)
    runner = unittest.TextTestRunner(stream=sys.stderr, resultclass=Counter, verbosity=0)
    result = runner.run(suite)
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    print(f"{result.passed} passed, {failed} failed, {len(result.skipped)} skipped", flush=True)
    return 1 if failed or not result.passed else 0


if __name__ == "__main__":
    sys.exit(main())
