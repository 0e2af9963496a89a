"""FD, KD, precision and recall of the same features by hasten, torchmetrics and torch-fidelity."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

import torch

import hasten
from benchmarks.results_io import write
from hasten.core.report import Estimate
from hasten.data.rows import evenly_spread
from hasten.measuring.frechet import frechet_estimate, statistics
from hasten.measuring.kernel import kernel_estimate
from hasten.measuring.precision_recall import precision_recall
from hasten.measuring.real import real_for

N = 2000
PLAN = hasten.Plan(solver="unipc(order=3)", grid="uniform", steps=6)
NAMES = ("fd", "kd", "precision", "recall")
INSTALL = "pip install torch-fidelity"
Numbers = dict[str, float]


class Given(torch.nn.Module):
    """Features (n, d) that are handed over as they are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows


def torchmetrics(ours: torch.Tensor, real: torch.Tensor, cut: torch.Tensor) -> Numbers:
    """FD against ``real``, KD against ``cut``, as torchmetrics computes them."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    given = Given(ours.shape[1])
    fd = FrechetInceptionDistance(feature=given, normalize=True)
    kd = KernelInceptionDistance(feature=given, normalize=True, subsets=1, subset_size=N)
    for metric, rows in ((fd, real), (kd, cut)):
        metric.update(rows, real=True)
        metric.update(ours, real=False)
    return {"fd": float(fd.compute()), "kd": float(kd.compute()[0])}


def torch_fidelity(ours: torch.Tensor, real: torch.Tensor, cut: torch.Tensor) -> Numbers | None:
    """All four as torch-fidelity computes them; None where it is not installed."""
    if importlib.util.find_spec("torch_fidelity") is None:
        return None
    import torch_fidelity.metric_fid as fid  # type: ignore[import-not-found]
    import torch_fidelity.metric_kid as kid  # type: ignore[import-not-found]
    import torch_fidelity.metric_prc as prc  # type: ignore[import-not-found]

    both = [fid.fid_features_to_statistics(rows) for rows in (ours, real)]
    fd = fid.fid_statistics_to_metric(*both, False)
    kd = kid.kid_features_to_metric(ours, cut, kid_subsets=1, kid_subset_size=N, verbose=False)
    shares = prc.prc_features_to_metric(ours, cut, verbose=False)
    values = (fd[fid.KEY_METRIC_FID], kd[kid.KEY_METRIC_KID_MEAN])
    shared = (shares[prc.KEY_METRIC_PRECISION], shares[prc.KEY_METRIC_RECALL])
    return dict(zip(NAMES, (*values, *shared), strict=True))


def stand_in_for_torchvision() -> None:
    """torch-fidelity, which torchmetrics imports where it is there, imports torchvision for its
    data sets and networks; the arithmetic, which is all that is used here, does without."""
    here = [name for name in ("torch_fidelity", "torchvision") if importlib.util.find_spec(name)]
    if here != ["torch_fidelity"]:
        return
    for name in ("", ".datasets", ".models", ".transforms", ".transforms.functional"):
        module = Hollow(f"torchvision{name}")
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        sys.modules[module.__name__] = module


class Hollow(types.ModuleType):
    """A module that has every name, each an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        whole = f"{self.__name__}.{name}"
        return sys.modules.get(whole) or type(name, (), {})


def row(name: str, one: Estimate, others: dict[str, Numbers | None]) -> dict[str, Any]:
    """One number by all who compute it, and the largest relative difference from ours."""
    theirs = {who: None if them is None else them.get(name) for who, them in others.items()}
    known = [value for value in theirs.values() if value is not None]
    apart = [abs(value - one.value) / abs(value) for value in known]
    missing = {"note": INSTALL} if others["torch_fidelity"] is None else {}
    return {
        "what": name,
        "hasten": one.value,
        "interval": [one.low, one.high],
        **theirs,
        "relative_difference": max(apart) if apart else None,
        "n": one.n,
        **missing,
    }


def main() -> None:
    model = hasten.load("builtin:mnist")
    real = real_for(model)
    assert real is not None
    assert real.sample is not None
    labels = [i % 10 for i in range(N)]
    features = real.features(hasten.build(model, PLAN).sample(N, condition=labels, seed=1))
    # FD against all of the sample; the rest at equal sizes, as the others have it.
    sample = real.sample.double()
    cut = sample[torch.from_numpy(evenly_spread(len(sample), N))]
    fd, kd = frechet_estimate(features, *statistics(sample)), kernel_estimate(features, cut)
    found = dict(zip(NAMES, (fd, kd, *precision_recall(features, cut)), strict=True))
    stand_in_for_torchvision()
    others = {
        "torchmetrics": torchmetrics(features, sample, cut),
        "torch_fidelity": torch_fidelity(features, sample, cut),
    }
    rows = [row(name, found[name], others) for name in NAMES]
    write("agreement", f"{PLAN} against real pictures, in features: {real.features.name}", rows)


if __name__ == "__main__":
    main()
