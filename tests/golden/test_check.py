#!/usr/bin/env python3
"""Tests check.py with a stand-in for `thermocline` that answers from the golden files, rightly or with one fault.

This file owns both the stand-in (when called as `test_check.py eval ...`, fault in the variable FAULT) and the
list of faults that check.py must find or excuse. Standard library and numpy only.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
#        fault          precision   found  what
FAULTS = [("",          "exact",    False), ("",          "float",  False),
          ("logit",     "exact",    True),  ("logit",     "float",  False),
          ("wild",      "float",  True),  ("token",     "exact",    True),
          ("second",    "exact",    True),  ("second",    "float",  False),
          ("gap",       "exact",    True),  ("expert",    "exact",    True),
          ("order",     "exact",    False), ("workers",   "exact",    True),
          ("messages",  "exact",    True),
          ("crash",     "exact",    True),  ("garbage",   "exact",    True),
          ("shape",     "exact",    True),  ("nan",       "float",  True)]


def stand_in(argv):
    option = {argv[i]: argv[i + 1] for i in range(2, len(argv), 2)}
    folder, fault = Path(argv[1]).parent, os.environ.get("FAULT", "")
    if fault == "crash":
        sys.exit("thermocline: model.safetensors: no such file")
    expected = json.loads((folder / "expected.json").read_text())
    config = json.loads((folder / "model" / "config.json").read_text())
    config = config.get("text_config", config)
    request = json.loads(Path(option["--ids"]).read_text())
    wanted = request.get("prompts", [request.get("ids")])
    chosen = [next(p for p in expected["prompts"] if p["ids"] == ids) for ids in wanted]
    logits, experts, answers = [], [], []
    for p in chosen:
        full = np.zeros((len(p["ids"]), config["vocab_size"]), np.float32)
        full[p.get("rows", slice(None))] = np.load(folder / p["logits"])
        logits.append(full)
        experts.append(np.load(folder / p["experts"]))
        answers.append({"prompt_tokens": len(p["ids"]), "ids": list(p["greedy"]), "gaps": list(p["gaps"])})
    last, ranks = chosen[-1], np.concatenate(experts, axis=1)
    logits = np.concatenate(logits)
    if fault == "logit":
        logits[-1, 5] += 2e-4 * last["max_logit"]
    if fault == "wild":
        logits[-1, 5] += 5 * last["bf16_noise"]
    if fault == "nan":
        logits[0, 0] = np.nan
    if fault == "token":
        answers[-1]["ids"][9] = (answers[-1]["ids"][9] + 1) % config["vocab_size"]
    if fault == "second":                                            # the runner-up of the closest step, and nonsense after it
        step = min(range(len(last["gaps"])), key=lambda i: last["gaps"][i])
        answers[-1]["ids"][step:] = [last["runners_up"][step][0][0]] + [0] * (len(last["gaps"]) - step - 1)
    if fault == "gap":
        answers[-1]["gaps"][3] += 0.05
    if fault == "expert":
        layer = int(np.argmax(ranks[:, -1, 0] >= 0))
        ranks[layer, -1, 0] = next(e for e in range(99) if e not in ranks[layer, -1])
    if fault == "order":
        ranks = np.ascontiguousarray(ranks[:, :, ::-1])
    if fault == "workers" and option["--workers"] != "1":
        logits[-1, -1] = np.nextafter(logits[-1, -1], np.float32(99))
    if fault == "messages" and option.get("--data-plane") == "nng":
        logits[0, 0] = np.nextafter(logits[0, 0], np.float32(99))
    if fault == "shape":
        logits = logits[:-1]
    np.save(option["--logits"], logits)
    np.save(option["--experts"], ranks.astype(np.int32))
    print("{" if fault == "garbage" else json.dumps({"prompts": answers} if "prompts" in request else answers[0]))


def main():
    bad = 0
    os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]   # the stand-in needs numpy too
    for fault, precision, found in FAULTS:
        done = subprocess.run([sys.executable, HERE / "check.py", "--thermocline", HERE / "test_check.py", "--workers", "1,2",
                               "--precision", precision, "--only", "next-nf4", "--messages"],
                              env={**os.environ, "FAULT": fault}, capture_output=True, text=True)
        right = done.returncode == int(found) and (", 0 failed" in done.stdout) != found
        bad += not right
        print(f"{'ok  ' if right else 'FAIL'} {fault or 'no fault':9} {precision:8} {done.stdout.strip().splitlines()[-1:]}"
              + ("" if right else "\n" + done.stdout + done.stderr))
    for fixture in ("next-nf4", "moe-f16", "gptoss-mxfp4", "deepseek-fp8"):   # one of each form of experts
        done = subprocess.run([sys.executable, HERE / "check.py", "--thermocline", HERE / "test_check.py", "--workers", "2", "--only", fixture,
                               "--precision", "exact,float,fast", "--shard", "partition,slice", "--single", "--messages"],
                              capture_output=True, text=True)
        bad += done.returncode != 0
        print(f"{'ok  ' if done.returncode == 0 else 'FAIL'} {fixture}, every option: {done.stdout.strip().splitlines()[-1]}")
    print(f"{len(FAULTS) + 4 - bad} passed, {bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(stand_in(sys.argv[1:]) if sys.argv[1:2] == ["eval"] else main())
