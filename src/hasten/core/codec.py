"""How pictures in [0, 1] become what the network sees, and back."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F

from hasten.core.errors import UserError, require, require_whole
from hasten.core.registry import Registry

Shape = tuple[int, ...]
"""Of a picture (c, h, w), a clip (frames, c, h, w), or latents of any rank."""


class DecoderNetwork(torch.nn.Module):
    """The network that a codec decodes with: ``net(latents)``."""

    def small(self, source: str) -> DecoderNetwork:
        """The small network in ``source`` (a folder, ``builtin:NAME``, or a hub id) that decodes
        the same latents.

        Raises:
            UserError: there is none, or it takes others.
        """
        raise UserError(f"{type(self).__name__} knows no small decoder of its latents.")


class Codec(ABC):
    """``encode``: pictures (n, c, h, w) in [0, 1] to the network's space; ``decode``: back.

    ``bound``: every picture lies in [-bound, bound] there, so x0 may be clipped; None for latents.
    """

    part_name: ClassVar[str]
    bound: ClassVar[float | None] = None

    @abstractmethod
    def encode(self, pictures: torch.Tensor) -> torch.Tensor: ...

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor: ...

    @property
    def decoder(self) -> DecoderNetwork | None:
        """The network that :meth:`decode` calls with one tensor, and that answers with one; None
        where decoding is arithmetic."""
        return None

    def decoding(self, decoder: DecoderNetwork) -> Codec:
        """The same with another network in the place of :attr:`decoder`."""
        raise UserError(f"codec {self.part_name!r} has no decoder to replace.")

    @abstractmethod
    def encoded_shape(self, shape: Shape) -> Shape:
        """(c, h, w) in the network's space for pictures of ``shape``."""

    @abstractmethod
    def decoded_shape(self, shape: Shape) -> Shape:
        """(c, h, w) of the pictures for a network's ``shape``."""


codecs: Registry[Codec] = Registry("codec")


@codecs.add("identity")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity(Codec):
    """Pixels in [-1, 1]."""

    bound = 1.0

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures * 2 - 1

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents * 0.5 + 0.5).clamp(0, 1)

    def encoded_shape(self, shape: Shape) -> Shape:
        return shape

    def decoded_shape(self, shape: Shape) -> Shape:
        return shape


@codecs.add("pixel-unshuffle")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelUnshuffle(Codec):
    """Pixels in [-1, 1], each ``factor`` x ``factor`` block moved into channels (lossless).

    A network on the smaller grid costs a fraction of one on the full grid.
    """

    bound = 1.0
    factor: int = 2

    def __post_init__(self) -> None:
        require_whole("codec option factor", self.factor, 2, 64)

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        return F.pixel_unshuffle(pictures * 2 - 1, self.factor)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle((latents * 0.5 + 0.5).clamp(0, 1), self.factor)

    def encoded_shape(self, shape: Shape) -> Shape:
        channels, height, width = shape
        fits = height % self.factor == 0 and width % self.factor == 0
        require(fits, f"codec pixel-unshuffle: {height}x{width} is no multiple of {self.factor}.")
        return channels * self.factor**2, height // self.factor, width // self.factor

    def decoded_shape(self, shape: Shape) -> Shape:
        channels, height, width = shape
        require(
            channels % self.factor**2 == 0,
            f"codec pixel-unshuffle: {channels} channels are no multiple of {self.factor**2}.",
        )
        return channels // self.factor**2, height * self.factor, width * self.factor
