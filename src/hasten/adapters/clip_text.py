"""Prompts as CLIP reads them: byte pair encoding, and a text encoder."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from hasten.adapters.prompt_length import cut_off, warn
from hasten.adapters.untyped import Tokenizer
from hasten.adapters.word_tokenizer import token_ids
from hasten.core.family import Text


class ClipText(Text):
    """A CLIP tokenizer and the last hidden state of a CLIP text encoder."""

    def __init__(self, tokenizer: Tokenizer, encoder: torch.nn.Module) -> None:
        self.tokenizer, self.encoder = tokenizer, _LastHidden(encoder)
        self.length = int(tokenizer.model_max_length)

    def __deepcopy__(self, memo: dict[int, object]) -> ClipText:
        return self

    def cut_off(self, prompts: Sequence[str]) -> str:
        return cut_off(self.tokenizer, prompts)

    def tokens(self, prompts: Sequence[str]) -> torch.Tensor:
        warn(self.cut_off(prompts))
        return token_ids(self.tokenizer, prompts)

    def facts(self) -> dict[str, object]:
        model = json.loads(self.tokenizer.backend_tokenizer.to_str())["model"]
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        return {
            "length": self.length,
            "start": self.tokenizer.bos_token_id,
            "end": self.tokenizer.eos_token_id,
            "pad": self.tokenizer.pad_token_id,
            "unknown": self.tokenizer.unk_token_id,
            "vocabulary": model["vocab"],
            "merges": merges,
        }


class _LastHidden(torch.nn.Module):
    """A text encoder as ``net(tokens)``."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.encoder(tokens, return_dict=False)[0]


def clip_text(tokenizer: Tokenizer, encoder: torch.nn.Module) -> ClipText | None:
    """Both of a pipeline; None where they are not CLIP's, or cannot be written down."""
    clip = type(encoder).__name__ == "CLIPTextModel" and hasattr(tokenizer, "backend_tokenizer")
    return ClipText(tokenizer, encoder) if clip else None
