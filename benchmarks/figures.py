# SPDX-License-Identifier: Apache-2.0
"""Running `thermocline bench FIGURE` and reading what it says: the one place for harnesses. Owns: the process and its end. Refuses: figures."""
import contextlib
import json
import os
import signal
import subprocess

STOP_S = 15  # a bench that is told to stop stops its core and workers first


def parse(text):
    """The objects of `--json`, one a line. ValueError: it is something else."""
    answers = [json.loads(line) for line in text.splitlines()]
    if not answers or not all(isinstance(a, dict) and a.get("tokens_per_s", {}).get("samples") for a in answers):
        raise ValueError("no figures")
    return answers


def short(line):
    rate = line["tokens_per_s"]["median"]
    return f"{line['configuration']} {rate:.4g} tokens/s{'' if line.get('valid', True) else ' NOT VALID'}"


def finish(child, seconds):
    """Its output and end; who takes too long is stopped, with all its children."""
    try:
        return child.communicate(timeout=seconds)
    finally:
        if child.poll() is None:
            for number, patience in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(patience)
                    break


def bench(program, figure, model, options, seconds):
    """([objects], None or what went wrong). Figures that are not valid come with an error."""
    command = [str(c) for c in (program, "bench", figure, model, *options)]
    try:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    except OSError as error:
        return [], str(error)
    try:
        out, said = finish(child, seconds)
    except subprocess.TimeoutExpired:
        return [], f"not done after {seconds:.0f} s"
    error = None
    if child.returncode:
        lines = [x for x in said.splitlines() if x.strip()]
        error = lines[-1][:400] if lines else f"exit code {child.returncode}"
    try:
        return (parse(out), error) if out.strip() or not error else ([], error)
    except ValueError as wrong:
        return [], error or f"its answer is not understood: {wrong}"
