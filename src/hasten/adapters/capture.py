"""Any pipeline of diffusers as a Model, by watching its own call.

Nobody re-implements how a pipeline encodes prompts, makes position ids or packs latents: its call
is recorded for two steps, and what the network was given beside x and t becomes the condition. From
the record follows which argument is x, which is t, and how the branches of guidance are asked and
weighted. It is verified at another start and other times, or refused with the argument named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch.utils import _pytree as pytree

from hasten.adapters.layout import Layout, PutX, Reader, Samples, Values
from hasten.adapters.prompt_length import cut_off_by, warn
from hasten.adapters.recording import Step, recorded, takes
from hasten.adapters.untyped import Answer, Pipeline, PipelineCall
from hasten.core.condition import COND, NULL, Condition, Leaf, PerSample, Ragged
from hasten.core.errors import require
from hasten.core.family import Prompts

CLOSE = 1e-3  # relative: of guidance fitted to answers, and of what is captured; and at least
ROUNDINGS = 8  # times what the dtype rounds by
BESIDE = "beside."  # begins the paths of what the helper is given


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captured:
    """What a record says.

    Attributes:
        layout: of the network; helper: of the module whose answer the network is given.
        order: the branches that count, the wanted one first.
        guidance: the weight of the wanted branch; None where there is one branch.
        mixed: the weights of the other branches among themselves, which sum to 1: together they
            stand for the null label.
        sign: of the network's answer in what the scheduler is given.
        shape, dtype: of a sample; samples: how many were recorded.
        answer: of the network, as it gave it.
    """

    layout: Layout
    helper: Layout | None
    order: tuple[int, ...]
    guidance: float | None
    mixed: tuple[float, ...]
    sign: float
    shape: tuple[int, ...]
    dtype: torch.dtype
    samples: int
    answer: Samples


def captured(
    steps: Sequence[Step], twice: Step | None, kind: str, samples: int | None = None
) -> Captured:
    """What the record ``steps`` of a pipeline of class ``kind`` says of its network.

    Args:
        twice: a step of the same call for twice as many samples: what grows with them belongs to a
            sample.
        samples: how many were asked for, where that is known; a pipeline may hand its scheduler
            more rows.

    Raises:
        UserError: an argument that follows from neither x, t nor the prompts; guidance that is no
            weighted sum.
    """
    first, second = steps[0], steps[1]
    count = len(first.calls)
    require(
        count > 0 and all(len(step.calls) == count for step in steps),
        f"{kind} calls its network {len(first.calls)}, then {len(second.calls)} times a step; "
        "hasten captures loops that call it as often at every step.",
    )
    samples = samples or len(first.sample)
    sample = first.sample[:samples]
    reader = Reader(kind=kind, samples=samples, times=(first.timestep, second.timestep))
    doubled = first.calls if twice is None else twice.calls
    helper, answers = None, ()
    if first.calls[0].helpers:
        ours = [
            [call.helpers[0] for call in calls] for calls in (first.calls, second.calls, doubled)
        ]
        helper = reader.layout(ours[0], ours[1], ours[2], sample, twice is not None)
        answers = tuple(pytree.tree_leaves(ours[0][0].answer))
    layout = reader.layout(first.calls, second.calls, doubled, sample, twice is not None, answers)
    weights = _weights(steps, layout.x, reader.batched, samples, kind)
    sign = 1.0 if sum(weights) > 0 else -1.0
    weights = [sign * weight for weight in weights]
    order = sorted(
        (branch for branch, weight in enumerate(weights) if abs(weight) > close(sample.dtype)),
        key=lambda branch: -weights[branch],
    )
    others = [weights[branch] for branch in order[1:]]
    require(
        not others or abs(sum(others)) > close(sample.dtype),
        f"{kind} guides by {len(order)} branches, with the weights "
        f"{[round(weight, 3) for weight in weights]}, of which all but the first cancel out; set "
        "guidance_scale to another value than 1, or its other guidance scale to 1.",
    )
    return Captured(
        layout=layout,
        helper=helper,
        order=tuple(order),
        guidance=None if len(order) == 1 else weights[order[0]],
        mixed=tuple(weight / sum(others) for weight in others),
        sign=sign,
        shape=tuple(sample.shape[1:]),
        dtype=sample.dtype,
        samples=samples,
        answer=answer_of(first.calls[0].answer),
    )


class CapturedModule(torch.nn.Module):
    """A module called as a pipeline calls it, for x (n, ...), times t (n,) and labels (n,): the
    number of a prompt, or one past the last for the other branch of guidance. In their place, what
    belongs to the samples may be given by path, as :class:`CapturedPrompts` makes it."""

    def __init__(self, module: torch.nn.Module, layout: Layout, order: Sequence[int]) -> None:
        super().__init__()
        self.module, self.layout = module, layout
        self._names: dict[str, list[str]] = {}
        for number, (path, parts) in enumerate(layout.table.items()):
            wanted, *other = (parts[branch] for branch in order)
            if isinstance(wanted, list):
                rows = [*wanted, *(part[0] for part in other)]
            else:
                each = layout.each[path]
                joined = torch.cat([wanted, *(part[:each] for part in other)])
                rows = [joined.unflatten(0, (-1, each))]
            self._names[path] = [f"table_{number}_{place}" for place in range(len(rows))]
            for name, value in zip(self._names[path], rows, strict=True):
                self.register_buffer(name, value, persistent=False)

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        labels: torch.Tensor | Values,
        answers: Sequence[torch.Tensor] = (),
    ) -> Answer:
        put = self.layout
        values = {**put.constant, **{path: answers[place] for path, place in put.linked.items()}}
        for path, names in self._names.items():
            rows = [getattr(self, name) for name in names]
            if isinstance(labels, dict):
                given = labels[path]
                listed = isinstance(given, list)
                values[path] = [_like(row, x) for row in given] if listed else _like(given, x)
            elif isinstance(put.table[path][0], list):
                values[path] = [_like(rows[label], x) for label in labels.tolist()]
            else:
                values[path] = _like(rows[0][labels].flatten(0, 1), x)
        values[put.x.path] = put.x(x, values.get(put.x.path))
        values[put.t.path] = put.t(t)
        return self.module(
            **pytree.tree_unflatten([values[path] for path in put.paths], put.structure)
        )


class CapturedNet(torch.nn.Module):
    """The network of a pipeline as ``net(x, t, labels)``; ``prompts`` makes what stands for other
    prompts than those it was captured with, None where that is not possible."""

    prompts: CapturedPrompts | None = None

    def __init__(
        self, module: torch.nn.Module, what: Captured, helper: torch.nn.Module | None = None
    ) -> None:
        super().__init__()
        self.net = CapturedModule(module, what.layout, what.order)
        self.put, self.sign, self.helper = what.layout.x, what.sign, None
        self.mixed, self.null = what.mixed, what.samples
        if what.helper is not None:
            assert helper is not None
            self.helper = CapturedModule(helper, what.helper, what.order)

    @property
    def module(self) -> torch.nn.Module:
        return self.net.module

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | Values | None = None
    ) -> torch.Tensor:
        if condition is None:
            condition = torch.zeros(len(x), dtype=torch.long, device=x.device)
        if len(self.mixed) < 2 or isinstance(condition, dict):
            return self._answer(x, t, condition)
        return self._of_several(x, t, condition)

    def _of_several(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The answer where several branches stand for the null label: the network is called once
        for each, always with these rows, so that what is fitted to rows or shapes still fits."""
        null = labels == self.null
        answers = [
            self._answer(x, t, torch.where(null, labels + number, labels))
            for number in range(len(self.mixed))
        ]
        pairs = zip(self.mixed, answers, strict=True)
        mixed = torch.stack([weight * answer for weight, answer in pairs]).sum(0)
        return torch.where(null.view(-1, *[1] * (x.ndim - 1)), mixed, answers[0])

    def _answer(
        self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | Values
    ) -> torch.Tensor:
        answers = []
        if self.helper is not None:
            beside = condition
            if isinstance(condition, dict):
                beside = {
                    path.removeprefix(BESIDE): value
                    for path, value in condition.items()
                    if path.startswith(BESIDE)
                }
            answers = pytree.tree_leaves(self.helper(x, t, beside))
        output = self.put.undone(answer_of(self.net(x, t, condition, answers)))
        if output.shape[1] == 2 * x.shape[1]:  # the second half is a variance, which pipelines drop
            output = output.chunk(2, dim=1)[0]
        return output if self.sign > 0 else -output


