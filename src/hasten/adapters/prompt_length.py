"""Prompts that are longer than what a text encoder reads."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence

from hasten.adapters.untyped import Pipeline, Tokenizer

ANY = 1 << 16  # more tokens than this stand for no limit
LENGTH = "max_sequence_length"  # the argument of a pipeline's call that limits T5


def cut_off(tokenizer: Tokenizer, prompts: Sequence[str], limit: int | None = None) -> str:
    """What to say of the first of ``prompts`` that is too long; "" where none is."""
    limit = limit or int(tokenizer.model_max_length)
    if limit > ANY:
        return ""
    for prompt in prompts:
        ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
        if len(ids) > limit:
            lost = tokenizer.decode(ids[limit - 1 :], skip_special_tokens=True).strip()
            return (
                f"prompt {_short(prompt)!r} has {len(ids)} tokens, and {limit} are read: what "
                f"follows is cut off, from {_short(lost)!r} on. Shorten it."
            )
    return ""


def cut_off_by(pipe: Pipeline, prompts: Sequence[str], call: Mapping[str, object]) -> str:
    """:func:`cut_off` by the one of a pipeline's tokenizers that reads most."""
    default = inspect.signature(type(pipe).__call__).parameters.get(LENGTH)
    longest = call.get(LENGTH, None if default is None else default.default)
    limits: list[tuple[int, Tokenizer]] = []
    for name in pipe.components:
        tokenizer: Tokenizer = getattr(pipe, name) if name.startswith("tokenizer") else None
        if tokenizer is not None and hasattr(tokenizer, "model_max_length"):
            own = int(tokenizer.model_max_length)
            t5 = not type(tokenizer).__name__.startswith("CLIP")
            limits.append((longest if t5 and isinstance(longest, int) else own, tokenizer))
    if not limits:
        return ""
    limit, tokenizer = max(limits, key=lambda pair: pair[0])
    return cut_off(tokenizer, prompts, limit)


def warn(text: str) -> None:
    """Say what :func:`cut_off` has found, where it found something."""
    if text:
        warnings.warn(text, stacklevel=3)


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
