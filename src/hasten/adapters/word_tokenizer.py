"""A CLIP tokenizer of given words, the same every time it is made."""

from __future__ import annotations

import heapq
import itertools
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from hasten.adapters.untyped import Tokenizer

Pair = tuple[str, str]
START, END, LAST = "<|startoftext|>", "<|endoftext|>", "</w>"
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.'-"


def word_tokenizer(texts: Sequence[str], length: int) -> Tokenizer:
    """A CLIP tokenizer that knows every word of ``texts`` as one token; see
    :func:`new_tokenizer`."""
    return new_tokenizer(
        {word for text in texts for word in re.findall(r"[^\W\d_]+", text.lower())}, length
    )


def new_tokenizer(words: Iterable[str], length: int) -> Tokenizer:
    """A CLIP tokenizer that knows each of ``words`` as one token, and any other text by its pieces;
    prompts are cut and padded to ``length`` tokens."""
    from transformers import CLIPTokenizer

    known = sorted({word.lower() for word in words})
    letters = sorted({*LETTERS, *"".join(known)})
    pairs = merges(known)
    tokens = [START, END, *letters, *(letter + LAST for letter in letters)]
    tokens += [first + second for first, second in pairs]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, rules = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        numbered = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
        vocabulary.write_text(json.dumps(numbered), encoding="utf-8")
        lines = [" ".join(pair) for pair in pairs]
        rules.write_text("\n".join(["#version: 0.2", *lines]) + "\n", encoding="utf-8")
        return CLIPTokenizer(str(vocabulary), str(rules), model_max_length=length)


def merges(words: Sequence[str]) -> list[Pair]:
    """Byte pair encoding (Sennrich et al. 1508.07909, algorithm 1) until every word is one token:
    the most frequent pair first, of equals the first in the alphabet."""
    pieces = [[*word[:-1], word[-1] + LAST] for word in words if word]
    where: dict[Pair, set[int]] = defaultdict(set)  # the words that have a pair
    for number, word in enumerate(pieces):
        for pair in itertools.pairwise(word):
            where[pair].add(number)
    queue = [(-len(places), pair) for pair, places in where.items()]
    heapq.heapify(queue)
    out: list[Pair] = []
    while queue:
        count, pair = heapq.heappop(queue)
        if -count != len(where[pair]):
            continue  # its count has changed since; it is in the queue with the new one
        if not count:
            continue
        out.append(pair)
        changed: set[Pair] = set()
        for number in sorted(where[pair]):
            before = set(itertools.pairwise(pieces[number]))
            pieces[number] = _merged(pieces[number], pair)
            after = set(itertools.pairwise(pieces[number]))
            for gone in before - after:
                where[gone].discard(number)
            for new in after - before:
                where[new].add(number)
            changed |= before ^ after
        for other in changed:
            heapq.heappush(queue, (-len(where[other]), other))
    return out


def _merged(word: Sequence[str], pair: Pair) -> list[str]:
    out: list[str] = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """``texts`` as tokens (n, length), cut and padded as a pipeline does it."""
    length = tokenizer.model_max_length
    settings = {"padding": "max_length", "max_length": length, "truncation": True}
    return tokenizer(list(texts), return_tensors="pt", **settings).input_ids
