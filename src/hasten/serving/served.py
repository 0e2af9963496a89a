"""A model that is served: its named plans, prepared, and the lanes their runs share."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch

from hasten.core.ask import MAIN
from hasten.core.call import Denoiser
from hasten.core.condition import Condition
from hasten.core.denoiser import Guided, NetworkDenoiser, classifier_free
from hasten.core.draws import START, WALK, Draws
from hasten.core.engine import Prepared
from hasten.core.errors import require
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.run import Run, advance
from hasten.core.stepping import stepping
from hasten.editing.edit import Editor, require_editable
from hasten.editing.method import SOURCE, methods
from hasten.sampling import Sampler, build, network_key, prepare
from hasten.serving.batcher import Lane

ROWS = (1, 2, 4, 6, 8, 12, 16)  # of a network call, that are tried
WORTH = 1.05  # a larger batch has to make so many times as many pictures a second
REPEATS = 3  # of each, of which the fastest counts
KEPT = 32  # plans whose samplers are kept


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Wanted:
    """What a run is asked for.

    Attributes:
        sampler: of the plan; prompts: one a picture; negative: of all.
        editor: changes ``picture`` (c, h, w), where ``mask`` (h, w) is 1; None for new pictures.
    """

    sampler: Sampler
    prompts: tuple[str, ...]
    negative: str = ""
    seed: int = 0
    editor: Editor | None = None
    picture: torch.Tensor | None = None
    source_prompt: str = ""
    mask: torch.Tensor | None = None


class Served:
    """A model and its plans by name, ready to answer.

    Plans whose network is the same share it, and its network calls.

    Attributes:
        seconds: that one picture of each plan takes alone here, its prompt and decoder included.
        report: the page of the tuning run that its plans come from; None where there is none.

    Raises:
        UserError: a plan that cannot be advanced an evaluation at a time, or does not fit the
            model.
    """

    def __init__(
        self, name: str, model: Model, plans: Mapping[str, Plan], report: Path | None = None
    ) -> None:
        self.name, self.model, self.plans, self.report = name, model, dict(plans), report
        self.text = model.family.prompts(model.net) if model.prompts else None
        require(
            not model.prompts or self.text is not None,
            f"{name} answers only the prompts it was loaded with (its network is two, or its "
            "guidance has two scales), so it cannot be served.",
        )
        self._nets: dict[tuple[str, ...], Prepared] = {}
        self._lanes: dict[tuple[str, ...], Lane] = {}
        self._lock = threading.Lock()
        self._samplers: dict[str, Sampler] = {}
        self.seconds: dict[str, float] = {}
        for plan in self.plans.values():
            self.sampler(plan)

    @property
    def makes_clips(self) -> bool:
        return len(self.model.picture_shape) == 4

    @property
    def default(self) -> str:
        """The name of the plan that answers where none is asked for."""
        return "balanced" if "balanced" in self.plans else next(iter(self.plans))

    def sampler(self, plan: Plan) -> Sampler:
        """Of ``plan``, whose network is prepared once for all plans that share it.

        Raises:
            UserError: the plan does not fit the model, or cannot be advanced an evaluation at a
                time.
        """
        known = self._samplers.get(plan.key)
        if known is not None:
            return known
        with self._lock:
            key = network_key(self.model, plan)
            if key not in self._nets:
                self._nets[key] = prepare(self.model, plan)
            sampler = build(self.model, plan, net=self._nets[key])
            require(
                sampler.program is not None and sampler.executor.part_name == "sequential",
                f"plan {plan} cannot be advanced an evaluation at a time, as a server does; set "
                "executor=sequential and a solver that has a Program, such as dpmpp.",
            )
            named = {other.key for other in self.plans.values()}
            others = [key for key in self._samplers if key not in named]
            if len(others) >= KEPT:
                del self._samplers[others[0]]
            self._samplers[plan.key] = sampler
        return sampler

    def lane(self, plan: Plan) -> Lane:
        """Where runs of ``plan`` go: those of one network share it."""
        key = (*network_key(self.model, plan), *plan.levers)  # some levers are of the decoder
        with self._lock:
            if key in self._lanes:
                return self._lanes[key]
        sampler = self.sampler(plan)
        denoiser: Denoiser = NetworkDenoiser(sampler.model, sampler.net, sampler.resolved.opening)
        if sampler.model.guidable:
            denoiser = Guided(denoiser, classifier_free(1.0))
        lane = Lane(
            key=(self.name, *key),
            engine=sampler.resolved.engine,
            rows=1,
            begin=lambda orders: self._begin(denoiser, cast("list[Wanted]", orders)),
            decode=sampler.resolved.codec.decode,
        )
        rows = _useful_rows(lane, Wanted(sampler=sampler, prompts=(self._any_prompt,)))
        lane = dataclasses.replace(lane, rows=rows)
        with self._lock:
            return self._lanes.setdefault(key, lane)

    @torch.inference_mode()
    def warm_(self) -> None:
        """Prepare every plan's network at the batch sizes it will meet, and time each plan."""
        for name, plan in self.plans.items():
            lane = self.lane(plan)
            for rows in (rows for rows in ROWS if rows <= lane.rows):
                lane.decode(torch.zeros(rows, *self.model.shape, device=self.model.device))
            sampler, prompt = self.sampler(plan), self._any_prompt
            for _ in range(2):  # the first run of a graph takes longer
                begun = time.perf_counter()
                sampler.sample(1, condition=self._condition([prompt], [""]))
                self.seconds[name] = time.perf_counter() - begun

    @property
    def _any_prompt(self) -> str:
        if self.model.prompts:
            return self.model.prompts[0]
        return "" if self.model.labels is None else "0"

    def require_prompt(self, prompt: str) -> None:
        """Refuse a prompt that the model does not know.

        Raises:
            UserError: a label it does not have, or a prompt for a model that takes none.
        """
        if self.text is not None:
            return
        if self.model.labels is None:
            require(not prompt, f"prompt: {self.name} takes none; leave it empty.")
            return
        self._label(prompt)

    def asked(self, prompt: str) -> str | int | None:
        """A prompt as the model takes it: a text, the number of a class, or None."""
        if self.text is not None:
            return prompt
        return None if self.model.labels is None else self._label(prompt)

    def _label(self, prompt: str) -> int:
        """The number of a class, written as a prompt; without one, that of "no class"."""
        classes, none = self.model.labels, self.model.null_label
        assert classes is not None
        if not prompt and none is not None:
            return none
        require(
            prompt.isdecimal() and int(prompt) < classes,
            f"prompt: {self.name} takes the number of a class, 0 to {classes - 1}.",
        )
        return int(prompt)

    def _condition(self, prompts: Sequence[str], negative: Sequence[str]) -> Condition:
        """Of prompts, or of labels written as such."""
        if self.text is not None:
            return self.text.condition(prompts, negative)
        if self.model.labels is None:
            return Condition.none(len(prompts))
        labels = torch.tensor([self._label(prompt) for prompt in prompts])
        return Condition.labels_of(labels, self.model.null_label)

    def _begin(self, denoiser: Denoiser, orders: Sequence[Wanted]) -> list[Run]:
        """The runs of ``orders``; their prompts are encoded together."""
        texts: list[tuple[str, str]] = []
        for order in orders:
            texts += [(prompt, order.negative) for prompt in order.prompts]
            texts += [(order.source_prompt, "")] if order.editor is not None else []
        whole = self._condition([prompt for prompt, _ in texts], [no for _, no in texts])
        whole, out, place = whole.to(self.model.device), [], 0
        for order in orders:
            n = len(order.prompts)
            conditions = {MAIN: whole.rows(range(place, place + n))}
            place += n
            if order.editor is not None:
                conditions[SOURCE] = whole.rows([place])
                place += 1
            out.append(_run(order, conditions, denoiser))
        return out


