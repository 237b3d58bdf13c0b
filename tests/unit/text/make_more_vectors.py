#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes data/o200k.json, data/deepseek.json and data/llama3.json (the vocabulary of small.json behind the splitting
expressions of GPT-4o, DeepSeek V3 and Llama 3), data/llama2.json and data/mistral.json (characters with bytes as a
fallback, blanks by normaliser and by Metaspace), and data/more.jsonl, what the `tokenizers` library (0.23.3) says
about texts that turn on them. Run by hand after make_vectors.py; the results are committed."""
import json
import random
import sys

from make_vectors import CORPUS, DATA, WORDS, texts
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

O200K = ("[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
LLAMA3 = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
          "\\s+(?!\\S)|\\s+")
DEEPSEEK = ["\\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|"
            "\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]
MORE = WORDS + [
    "HelloWorld", "XMLHttpRequest", "ABCdef", "aBC", "ABC", "Don'T", "WE'RE", "we'Ve", "CamelCase's", "\u01c5ungla",
    "\u02b0mod", "\u0301A", "\u0301a", "!\u0301", "A\u0301B", "A\u0301b", "\u4e2d\u6587ABC", "ABC\u4e2d", "\u4e2d\u6587\u304b\u306a\u30ab\u30ca",
    "\u30fb", "\u30a0\u30fc", "\u3099", "\u309b", "12345678", "a1b22c333d4444", "x\u00b2\u00b3", "\u0664\u0665\u0666\u0667", "(abc", "_name", "#define",
    "a/b/c", "//\n", "...\n\n/", "!!!\r\n", " !", "  !", "\u20ac5", "\u20ac", " \u20ac\n", "\x1b[0m", "\x01\x02a", "\u200bx", "\ue000", "\U000e0001",
    "\u00ad", "\u0378", "\t\tx", " \u00a0x", "<s>", "</s>", "\u2581", "a\u2581b", "  two  blanks  ", "\u0416\u0436", "\U00010400\U00010428", "\u10a0\u2d00",
]


def small(name, splits, removed=False):
    data = json.loads((DATA / "small.json").read_text())
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(s), "removed" if removed else "isolated", invert=removed) for s in splits]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    return store(tokenizer, name)


def store(tokenizer, name):
    data = json.loads(tokenizer.to_str())
    (DATA / name).write_text(json.dumps(data, ensure_ascii=True, separators=(",", ":")) + "\n")
    return Tokenizer.from_file(str(DATA / name))


def train_characters():
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=900, show_progress=False, limit_alphabet=110,
                                  special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)])
    sources = sorted(CORPUS.glob("*/*.h")) + sorted(CORPUS.glob("base/*.c"))
    lines = [line for path in sources for line in path.read_text().splitlines()]
    tokenizer.train_from_iterator(lines + ["".join(WORDS[20:60])] * 4, trainer)
    data = json.loads(tokenizer.to_str())
    # The bytes are no special tokens in published files; the trainer only knows them as such.
    data["added_tokens"] = [dict(t, normalized=False) for t in data["added_tokens"] if not t["content"].startswith("<0x")]
    return data


def characters(data, name, metaspace):
    data = json.loads(json.dumps(data))
    tokenizer = Tokenizer.from_str(json.dumps(data))
    strip = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(strip)
    data = json.loads(tokenizer.to_str())
    data["normalizer"] = None
    data["pre_tokenizer"] = None
    if metaspace:
        data["pre_tokenizer"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    else:
        data["normalizer"] = {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}
    return store(Tokenizer.from_str(json.dumps(data)), name)


def main():
    rng = random.Random(4)
    trained = train_characters()
    files = {"o200k.json": small("o200k.json", [O200K], removed=True), "deepseek.json": small("deepseek.json", DEEPSEEK),
             "llama3.json": small("llama3.json", [LLAMA3]), "llama2.json": characters(trained, "llama2.json", False),
             "mistral.json": characters(trained, "mistral.json", True)}
    lines = list(texts(rng)) + MORE + [rng.choice(["", " "]).join(rng.choice(MORE) for _ in range(rng.randint(2, 12)))
                                       for _ in range(120)]
    with open(DATA / "more.jsonl", "w", encoding="ascii") as out:
        for index, text in enumerate(lines):
            for k, (name, tokenizer) in enumerate(files.items()):
                if (len(text) > 60 or index > 400) and (index + k) % 9:
                    continue
                plain = index % 3 == 2 and "int" not in text and "s>" not in text
                tokenizer.encode_special_tokens = plain
                ids = tokenizer.encode(text, add_special_tokens=False).ids
                out.write(json.dumps({"file": name, "text": text, "plain": plain, "ids": ids}) + "\n")
        for name in ("llama2.json", "mistral.json"):
            for i in range(80):
                tokenizer = files[name]
                high = 259 if i % 2 else tokenizer.get_vocab_size()
                ids = [rng.randrange(high) for _ in range(rng.randint(0, 8))]
                if i % 4 == 1:
                    ids = tokenizer.encode(rng.choice(MORE), add_special_tokens=False).ids
                skip = rng.random() < 0.5
                text = tokenizer.decode(ids, skip_special_tokens=skip)
                out.write(json.dumps({"file": name, "decode": True, "ids": ids, "skip": skip, "text": text}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
