"""What ``hasten info`` shows of a machine and of a model."""

from __future__ import annotations

from collections.abc import Mapping

from hasten.core.family import inner
from hasten.core.model import Model
from hasten.core.prediction import predictions
from hasten.measuring.conditions import conditions
from hasten.measuring.memory import free_mb, weights_mb
from hasten.sampling import engines_here


def this_machine() -> dict[str, Mapping[str, object]]:
    """The machine with its free memory in MB, and each engine with its dtypes, or with the line
    that installs it."""
    return {"machine": {**conditions(), "free_mb": round(free_mb())}, "engines": engines_here()}


def described(model: Model) -> dict[str, object]:
    """A model's pictures, network, noise schedule and prediction; ``guidance`` is whether it was
    trained with dropped labels."""
    *frames, channels = model.picture_shape[:-2]
    size = "x".join(map(str, model.picture_shape[-2:]))
    makes = {"clips": f"{frames[0]} frames of {size}"} if frames else {"pictures": size}
    facts: dict[str, object] = {
        "name": model.name,
        **{kind: f"{shape}, {channels} channel(s)" for kind, shape in makes.items()},
        "network": type(inner(model.net)).__name__,
        "parameters": sum(value.numel() for value in model.net.parameters()),
        "weights_mb": weights_mb(model.net),
        "schedule": model.schedule.part_name,
        "prediction": predictions.text(model.prediction),
        "labels": model.labels,
        "guidance": model.null_label is not None,
        "sha256": model.sha256,
    }
    given = model.family.captured(model.net)
    return facts | ({"captured": given} if given else {})
