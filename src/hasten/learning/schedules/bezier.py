"""Learn one curve of levels that serves every number of steps (BezierFlow).

The control points of a Bezier curve in half log-SNR are fitted by back-propagation through the
programs of several numbers of steps in turn; coefficients stay the solver's own.
"""

from __future__ import annotations

from pathlib import Path

import torch

from hasten.core.errors import require, require_whole
from hasten.core.grid import grids
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.grids.bezier import Bezier, bernstein
from hasten.learning.programs.fit import FitOptions, OdeErrorLoss, fit_
from hasten.learning.programs.reference_pairs import BASES, ReferenceOptions, ReferencePairs
from hasten.learning.programs.solver_coefficients import SolverCoefficients, Table
from hasten.sampling import build
from hasten.training.budget import Deadline, require_time_left

POINTS = 8
FIRST_END = 0.98  # of the way to the cleanest level, where the curve ends at first


class Curve(torch.nn.Module):
    """Control points as the running sum of a softmax, and where the curve ends."""

    def __init__(self, solver: SolverCoefficients, steps: tuple[int, ...]) -> None:
        super().__init__()
        self.solver, self.steps = solver, steps
        self.logits = torch.nn.Parameter(torch.zeros(POINTS + 1, dtype=torch.float64))
        last = torch.logit(torch.tensor(FIRST_END, dtype=torch.float64))
        self.last = torch.nn.Parameter(last)

    @property
    def kinds(self) -> int:
        """A table for every number of steps."""
        return len(self.steps)

    def points(self) -> torch.Tensor:
        """The inner control points, rising."""
        return torch.cumsum(torch.softmax(self.logits, 0), 0)[:-1]

    def end(self) -> torch.Tensor:
        """The share of the way to the cleanest level at which the curve ends."""
        return 0.05 + 0.95 * torch.sigmoid(self.last)

    def forward(self, kind: int = 0) -> Table:
        """The solver's table on the curve's levels, differentiable."""
        steps = self.steps[kind]
        top, low = self.solver.ends
        ends = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        every = torch.cat([ends[0], self.points(), ends[1]])
        share = self.end() * (torch.from_numpy(bernstein(steps, POINTS)) @ every)
        places = (top + share * (low - top)).unsqueeze(1)
        return self.solver.table(places, torch.zeros_like(places))


def learn_bezier(
    model: Model,
    steps: tuple[int, ...],
    run: str | Path,
    *,
    solver: str | None = None,
    clip: float | None = None,
    references: ReferenceOptions | None = None,
    options: FitOptions | None = None,
    minutes: float | None = None,
    quiet: bool = True,
) -> Plan:
    """A plan for the most of ``steps`` whose grid serves all of them (and others).

    Args:
        steps: the numbers of steps that are fitted in turn, 2 to 20.
        run: a folder for pairs and checkpoints; a second call with it goes on.
        minutes: the budget, of the reference pairs and the fitting together.
        solver, clip: by default those of least ODE error on a few pairs.

    Raises:
        UserError: a setting out of range, or ``run`` holds a run of other settings.
    """
    deadline = None if minutes is None else Deadline.after(minutes)
    require(len(steps) > 0, "steps is empty; give numbers of steps from 2 to 20.")
    for count in steps:
        require_whole("steps", count, 2, 20)
    run, references, options = Path(run), references or ReferenceOptions(), options or FitOptions()
    pairs = ReferencePairs.of(model, references, run)
    require_time_left(deadline, "the reference pairs")
    solvers_tried = BASES if solver is None else (solver,)
    base = pairs.best_base(max(steps), solvers_tried, clip=clip)
    coefficients = SolverCoefficients(solver=base.parts.unclipped, schedule=model.schedule)
    curve = Curve(coefficients, steps)
    loss = OdeErrorLoss(pairs=pairs, base=build(model, base), frugal=options.frugal)
    what = {"bezier": list(steps)}
    fit_(curve, loss, options, run, what=what, deadline=deadline, quiet=quiet)
    points = tuple(round(point, 6) for point in curve.points().tolist())
    grid = grids.text(Bezier(points=points, end=round(curve.end().item(), 6)))
    return base.model_copy(update={"grid": grid, "steps": max(steps)})
