"""Inversion: the noise from which a plan makes a given picture."""

from __future__ import annotations

import dataclasses

import torch

from hasten.core.condition import Condition
from hasten.core.errors import NonFiniteError, UserError, require, require_number, require_whole
from hasten.core.model import Model
from hasten.core.plan import PlanLike
from hasten.core.program import Program
from hasten.editing.backwards import Backwards, steps_of
from hasten.sampling import Sampler, build

INSIDE = 0.1  # how much nearer than the tolerance each level is solved, so that all keep to it
NEAREST = 0.01  # the same after sweeps that did not, each of which halves it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inversion:
    """``noise`` (n, *model.shape) for :meth:`Sampler.sample`, on the CPU.

    Attributes:
        residual: for each picture, the root mean square distance to what its noise decodes to.
        evaluations: network calls, each of a whole batch, for all of them.
    """

    noise: torch.Tensor
    residual: torch.Tensor
    evaluations: int


def invert(
    model: Model,
    plan: PlanLike,
    pictures: torch.Tensor,
    *,
    condition: object = None,
    tolerance: float = 1e-3,
    sweeps: int = 12,
    raw: bool = False,
    batch: int = 64,
) -> Inversion:
    """The noise from which ``plan`` makes ``pictures``: exact to the tolerance, because what is
    solved backwards is the plan's own Program, level by level, and the run forwards says whether it
    is.

    Args:
        plan: deterministic, from noise; the more steps it has, the surer inversion is.
        pictures: (n, c, h, w) in [0, 1], or with ``raw`` in the network's space, unclipped, as
            ``sample(raw=True)`` gives them.
        condition: a label, a list of n labels, or None.
        tolerance: of each picture, root mean square, in the pictures' own unit.
        sweeps: from the clean end to the noisy one and forwards again, before it gives up.
        batch: pictures at a time; a picture does not depend on its batch-mates.

    Raises:
        UserError: the plan draws noise, has no Program, begins elsewhere or caches features; a
            picture has the wrong shape or range; or one is not reached within the tolerance.
    """
    require_number("tolerance", tolerance, 1e-6, 1.0)
    require_whole("sweeps", sweeps, 1, 100_000)
    require_whole("batch", batch, 1, 1 << 20)
    sampler = build(model, plan)
    program = _program(sampler)
    wanted = _encoded(model, pictures, raw)
    condition = model.condition(len(wanted), condition)
    noises, residuals, evaluations = [], [], 0
    for first in range(0, len(wanted), batch):
        part = slice(first, first + batch)
        mine = condition.rows(range(first, first + len(wanted[part]))).to(model.device)
        solved = _solved(sampler, program, wanted[part], mine, (tolerance, sweeps, raw))
        noises.append(solved.noise)
        residuals.append(solved.residual)
        evaluations += solved.evaluations
    residual = torch.cat(residuals)
    missed = torch.nonzero(residual > tolerance).flatten().tolist()
    if missed:
        worst = int(residual.argmax())
        raise UserError(
            f"{len(missed)} of {len(residual)} pictures were not inverted to tolerance "
            f"{tolerance:g} in {sweeps} sweeps (picture {worst} came to {residual[worst]:.2g}); "
            f"use more steps than {sampler.plan.steps}, a first-order solver such as ddim, or a "
            "larger tolerance."
        )
    return Inversion(noise=torch.cat(noises), residual=residual, evaluations=evaluations)


@torch.inference_mode()
def _solved(
    sampler: Sampler,
    program: Program,
    wanted: torch.Tensor,
    condition: Condition,
    limits: tuple[float, int, bool],
) -> Inversion:
    """The best starts of one batch and their residuals, whether near enough or not."""
    tolerance, sweeps, raw = limits
    decode = (lambda x: x) if raw else sampler.model.codec.decode
    targets = decode(wanted)
    unit = tolerance if raw else 2 * tolerance  # pictures span 1, the network's space 2
    whole = sampler.session(condition, lambda *_: wanted)
    solver = Backwards(program, steps_of(program, sampler.levels[-1]), wanted)
    best = torch.zeros_like(wanted)
    nearest = torch.full((len(wanted),), float("inf"), device=wanted.device)
    rows = torch.arange(len(wanted), device=wanted.device)
    for sweep in range(sweeps):
        inside = max(INSIDE * 0.5**sweep, NEAREST)
        session = whole.rows(rows.tolist())
        starts = solver.sweep(session, inside * unit)
        out = decode(solver.run(starts, session))
        away = (out - targets[rows]).square().flatten(1).mean(dim=1).sqrt()
        if not torch.isfinite(away).all():
            raise NonFiniteError(
                "inversion met a value that is not finite; use more steps, or load the model again."
            )
        better = away < nearest[rows]
        best[rows[better]], nearest[rows[better]] = starts[better], away[better]
        left = torch.nonzero(nearest[rows] > tolerance).flatten()
        if len(left) == 0:
            break
        if len(left) < len(rows):
            rows = rows[left]
            solver.keep_(left)
    noise = best / sampler.levels[0].spread
    return Inversion(noise=noise.cpu(), residual=nearest.cpu(), evaluations=solver.evaluations)


def _program(sampler: Sampler) -> Program:
    """The Program to invert; refuses what has no inverse."""
    plan, program = sampler.plan, sampler.program
    if program is None:
        raise UserError(
            f"solver {plan.solver!r} has no Program to invert; freeze it with hasten.freeze, or "
            "use another."
        )
    require(
        not plan.stochastic,
        f"solver {plan.solver!r} draws noise on the way, so no one noise belongs to a picture; use "
        "a deterministic one, such as ddim.",
    )
    require(
        plan.start == "noise",
        f"start {plan.start!r} is not inverted; use start='noise'.",
    )
    require(
        program.evaluations == len(program.levels) > 0 and program.plain,
        "a program with variants of the network or that asks for anything but x0, is not inverted; "
        "drop levers such as the feature cache.",
    )
    require(
        program.rounds == program.evaluations,
        "a wide program, which asks several questions at once, is not inverted; learn one of width "
        "1, or use ddim.",
    )
    return program


def _encoded(model: Model, pictures: torch.Tensor, raw: bool) -> torch.Tensor:
    want = (len(pictures), *(model.shape if raw else model.picture_shape))
    got = tuple(pictures.shape)
    fits = got == want and got[0] > 0 and pictures.is_floating_point()
    require(fits, f"pictures are {pictures.dtype} {got}; this model takes floats {want[1:]} of n.")
    pictures = pictures.to(model.device).float()
    require(bool(torch.isfinite(pictures).all()), "pictures hold a value that is not finite.")
    if raw:
        return pictures
    low, high = float(pictures.min()), float(pictures.max())
    require(
        low >= 0 and high <= 1,
        f"pictures lie from {low:g} to {high:g}; they take numbers from 0 to 1.",
    )
    return model.codec.encode(pictures)
