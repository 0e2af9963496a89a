"""The network that a recipe describes, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hasten.adapters.families import Network, family, new_network
from hasten.core.codec import Shape
from hasten.core.errors import UserError

FIELD = "recipe field 'network"
SEE = "see the options of its class in diffusers, or a recipe that ships (hasten train --fields)"


def recipe_network(
    config: Mapping[str, object], shape: Shape, labels: int | None, *, null: bool
) -> Network:
    """A freshly initialised network for pictures that the network sees as ``shape`` (c, h, w).

    Args:
        config: ``class`` and its options, as a recipe has them under ``network``.
        labels: how many classes there are, None without labels.
        null: whether one more embedding has to stand for "no label".

    Raises:
        UserError: naming the option that does not fit, and what it takes.
    """
    try:
        net = new_network(dict(config))
    except UserError as error:
        raise UserError(f"{FIELD}': {error}") from error
    except Exception as error:  # whatever the class raises for options it does not take
        raise UserError(f"{FIELD}' cannot be built ({_line(error)}); {SEE}.") from error
    _require_channels(net, config, shape)
    _require_classes(net, config, labels, null)
    _require_runs(net, shape, labels)
    return net


def _require_channels(net: Network, config: Mapping[str, object], shape: Shape) -> None:
    built = getattr(net.module, "config", {})
    for name in ("in_channels", "out_channels"):
        channels = built.get(name)
        if channels is not None and channels != shape[0]:
            by_default = "" if name in config else " by default"
            raise UserError(
                f"{FIELD}.{name}' is {channels}{by_default}, but the network sees pictures of "
                f"shape {shape} (data.shape in the codec); set it to {shape[0]}."
            )


def _require_classes(
    net: Network, config: Mapping[str, object], labels: int | None, null: bool
) -> None:
    known = family(net.module)
    if known is None:
        return
    classes = getattr(net.module, "config", {}).get(known.labels)
    if labels is None:
        if classes is not None and known.labels in config:
            raise UserError(
                f"{FIELD}.{known.labels}' is {classes}, but the recipe has no labels; set labels "
                "and data.label, or drop it."
            )
        return
    needed = labels + (1 if null and not known.null else 0)
    if classes is None or classes < needed:
        why = ", and one more stands for no label (label_dropout)" if needed > labels else ""
        raise UserError(
            f"{FIELD}.{known.labels}' is {'missing' if classes is None else classes}, but labels "
            f"is {labels}{why}; set it to {needed}."
        )


@torch.no_grad()
def _require_runs(net: Network, shape: Shape, labels: int | None) -> None:
    x = torch.zeros(1, *shape)
    condition = None if labels is None else torch.zeros(1, dtype=torch.long)
    training = net.training
    try:
        answer = net.eval()(x, torch.ones(1), condition)
    except Exception as error:  # whatever a layer raises for a shape that it does not take
        raise UserError(
            f"{FIELD}' does not run on pictures of shape {shape} ({_line(error)}); {SEE}."
        ) from error
    finally:
        net.train(training)
    if answer.shape != x.shape:
        raise UserError(
            f"{FIELD}' answers shape {tuple(answer.shape[1:])} for pictures of shape {shape}; they "
            f"have to be the same. {SEE[0].upper()}{SEE[1:]}."
        )


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
