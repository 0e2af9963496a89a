"""The decoders of autoencoders of diffusers, and others in their place."""

from __future__ import annotations

from typing import Any

import torch

from hasten.core.errors import require

Autoencoder = Any  # of a pipeline of diffusers


class VaeDecoder(torch.nn.Module):
    """What ``vae.decode`` does: latents, scaled back, to pictures or clips in [-1, 1]."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0]


def twin(module: torch.nn.Module) -> Any:
    """Another object with the very parts and weights of ``module``, so that a method of it can be
    replaced while ``module`` stays as it was."""
    other = object.__new__(type(module))
    other.__dict__.update(module.__dict__)
    return other


def with_decoder(vae: Autoencoder, decoder: torch.nn.Module) -> Autoencoder:
    """``vae`` that decodes by ``decoder``."""
    other = twin(vae)

    def decode(
        latents: torch.Tensor, *more: Any, return_dict: bool = True, generator: Any = None
    ) -> Any:
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
