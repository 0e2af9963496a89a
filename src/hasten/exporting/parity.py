"""Whether an exported folder makes the pictures that hasten makes, before it is called done."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
import shutil
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from hasten.core.condition import COND, Condition, PerSample, as_condition
from hasten.core.errors import UserError
from hasten.exporting.bundle import DECODER, NET, START, TEXT, Bundle
from hasten.exporting.runner import RUNNERS
from hasten.exporting.target import Condition as Given
from hasten.exporting.target import Target

PICTURES = 3
LEAST_DB = 45.0
INTEGERS, INTEGERS_DB = 0.25, 30.0  # of few bits, or bfloat16: their pictures decide


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """``apart``: the largest relative distance (root mean square) of a network call from eager
    float32; ``psnr``: the least of a picture, in decibels; of ``n`` pictures."""

    apart: float
    psnr: float
    n: int

    def to_dict(self) -> dict[str, object]:
        return {**dataclasses.asdict(self), "psnr": min(self.psnr, 999.0)}


def parity(bundle: Bundle, target: Target, folder: Path) -> Parity:
    """Runs what lies in ``folder`` in its own runtime, by the runner's own rows, beside eager.

    Raises:
        UserError: an answer or a picture is farther from eager than the target's bound.
    """
    calls = {name: target.network(bundle, folder, name) for name in bundle.networks()}
    runner = _runner(bundle.to_json())
    apart, least = 0.0, math.inf
    model, sampler = bundle.model, bundle.first
    for number in range(PICTURES):
        label = None if model.labels is None else number % model.labels
        label = label if label is not None or model.null_label is None else model.null_label

        def both(x: np.ndarray, t: float, given: Given = None, name: str = NET) -> np.ndarray:
            nonlocal apart
            latent = torch.from_numpy(np.ascontiguousarray(x))
            theirs, net = calls[name](latent, float(t), given), bundle.networks()[name].net
            condition = _condition(bundle, given, name)
            with torch.inference_mode():
                mine = net(latent, torch.tensor([t], dtype=torch.float32), condition).float()
            here = float((theirs - mine).norm() / mine.norm().clamp(min=1e-12))
            apart = max(apart, here if math.isfinite(here) else math.inf)
            return theirs.numpy()

        others = {
            name: functools.partial(both, name=name) if name in calls else None
            for name in (START, DECODER)
        }
        given, null = label, None
        if bundle.text is not None:
            read, prompt = _reader(folder), model.prompts[label or 0]
            given, null = (both(read.tokens(text), 0.0, name=TEXT) for text in (prompt, ""))
        theirs = torch.from_numpy(runner.sample(both, number, given, null=null, **others))
        mine = _eager(bundle, runner, number, label)
        error = float((theirs - mine).square().mean())
        least = min(least, math.inf if error == 0 else -10 * math.log10(error))
    result = Parity(apart=apart, psnr=least, n=PICTURES)
    rough = bundle.integers or bundle.dtype != "float32"
    bound, decibels = (INTEGERS, INTEGERS_DB) if rough else (target.bound, LEAST_DB)
    if not (apart <= bound and least >= decibels):
        raise UserError(
            f"target {target.part_name!r}: a network call is {apart:.2g} (relative) and a picture "
            f"{least:.0f} dB from eager float32 of {sampler.plan}, and {bound:g} and "
            f"{decibels:g} dB are the bounds; nothing was written. Export another plan or target."
        )
    return result


def _condition(bundle: Bundle, given: Given, name: str) -> Condition | None:
    """``given`` as the network ``name`` takes it."""
    if isinstance(given, np.ndarray):
        return Condition(1, {COND: {"words": PerSample(torch.from_numpy(given))}})
    labelled = bundle.networks()[name].labels is not None
    return as_condition(torch.tensor([given or 0]), 1) if labelled else None


def _eager(bundle: Bundle, runner: ModuleType, seed: int, label: int | None) -> torch.Tensor:
    """The picture by hasten's own sampler from the runner's noise."""
    model, sampler = bundle.model, bundle.first
    if bundle.start is not None:
        net, draw = bundle.start.net, torch.from_numpy(runner.uniforms(seed, 0, 1)).float()
        sampler = dataclasses.replace(
            sampler, begin=lambda x, level, condition: net(x, draw, condition.labels)
        )
    drawn = iter(range(1, 1 << 20))

    def fresh(*_: object) -> torch.Tensor:
        return torch.from_numpy(runner.normals(seed, next(drawn)))

    condition = bundle.model.condition(1, label)
    noise = torch.from_numpy(runner.normals(seed, 0))
    with torch.inference_mode():
        return model.codec.decode(sampler.latents(noise, condition, fresh))[0]


def _runner(bundle: str) -> ModuleType:
    """The runner that is exported, beside ``bundle``."""
    with tempfile.TemporaryDirectory(prefix="hasten-export-") as folder:
        (Path(folder) / "bundle.json").write_text(bundle, encoding="utf-8")
        return _module(Path(shutil.copy(RUNNERS / "run.py", folder)))


def _reader(folder: Path) -> ModuleType:
    """What reads the ``text.json`` of ``folder`` in Python."""
    module = _module(RUNNERS / "prompts.py")
    module.TEXT = folder / module.TEXT.name  # type: ignore[attr-defined]
    return module


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"hasten_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
