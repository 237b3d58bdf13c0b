#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes data/small.json (a tokenizer of about 1000 tokens, built like Qwen's, with added tokens of every kind of
flag), data/gpt2.json (the same vocabulary behind ByteLevel's own expression) and data/vectors.jsonl (what the
`tokenizers` library, 0.23.3, says about a few hundred texts). Run by hand: make_vectors.py, with `tokenizers`
installed; the results are committed. Lines: {"file", "text", "plain": special tokens as text, "ids"} and
{"file", "ids", "skip", "text"} with "decode": true."""
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE / "data"
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+")
CORPUS = HERE.parents[2] / "common"

ADDED = [
    AddedToken("<|end|>", special=True, normalized=False),
    AddedToken("<|end|>>", special=True, normalized=False),
    AddedToken("<left>", special=False, normalized=False, lstrip=True),
    AddedToken("<right>", special=True, normalized=False, rstrip=True),
    AddedToken("<both>", special=False, normalized=False, lstrip=True, rstrip=True),
    AddedToken("word", special=False, normalized=False, single_word=True),
    AddedToken("caf\u00e9", special=False, normalized=True),
    AddedToken("e\u0301toile", special=False, normalized=True),
    AddedToken("\u212b<ang>", special=True, normalized=True),
    AddedToken("\u0120odd", special=False, normalized=False),
    AddedToken("   ", special=False, normalized=False),
    AddedToken("\n\nx", special=False, normalized=False),
    AddedToken("<\u4e16\u754c>", special=True, normalized=False),
    AddedToken("nword", special=False, normalized=True, single_word=True, lstrip=True),
    AddedToken("int", special=True, normalized=False),  # also comes out of plain text by merging
]

WORDS = ["Hello", "world", "the", "don't", "DON'T", "it'\u017f", "we're", "x'", "'s", "'LL", "a\u0301", "e\u0301",
         "\u1e69", "s\u0323\u0307", "s\u0307\u0323", "caf\u00e9", "cafe\u0301", "e\u0301toile", "\u00e9toile",
         "\u212b<ang>", "\u00c5<ang>", "A\u030a<ang>", "\u0120odd", "\u1100\u1161\u11a8", "\uac00\u11a8", "\uac01",
         "\u0958", "\u2126", "\u2000", "\u3000", "\u00a0", "\u0085", "\u200b", "\u200d", "\u2028", "\u00bd", "\u0664",
         "\u216f", "\u00b2", "\U0001f600", "\U0001f468\u200d\U0001f469", "\U0001d11e", "\U0001d15e", "\u4e16\u754c",
         "\u041f\u0440\u0438\u0432\u0435\u0442", "\u0645\u0631\u062d\u0628\u0627", "\u0e2a\u0e27\u0e31", "\0",
         "\x01", "\x7f", "\ufffd", "\ufeff", "123", "1,000", "3.14", "0xff", "(", "){", "->", "!=", "...", "//", "int",
         "int main", "printf", "\t", "\n", "\r\n", "\r", " ", "  ", "   ", "    ", "\n\n", " \n ", "\n\nx", "_", "-",
         "word", "wordy", "sword", "nword", "anword", "word.", "<|end|>", "<|end|>>", "<|end|", "<left>", "<right>",
         "<both>", "<\u4e16\u754c>", "<", "|>", "\u0897", "\u1c89", "\u0301", "\u0323", "\u0334", "\u0345",
         "\U00011935\U00011930", "\U0001ccf3", "\u24b6word", "\U0001f150word"]


def train():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(vocab_size=985, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    sources = sorted(CORPUS.glob("*/*.h")) + sorted(CORPUS.glob("base/*.c"))
    lines = [line for path in sources for line in path.read_text().splitlines(True)]
    tokenizer.train_from_iterator(lines + ["".join(WORDS[20:60])] * 4, trainer)
    tokenizer.add_tokens(ADDED)
    return tokenizer


def save(tokenizer, name, pairs):
    data = json.loads(tokenizer.to_str())
    if not pairs:
        data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
    (DATA / name).write_text(json.dumps(data, ensure_ascii=True, separators=(",", ":")) + "\n")
    return Tokenizer.from_file(str(DATA / name))


def texts(rng):
    yield from WORDS
    yield ""
    yield "A" * 3000
    yield "ab" * 1500
    yield " " * 700 + "x"
    yield "\n" * 333
    yield "e" + "\u0301\u0323\u0334" * 40
    for _ in range(330):
        separator = rng.choice(["", "", " "])
        yield separator.join(rng.choice(WORDS) for _ in range(rng.randint(2, 14)))


def main():
    rng = random.Random(3)
    small = save(train(), "small.json", pairs=True)
    small.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    gpt2 = save(small, "gpt2.json", pairs=False)
    small = Tokenizer.from_file(str(DATA / "small.json"))
    with open(DATA / "vectors.jsonl", "w", encoding="ascii") as out:
        for index, text in enumerate(texts(rng)):
            for name, tokenizer in (("small.json", small), ("gpt2.json", gpt2)):
                if name == "gpt2.json" and index % 4:
                    continue
                plain = index % 3 == 2 and "int" not in text
                tokenizer.encode_special_tokens = plain
                ids = tokenizer.encode(text, add_special_tokens=False).ids
                out.write(json.dumps({"file": name, "text": text, "plain": plain, "ids": ids}) + "\n")
        for _ in range(120):
            ids = [rng.randrange(small.get_vocab_size()) for _ in range(rng.randint(0, 12))]
            skip = rng.random() < 0.5
            text = small.decode(ids, skip_special_tokens=skip)
            out.write(json.dumps({"file": "small.json", "decode": True, "ids": ids, "skip": skip, "text": text}) + "\n")


if __name__ == "__main__":
    main()