def _run(order: Wanted, conditions: dict[str, Condition], denoiser: Denoiser) -> Run:
    sampler, n = order.sampler, len(order.prompts)
    draws = Draws(order.seed, range(n), sampler.model)
    if order.editor is not None:
        assert order.picture is not None
        region = None if order.mask is None else order.mask[None, None]
        return Run(*order.editor.begun(order.picture[None], conditions, draws, region))
    assert sampler.program is not None
    condition, plan = conditions[MAIN], sampler.plan
    x = sampler.begin(draws(START), sampler.levels[0], condition)
    weights = classifier_free(plan.guidance_at) if sampler.model.guidable else None
    fresh = functools.partial(draws, WALK)
    session = sampler.session(condition, fresh, denoiser, weights)
    return Run(session, stepping(sampler.program, {"x": x}))


def editor_of(sampler: Sampler, method: str, masked: bool) -> Editor:
    """Edits with ``method`` on the sampler's plan.

    Raises:
        UserError: the plan cannot edit, or there is no such method.
    """
    require_editable(sampler)
    return Editor.of(sampler, methods.parse(method), masked=masked)


@torch.inference_mode()
def _useful_rows(lane: Lane, wanted: Wanted) -> int:
    """Rows of a network call beyond which more make hardly more pictures a second here."""
    rates: dict[int, float] = {}
    for rows in ROWS:
        orders: list[object] = [wanted] * rows
        fastest = float("inf")
        for _ in range(REPEATS):
            runs = lane.begin(orders)
            begun = time.perf_counter()
            advance(runs)
            fastest = min(fastest, time.perf_counter() - begun)
        rates[rows] = rows / fastest
        if rates[rows] * WORTH < max(rates.values()):  # it is getting worse
            break
    return next(rows for rows, rate in rates.items() if rate * WORTH >= max(rates.values()))
