#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tokens a second of a streamed chat against a bare completion of as many tokens, in turn on one server.

  chat_stream.py URL [--tokens N] [--rounds N]     prints one JSON object
"""
import argparse
import json
import statistics
import time
import urllib.request


def rate(url, path, body, tokens):
    request = urllib.request.Request(url + path, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"})
    started, first = time.perf_counter(), None
    with urllib.request.urlopen(request) as answer:
        for line in answer:
            if first is None and (b'"text":"' in line or b'"content":"' in line) and b'"role"' not in line:
                first = time.perf_counter()
    ended = time.perf_counter()
    return (tokens - 1) / (ended - first), first - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    a = parser.parse_args()
    shared = {"max_tokens": a.tokens, "ignore_eos": True, "stream": True, "seed": 1, "temperature": 0.7}
    chat = {"messages": [{"role": "user", "content": "Tell me of the sea."}], **shared}
    prompt = json.load(urllib.request.urlopen(urllib.request.Request(a.url + "/tokenize", data=json.dumps({"messages": chat["messages"]}).encode())))
    bare = {"prompt": prompt["tokens"], **shared}
    rates = {"chat": [], "completions": []}
    for _ in range(a.rounds):
        rates["completions"].append(rate(a.url, "/v1/completions", bare, a.tokens)[0])
        rates["chat"].append(rate(a.url, "/v1/chat/completions", chat, a.tokens)[0])
    middle = {name: statistics.median(values) for name, values in rates.items()}
    print(json.dumps({"tokens": a.tokens, "rounds": a.rounds, **{k: round(v, 1) for k, v in middle.items()},
                      "ratio": round(middle["chat"] / middle["completions"], 3)}))


if __name__ == "__main__":
    main()