class CapturedPrompts(Prompts):
    """Prompts that a pipeline was not captured with, encoded by its own call, whose network is not
    asked.

    Args:
        call: of the pipeline, without prompts; negative: the prompt that it was captured with.
    """

    def __init__(
        self, pipe: Pipeline, call: PipelineCall, what: Captured, negative: str = ""
    ) -> None:
        self.pipe, self.call, self.what, self.negative = pipe, call, what, negative

    def __deepcopy__(self, memo: dict[int, object]) -> CapturedPrompts:
        return self

    def cut_off(self, prompts: Sequence[str]) -> str:
        return cut_off_by(self.pipe, prompts, self.call)

    def condition(self, prompts: Sequence[str], negative: Sequence[str] | None = None) -> Condition:
        warn(self.cut_off(prompts))
        asked = {**self.call, "prompt": list(prompts)}
        unwanted = [text or self.negative for text in negative or [""] * len(prompts)]
        if any(unwanted):
            require(
                takes(self.pipe, "negative_prompt"),
                f"{type(self.pipe).__name__} takes no negative prompt; drop it.",
            )
            asked["negative_prompt"] = unwanted
        (step,) = recorded(self.pipe, asked, 1, self.what.answer)
        parts = {"": (self.what.layout, list(step.calls))}
        if self.what.helper is not None:
            parts[BESIDE] = (self.what.helper, [call.helpers[0] for call in step.calls])
        names = (COND, NULL)[: len(self.what.order)]
        branches: dict[str, dict[str, Leaf]] = {name: {} for name in names}
        for prefix, (layout, calls) in parts.items():
            for path, values in layout.table_of(calls).items():
                for name, branch in zip(names, self.what.order, strict=True):
                    leaf = _leaf(values[branch], layout.each[path])
                    branches[name][prefix + path] = leaf
        return Condition(len(prompts), branches)


