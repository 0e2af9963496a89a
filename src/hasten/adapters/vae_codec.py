"""The codec of a pipeline that was read part by part: its autoencoder."""

from __future__ import annotations

import copy
import dataclasses
from typing import ClassVar

import torch

from hasten.adapters.decoders import VaeDecoder
from hasten.adapters.untyped import Autoencoder
from hasten.core.codec import Codec, DecoderNetwork, Shape, codecs
from hasten.core.errors import UserError, require


@codecs.add("vae")
@dataclasses.dataclass(frozen=True, kw_only=True)
class VaeCodec(Codec):
    """The latents of a pipeline's autoencoder, scaled as its network expects them."""

    source: str = ""

    _decoder: ClassVar[DecoderNetwork]

    def of(self, vae: Autoencoder) -> VaeCodec:
        """The same with its autoencoder; the name alone can neither encode nor decode."""
        out = copy.copy(self)
        object.__setattr__(out, "_vae", vae)
        object.__setattr__(out, "_decoder", VaeDecoder(vae))
        return out

    @property
    def decoder(self) -> DecoderNetwork:
        """Latents, scaled back, to pictures in [-1, 1]."""
        assert self.vae is not None
        return self._decoder

    def decoding(self, decoder: DecoderNetwork) -> VaeCodec:
        out = self.of(self.vae)
        object.__setattr__(out, "_decoder", decoder)
        return out

    @property
    def vae(self) -> Autoencoder:
        vae = getattr(self, "_vae", None)
        if vae is None:
            raise UserError(
                "codec 'vae' has no autoencoder; load the pipeline with its prompts: "
                "hasten.load(folder, prompts=[...])."
            )
        return vae

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        if pictures.ndim == 5:  # clips (n, frames, c, h, w), frame by frame
            flat = self.encode(pictures.flatten(0, 1))
            return flat.unflatten(0, pictures.shape[:2]).transpose(1, 2).contiguous()
        vae = self.vae
        scaled = (pictures * 2 - 1).to(vae.device, vae.dtype)
        with torch.no_grad():
            latents = vae.encode(scaled).latent_dist.mode()
        return (latents.float() - self._shift) * vae.config.scaling_factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        if latents.ndim == 5:
            frames = latents.transpose(1, 2)
            return self.decode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        vae = self.vae
        unscaled = latents / vae.config.scaling_factor + self._shift
        pictures = self.decoder(unscaled.to(vae.device)).float().contiguous()
        return (pictures / 2 + 0.5).clamp(0, 1)

    @property
    def _shift(self) -> float:
        return float(self.vae.config.get("shift_factor") or 0.0)

    @property
    def _factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encoded_shape(self, shape: Shape) -> Shape:
        if len(shape) == 4:
            frames, channels, *size = shape
            latent, *small = self.encoded_shape((channels, *size))
            return latent, frames, *small
        _, height, width = shape
        fits = height % self._factor == 0 and width % self._factor == 0
        require(fits, f"codec vae: {height}x{width} is no multiple of {self._factor}.")
        return self.vae.config.latent_channels, height // self._factor, width // self._factor

    def decoded_shape(self, shape: Shape) -> Shape:
        if len(shape) == 4:
            channels, frames, *size = shape
            return frames, *self.decoded_shape((channels, *size))
        _, height, width = shape
        return self.vae.config.out_channels, height * self._factor, width * self._factor
