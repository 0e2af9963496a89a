"""Real pictures in features, for generated ones to be held against."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch

from hasten.core.errors import require, require_whole
from hasten.core.features import Features
from hasten.core.model import Model
from hasten.data.rows import Pictures, evenly_spread, load_rows, picture_column
from hasten.measuring.features import FeatureNet, features_for
from hasten.measuring.frechet import statistics
from hasten.measuring.kernel import kernel_sums

FEWEST = 50
BATCH = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class Real:
    """``count`` real pictures of ``name`` in ``features``.

    Attributes:
        mean (d,), covariance (d, d): of all of them, float64.
        sample (m, d): features of some of them; None where only the statistics are known.
    """

    features: Features
    mean: torch.Tensor
    covariance: torch.Tensor
    sample: torch.Tensor | None
    count: int
    name: str

    @functools.cached_property
    def kernel_sums(self) -> torch.Tensor | None:
        """The part of the kernel distance (m,) that is the same whatever is held against it."""
        return None if self.sample is None else kernel_sums(self.sample)


def real_for(
    model: Model, data: str | None = None, features: str | None = None, limit: int = 10_000
) -> Real | None:
    """The real pictures to hold those of ``model`` against.

    Args:
        data: a parquet file, a folder of pictures, or a hub name; None takes what ships beside the
            model, or gives None where nothing does.
        features: as :func:`features_for` takes them.
        limit: how many pictures of ``data`` to read, evenly spread through its rows.
    """
    require_whole("limit", limit, FEWEST, 10_000_000)
    extractor = None if data is None and features is None else features_for(model, features)
    if data is not None:
        assert extractor is not None
        return _read(model, data, extractor, limit)
    if extractor is None:
        extractor = FeatureNet.for_model(model)
        return None if extractor is None else _shipped(extractor)
    require(
        isinstance(extractor, FeatureNet),
        f"features is {features!r}, but nothing says what real pictures look like in them; give "
        "data as well, or drop features.",
    )
    assert isinstance(extractor, FeatureNet)
    return _shipped(extractor)


def _shipped(features: FeatureNet) -> Real:
    return Real(
        features=features,
        mean=features.mean,
        covariance=features.covariance,
        sample=features.sample,
        count=features.count,
        name=f"pictures that {features.source} was trained on",
    )


def _read(model: Model, data: str, features: Features, limit: int) -> Real:
    rows = load_rows(data)
    require(
        len(rows) >= FEWEST,
        f"data {data!r} holds {len(rows)} pictures; quality needs {FEWEST} or more, and thousands "
        "for numbers to publish.",
    )
    places = evenly_spread(len(rows), limit)
    pictures = Pictures(rows.select(places), model.picture_shape, image=picture_column(rows))
    parts = np.split(np.arange(len(pictures)), range(BATCH, len(pictures), BATCH))
    sample = torch.cat([features(pictures[part].float() / 255) for part in parts])
    mean, covariance = statistics(sample)
    return Real(
        features=features,
        mean=mean,
        covariance=covariance,
        sample=sample,
        count=len(sample),
        name=Path(data).name if Path(data).exists() else data,
    )