def _leaf(value: Samples, each: int) -> Leaf:
    return PerSample(value, each) if isinstance(value, torch.Tensor) else Ragged(tuple(value))


class CapturedTurns(torch.nn.Module):
    """Two captured networks that take turns as ``net(x, t, labels)``: ``first`` answers at the time
    ``boundary`` and above, ``second`` below it."""

    def __init__(self, first: CapturedNet, second: CapturedNet, boundary: float) -> None:
        super().__init__()
        self.first, self.second, self.boundary = first, second, boundary

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        early = t >= self.boundary
        rows = [early.nonzero().flatten(), (~early).nonzero().flatten()]
        parts = [
            net(x[mine], t[mine], None if condition is None else condition[mine])
            for net, mine in zip((self.first, self.second), rows, strict=True)
            if len(mine)
        ]
        return torch.cat(parts)[torch.cat(rows).argsort()]


def close(dtype: torch.dtype) -> float:
    """How far, relative, two ways to compute the same in ``dtype`` may be apart."""
    return max(CLOSE, ROUNDINGS * torch.finfo(dtype).eps)


def answer_of(answer: Answer) -> Answer:
    """The tensor, or list of tensors, that a network of diffusers answers with."""
    if isinstance(answer, Mapping) and "sample" in answer:
        return answer["sample"]
    if isinstance(answer, tuple):
        return answer[0]
    return getattr(answer, "sample", answer)


def _like(value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``value`` in the dtype of ``x``, where it has a floating point."""
    return value.to(x.dtype) if value.is_floating_point() else value


def _weights(steps: Sequence[Step], x: PutX, batched: int, samples: int, kind: str) -> list[float]:
    """The weight of each branch's answer in what the scheduler is given, by least squares."""
    every = []
    for step in steps:
        answers = [x.undone(answer_of(call.answer)).detach().double() for call in step.calls]
        channels = step.sample.shape[1]
        parts = [part[:, :channels] for answer in answers for part in answer.chunk(batched)]
        wanted = step.output[:samples, :channels].double().flatten()
        matrix = torch.stack([part.flatten() for part in parts], 1)
        fit = torch.linalg.lstsq(matrix, wanted[:, None]).solution[:, 0]
        apart = float((matrix @ fit - wanted).norm() / wanted.norm().clamp_min(1e-12))
        require(
            apart < close(step.output.dtype),
            f"{kind} combines the answers of its network in a way that is no weighted sum (off by "
            f"{apart:.2g}: guidance_rescale, or a normalization); set that option to 0, or load it "
            "without guidance.",
        )
        every.append(fit)
    fits, within = torch.stack(every), close(steps[0].output.dtype)
    require(
        float((fits - fits[0]).abs().max()) < within * float(fits.abs().max()),
        f"{kind} weighs the branches of guidance differently from step to step; hasten captures "
        "guidance of one scale.",
    )
    mean = fits.mean(0)
    require(
        abs(abs(float(mean.sum())) - 1) < max(1e-2, within),
        f"{kind} weighs the branches of guidance by {[round(float(w), 3) for w in mean]}, which do "
        "not sum to 1; hasten captures classifier-free guidance.",
    )
    return mean.tolist()
