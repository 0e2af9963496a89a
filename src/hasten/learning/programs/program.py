"""Learn a Program for a model: few evaluations that land where many would.

Levels, times given to the network and all coefficients are learned by back-propagation through the
program (generalized solvers, 2510.17699); several evaluations side by side in a round make it wider
(parallel gradients, 2507.14797).
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch

from hasten.core.artifact import digest
from hasten.core.errors import require, require_whole
from hasten.core.files import require_writable
from hasten.core.learned_program import LearnedProgram
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.learning.programs.fit import FitOptions, OdeErrorLoss, fit_
from hasten.learning.programs.reference_pairs import ReferenceOptions, ReferencePairs
from hasten.learning.programs.solver_coefficients import SolverCoefficients
from hasten.learning.programs.student_program import StudentProgram
from hasten.sampling import build
from hasten.training.budget import Deadline, require_time_left

SPREAD = 0.6  # how far into its step the chains of a wide program reach at first


def learn_program(
    model: Model,
    rounds: int,
    out: str | Path,
    *,
    width: int = 1,
    base: Plan | None = None,
    start: str = "noise",
    references: ReferenceOptions | None = None,
    options: FitOptions | None = None,
    minutes: float | None = None,
    quiet: bool = True,
) -> LearnedProgram:
    """Learn a program of ``rounds`` sequential evaluations and write it to the file ``out``; a
    second call with the same ``out`` goes on where the first was ended.

    Args:
        rounds: 1 to 20.
        width: evaluations side by side in each round, 1 to 4.
        base: the solver, grid and clip that it begins as; by default the named ones that are best
            on a few pairs.
        start: where sampling begins; the plan that names the file has to name it too.
        minutes: the budget, of the reference pairs and the fitting together.

    Raises:
        UserError: a setting out of range, or ``out`` holds a run of other settings.
        NonFiniteError: the loss is not finite; the last checkpoint stays.
    """
    deadline = None if minutes is None else Deadline.after(minutes)
    require_whole("evaluations", rounds, 1, 20)
    require_whole("width", width, 1, 4)
    out, references, options = (
        require_writable(out),
        references or ReferenceOptions(),
        options or FitOptions(),
    )
    Plan(start=start)  # refuses a start that does not exist before anything is made
    run = out.with_name(out.name + ".run")
    pairs = ReferencePairs.of(model, references, run)
    begun = pairs.best_base(rounds, start=start) if base is None else _fitting(base, references)
    require_time_left(deadline, "the reference pairs")
    changes = {"steps": rounds, "engine": "eager"}
    begun = begun.model_copy(update=changes if start == "noise" else {**changes, "start": start})
    student = _beginning(pairs, begun, width)
    loss = OdeErrorLoss(pairs=pairs, base=build(model, begun), frugal=options.frugal)
    what = {"rounds": rounds, "width": width}
    facts = fit_(student, loss, options, run, what=what, deadline=deadline, quiet=quiet)
    learned = LearnedProgram(
        program=student().coefficient_matrix(begun.clip).program(),
        weights=digest(model),
        model=model.name,
        start=begun.parts.start_text,
        facts={**facts, **what, "base": str(begun)},
    )
    learned.write(out)
    return learned


def _fitting(base: Plan, references: ReferenceOptions) -> Plan:
    """``base``, which must set nothing that learning would ignore."""
    unused = set(base.chosen()) - {"solver", "grid", "steps", "clip", "start", "guidance"}
    require(
        not unused,
        f"plan sets {', '.join(sorted(unused))}, but a program is learned from solver, grid, clip "
        "and start alone; drop the rest.",
    )
    require(
        base.guidance in (1.0, references.guidance),
        f"plan sets guidance {base.guidance:g}, but the pairs are made with "
        f"{references.guidance:g}; set --guidance.",
    )
    return base


def _beginning(pairs: ReferencePairs, base: Plan, width: int) -> StudentProgram:
    """The base as a student, its chains a little apart."""
    parts = base.parts
    schedule = parts.start.shortened(pairs.model.schedule)
    coefficients = SolverCoefficients(solver=parts.unclipped, schedule=schedule)
    top, low = coefficients.ends
    own = [max(level.half_log_snr, top) for level in base.levels(pairs.model.schedule)[:-1]]
    gaps = [b - a for a, b in itertools.pairwise([*own, max(low, own[-1] + 0.5)])]
    shares = [SPREAD * k / width for k in range(width)]
    places = [[p + share * gap for share in shares] for p, gap in zip(own, gaps, strict=True)]
    free = base.start == "noise"
    return StudentProgram(coefficients, torch.tensor(places, dtype=torch.float64), free)
