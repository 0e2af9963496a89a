"""edit(model, pictures, prompt): what pictures show, changed."""

from __future__ import annotations

import dataclasses
import functools

import torch

from hasten.core.ask import MAIN
from hasten.core.call import Denoiser
from hasten.core.condition import Condition
from hasten.core.denoiser import Guided, classifier_free
from hasten.core.draws import START, WALK, Draws
from hasten.core.earlier import Store
from hasten.core.engine import beside
from hasten.core.errors import require, require_whole
from hasten.core.executor import Registers
from hasten.core.lever import Trait
from hasten.core.model import Model
from hasten.core.plan import PlanLike
from hasten.core.program import Program
from hasten.core.session import Session
from hasten.core.stepping import Steps, stepping
from hasten.editing.masks import latent_mask, pixel_mask
from hasten.editing.method import MASK, SOURCE, Method, methods
from hasten.sampling import Sampler, build

OF_A_PROGRAM = {Trait.MARKS, Trait.PROGRAM, Trait.ORDER}  # made for the program of a plan


def edit(
    model: Model,
    pictures: torch.Tensor,
    prompt: object,
    *,
    source_prompt: object = None,
    method: str | Method = "flowedit",
    plan: PlanLike | None = None,
    mask: torch.Tensor | None = None,
    seed: int = 0,
    shared_noise: bool = False,
    batch: int = 64,
) -> torch.Tensor:
    """``pictures`` (n, *model.picture_shape) in [0, 1], changed to show ``prompt``; on the CPU.

    Args:
        prompt: what they should show, as :meth:`hasten.Sampler.sample` takes its condition: one
            for all, or a list of n.
        source_prompt: what they show now; None for nothing in particular.
        method: such as "sdedit(strength=0.6)"; see ``hasten.editing.methods``.
        plan: its solver, levels, guidance, engine and levers; by default the model's own.
        mask: (h, w) or (n, h, w), 1 where pictures may change; elsewhere they stay as they are.
        seed: of the noise; picture i depends on (seed, i) alone.
        shared_noise: the same noise for all pictures, for frames of one clip.
        batch: pictures at a time.

    Raises:
        UserError: an argument that does not fit the model, the method or the plan.
        NonFiniteError: the network's answer is not finite.
    """
    require_whole("seed", seed, 0, 2**63 - 1)
    require_whole("batch", batch, 1, 1 << 20)
    n = _require_pictures(model, pictures)
    sampler = build(model, plan)
    require_editable(sampler)
    require(
        mask is None or len(model.picture_shape) == 3,
        f"mask is for pictures, and model {model.name!r} makes clips; drop it.",
    )
    wide = None if mask is None else pixel_mask(mask, pictures)
    editor = Editor.of(sampler, methods.parse(method), masked=mask is not None)
    conditions = {MAIN: model.condition(n, prompt), SOURCE: model.condition(n, source_prompt)}
    out = []
    for begin in range(0, n, batch):
        rows = range(begin, min(begin + batch, n))
        part = pictures[rows.start : rows.stop].float()
        here = {name: condition.rows(rows) for name, condition in conditions.items()}
        draws = Draws(seed, [0 if shared_noise else row for row in rows], model)
        region = None if wide is None else wide[rows.start : rows.stop]
        made = editor(part, here, draws, region).cpu()
        out.append(made if region is None else region * made + (1 - region) * part.cpu())
    return torch.cat(out)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Editor:
    """A method on a plan, ready to edit. ``kept`` is what levers keep from one edit to the next."""

    sampler: Sampler
    method: Method
    program: Program
    kept: Store = dataclasses.field(default_factory=dict)

    @staticmethod
    def of(sampler: Sampler, method: Method, *, masked: bool) -> Editor:
        program = method.program(sampler.solver, sampler.levels, masked=masked)
        sampler.executor.check(program)
        return Editor(sampler=sampler, method=method, program=program)

    @torch.inference_mode()
    def __call__(
        self,
        pictures: torch.Tensor,
        conditions: dict[str, Condition],
        draws: Draws,
        region: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The edit of ``pictures`` (n, c, h, w) under the conditions ``main`` and ``source``."""
        session, registers = self._ready(pictures, conditions, draws, region)
        with beside(self.sampler.resolved.engine):
            x0 = self.sampler.executor.run(self.program, registers, session)
        session.check()
        return self.decoded(x0)

    @torch.inference_mode()
    def begun(
        self,
        pictures: torch.Tensor,
        conditions: dict[str, Condition],
        draws: Draws,
        region: torch.Tensor | None = None,
    ) -> tuple[Session, Steps]:
        """A run of the program for ``pictures``, for whoever advances several together."""
        session, registers = self._ready(pictures, conditions, draws, region)
        return session, stepping(self.program, dict(registers))

    def decoded(self, latents: torch.Tensor) -> torch.Tensor:
        return self.sampler.resolved.codec.decode(latents)

    def _ready(
        self,
        pictures: torch.Tensor,
        conditions: dict[str, Condition],
        draws: Draws,
        region: torch.Tensor | None = None,
    ) -> tuple[Session, Registers]:
        """A run, and what its program begins with."""
        model = self.sampler.model
        latents = model.codec.encode(pictures.to(model.device)).float()
        registers = {"x": draws(START), SOURCE: latents}
        if region is not None:
            registers[MASK] = latent_mask(region.to(model.device), model.shape)
        here = {name: condition.to(model.device) for name, condition in conditions.items()}
        return self.session(here, draws), registers

    def session(self, conditions: dict[str, Condition], draws: Draws) -> Session:
        """A run with the guidance that the method has about each condition."""
        scale = 1.0 if self.method.guides else self.sampler.plan.guidance
        scales = {MAIN: scale, SOURCE: self.method.source_guidance}
        denoiser: Denoiser = self.sampler.denoiser
        if self.sampler.model.guidable and not isinstance(denoiser, Guided):
            denoiser = Guided(denoiser, classifier_free(1.0))
        weights = {name: classifier_free(value) for name, value in scales.items()}
        kept = self.kept if self.sampler.plan.has(Trait.RUNS) else None
        fresh = functools.partial(draws, WALK)
        return Session(denoiser, fresh, conditions, weights=weights, kept=kept)


def _require_pictures(model: Model, pictures: torch.Tensor) -> int:
    shape: tuple[int, ...] = tuple(getattr(pictures, "shape", ()))
    require(
        isinstance(pictures, torch.Tensor),
        f"pictures are a {type(pictures).__name__}; give a tensor (n, c, h, w) from 0 to 1.",
    )
    require(
        len(shape) > 1 and shape[0] > 0 and shape[1:] == model.picture_shape,
        f"pictures have the shape {shape}; model {model.name!r} takes (n, "
        f"{', '.join(map(str, model.picture_shape))}).",
    )
    low, high = float(pictures.min()), float(pictures.max())
    require(
        0.0 <= low <= high <= 1.0,
        f"pictures lie from {low:g} to {high:g}; they take numbers from 0 to 1.",
    )
    return len(pictures)


def require_editable(sampler: Sampler) -> None:
    """Refuse what is made for the plan's own program: an edit has another."""
    plan = sampler.plan
    require(
        sampler.program is not None,
        f"solver {plan.solver!r} has no Program, and an edit is one; use another, such as dpmpp.",
    )
    require(plan.program is None, "an edit takes a solver's steps; drop program from the plan.")
    require(
        plan.start == "noise",
        f"an edit begins with its source, and the plan's start is {plan.start!r}; drop it.",
    )
    for lever in sampler.resolved.levers:
        require(
            not lever.traits & OF_A_PROGRAM,
            f"lever {lever.part_name!r} is made for the evaluations of the plan, and an edit has "
            "others; drop it.",
        )
