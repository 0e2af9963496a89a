"""A small decoder in the place of a model's own: that of a tiny autoencoder which was taught the
same latents (https://github.com/madebyollin/taesd)."""

from __future__ import annotations

import dataclasses

from hasten.core.codec import DecoderNetwork
from hasten.core.errors import require
from hasten.core.lever import Lever, Trait, levers


@levers.add("tiny-decoder")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyDecoder(Lever):
    """Decodes by the tiny autoencoder in ``source``: a folder of diffusers, such as a recipe with
    ``objective: tiny-autoencoder`` makes, or a hub id."""

    source: str = ""

    target = "decoder"
    traits = frozenset({Trait.BITS})
    exports = False

    def __post_init__(self) -> None:
        require(
            bool(self.source),
            f"lever {self.part_name!r} needs source, the folder or hub id of a tiny autoencoder, "
            "as in tiny-decoder(source='madebyollin/taesd').",
        )

    def decoder(self, decoder: DecoderNetwork) -> DecoderNetwork:
        return decoder.small(self.source)

    def key(self, resolved: object) -> tuple[str, ...]:
        return ()  # the network is what it was
