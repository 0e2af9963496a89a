"""Which finalist is recommended, and why in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hasten.core.report import OdeError, Report
from hasten.measuring.quality import Quality
from hasten.tuning.records import Baseline, Finalist

MOST_TIMES = 20.0  # the longest budget that is advised, in budgets of this run


def recommend(
    finalists: Sequence[Finalist], max_loss: float, baseline: Baseline, batch: int, minutes: float
) -> tuple[Finalist, str]:
    """The fastest plan that passes, else the most faithful one, and why; where none passes, also
    what would, given that the tuner had ``minutes``."""
    closest = most_faithful(finalists)
    judged = any(finalist.final_quality for finalist in finalists)
    chosen, passed = candidate(finalists, max_loss)
    description = _described(chosen, closest, baseline, batch)
    if passed:
        return chosen, f"The fastest plan whose loss is below {max_loss:g}: {description}."
    why = f"No plan's loss is below {max_loss:g}; this one came nearest: {description}."
    return chosen, why + ("" if judged else _what_would_pass(chosen, max_loss, minutes))


def _what_would_pass(chosen: Finalist, max_loss: float, minutes: float) -> str:
    """What to change for a plan to pass, in a sentence: more samples where these are too few to
    tell (the interval shrinks with their root, their number grows with the budget), else a higher
    bar."""
    error, fresh = chosen.report.ode_error, chosen.fresh
    if error is None:
        return ""
    largest = error.high if fresh is None else max(error.high, fresh.rmse)
    if error.rmse < max_loss < error.high:
        times = ((error.high - error.rmse) / (max_loss - error.rmse)) ** 2
        if times <= MOST_TIMES:
            return (
                f" {error.n} samples are too few to tell whether it passes; about "
                f"{math.ceil(error.n * times)} would (--minutes {math.ceil(minutes * times)})."
            )
    bar = f"{_rounded_up(largest):g}"
    return f" More minutes may find a better one; --max-loss {bar} would accept this one."


def _rounded_up(value: float) -> float:
    """To two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / unit) * unit, 10)


def candidate(finalists: Sequence[Finalist], max_loss: float) -> tuple[Finalist, bool]:
    """The fastest plan that passes, and True; else the most faithful one, and False."""
    closest = most_faithful(finalists)
    judged = any(finalist.final_quality for finalist in finalists)
    ordered = sorted(finalists, key=lambda finalist: finalist.latency.median)
    passing = (finalist for finalist in ordered if passes(finalist, closest, max_loss, judged))
    chosen = next(passing, None)
    return chosen or closest, chosen is not None


def most_faithful(finalists: Sequence[Finalist]) -> Finalist:
    """The plan that others' quality was compared with, else the one of least ODE error."""
    marked = (finalist for finalist in finalists if finalist.faithful)
    return next(marked, None) or min(finalists, key=lambda finalist: finalist.rmse)


def passes(finalist: Finalist, closest: Finalist, max_loss: float, judged: bool) -> bool:
    """Whether the loss of a plan is below ``max_loss``.

    Where samples were ``judged`` against real pictures: FD is not measurably (95%, paired) more
    than that share above the most faithful plan's, and neither recall nor prompt accuracy is
    measurably more than that below.
    Else the whole interval of the ODE error is below it, and so is the ODE error on fresh noise,
    where that was measured.
    """
    if not judged:
        ode_error, fresh = finalist.report.ode_error, finalist.fresh
        passes_fresh = fresh is None or fresh.rmse <= max_loss
        return ode_error is not None and ode_error.high <= max_loss and passes_fresh
    own, other = finalist.final_quality, closest.final_quality
    if own is None or other is None:
        return False
    # Without an excess there was nothing to compare: it is that plan, or makes its samples.
    excess, same = own.excess_fd, own.quality == other.quality
    fd_passes = same if excess is None else excess.low <= 0
    return fd_passes and shares_pass(own.quality, other.quality, max_loss)


def shares_pass(own: Quality | Report, other: Quality | Report, max_loss: float) -> bool:
    """Whether recall and prompt accuracy, where they were measured, are not measurably more than
    ``max_loss`` below."""
    pairs = [(own.recall, other.recall), (own.prompt_accuracy, other.prompt_accuracy)]
    return all(
        mine is None or its is None or mine.high >= its.value - max_loss for mine, its in pairs
    )


def _described(chosen: Finalist, closest: Finalist, baseline: Baseline, batch: int) -> str:
    latency, evaluations = chosen.latency.median, chosen.report.evaluations
    plural = "" if evaluations == 1 else "s"
    facts = [f"{evaluations:g} evaluation{plural}", f"{latency / batch:.1f} ms a picture"]
    if baseline.latency_ms is not None:
        ratio = baseline.latency_ms / latency
        facts[-1] += f" ({ratio:.0f} times faster than 1000 ancestral steps in eager float32)"
    if chosen.report.ode_error is not None:
        facts.append(_ode_error_described(chosen.report.ode_error))
    if chosen.fresh is not None:
        facts.append(f"{chosen.fresh.rmse:.4f} on {chosen.fresh.n} samples of fresh noise")
    if chosen.final_quality is not None:
        facts.append(_fd_described(chosen, closest))
        recall = chosen.final_quality.quality.recall
        if recall is not None:
            facts.append(f"recall {recall.value:.2f}")
        met = chosen.final_quality.quality.prompt_accuracy
        if met is not None:
            facts.append(f"prompts met {met.value:.1%} (n = {met.n})")
    return ", ".join(facts)


def _ode_error_described(ode_error: OdeError) -> str:
    interval = f"95%: {ode_error.low:.4f} to {ode_error.high:.4f}, n = {ode_error.n}"
    return f"ODE error {ode_error.rmse:.4f} ({interval})"


def _fd_described(chosen: Finalist, closest: Finalist) -> str:
    assert chosen.final_quality is not None
    fd, excess = chosen.final_quality.quality.fd, chosen.final_quality.excess_fd
    details = f"95%: {fd.low:.2f} to {fd.high:.2f}, n = {fd.n}"
    if closest.final_quality is not None:
        details += f"; the most faithful plan's {closest.final_quality.quality.fd.value:.2f}"
    if excess is not None:
        details += f", paired difference within ±{(excess.high - excess.low) / 2:.2f}"
    return f"FD {fd.value:.2f} ({details})"
