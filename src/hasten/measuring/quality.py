"""quality(pictures, real) -> Quality: how like real pictures generated ones are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from hasten.core.errors import NonFiniteError, require
from hasten.core.report import Estimate
from hasten.measuring.frechet import frechet_estimate
from hasten.measuring.kernel import kernel_estimate
from hasten.measuring.precision_recall import NEIGHBOURS, precision_recall
from hasten.measuring.prompts import prompt_accuracy
from hasten.measuring.real import Real

FEWEST = NEIGHBOURS + 2  # pictures that can be judged


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quality:
    """Fréchet and kernel distance, precision, recall and prompt accuracy, each with n and a 95%
    interval.

    ``prompt_accuracy`` is None where prompts cannot be checked. Of the others, all but ``fd`` are
    None where only the statistics of the real pictures are known. Values in other features, or of
    ``fd``, ``precision`` and ``recall`` at another n, cannot be compared.
    """

    fd: Estimate
    kd: Estimate | None
    precision: Estimate | None
    recall: Estimate | None
    features: str
    prompt_accuracy: Estimate | None = None


def quality(pictures: torch.Tensor, real: Real, prompts: Sequence[str] = ()) -> Quality:
    """Generated ``pictures`` (n, c, h, w) in [0, 1] against ``real`` ones; and against the
    ``prompts`` they were made for, where these are such as :mod:`hasten.measuring.prompts` reads.
    """
    require(
        len(pictures) >= FEWEST,
        f"n is {len(pictures)}; quality needs {FEWEST} generated pictures or more.",
    )
    if not bool(torch.isfinite(pictures).all()):
        raise NonFiniteError("the pictures hold NaN or infinity; their quality is not defined.")
    features = real.features(pictures)
    fd = frechet_estimate(features, real.mean, real.covariance)
    met = prompt_accuracy(pictures, prompts).share if prompts else None
    if real.sample is None:
        return Quality(
            fd=fd,
            kd=None,
            precision=None,
            recall=None,
            features=real.features.name,
            prompt_accuracy=met,
        )
    precision, recall = precision_recall(features, real.sample)
    return Quality(
        fd=fd,
        kd=kernel_estimate(features, real.sample, real.kernel_sums),
        precision=precision,
        recall=recall,
        features=real.features.name,
        prompt_accuracy=met,
    )
