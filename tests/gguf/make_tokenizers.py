#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes data/tokenizers.json, two small vocabularies of the kinds that GGUF files of mixtral and gpt_oss hold, and
data/tokenizers.jsonl, what their own libraries say about hostile and real texts: `sentencepiece` 0.2.3 (BPE scores, bytes as
a fallback, settings of Mistral's) and `tokenizers` 0.23.3 (GPT-4o's splits, no normaliser). Run by hand; the results are
committed. Lines: {"kind", "text", "ids"}, and {"kind", "ids", "text", "decode": true}."""
import io
import json
import random
import sys
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests/unit/text"))
from make_more_vectors import MORE, O200K  # noqa: E402
from make_vectors import WORDS  # noqa: E402

CORPUS = (ROOT / "demo/heldout.txt").read_text().splitlines()
TRAINING = CORPUS[::2] + ["".join(WORDS[20:60])] * 4 + [" ".join(WORDS)] * 2
REAL = [line for line in CORPUS[1::2] if len(line) > 40][:60]
SOURCES = [line for name in ("base/json.c", "text/bpe.c") for line in (ROOT / "common" / name).read_text().splitlines() if line.strip()][:40]
CONTROL = ["<|startoftext|>", "<|return|>", "<|start|>", "<|message|>", "<|end|>", "<|channel|>"]


def sentences():
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAINING), model_writer=out, model_type="bpe", vocab_size=900, byte_fallback=True,
        character_coverage=0.995, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, add_dummy_prefix=True, unk_id=0, bos_id=1, eos_id=2, num_threads=1, minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def kinds(sp):
    for i in range(sp.get_piece_size()):
        kind = 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 5 if sp.is_unused(i) else 1
        yield [sp.id_to_piece(i), sp.get_score(i), kind]


def gpt4o():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(O200K), "removed", invert=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)])
    t.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)
    t.train_from_iterator(TRAINING, trainers.BpeTrainer(vocab_size=894, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_special_tokens([AddedToken(c, special=True, normalized=False) for c in CONTROL])
    return t


def texts(rng):
    yield from dict.fromkeys(WORDS + MORE)
    yield from ("", " ", "\u2581", "\u2581\u2581a", "a" * 700, "ab" * 350, " " * 200 + "x", "\n" * 99, "e" + "\u0301\u0323\u0334" * 20, "\t\t if (x) {\n\t\t}\n")
    yield from REAL + SOURCES
    for _ in range(160):
        yield rng.choice(["", " "]).join(rng.choice(WORDS + MORE) for _ in range(rng.randint(2, 10)))


def main():
    rng = random.Random(5)
    sp, o200k = sentences(), gpt4o()
    # As the reference implementation decodes: of bytes that are no UTF-8 together each becomes U+FFFD. `sentencepiece` keeps
    # the valid ones among them.
    bytes_back = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    (HERE / "data").mkdir(exist_ok=True)
    files = {"llama": list(kinds(sp)), "gpt-4o": json.loads(o200k.to_str())}
    (HERE / "data/tokenizers.json").write_text(json.dumps(files, ensure_ascii=True, separators=(",", ":")) + "\n")
    with open(HERE / "data/tokenizers.jsonl", "w", encoding="ascii") as out:
        for text in texts(rng):
            out.write(json.dumps({"kind": "llama", "text": text, "ids": sp.encode(text)}) + "\n")
            out.write(json.dumps({"kind": "gpt-4o", "text": text, "ids": o200k.encode(text, add_special_tokens=False).ids}) + "\n")
        for i in range(120):
            for kind, count in (("llama", sp.get_piece_size()), ("gpt-4o", o200k.get_vocab_size())):
                ids = [rng.randrange(3, 259 if i % 2 and kind == "llama" else count) for _ in range(rng.randint(1, 8))]
                text = bytes_back.decode([sp.id_to_piece(x) for x in ids]) if kind == "llama" else o200k.decode(ids, skip_special_tokens=False)
                out.write(json.dumps({"kind": kind, "decode": True, "ids": ids, "text": text}) + "\n")


if __name__ == "__main__":
    main()
