#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Text against its peers, one thread each, ratios in one run: rendering a chat template (40 messages with tools) against
Jinja2, and tokenizing English and code against the `tokenizers` package. Needs both packages (pip install jinja2==3.1.6
tokenizers==0.23.3); what is not there is said and skipped.
  text.py --thermocline build/cli/thermocline [--template FILE.jinja] [--tokenizer tokenizer.json] [--json]
Our side is the whole program, JSON in and out included, less its start; the peers are timed inside Python."""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/unit/text"))

TEMPLATE = """{%- if tools %}{{- '<|im_start|>system\\n# Tools\\n<tools>' }}{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}
{%- endfor %}{{- '\\n</tools><|im_end|>\\n' }}{%- endif %}{%- set ns = namespace(last=0) %}{%- for m in messages %}
{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}{%- for m in messages %}
{%- if m.role == 'user' or m.role == 'system' %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}{%- if m.content is string and '</think>' in m.content %}
{{- m.content.split('</think>')[-1].lstrip('\\n') }}{%- elif m.content %}{{- m.content }}{%- endif %}
{%- for call in m.tool_calls or [] %}{{- '<tool_call>\\n{"name": "' ~ call.function.name ~ '", "arguments": ' }}
{{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}
{%- endfor %}{{- '<|im_end|>\\n' }}{%- elif m.role == 'tool' %}{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}
{{- '<|im_start|>user' }}{%- endif %}{{- '\\n<tool_response>\\n' ~ m.content ~ '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


def conversation():
    tools = [{"type": "function", "function": {"name": f"tool_{i}", "description": "Looks something up.", "parameters": {
        "type": "object", "properties": {p: {"type": "string", "description": f"The {p}."} for p in ("query", "city", "unit")},
        "required": ["query"]}}} for i in range(5)]
    messages = [{"role": "system", "content": "You are a helpful assistant."}]
    while len(messages) < 40:
        i = len(messages)
        messages.append({"role": "user", "content": f"Question {i}: what is the weather in Rome, and why? " * 3})
        messages.append({"role": "assistant", "content": "<think>\nhm\n</think>\n\nI look it up.", "tool_calls": [
            {"id": f"c{i}", "type": "function", "function": {"name": "tool_1", "arguments": {"query": "weather", "city": "Rome"}}}]})
        messages.append({"role": "tool", "tool_call_id": f"c{i}", "content": json.dumps({"temperature": 21.5, "sky": "clear"})})
    return {"messages": messages[:40], "tools": tools, "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>"}


def best(*runs, rounds=7):
    """The least seconds of each, all of them in turn."""
    times = [[] for _ in runs]
    for _ in range(rounds):
        for run, seen in zip(runs, times):
            start = time.perf_counter()
            run()
            seen.append(time.perf_counter() - start)
    return [min(seen) for seen in times]


def against(arguments, line, count, peer):
    """Seconds a line of ours, the program's start taken off, and of the peer."""
    many = (line + "\n") * count

    def run(text):
        subprocess.run(arguments, input=text, stdout=subprocess.DEVNULL, check=True, encoding="utf-8")

    all_lines, one, theirs = best(lambda: run(many), lambda: run(line + "\n"), peer)
    return (all_lines - one) / (count - 1), theirs


def templates(options):
    try:
        from make_templates import environment
    except ImportError as e:
        return {"benchmark": "template", "skipped": str(e)}
    source = pathlib.Path(options.template).read_text() if options.template else TEMPLATE
    context = conversation()
    line = json.dumps({"context": context, "now": "2025-09-20T14:05:09"})
    compiled = environment(True).from_string(source)
    expected = compiled.render(**context)
    with tempfile.NamedTemporaryFile("w", suffix=".jinja") as file:
        file.write(source)
        file.flush()
        arguments = [options.thermocline, "render", file.name]
        ours = json.loads(subprocess.run(arguments, input=line, capture_output=True, check=True, encoding="utf-8").stdout)
        if ours.get("text") != expected:
            raise SystemExit(f"the texts differ: {str(ours)[:200]}")
        mine, peer = against(arguments, line, 400, lambda: [compiled.render(**context) for _ in range(50)])
        peer /= 50
    return {"benchmark": "template", "us": round(mine * 1e6, 1), "jinja2_us": round(peer * 1e6, 1), "ratio": round(peer / mine, 2)}


def tokenizing(options, name, text):
    try:
        import tokenizers
    except ImportError as e:
        return {"benchmark": f"tokenizer, {name}", "skipped": str(e)}
    peer = tokenizers.Tokenizer.from_file(options.tokenizer)
    want = peer.encode(text, add_special_tokens=False).ids
    line = json.dumps({"text": text})
    arguments = [options.thermocline, "tokenize", options.tokenizer]
    ours = json.loads(subprocess.run(arguments, input=line, capture_output=True, check=True, encoding="utf-8").stdout)
    if ours["ids"] != want:
        raise SystemExit("the ids differ")
    mine, theirs = against(arguments, line, 12, lambda: peer.encode(text, add_special_tokens=False))
    mib = len(text.encode()) / 2**20
    return {"benchmark": f"tokenizer, {name}", "MiB/s": round(mib / mine, 1), "tokenizers_MiB/s": round(mib / theirs, 1),
            "ratio": round(theirs / mine, 2)}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--thermocline", default=str(ROOT / "build/cli/thermocline"))
    options.add_argument("--template")
    options.add_argument("--tokenizer", default=str(ROOT / "tests/unit/text/data/small.json"))
    options.add_argument("--json", action="store_true")
    options = options.parse_args()
    english = (ROOT / "demo/heldout.txt").read_text()
    code = "".join(p.read_text() for p in sorted((ROOT / "common").glob("*/*.c")))
    english, code = (english * (1 + 2**20 // len(english)))[:2**20], (code * (1 + 2**20 // len(code)))[:2**20]
    for result in (templates(options), tokenizing(options, "English", english), tokenizing(options, "code", code)):
        print(json.dumps(result) if options.json else "  ".join(f"{k} {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
