#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Generated conversations (tools, calls, parts, reasoning, odd values) through chat templates, against Jinja2 3.1.6 set up
as transformers sets it up. Needs jinja2, which the tests themselves do not.

  conversations.py fixture                    makes data/conversations/*.cases.jsonl, which test_template.c holds us against
  conversations.py compare FOLDER [--count N] [--seed S] [--thermocline PROGRAM]
                                              every *.jinja of a folder, ours beside Jinja2's, N conversations each"""
import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

from make_templates import NOW, Refused, environment

ROOT = Path(__file__).resolve().parents[3]
FIXTURE = Path(__file__).parent / "data" / "conversations"
WORDS = ["hello", "weather", "Rome", "naïve", "日本", "<think>", "</think>", "🎉", "it's", "\"quote\"", "\n", "  ", "<tool_response>",
         "{x}", "%s", "<|im_end|>", "[INST]", "1", "&", "\\n", "ünï", "<tool_call>\n{}\n</tool_call>"]
OPTIONS = {"enable_thinking": [True, False, None], "thinking": [True, False], "reasoning_effort": ["low", "high", "none"],
           "documents": [[{"title": "t", "text": "x"}], [], None], "date_string": ["01 Jan 2025"], "builtin_tools": [["python"]],
           "tools_in_user_message": [True, False], "model_identity": ["I"], "preserve_thinking": [True], "thinking_budget": [512, 0],
           "tool_choice": ["required", "none"], "safety_mode": ["NONE", "STRICT"], "add_default_system_prompt": [True, False]}


class Conversations:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def chance(self, p):
        return self.r.random() < p

    def text(self):
        t = " ".join(self.r.choice(WORDS) for _ in range(self.r.randrange(12)))
        if self.chance(0.2):
            t = f"<think>\n{t}\n</think>\n\n{t}"
        if self.chance(0.1):
            t = f"<tool_response>{t}</tool_response>"
        return f" \n{t} \n" if self.chance(0.15) else t

    def value(self, depth=0):
        r = self.r
        kind = r.randrange(8 if depth < 3 else 6)
        if kind == 6:
            return [self.value(depth + 1) for _ in range(r.randrange(3))]
        if kind == 7:
            return {r.choice("abcxyzé") + str(i): self.value(depth + 1) for i in range(r.randrange(4))}
        return [r.randrange(-5, 1000), r.random() * 10, True, None, self.text(), r.choice([1.0, 1e20, 0.1, -0.0, 1e-7, 2**63, 10**25])][kind]

    def schema(self, depth=0):
        r, s = self.r, {}
        kind = r.choice(["string", "integer", "number", "boolean", "array", "object", ["string", "null"], None])
        if kind:
            s["type"] = kind
        for name, p, make in (("description", 0.6, self.text), ("enum", 0.2, lambda: r.choice([["a", "b"], [1, 2], ["x", None]])),
                              ("default", 0.2, lambda: self.value(2)), ("nullable", 0.1, lambda: True), ("minimum", 0.1, lambda: 1.5)):
            if self.chance(p):
                s[name] = make()
        if self.chance(0.08) and depth < 2:
            s["anyOf"] = [self.schema(depth + 1), self.schema(depth + 1)]
        if kind == "array" and self.chance(0.8):
            s["items"] = self.schema(depth + 1) if depth < 3 else {}
        if kind == "object" and depth < 3:
            s["properties"] = {f"p{i}": self.schema(depth + 1) for i in range(r.randrange(3))}
            if self.chance(0.5):
                s["required"] = list(s["properties"])[:1]
        return s

    def tool(self, i):
        r = self.r
        f = {"name": r.choice(["get_weather", "f", f"tool_{i}", "python", "browser.search"])}
        if self.chance(0.9):
            f["description"] = self.text()
        p = {"type": "object", "properties": {n: self.schema() for n in r.sample(["city", "unit", "x", "items", "values"], r.randrange(4))}}
        if self.chance(0.6):
            p["required"] = list(p["properties"])[:r.randrange(3)]
        if self.chance(0.9):
            f["parameters"] = p
        for name, p, what in (("strict", 0.15, True), ("return", 0.1, {"type": "string"}), ("extra", 0.1, None)):
            if self.chance(p):
                f[name] = what
        return f if self.chance(0.1) else {"type": "function", "function": f}

    def content(self):
        kind = self.r.random()
        if kind < 0.7:
            return self.text()
        if kind < 0.9:
            return [self.r.choice([{"type": "text", "text": self.text()}, {"type": "image"}, {"text": "t"}, self.text(),
                                   {"type": "image_url", "image_url": {"url": "http://x"}}]) for _ in range(self.r.randrange(3))]
        return None if kind < 0.97 else self.value()

    def call(self, i):
        arguments = {n: self.value() for n in self.r.sample(["city", "unit", "x", "items"], self.r.randrange(4))}
        f = {"name": self.r.choice(["get_weather", "f", "python"]), "arguments": json.dumps(arguments) if self.chance(0.25) else arguments}
        call = f if self.chance(0.15) else {"type": "function", "function": f}
        if self.chance(0.7):
            call["id"] = self.r.choice([f"call_{i}", f"abcdefgh{i % 10}", "123456789"])
        return call

    def message(self, i, last):
        """One message, and what its successor is chosen by."""
        role = self.r.choice({"system": ["user"] * 8 + ["assistant"], "user": ["assistant"] * 8 + ["user"],
                              "assistant": ["user"] * 6 + ["assistant"], "calls": ["tool"] * 9 + ["user"],
                              "tool": ["assistant"] * 5 + ["tool"] * 3 + ["user"],
                              None: ["user"] * 5 + ["system"] * 6 + ["developer", "assistant"]}[last])
        m, after = {"role": role}, "system" if role == "developer" else role
        if self.chance(0.97):
            m["content"] = self.content() if self.chance(0.5) else self.text()
        if role == "assistant" and self.chance(0.35):
            m["tool_calls"] = [self.call(i * 3 + j) for j in range(self.r.choice([1, 1, 1, 2, 3, 0]))]
            after = "calls"
        if role == "assistant" and self.chance(0.2):
            m[self.r.choice(["reasoning_content", "reasoning", "thinking"])] = self.r.choice([self.text(), None, ""])
        if role == "tool":
            m["tool_call_id"] = self.r.choice([f"call_{i}", "123456789"])
            if self.chance(0.5):
                m["name"] = self.r.choice(["get_weather", "f"])
            if self.chance(0.1):
                m["content"] = self.value()
        return m, after

    def context(self):
        last, messages, c = None, [], {}
        for i in range(self.r.choice([0, 1, 1, 2, 3, 3, 4, 5, 6, 8])):
            m, last = self.message(i, last)
            messages.append(m)
        c["messages"] = messages
        if self.chance(0.5):
            c["tools"] = self.r.choice([None, []]) if self.chance(0.2) else [self.tool(i) for i in range(self.r.randrange(1, 4))]
        for name, p, values in [("add_generation_prompt", 0.8, [True, True, False]), ("bos_token", 0.9, ["<s>"]), ("eos_token", 0.9, ["</s>"]),
                                *((name, 0.08, values) for name, values in OPTIONS.items())]:
            if self.chance(p):
                c[name] = self.r.choice(values)
        return json.loads(json.dumps(c))


def cases(path, count, seed):
    template, conversations = environment(True).from_string(path.read_text()), Conversations(f"{seed} {path.name}")
    for _ in range(count):
        case = {"now": NOW.isoformat(), "context": conversations.context()}
        try:
            case["expected"] = template.render(**case["context"])
        except Refused as e:
            case["error"] = {"kind": "raise_exception", "message": str(e)}
        except Exception as e:  # noqa: BLE001
            case["error"] = {"kind": type(e).__name__, "message": str(e)}
        yield case


def agree(case, ours):
    if "expected" in case:
        return ours.get("text") == case["expected"]
    refused = case["error"]["kind"] == "raise_exception"
    got = ours.get("error", {})
    return bool(got) and (got["kind"] == "raise_exception") == refused and (not refused or got["message"] == case["error"]["message"])


def compare(options):
    total = wrong = 0
    for path in sorted(options.folder.glob("*.jinja")):
        made = list(cases(path, options.count, options.seed))
        lines = "".join(json.dumps({k: c[k] for k in ("now", "context")}) + "\n" for c in made)
        run = subprocess.run([options.thermocline, "render", path], input=lines, capture_output=True, encoding="utf-8")
        if run.returncode:
            raise SystemExit(f"{path.name}: {run.stderr}")
        bad = [(c, o) for c, o in zip(made, map(json.loads, run.stdout.splitlines()), strict=True) if not agree(c, o)]
        total, wrong = total + len(made), wrong + len(bad)
        for case, ours in bad[:2]:
            print(path.name, json.dumps(case)[:2000], json.dumps(ours)[:1000])
    print(json.dumps({"conversations": total, "wrong": wrong}))
    return wrong != 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fixture", "compare"])
    parser.add_argument("folder", nargs="?", type=Path, default=FIXTURE)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--thermocline", default=str(ROOT / "build/cli/thermocline"))
    options = parser.parse_args()
    if options.what == "compare":
        return compare(options)
    for path in sorted(FIXTURE.glob("*.jinja")):
        with open(path.with_suffix(".cases.jsonl"), "w") as f:
            f.writelines(json.dumps(c) + "\n" for c in cases(path, options.count, options.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
