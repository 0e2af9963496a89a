"""Prompts as tokens: CLIP's byte pair encoding, with the vocabulary and merges of text.json."""

import json
import re
import sys
import unicodedata
from pathlib import Path

import numpy as np

TEXT = Path(__file__).with_name("text.json")
FAR = 1 << 30
PLAIN = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that stand for themselves
OTHERS = [byte for byte in range(256) if byte not in PLAIN]
SIGNS = {b: chr(b) for b in PLAIN} | {b: chr(256 + i) for i, b in enumerate(OTHERS)}
PIECES = re.compile("'(?:s|t|re|ve|m|ll|d)|[a-zé]+|0|['!]+")


def kind(c):
    """What counts of a sign where a text is split: itself, or a letter, digit, space or other."""
    if c == "'" or (c.isascii() and c.isalpha()):
        return c
    return " " if c.isspace() else {"L": "é", "N": "0"}.get(unicodedata.category(c)[0], "!")


def tokens(prompt):
    """``prompt`` as tokens (1, length); says where it was cut."""
    facts = json.loads(TEXT.read_text(encoding="utf-8"))
    ranks = {pair: rank for rank, pair in enumerate(facts["merges"])}
    text = " ".join(unicodedata.normalize("NFC", prompt).split()).lower()
    out, ends = [], []
    for piece in PIECES.finditer("".join(map(kind, text))):
        word = [SIGNS[byte] for byte in text[slice(*piece.span())].encode()]
        word[-1] += "</w>"
        while len(word) > 1:
            pairs = [f"{word[i]} {word[i + 1]}" for i in range(len(word) - 1)]
            rank, i = min((ranks.get(pair, FAR), i) for i, pair in enumerate(pairs))
            if rank == FAR:
                break
            word[i : i + 2] = [word[i] + word[i + 1]]
        out += [facts["vocabulary"].get(part, facts["unknown"]) for part in word]
        ends += [piece.end()] * len(word)
    most = facts["length"] - 2
    if len(out) > most:
        print(f"cut after {text[: ends[most - 1]]!r}: {most} tokens at most", file=sys.stderr)
    out = [facts["start"], *out[:most], facts["end"]]
    return np.array([out + [facts["pad"]] * (facts["length"] - len(out))], np.float32)
