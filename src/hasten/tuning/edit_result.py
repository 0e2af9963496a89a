"""What a search for an edit has found, as data, in a sentence and as a table."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

from hasten.core.files import write_text
from hasten.core.report import Conditions, finite
from hasten.core.words import in_words
from hasten.editing.edit_plan import EditPlan
from hasten.editing.stream import Streaming
from hasten.measuring.conditions import conditions
from hasten.tuning.edit_search import EditSearch
from hasten.tuning.edit_trials import EditRecord
from hasten.tuning.pareto import front
from hasten.tuning.records import UnsupportedPlan
from hasten.tuning.serialization import Json, to_json
from hasten.tuning.table import SHORT_DTYPES, print_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditTuning:
    """The fastest edit that was found.

    Attributes:
        best: how it is made; why: one sentence; passed: whether it is as good as the reference
            edit, or only came nearest.
        front: what no other edit beats in speed and in what it misses, fastest first, and the best.
        records: every edit that was measured, the best first; the reference edit is ``reference``.
        frames: that all of them were compared on, at most.
        unsupported: edits that cannot be made here, and why; notes: what was left out.
    """

    model: str
    best: EditPlan
    why: str
    passed: bool
    reference: EditPlan
    front: tuple[EditRecord, ...]
    records: tuple[EditRecord, ...]
    frames: int
    max_loss: float
    seed: int
    unsupported: tuple[UnsupportedPlan, ...]
    notes: tuple[str, ...]
    measurements: int
    seconds: float
    conditions: Conditions

    @staticmethod
    def of(search: EditSearch) -> EditTuning:
        """What ``search`` has found."""
        runner, ranked = search.runner, search.ranked()
        chosen = ranked[0]
        best = front(ranked, lambda record: record.frame_s, lambda record: record.worst.missing)
        if chosen not in best:
            best = sorted([*best, chosen], key=lambda record: record.frame_s)
        if search.not_tried:
            runner.notes.append(
                f"{search.not_tried} measurements were left out, because time ran out"
            )
        if search.whole > 1 and importlib.util.find_spec("cv2") is None:
            runner.notes.append("warp error was not measured; pip install opencv-python-headless")
        rest = [record for record in search.records.values() if record not in ranked]
        return EditTuning(
            model=search.trials.executor.model.name,
            best=chosen.settings,
            why=_why(chosen, search),
            passed=chosen.passes,
            reference=search.reference,
            front=tuple(best),
            records=(*ranked, *sorted(rest, key=lambda record: record.rank)),
            frames=search.whole,
            max_loss=search.max_loss,
            seed=search.trials.executor.seed,
            unsupported=tuple({refused.why: refused for refused in runner.unsupported}.values()),
            notes=tuple(runner.notes),
            measurements=runner.measurements,
            seconds=runner.elapsed_s,
            conditions=conditions(search.trials.executor.model.device),
        )

    def to_dict(self) -> Json:
        """Plain data; ``report.json`` holds it."""
        return {
            **to_json(self),
            "front": [record.to_dict() for record in self.front],
            "records": [record.to_dict() for record in self.records],
            "unsupported": [plan.to_dict() for plan in self.unsupported],
        }

    def write(self, out: str | Path) -> None:
        """Write ``plan.json``, for ``hasten edit --plan``, and ``report.json`` to ``out``."""
        self.best.write(Path(out) / "plan.json")
        body = json.dumps(finite(self.to_dict()), indent=1)
        write_text(Path(out) / "report.json", body + "\n")

    def print_front(self) -> None:
        """Print the front to stdout as a table."""
        names = ("method", "plan", "engine", "frames share", "frames/s", "met", "strength")
        names += ("PSNR", "flicker", "warp error", "misses")
        print_table(names, [_cells(record) for record in self.front], names[:4])


def _why(chosen: EditRecord, search: EditSearch) -> str:
    reference = search.records[search.reference]
    plan = search.reference.plan
    assert plan is not None
    of = f"the reference edit ({search.reference.method}, {plan.steps} steps, every frame)"
    own, other = chosen.own, chosen.score.quality.reference
    facts = [
        f"{1 / max(chosen.frame_s, 1e-9):.3g} frames a second, "
        f"{reference.frame_s / max(chosen.frame_s, 1e-9):.3g} times as many as the reference",
        f"{own.strength / other.strength:.0%} of its strength",
    ]
    facts += [] if own.met is None else [f"prompt met in {own.met:.0%} of the frames"]
    facts += [] if own.psnr is None else [f"background {own.psnr:.3g} dB"]
    said = f"{chosen.settings.method}, {', '.join(facts)}"
    if chosen.passes:
        return f"The fastest edit that loses at most {search.max_loss:g} against {of}: {said}."
    return f"No edit is as good as {of} should be; this one came nearest ({chosen.worst}): {said}."


def _cells(record: EditRecord) -> tuple[str, ...]:
    """A record's cells of the table."""
    settings, own, plan = record.settings, record.own, record.settings.plan
    assert plan is not None
    share = [f"every {settings.every}"] if settings.every > 1 else []
    share += [f"similar {settings.similar:g}"] if settings.similar else []
    share += [f"depth {settings.depth}"] if settings.depth != Streaming.depth else []
    shown = [own.met, own.strength, own.psnr, own.flicker, own.warp_error]
    return (
        settings.method,
        in_words(plan, engine=False),
        f"{plan.engine} {SHORT_DTYPES[plan.dtype]}",
        ", ".join(share),
        f"{1 / max(record.frame_s, 1e-9):.3g}",
        *("" if value is None else f"{value:.3g}" for value in shown),
        "" if record.passes else record.worst.name,
    )
