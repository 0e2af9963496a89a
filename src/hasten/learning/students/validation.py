"""Validation of a student while it learns: pictures of fixed noise, FD, the curve."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import NotRequired, TypedDict

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hasten.core.files import read_json, write_text
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.random_streams import Seed
from hasten.core.report import Estimate
from hasten.learning.students.base import PlanFields
from hasten.measuring.measure import pictures_of
from hasten.measuring.prompts import checked_prompts
from hasten.measuring.quality import Quality, quality
from hasten.measuring.real import Real
from hasten.media.pictures import save_png
from hasten.sampling import build
from hasten.training.loop import Enough
from hasten.training.previews import preview_sheet

FRAME_MS = 250
MEASURED = ("fd", "recall", "prompt_accuracy")


class CurvePoint(TypedDict):
    """What a preview measured of a student ``at`` a time (seconds since 1970), after ``pictures``
    of a stage: FD, recall and, of prompts that can be checked, prompt accuracy of ``n`` pictures of
    ``plan``."""

    stage: str
    plan: str
    pictures: int
    at: float
    fd: float
    recall: float | None
    prompt_accuracy: NotRequired[float | None]
    n: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """Validates students in the folder ``run`` by the FD of ``n`` of their pictures to ``real``
    ones, where there are any."""

    run: Path
    real: Real | None
    n: int
    patience: int = 0

    def preview(self, student: Model, plan: Plan, stage: str, seen: int) -> dict[str, float] | None:
        """Write a preview and a line of the curve; returns what the progress bar shows.

        Raises:
            Enough: FD was no better for ``patience`` previews.
        """
        sampler = build(student, plan)
        place = self.run / "previews" / f"{stage}-{seen:010d}.png"
        save_png(preview_sheet(sampler), place, {"pictures": seen}, zoom=2)
        if self.real is None:
            return None
        measured = self._quality(student, plan, Seed.VALIDATION)
        row: CurvePoint = {
            "stage": stage,
            "plan": str(plan),
            "pictures": seen,
            "at": round(time.time(), 1),
            "fd": measured.fd.value,
            "recall": measured.recall and measured.recall.value,
            "prompt_accuracy": measured.prompt_accuracy and measured.prompt_accuracy.value,
            "n": self.n,
        }
        rows = [r for r in self.curve() if (r["stage"], r["pictures"]) != (stage, seen)]
        write_text(self.run / "curve.json", json.dumps([*rows, row], indent=1) + "\n")
        self._store_best(student, stage, [r["fd"] for r in rows if r["stage"] == stage], row["fd"])
        return {"fd": row["fd"]}

    def _store_best(self, student: Model, stage: str, before: list[float], fd: float) -> None:
        if self.patience == 0 or stage == "convert":
            return
        if fd < min(before, default=float("inf")):
            weights = {
                k: v.detach().cpu().contiguous() for k, v in student.net.state_dict().items()
            }
            save_file(weights, str(self._best(stage)))
            return
        least = before.index(min(before))
        if len(before) - least >= self.patience:
            raise Enough

    def best(self, stage: str) -> dict[str, torch.Tensor] | None:
        """The weights with the best FD of a stage that may end early, None where none may."""
        file = self._best(stage)
        return load_file(str(file)) if self.patience and file.exists() else None

    def _best(self, stage: str) -> Path:
        return self.run / f"best-{stage}.safetensors"

    def curve(self) -> list[CurvePoint]:
        """What was seen so far: FD and recall by stage and pictures."""
        file = self.run / "curve.json"
        return read_json(file) if file.exists() else []

    def best_choice(self, student: Model, choices: list[list[PlanFields]]) -> list[PlanFields]:
        """The choice whose first plan has the best FD; the middle one where there are no real
        pictures."""
        if self.real is None or len(choices) == 1:
            return choices[len(choices) // 2]
        fds = [
            self._quality(student, Plan(**plans[0]), Seed.VALIDATION).fd.value for plans in choices
        ]
        return choices[fds.index(min(fds))]

    def final_quality(
        self, student: Model, plans: list[PlanFields]
    ) -> list[dict[str, dict[str, float] | None]]:
        """FD, recall and prompt accuracy of each plan, of other pictures than those of previews."""
        if self.real is None:
            return []
        out = []
        for fields in plans:
            pictures = pictures_of(build(student, Plan(**fields)), 2 * self.n)
            prompts = checked_prompts(student, len(pictures))
            measured = quality(pictures, self.real, prompts)
            out.append({name: _plain(getattr(measured, name)) for name in MEASURED})
        return out

    def _quality(self, student: Model, plan: Plan, seed: int) -> Quality:
        assert self.real is not None
        condition = None if student.labels is None else [i % student.labels for i in range(self.n)]
        pictures = build(student, plan).sample(self.n, seed=seed, condition=condition)
        return quality(pictures, self.real, checked_prompts(student, self.n))

    def animation(self, file: Path) -> None:
        """A GIF of the student learning, of all previews."""
        places = sorted((self.run / "previews").glob("*.png"), key=lambda p: p.stat().st_mtime_ns)
        frames = [Image.open(place).convert("RGB") for place in places]
        if frames:
            times = [FRAME_MS] * (len(frames) - 1) + [2000]
            frames[0].save(file, save_all=True, append_images=frames[1:], duration=times, loop=0)


def _plain(value: Estimate | None) -> dict[str, float] | None:
    return None if value is None else dataclasses.asdict(value)
