"""The decoders of autoencoders of diffusers, and others in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch

from hasten.adapters.folder import refusing
from hasten.adapters.frozen import frozen
from hasten.adapters.quiet import diffusers, quiet
from hasten.adapters.untyped import Autoencoder
from hasten.core.artifact import ASSETS, BUILTIN
from hasten.core.codec import DecoderNetwork
from hasten.core.errors import require

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DecoderOutput

Module = TypeVar("Module", bound=torch.nn.Module)


class VaeDecoder(DecoderNetwork):
    """What ``vae.decode`` does: latents, scaled back, to pictures or clips in [-1, 1]."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0]

    def small(self, source: str) -> DecoderNetwork:
        """The AutoencoderTiny in ``source``."""
        config, tiny = self.vae.config, _opened(source)
        require(
            isinstance(config.get("scaling_factor"), float),
            f"{type(self.vae).__name__} scales its latents by more than a factor, which no "
            "AutoencoderTiny does; drop the lever on its decoder.",
        )
        theirs, own = tiny.config.latent_channels, config.get("latent_channels")
        require(
            theirs == own,
            f"lever option source: {source} decodes latents of {theirs} channels, and this model's "
            f"have {own}.",
        )
        shift = float(config.get("shift_factor") or 0.0)
        return TinyDecoder(tiny.to(self.vae.device), config["scaling_factor"], shift)


class TinyDecoder(DecoderNetwork):
    """An AutoencoderTiny in the place of a decoder: it takes latents as a network sees them."""

    def __init__(self, tiny: Autoencoder, scale: float, shift: float) -> None:
        super().__init__()
        self.tiny, self.scale, self.shift = tiny, scale, shift

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        scaled = (latents.to(self.tiny.dtype) - self.shift) * self.scale
        return self.tiny.decode(scaled, return_dict=False)[0]


def _opened(source: str) -> Autoencoder:
    folder = str(ASSETS / source.removeprefix(BUILTIN)) if source.startswith(BUILTIN) else source
    with (
        refusing(f"lever option source: {source} is no AutoencoderTiny", "check the name."),
        quiet(),
    ):
        tiny = diffusers().AutoencoderTiny.from_pretrained(folder, use_safetensors=True)
    return frozen(tiny)


def twin(module: Module) -> Module:
    """Another object with the very parts and weights of ``module``, so that a method of it can be
    replaced while ``module`` stays as it was."""
    other = object.__new__(type(module))
    other.__dict__.update(module.__dict__)
    return other


def with_decoder(vae: Autoencoder, decoder: torch.nn.Module) -> Autoencoder:
    """``vae`` that decodes by ``decoder``."""
    other = twin(vae)

    def decode(
        latents: torch.Tensor, *more: object, return_dict: bool = True, generator: object = None
    ) -> tuple[torch.Tensor] | DecoderOutput:
        kind = type(vae).__name__
        given = [value for value in more if value is not None and value is not return_dict]
        require(not given, f"{kind} decodes by more than latents; drop the lever on its decoder.")
        pictures = decoder(latents).to(latents.dtype)
        if not return_dict:
            return (pictures,)
        from diffusers.models.autoencoders.vae import DecoderOutput

        return DecoderOutput(sample=pictures)

    other.decode = decode
    return other
