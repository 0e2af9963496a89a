"""The teacher's trajectories from noise to picture, made once and stored in shards."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path as Folder

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from tqdm import tqdm

from hasten.core.artifact import digest
from hasten.core.call import Call, Denoiser
from hasten.core.condition import Condition
from hasten.core.denoiser import Guided, NetworkDenoiser, classifier_free
from hasten.core.errors import require
from hasten.core.files import write_bytes
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.plan import Plan
from hasten.core.random_streams import Seed, generator
from hasten.core.solver import solvers, trace
from hasten.core.transfer import sent
from hasten.sampling import build, prepare, run
from hasten.training.budget import Deadline

SHARD = 1024  # trajectories in a file
SOLVER = "dpmpp(order=3)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trajectories:
    """Rows (1 + states, *shape): the start, of unit spread (standard normal noise, where it is
    noise), then the states at the levels of each kind of trajectory after its first, in half
    precision on the disk; labels in turn, the null one among them."""

    files: tuple[Folder, ...]
    count: int
    labels: torch.Tensor | None

    def __len__(self) -> int:
        return self.count

    def at(self, index: np.ndarray, key: tuple[int, ...], device: torch.device) -> torch.Tensor:
        rows = [_row(self.files[i // SHARD], i % SHARD) for i in np.asarray(index).tolist()]
        return sent(torch.cat(rows), device).float()


def _row(file: Folder, place: int) -> torch.Tensor:
    """One row of a file that is mapped, not read, so that all trajectories need not fit into
    memory."""
    return _open(file).get_slice("rows")[place : place + 1]


@functools.lru_cache(maxsize=512)
def _open(file: Folder) -> safe_open:
    return safe_open(str(file), framework="pt").__enter__()


def teacher_trajectories(
    model: Model,
    kinds: Sequence[tuple[Level, ...]],
    beside: Folder,
    *,
    count: int,
    steps: int,
    guidance: float = 1.0,
    start: str = "noise",
    engine: str = "eager",
    quiet: bool = True,
    deadline: Deadline | None = None,
) -> Trajectories:
    """``count`` trajectories of ``model`` from ``start`` through the levels of every one of
    ``kinds``, ``steps`` steps in each; shards that are there already stay, so that a run which was
    ended goes on.

    They lie in a folder next to ``beside`` that everything distilled there shares.

    Raises:
        UserError: they will not be there before ``deadline``, by the time that the first took.
    """
    levels = [[(level.t, level.alpha, level.sigma) for level in kind] for kind in kinds]
    asked = [list(model.prompts)] if model.prompts else []
    subject = json.dumps([digest(model), levels, steps, guidance, start, SOLVER, *asked])
    key = hashlib.sha256(subject.encode()).hexdigest()[:12]
    folder = beside.parent / f"trajectories-{key}"
    if (beside.parent / f"walks-{key}").exists():  # as older versions named it
        folder = beside.parent / f"walks-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    shards = -(-count // SHARD)
    files = tuple(folder / f"{number:06d}.safetensors" for number in range(shards))
    bar = tqdm(files, desc="teacher trajectories", disable=quiet, file=sys.stderr)
    solver, made, before = None, 0, 0.0 if deadline is None else deadline.left
    for number, file in enumerate(bar):
        if file.exists():
            continue
        solver = solver or _TrajectorySolver(model, kinds, steps, guidance, start, engine)
        rows = solver(range(number * SHARD, (number + 1) * SHARD))
        write_bytes(file, save({"rows": rows.half()}))
        made += 1
        if deadline is not None:
            each = (before - deadline.left) / made
            rest = sum(not other.exists() for other in files)
            require(
                each * rest <= deadline.left,
                f"minutes: {count} teacher trajectories take about {each * shards / 60:.0f} "
                "minutes here, and training comes after them; give more --minutes, or fewer "
                "trajectories. Those that were made stay.",
            )
    return Trajectories(files=files, count=count, labels=labels_in_turn(model, range(count)))


def labels_in_turn(model: Model, numbers: range) -> torch.Tensor | None:
    """The labels of trajectories in turn, the null label among them; None for a model without
    labels."""
    if model.labels is None:
        return None
    every = [*range(model.labels), *([] if model.null_label is None else [model.null_label])]
    return torch.tensor([every[i % len(every)] for i in numbers])


class _TrajectorySolver:
    """Trajectories each interval of each course by its own program, from where the last one
    ended."""

    def __init__(
        self,
        model: Model,
        kinds: Sequence[tuple[Level, ...]],
        steps: int,
        guidance: float,
        start: str,
        engine: str,
    ) -> None:
        self.model = model
        plan = Plan(engine=engine, start=start)
        net = prepare(model, plan)
        self.begin = build(model, plan, net=net).begin
        denoiser: Denoiser = NetworkDenoiser(model, net)
        if guidance != 1.0 and model.guidable:
            denoiser = Guided(denoiser, classifier_free(guidance))
        self.denoiser = denoiser
        self.programs = [
            [
                trace(solvers.parse(SOLVER), levels_between(model.schedule, here, there, count))
                for (here, there), count in zip(
                    itertools.pairwise(kind), _shares(kind, steps), strict=True
                )
            ]
            for kind in kinds
        ]

    @torch.inference_mode()
    def __call__(self, numbers: range, batch: int = 64) -> torch.Tensor:
        parts = [numbers[i : i + batch] for i in range(0, len(numbers), batch)]
        return torch.cat([self._solved(part) for part in parts])

    def _solved(self, numbers: range) -> torch.Tensor:
        model = self.model
        draws = [
            torch.randn(model.shape, generator=generator(Seed.TRAJECTORIES, i)) for i in numbers
        ]
        noise = torch.stack(draws).to(model.device)
        labels = labels_in_turn(model, numbers)
        condition = Condition.none(len(numbers))
        if labels is not None:
            condition = Condition.labels_of(labels.to(model.device), model.null_label)

        def denoise(x: torch.Tensor, level: Level) -> torch.Tensor:
            call = Call(x=x, levels=(level,) * len(x), condition=condition)
            x0 = self.denoiser([call])[0].x0
            bound = model.codec.bound
            return x0 if bound is None else x0.clamp(-bound, bound)

        top = self.programs[0][0].start
        first = self.begin(noise, top, condition) / top.spread
        rows = [first]
        for programs in self.programs:
            x = first * programs[0].start.spread
            for program in programs:
                x = run(program, denoise, x / program.start.spread)
                rows.append(x)
        return torch.stack(rows, dim=1).cpu()


def _shares(kind: tuple[Level, ...], steps: int) -> list[int]:
    """``steps`` spread over the intervals between its levels, at least one in each."""
    count = len(kind) - 1
    return [max(1, (steps * (i + 1)) // count - (steps * i) // count) for i in range(count)]


def levels_between(schedule: NoiseSchedule, here: Level, there: Level, steps: int) -> list[Level]:
    """``steps`` + 1 levels from ``here`` to ``there``, evenly in log-SNR; towards a clean picture
    as far as the schedule was trained, then to the end."""
    low = schedule.at(schedule.low).half_log_snr
    clean = there.sigma == 0
    end = low if clean else there.half_log_snr
    begin = max(here.half_log_snr, schedule.at(schedule.noisy).half_log_snr, -20.0)
    inner = np.linspace(begin, end, steps + (not clean))[1 : None if clean else -1]
    middle = [schedule.at(schedule.position(float(value))) for value in inner if value > begin]
    return [here, *middle, there]
