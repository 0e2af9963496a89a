"""What the training loop and its objectives agree on."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
import torch

from hasten.core.codec import Codec
from hasten.core.random_streams import StepStream, generator
from hasten.core.transfer import sent
from hasten.training.columns import column
from hasten.training.labels import drop_labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """What one step sees.

    Attributes:
        rows: (n, *shape) latents of any rank in the network's space, or what else its :class:`Rows`
            hold.
        labels: (n,), or None.
        generator: of everything the objective draws, on the device of ``rows``.
        step: from 0.
        progress: how much of the run is over, from 0 to 1.
    """

    rows: torch.Tensor
    labels: torch.Tensor | None
    generator: torch.Generator
    step: int = 0
    progress: float = 0.0

    def randn_like(self, x: torch.Tensor) -> torch.Tensor:
        """Standard normal noise of the shape of ``x``."""
        return torch.randn(x.shape, generator=self.generator, device=x.device)


class Objective(Protocol):
    """What a step minimises: a pure function of the network's weights and the batch."""

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor: ...


class Rows(Protocol):
    """What is trained on, by number."""

    @property
    def labels(self) -> torch.Tensor | None: ...

    def __len__(self) -> int: ...

    def at(self, index: np.ndarray, key: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """The rows ``index`` on ``device``; what is drawn on the way follows from ``key``."""
        ...


class PictureSource(Protocol):
    """Pictures uint8 (n, c, h, w) by number, and their labels."""

    @property
    def labels(self) -> torch.Tensor | None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: np.ndarray, /) -> torch.Tensor: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureRows:
    """Rows that are made of pictures, mirrored at random where ``flip`` says so."""

    pictures: PictureSource
    flip: bool = False

    @property
    def labels(self) -> torch.Tensor | None:
        return self.pictures.labels

    def __len__(self) -> int:
        return len(self.pictures)

    def at(self, index: np.ndarray, key: tuple[int, ...], device: torch.device) -> torch.Tensor:
        pictures = sent(self.pictures[index], device).float() / 255
        return mirrored(pictures, key) if self.flip else pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoded(PictureRows):
    """Pictures as the network sees them."""

    codec: Codec

    def at(self, index: np.ndarray, key: tuple[int, ...], device: torch.device) -> torch.Tensor:
        return self.codec.encode(super().at(index, key, device))


def mirrored(pictures: torch.Tensor, key: tuple[int, ...]) -> torch.Tensor:
    """``pictures`` (n, c, h, w), half of them mirrored."""
    coin = torch.rand(len(pictures), generator=generator(*key, StepStream.FLIPS)) < 0.5
    flipped = column(sent(coin, pictures.device), pictures)
    return torch.where(flipped, pictures.flip(-1), pictures)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelsDropped:
    """Any objective, with a ``share`` of the labels replaced by ``null_label`` (2207.12598)."""

    objective: Objective
    null_label: int
    share: float

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        labels = drop_labels(batch.labels, self.null_label, self.share, batch.generator)
        return self.objective.loss(net, dataclasses.replace(batch, labels=labels))
