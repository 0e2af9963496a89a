"""What training on pictures or clips with captions shares: latents that were encoded once, captions
that were tokenized once, captions dropped for classifier-free guidance (2207.12598)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import pydantic
import torch

from hasten.adapters.text_to_image import TextToImage, prompted_model
from hasten.adapters.untyped import Tokenizer
from hasten.adapters.vae_codec import VaeCodec
from hasten.adapters.word_tokenizer import token_ids
from hasten.core.model import Model
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.plan import Plan
from hasten.core.prediction import Prediction
from hasten.media.pictures import save_png
from hasten.sampling import build
from hasten.training.budget import Deadline
from hasten.training.latents import Latents
from hasten.training.loop import Training
from hasten.training.noise_prediction import NoisePrediction
from hasten.training.previews import preview_sheet
from hasten.training.recipe import Data, Run, Times

SAVED = 64  # prompts that are saved beside the model


class CaptionedRecipe(Run):
    """A recipe whose data have captions.

    Attributes:
        data: the pictures or clips, with the column of their captions.
        caption_dropout: the share whose caption is dropped, for classifier-free guidance.
        times: at which noise levels to train.
        preview: the prompts of the previews.
    """

    data: Data
    caption_dropout: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.1
    times: Times = Times()
    preview: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CaptionedRun:
    """A network that is trained on latents and the tokens of their captions.

    Attributes:
        frames: of clips; None for pictures.
        plan: that the model is saved with.
    """

    recipe: CaptionedRecipe
    net: TextToImage
    tokenizer: Tokenizer
    codec: VaeCodec
    schedule: NoiseSchedule
    prediction: Prediction
    captions: list[str]
    latents: torch.Tensor
    plan: Plan
    frames: int | None = None

    def model(self, net: TextToImage, prompts: int) -> Model:
        """``net`` as a Model of that many prompts: those of the previews, then captions."""
        asked = (*self.recipe.preview, *self.captions)[:prompts]
        fields = ("solver", "grid", "steps", "guidance")
        return prompted_model(
            net,
            self.tokenizer,
            self.codec,
            asked,
            frames=self.frames,
            schedule=self.schedule,
            prediction=self.prediction,
            name=self.recipe.name,
            plans=({field: getattr(self.plan, field) for field in fields},),
        )

    def fit_(self, out: Path, preview: Plan, deadline: Deadline | None, quiet: bool) -> int:
        """Train, or go on with the run in ``out``; ``net`` has the averaged weights afterwards.
        Returns how many pictures or clips were seen."""

        def show(module: torch.nn.Module, seen: int) -> None:
            assert isinstance(module, TextToImage)
            sheet = preview_sheet(build(self.model(module, len(self.recipe.preview) or 8), preview))
            save_png(sheet, out / "previews" / f"{seen:010d}.png", {"pictures": seen}, zoom=2)

        training = Training(
            recipe=self.recipe,
            objective=NoisePrediction(
                schedule=self.schedule,
                prediction=self.prediction,
                times=self.recipe.times,
                null_label=token_ids(self.tokenizer, [""])[0],
                label_dropout=self.recipe.caption_dropout,
            ),
            net=self.net,
            rows=Latents(latents=self.latents, labels=token_ids(self.tokenizer, self.captions)),
            run=out / "checkpoints",
            preview=show if self.recipe.preview_every else None,
            deadline=deadline,
            quiet=quiet,
        )
        training.fit_().put_(self.net)
        self.net.eval()
        return training.seen
