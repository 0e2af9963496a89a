"""Structured pruning (Fang et al. 2305.10924): the network of a narrower configuration, made of the
channels that matter most over the timesteps, or of the blocks, where they are all alike.

Importance is first order: how much the loss at a level would change without a channel, |sum of
gradient times weight| over everything that goes with it, summed over the levels. Levels whose loss
is a small part of the largest are left out, as there the gradient is noise. What comes out has a
stock configuration, so any diffusers loads it, and wants a recovery (objective
``knowledge-distillation``).
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hasten.core.errors import UserError, require, require_number
from hasten.core.family import Narrowing, Shortening, inner
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.core.random_streams import Seed, generator
from hasten.learning.students.batched_denoiser import Levels
from hasten.measuring.macs import network_macs
from hasten.training.columns import columns
from hasten.training.objective import Rows

if TYPE_CHECKING:
    import torch_pruning as tp

LEVELS = 32  # of the schedule at which importance is measured
PICTURES = 64  # at each of them
MATTERS = 0.05  # of the largest loss: levels below it are left out
Noisy = tuple[Level, torch.Tensor, torch.Tensor, tuple[torch.Tensor | None, ...]]
"""A level, x0, noise, and what the network is called with: x, times, labels."""


def pruned(model: Model, share: float, rows: Rows) -> Model:
    """``model`` with at least ``share`` of its multiply-accumulates taken away.

    Args:
        share: between 0 and 0.95.
        rows: pictures in the network's space, on which importance is measured.

    Raises:
        UserError: a network that is none of the kinds that can be made narrower, a share that its
            narrowest configuration does not reach, torch-pruning is not installed.
    """
    require_number("prune", share, 0.0, 0.95)
    whole, model = model, dataclasses.replace(model, net=copy.deepcopy(model.net).cpu())
    channels, blocks = model.family.narrowing(model.net), model.family.shortening(model.net)
    if channels is not None:
        narrow = _narrower(model, channels, share, rows)
    elif blocks is not None:
        narrow = _shallower(model, blocks, share, rows)
    else:
        raise UserError(
            f"prune takes channels from U-Nets and blocks from transformers, and the network of "
            f"model {model.name!r} is a {type(inner(model.net)).__name__}; drop prune."
        )
    narrow = narrow.to(whole.device).eval().requires_grad_(False)
    return dataclasses.replace(whole, net=narrow, sha256="")


def _cost(model: Model, net: torch.nn.Module) -> int:
    return network_macs(dataclasses.replace(model, net=net.eval()))[0]


def _narrower(model: Model, channels: Narrowing, share: float, rows: Rows) -> torch.nn.Module:
    """The network with the weights of the channels of ``model`` that matter most, each resolution
    as wide as is worth it: the width that loses least importance for what it saves is taken down by
    about an eighth, until the network costs little enough.
    """
    unit, least = channels.unit, channels.least
    widths, whole = list(channels.widths), _cost(model, model.net)
    steps = [unit * max(1, round(width / 8 / unit)) for width in widths]
    worth = _worth(model, rows)
    net, cost, lost = model.net, whole, 0.0
    while cost > (1 - share) * whole:
        candidates = []
        for places in _together(widths):
            narrow = list(widths)
            while all(narrow[i] - steps[i] >= least for i in places):
                for i in places:
                    narrow[i] -= steps[i]
                fresh = channels.narrowed(narrow)
                # Between two resolutions of one width there is no layer, between others there is.
                if fresh.state_dict().keys() == model.net.state_dict().keys():
                    after, gone = _cost(model, fresh), _lost(worth, inner(fresh), channels)
                    if after < cost:
                        candidates.append(
                            ((gone - lost) / (cost - after), narrow, fresh, after, gone)
                        )
                    break
        if not candidates:
            raise UserError(
                f"prune is {share:g}, and the narrowest network of this kind (multiples of {unit} "
                f"channels, at least {least}) costs more; set a smaller share."
            )
        _, widths, net, cost, lost = min(candidates, key=lambda candidate: candidate[0])
    if net is not model.net:
        _fill_(inner(net), model, worth, channels)
    return net


def _together(widths: list[int]) -> list[tuple[int, ...]]:
    """Which resolutions may be made narrower in one move: each alone, and those of one width."""
    alike = {tuple(i for i, other in enumerate(widths) if other == width) for width in widths}
    return sorted(alike | {(i,) for i in range(len(widths))})


def _dependencies(
    model: Model,
) -> tuple[torch.nn.Module, tp.DependencyGraph, dict[torch.nn.Module, str]]:
    """A copy of the network, which of its channels go together, and the names of its layers."""
    try:
        import torch_pruning as tp
    except ImportError:
        raise UserError("prune needs torch-pruning: pip install 'hasten[train]'.") from None
    work = copy.deepcopy(model.net).float().requires_grad_(True)
    graph = tp.DependencyGraph()
    x, t = torch.zeros(1, *model.shape), torch.ones(1)
    condition = None if model.labels is None else torch.zeros(1, dtype=torch.long)
    graph.build_dependency(
        work, example_inputs=(x, t, condition), forward_fn=lambda net, inputs: net(*inputs)
    )
    return work, graph, {layer: name for name, layer in inner(work).named_modules()}


def _worth(model: Model, rows: Rows) -> dict[str, torch.Tensor]:
    """The importance of every channel of the layers, by name, that lead a group of layers whose
    channels go together."""
    work, graph, names = _dependencies(model)
    import torch_pruning as tp

    scorer: Any = tp.importance.GroupTaylorImportance(normalizer=None)  # type: ignore[arg-type]
    groups = {names[group[0].dep.target.module]: group for group in graph.get_all_groups()}
    worth = dict.fromkeys(groups, torch.zeros(()))
    for _ in _gradients(dataclasses.replace(model, net=work), rows):
        worth = {name: score + scorer(groups[name]) for name, score in worth.items()}
    return worth


def _lost(worth: dict[str, torch.Tensor], narrow: torch.nn.Module, channels: Narrowing) -> float:
    """The importance of what ``narrow`` has no room for."""
    gone = 0.0
    for name, score in worth.items():
        surplus = len(score) - _out_channels(narrow.get_submodule(name))
        gone += float(score[_least(score, surplus, channels.together(narrow, name))].sum())
    return gone


def _fill_(
    narrow: torch.nn.Module, model: Model, worth: dict[str, torch.Tensor], channels: Narrowing
) -> None:
    """Give ``narrow`` the weights of the channels of ``model`` that matter most."""
    work, graph, names = _dependencies(model)
    for group in list(graph.get_all_groups()):
        layer = group[0].dep.target.module
        name = names[layer]
        surplus = _out_channels(layer) - _out_channels(narrow.get_submodule(name))
        if surplus > 0:
            fresh = graph.get_pruning_group(
                layer, group[0].dep.handler, range(_out_channels(layer))
            )
            together = channels.together(inner(work), name)
            fresh.prune(idxs=_least(worth[name], surplus, together))
    state = inner(work).state_dict()
    places = np.linspace(model.schedule.low, model.schedule.noisy, 2048)
    times = np.asarray(model.schedule.curve(places)[0], np.float32)
    channels.refit_times_(state, narrow, torch.tensor(times))
    narrow.load_state_dict(state)


def _out_channels(layer: Any) -> int:
    return int(getattr(layer, "out_channels", None) or layer.out_features)


def _least(score: torch.Tensor, count: int, together: int) -> list[int]:
    """The ``count`` channels with the least score, in heads of ``together``."""
    order = score.view(-1, together).sum(1).argsort()[: count // together]
    return sorted((order[:, None] * together + torch.arange(together)).flatten().tolist())


def _gradients(model: Model, rows: Rows) -> Iterator[None]:
    """Leave the gradient of the loss (2006.11239, eq. 14) at each level that matters in the network
    of ``model``, one level after the other, from the cleanest, where the loss is greatest."""
    largest = 0.0
    for level, x0, noise, inputs in _noisy(model, rows, LEVELS, PICTURES):
        a, b = model.prediction.at(level).target(level)
        model.net.zero_grad()
        answer = model.net(*inputs).float()[:, : x0.shape[1]]
        loss = torch.nn.functional.mse_loss(answer, a * x0 + b * noise)
        largest = max(largest, float(loss.detach()))
        if float(loss.detach()) >= MATTERS * largest:
            loss.backward()
            yield


def _noisy(model: Model, rows: Rows, levels: int, n: int) -> Iterator[Noisy]:
    """``n`` noisy pictures at each of ``levels`` levels, evenly from the cleanest."""
    schedule = model.schedule
    for number, place in enumerate(np.linspace(schedule.low, schedule.noisy, levels)):
        draw, level = generator(Seed.PRUNING, number), schedule.at(float(place))
        index = torch.randint(len(rows), (n,), generator=draw).numpy()
        x0 = rows.at(index, (Seed.PRUNING, number), model.device)
        labels = None if rows.labels is None else rows.labels[torch.from_numpy(index)]
        noise = torch.randn(x0.shape, generator=draw)
        t, scale = columns(x0, level.t, model.prediction.at(level).scale)
        x = scale * Levels.same(level, n).noised(x0, noise)
        yield level, x0, noise, (x, t.flatten(), labels)


@torch.no_grad()
def _shallower(model: Model, blocks: Shortening, share: float, rows: Rows) -> torch.nn.Module:
    """A transformer without the blocks whose absence changes its answers least, taken one by one
    until it costs little enough."""
    remaining, whole = list(range(blocks.count)), _cost(model, model.net)
    calls = [inputs for *_, inputs in _noisy(model, rows, LEVELS // 4, PICTURES // 4)]
    wanted = [model.net(*inputs) for inputs in calls]

    def apart(chosen: list[int]) -> float:
        answers = [blocks.without_(chosen)(*inputs) for inputs in calls]
        pairs = zip(answers, wanted, strict=True)
        return float(sum((a - b).square().mean() / b.square().mean() for a, b in pairs))

    while _cost(model, blocks.without_(remaining)) > (1 - share) * whole:
        require(
            len(remaining) > 1,
            f"prune is {share:g}, and one block of this transformer costs more; set a smaller one.",
        )
        remaining = min(
            (list(some) for some in itertools.combinations(remaining, len(remaining) - 1)),
            key=apart,
        )
    return blocks.shortened(remaining)
