"""The plan that would be recommended, measured once more on noise that chose nothing.

The best of many plans on a few noises is partly the luckiest, so its own ODE error flatters it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from hasten.core.report import OdeError
from hasten.tuning.recommendation import candidate
from hasten.tuning.records import Finalist
from hasten.tuning.requests import MakeReference, ReferenceSpec, Screen
from hasten.tuning.runner import TrialRunner


def checked_on_fresh_noise(
    runner: TrialRunner, finalists: Sequence[Finalist], reference: ReferenceSpec, max_loss: float
) -> list[Finalist]:
    """The finalists, where the one that is recommended has its ODE error on fresh noise: as many
    samples after those of ``reference``. One that fails there makes room for the next. Not measured
    where real pictures decide, where no plan passes, or where the budget is spent."""
    checked = list(finalists)
    fresh = dataclasses.replace(reference, first=reference.first + reference.samples)
    for _ in finalists:
        chosen, passed = candidate(checked, max_loss)
        if not passed or chosen.fresh or chosen.final_quality or math.isinf(chosen.rmse):
            break
        error = _on_fresh_noise(runner, chosen, fresh)
        if error is None:
            break
        checked[checked.index(chosen)] = dataclasses.replace(chosen, fresh=error)
    return checked


def _on_fresh_noise(
    runner: TrialRunner, finalist: Finalist, fresh: ReferenceSpec
) -> OdeError | None:
    request = MakeReference(reference=fresh)
    seconds = fresh.samples * (fresh.plan.parts.steps or 0) * runner.budget.sample_s
    if request not in runner.journal and seconds > runner.seconds - runner.elapsed_s:
        runner.notes.append(
            f"fresh noise: not tried, because its reference solution takes about {seconds:.0f} s, "
            "more than is left"
        )
        return None
    if runner.run(request, "reference solution of fresh noise") is None:
        return None
    screen = Screen(plan=finalist.plan, samples=fresh.samples, reference=fresh)
    answer = runner.run(screen, f"fresh noise: {finalist.plan}")
    return None if answer is None else answer.ode_error
