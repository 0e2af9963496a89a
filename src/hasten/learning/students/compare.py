"""What two pictures are compared as: their pixels, or what a trained network sees in them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import torch

from hasten.adapters.vision import load_vision
from hasten.core.codec import Codec
from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.measuring.features import FeatureNet

PIXELS, FEATURES = "pixels", "features"
Comparison = Callable[[torch.Tensor], torch.Tensor]
"""x0 (n, *shape) in the network's space as numbers (n, d) whose squared distance counts."""


def pixels(x0: torch.Tensor) -> torch.Tensor:
    """The numbers of x0 themselves."""
    return x0.flatten(1)


def comparison(model: Model, name: str) -> Comparison:
    """How pictures of ``model`` are compared.

    Args:
        name: ``"pixels"``; ``"features"``, the maps of the classifier beside the model; or the
            folder or hub id of a vision model. Features come beside the pixels, with as much
            weight, for a distance in features alone forgets what they do not see.

    Raises:
        UserError: there is no classifier beside the model, or no such vision model.
    """
    if name == PIXELS:
        return pixels
    if name != FEATURES:
        vision = load_vision(name, model.device)
        return WithPixels(codec=model.codec, maps=lambda x: [vision._features(x)])
    classifier = FeatureNet.for_model(model)
    if classifier is None:
        raise UserError(
            f"compare is 'features', but no classifier lies beside model {model.name!r}; set "
            "compare to 'pixels', or to the folder of a vision model."
        )
    net = copy.deepcopy(classifier.net).requires_grad_(False).to(model.device)
    return WithPixels(codec=model.codec, maps=net.maps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithPixels:
    """Pixels, and maps of unit length at every place (as LPIPS has them, Zhang et al. 1801.03924)
    weighted so that each map counts as much as a picture of unit contrast."""

    codec: Codec
    maps: Callable[[torch.Tensor], list[torch.Tensor]]

    def __call__(self, x0: torch.Tensor) -> torch.Tensor:
        size = x0[0].numel()
        parts = [x0.flatten(1)]
        for seen in self.maps(self.codec.decode(x0)):
            places = seen[0, 0].numel() if seen.ndim > 2 else 1
            unit = seen / (seen.square().sum(1, keepdim=True) + 1e-8).sqrt()
            parts.append(unit.flatten(1) * (size / places) ** 0.5)
        return torch.cat(parts, 1)
