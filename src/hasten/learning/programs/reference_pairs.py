"""What a program is learned from: noise, and the converged picture it leads to."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from hasten.core.artifact import digest
from hasten.core.errors import UserError, require, require_number, require_whole
from hasten.core.files import write_bytes
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.random_streams import Seed
from hasten.measuring.ode_error import Reference, reference

BASES = ("ipndm", "dpmpp(order=3)", "unipc(order=3)", "deis(order=3)")
GRIDS = ("uniform", "uniform(spacing='leading')", "log-snr", "karras", "quadratic")
TRIED = 32  # pairs on which a base is chosen
_OLD = {"held_out": "held"}  # in the name of the folder, so that pairs made before are found


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceOptions:
    """How the pairs are made.

    Attributes:
        pairs, held_out: how many to train on, and to judge the result by.
        teacher_steps: of the plan that counts as converged.
        guidance: the classifier-free guidance scale that is learned for.
        engine: what runs the teacher's network.
    """

    pairs: int = 512
    held_out: int = 64
    teacher_steps: int = 80
    guidance: float = 1.0
    engine: str = "eager"
    seed: int = 0

    def __post_init__(self) -> None:
        require_whole("pairs", self.pairs, 8, 1_000_000)
        require_whole("held_out", self.held_out, 8, 100_000)
        require_whole("teacher_steps", self.teacher_steps, 10, 10_000)
        require_number("guidance", self.guidance, 0.0, 100.0)
        require_whole("seed", self.seed, 0, 2**31)

    @property
    def plan(self) -> Plan:
        """The plan that counts as converged."""
        return Plan(
            solver="dpmpp(order=3)",
            grid="log-snr",
            steps=self.teacher_steps,
            guidance=self.guidance,
            engine=self.engine,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferencePairs:
    """Pairs to train on and pairs to check by, of ``model``."""

    model: Model
    options: ReferenceOptions
    train: Reference
    check: Reference

    @staticmethod
    def of(model: Model, options: ReferenceOptions, beside: Path) -> ReferencePairs:
        """The pairs stored in a folder next to ``beside``, which all that is learned there from the
        same weights shares; made where they are not there yet."""
        key_fields = dataclasses.asdict(options)
        key_fields = {_OLD.get(name, name): value for name, value in key_fields.items()}
        subject = json.dumps([digest(model), key_fields])
        key = hashlib.sha256(subject.encode()).hexdigest()[:12]
        folder = beside.parent / f"pairs-{key}"
        counts = {
            "train": (options.pairs, Seed.REFERENCE_PAIRS),
            "check": (options.held_out, Seed.HELD_OUT_PAIRS),
        }
        parts = {
            name: _stored(folder / f"{name}.safetensors", model, options, n, first)
            for name, (n, first) in counts.items()
        }
        return ReferencePairs(model=model, options=options, **parts)

    def best_base(
        self,
        steps: int,
        solvers: tuple[str, ...] = BASES,
        start: str = "noise",
        clip: float | None = None,
    ) -> Plan:
        """The named solver and grid whose ODE error from ``start`` on the first pairs is least,
        clipped to ``clip``; without one, clipped to the pictures' bound where that is better.

        Raises:
            UserError: none of them crosses the model's noise schedule in ``steps`` steps.
        """
        few, bound = self.train.first(TRIED), self.model.codec.bound
        clips = (None,) if bound is None else (None, bound)
        clips = clips if clip is None else (clip,)
        tried: list[tuple[float, str, Plan]] = []
        for solver, grid, clip in itertools.product(solvers, GRIDS, clips):
            run = {"guidance": self.options.guidance, "engine": self.options.engine}
            try:
                plan = Plan(solver=solver, grid=grid, steps=steps, clip=clip, start=start, **run)
                ode_error = few.ode_error(plan, batch=TRIED)
            except UserError:
                continue
            assert ode_error is not None
            tried.append((ode_error.rmse, str(plan), plan))
        require(
            bool(tried),
            f"no solver crosses the noise schedule of {self.model.name!r} in {steps} steps.",
        )
        best = min(tried, key=lambda trial: trial[:2])[2]
        return best.model_copy(update={"engine": "eager"})


def _stored(file: Path, model: Model, options: ReferenceOptions, n: int, first: int) -> Reference:
    """A reference that is made once and stored in ``file``."""
    condition = model.labels_in_turn(n)
    if file.exists():
        tensors = load_file(str(file))
        noise, pictures = tensors["noise"], tensors["pictures"]
        return Reference(
            model=model, plan=options.plan, condition=condition, noise=noise, pictures=pictures
        )
    made = reference(model, n, plan=options.plan, seed=first + options.seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, save({"noise": made.noise, "pictures": made.pictures}))
    return dataclasses.replace(made, features=None)


def label_rows(pairs: Reference, index: torch.Tensor) -> torch.Tensor | None:
    """The labels (n,) of the pairs ``index``, on the model's device."""
    if pairs.condition is None:
        return None
    return torch.tensor(pairs.condition)[index].to(pairs.model.device)
