"""Train the text encoder of a text-to-image model before its network, to predict the scene from the
caption.

Trained by denoising alone, a small text encoder learned words but no relations between objects
(docs/log.md). Here linear heads on every token predict each attribute of the scene, so that words
after a relation know it; the heads are discarded afterwards.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import PartialState

from hasten.adapters.text_to_image import CaptionReader, new_text_encoder, save_text_encoder
from hasten.adapters.word_tokenizer import token_ids, word_tokenizer
from hasten.core.errors import UserError
from hasten.core.transfer import sent
from hasten.data.drawn import Shapes
from hasten.data.shapes.layouts import CLASSES, layouts
from hasten.training.budget import Deadline
from hasten.training.data import pictures_of
from hasten.training.loop import Training
from hasten.training.objective import Batch
from hasten.training.recipe import Data, Run, Whole

HELD_OUT = 2000  # captions of the accuracy that is shown


class TextEncoderRecipe(Run):
    """A CLIP text encoder, trained to predict the shape, colour, size and order of the objects of a
    scene from its caption. `pictures` counts captions, and previews are the accuracy on captions
    that are held out.

    Attributes:
        objective: always text-encoder.
        data: drawn scenes, whose objects are known: shapes(count=100000).
        text: the options of transformers' CLIPTextConfig.
        length: tokens of a prompt; longer prompts are cut.
    """

    objective: Literal["text-encoder"]
    data: Data
    text: dict[str, object]
    length: Whole = 77

    @classmethod
    def takes(cls, objective: object) -> bool:
        return objective == "text-encoder"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captions:
    """Rows: tokens of captions (n, length); ``labels`` (n, attributes) are the classes of what
    their scenes show."""

    tokens: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def at(self, index: np.ndarray, key: tuple[int, ...], device: torch.device) -> torch.Tensor:
        return sent(self.tokens[torch.from_numpy(index)], device)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """The cross-entropy of every attribute, mean over attributes and tokens. Each token after the
    first predicts from the caption so far; that at the end of text (``end``), and padding up to the
    longest caption of the batch, from all of it."""

    end: int

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        assert batch.labels is not None
        longest = int((batch.rows == self.end).int().argmax(1).max())
        tokens = batch.rows[:, : longest + 2]  # the rest is padding
        losses = [
            torch.nn.functional.cross_entropy(
                logits[:, 1:].flatten(0, 1).float(),
                classes.repeat_interleave(tokens.shape[1] - 1),
            )
            for logits, classes in zip(net(tokens), batch.labels.unbind(1), strict=True)
        ]
        return torch.stack(losses).mean()


def train_text_encoder(
    recipe: TextEncoderRecipe, out: Path, *, deadline: Deadline | None = None, quiet: bool = False
) -> Path:
    """Train, or go on with the run in ``out``; returns ``out``/model, a folder with the encoder
    and its tokenizer, for the field ``text_encoder`` of a text-to-image recipe.

    Raises:
        UserError: data other than drawn scenes, options that the encoder does not take, or a run of
            another recipe in ``out``.
    """
    source = pictures_of(recipe.data)
    if not isinstance(source, Shapes):
        raise UserError(
            f"recipe field 'data.source' is {recipe.data.source!r}; a text encoder is trained on "
            "scenes whose layout is known: give shapes(count=100000)."
        )
    numbers = np.arange(len(source))
    captions = source.captions(numbers)
    tokenizer = word_tokenizer(captions, recipe.length)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(recipe.seed)
        net = CaptionReader(new_text_encoder(recipe.text, tokenizer), CLASSES)
    tokens, classes = token_ids(tokenizer, captions), layouts(source.scenes(numbers))
    held_out = min(HELD_OUT, len(source) // 10)

    def accuracy(module: torch.nn.Module, seen: int) -> dict[str, float]:
        assert isinstance(module, CaptionReader)
        device = next(module.parameters()).device
        read = attributes_read(module, tokens[-held_out:].to(device), tokenizer.eos_token_id)
        return {"accuracy": float((read.cpu() == classes[-held_out:]).float().mean())}

    training = Training(
        recipe=recipe,
        objective=Reading(end=tokenizer.eos_token_id),
        net=net,
        rows=Captions(tokens=tokens[:-held_out], labels=classes[:-held_out]),
        run=out / "checkpoints",
        preview=accuracy if recipe.preview_every else None,
        deadline=deadline,
        quiet=quiet,
    )
    training.fit_().put_(net)
    if PartialState().is_main_process:
        save_text_encoder(
            net.eval().text_encoder, tokenizer, out / "model", _card(recipe, training.seen)
        )
    PartialState().wait_for_everyone()
    return out / "model"


@torch.inference_mode()
def attributes_read(reader: CaptionReader, tokens: torch.Tensor, end: int) -> torch.Tensor:
    """The likeliest class of every attribute (n, attributes), as the end of text of each caption
    has it. What a caption leaves open cannot be told, so not even a perfect reader is always
    right."""
    rows, first = torch.arange(len(tokens)), (tokens == end).int().argmax(1)
    return torch.stack([logits[rows, first].argmax(1) for logits in reader(tokens)], 1)


def _card(recipe: TextEncoderRecipe, seen: int) -> str:
    return f"""---
library_name: transformers
license: apache-2.0
tags: [hasten, text-encoder]
---
# {recipe.name}

A CLIP text encoder and its tokenizer, trained with `hasten train` to say which object stands where
in a drawn scene, from its caption alone; for the field `text_encoder` of a text-to-image recipe.

- data: `{recipe.data.source}`
- captions seen: {seen:,}, batch {recipe.optimizer.batch}, rate {recipe.optimizer.rate:g}, EMA \
{recipe.ema}
"""
