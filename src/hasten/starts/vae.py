"""Start from a small variational autoencoder (Kingma & Welling 1312.6114)."""

from __future__ import annotations

import dataclasses

import torch

from hasten.core.condition import Condition
from hasten.core.errors import UserError
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.core.start import Begin, LatentsOf, starts
from hasten.starts.decoder import Decoder
from hasten.starts.early import Early, streams
from hasten.starts.files import FIELD, FromFile, Tensors

NET = "decoder."
NAMES = ("code_mean", "code_root", "share", "rest", f"{NET}first.weight", f"{NET}last.weight")


@starts.add("vae")
@dataclasses.dataclass(frozen=True, kw_only=True)
class VAE(FromFile, Early):
    """A decoder makes a blurred x0 of a code drawn for the picture; at ``ratio`` it is noised with
    the picture's own noise, as strongly as what the decoder cannot know (``rest``, its variance in
    each number) and the level ask for: alpha x0 + (alpha^2 rest + sigma^2)^(1/2) noise."""

    names = NAMES
    heavy = True

    def prepare(self, model: Model, other: LatentsOf) -> Begin:
        file = self.learned()
        file.facts.check(model)
        draw = Codes.of(file.tensors, model)
        net, rest = decoder_of(file.tensors, model), file.tensors["rest"].to(model.device)

        def begin(noise: torch.Tensor, level: Level, condition: Condition) -> torch.Tensor:
            codes, labels = draw(noise, condition.labels)
            spread = (level.alpha**2 * rest + level.sigma**2).sqrt()
            return level.alpha * net(codes, labels) + spread * noise

        return begin


def decoder_of(tensors: Tensors, model: Model) -> Decoder:
    """The decoder whose weights a file holds.

    Raises:
        UserError: they are not those of a decoder of the model's latents.
    """
    code, width = tensors["code_mean"].shape[1], tensors[f"{NET}last.weight"].shape[1]
    net = Decoder(model.shape, code, width, model.labels)
    weights = {
        name.removeprefix(NET): value for name, value in tensors.items() if name.startswith(NET)
    }
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{FIELD} holds no decoder for {model.shape}; learn it again.") from error
    return net.to(model.device).eval().requires_grad_(False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codes:
    """Codes (n, k) and labels (n,) for pictures: normal within a label, as the encoder's codes are.

    ``mean`` (labels, k), ``root`` (labels, k, k) lower triangular, ``share`` (labels,) of pictures;
    a picture without a label gets one by its noise.
    """

    mean: torch.Tensor
    root: torch.Tensor
    share: torch.Tensor
    labels: int | None
    null: int | None

    @staticmethod
    def of(tensors: Tensors, model: Model) -> Codes:
        """From the tensors of a file."""
        mean, root, share = (tensors[name] for name in NAMES[:3])
        return Codes(mean=mean, root=root, share=share, labels=model.labels, null=model.null_label)

    def __call__(
        self, noise: torch.Tensor, condition: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        requested = [None] * len(noise) if condition is None else condition.tolist()
        codes, labels = [], []
        for label, stream in zip(requested, streams(noise), strict=True):
            if label is None or label == self.null:
                label = int(torch.multinomial(self.share, 1, generator=stream))
            draw = torch.randn(self.mean.shape[1], generator=stream)
            codes.append(self.mean[label] + self.root[label] @ draw)
            labels.append(label)
        known = None if self.labels is None else torch.tensor(labels).to(noise.device)
        return torch.stack(codes).to(noise.device), known
