"""Prompts that are longer than what a text encoder reads."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence

from hasten.adapters.untyped import Pipeline, Tokenizer

ANY = 1 << 16  # more tokens than this stand for no limit
LENGTH = "max_sequence_length"  # the argument of a pipeline's call that limits T5


def warn_of_cut(tokenizer: Tokenizer, prompts: Sequence[str], limit: int | None = None) -> None:
    """Say of the first of ``prompts`` that is too long what is cut off."""
    limit = limit or int(tokenizer.model_max_length)
    if limit > ANY:
        return
    for prompt in prompts:
        ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
        if len(ids) > limit:
            lost = tokenizer.decode(ids[limit - 1 :], skip_special_tokens=True).strip()
            warnings.warn(
                f"prompt {_short(prompt)!r} has {len(ids)} tokens, and {limit} are read: what "
                f"follows is cut off, from {_short(lost)!r} on. Shorten it.",
                stacklevel=2,
            )
            return


def warn_of_cut_by(pipe: Pipeline, prompts: Sequence[str], call: Mapping[str, object]) -> None:
    """:func:`warn_of_cut` for the one of a pipeline's tokenizers that reads most."""
    default = inspect.signature(type(pipe).__call__).parameters.get(LENGTH)
    longest = call.get(LENGTH, None if default is None else default.default)
    limits: list[tuple[int, Tokenizer]] = []
    for name in pipe.components:
        tokenizer: Tokenizer = getattr(pipe, name) if name.startswith("tokenizer") else None
        if tokenizer is not None and hasattr(tokenizer, "model_max_length"):
            own = int(tokenizer.model_max_length)
            t5 = not type(tokenizer).__name__.startswith("CLIP")
            limits.append((longest if t5 and isinstance(longest, int) else own, tokenizer))
    if limits:
        limit, tokenizer = max(limits, key=lambda pair: pair[0])
        warn_of_cut(tokenizer, prompts, limit)


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
