"""An edit of a region of a picture, computed there alone and in full (SIGE, 2211.02048): ``python
-m benchmarks.regions [NETWORK ...] [--device cuda] [--dtype float16]``.

A picture is edited, then one of which a square has been replaced: once by an editor with the lever
``regions``, which has seen the first, and once without. Weights are random, of the sizes that are
said, so times, multiply-accumulates and memory are those of a trained network, and the error is
not; the second edit is held against how much it differs from the first, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

import hasten
from benchmarks.results_io import write
from hasten.adapters.families import Network
from hasten.adapters.prompted import Prompted
from hasten.adapters.quiet import diffusers
from hasten.adapters.regions import macs
from hasten.core.ask import MAIN
from hasten.core.draws import Draws
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.stepping import follow
from hasten.editing.edit import Editor
from hasten.editing.method import SOURCE, methods
from hasten.levers.regions import KeptRow
from hasten.measuring.timer import side_by_side
from hasten.sampling import build

SHARES = (0.1, 0.05)  # of the picture, about
PLAN, METHOD = "solver=ddim,grid=uniform,steps=8", "sdedit(strength=0.5)"
ROUNDS = 7
Row = dict[str, Any]


def stable_diffusion(
    widths: tuple[int, ...] = (320, 640, 1280, 1280), words: int = 768, heads: int = 8
) -> Prompted:
    """The U-Net of Stable Diffusion 1, by default, with two prompts."""
    net = diffusers().UNet2DConditionModel(
        sample_size=64,
        block_out_channels=widths,
        cross_attention_dim=words,
        attention_head_dim=heads,
        norm_num_groups=min(32, widths[0] // 2),
    )
    return Prompted(net, torch.randn(2, 77, words))


def pixels() -> nn.Module:
    """A U-Net of pictures of 128 x 128, 28 million parameters."""
    return diffusers().UNet2DModel(
        sample_size=128,
        block_out_channels=(128, 128, 256, 256),
        down_block_types=("DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "stable-diffusion": stable_diffusion,
    "pixels": pixels,
    "tiny": lambda: stable_diffusion((8, 8, 16, 16), 16, 2),  # to see that this file runs
}


def model_of(name: str, device: str) -> Model:
    """Random weights, the same every time."""
    torch.manual_seed(0)
    net = NETWORKS[name]().eval().requires_grad_(False)
    prompts = 1 if isinstance(net, Prompted) else None
    config: Any = net.module.config if isinstance(net, Prompted) else net.config
    return Model(
        net=Network(net).to(device),
        schedule=hasten.schedule("ddpm"),
        prediction=hasten.prediction("epsilon"),
        shape=(config.in_channels, config.sample_size, config.sample_size),
        labels=prompts,
        null_label=prompts,
        name=name,
    )


def changed(model: Model, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture, and the same with another one's content in a square of about this ``share``."""
    channels, size, _ = model.shape
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, channels, 8, 8, generator=generator)
    one, other = nn.functional.interpolate(coarse, (size, size), mode="bilinear").split(1)
    side = round(share**0.5 * size)
    first = (size - side) // 2
    square = (..., slice(first, first + side), slice(first, first + side))
    both = one.clone()
    both[square] = other[square]
    return one, both


@torch.inference_mode()
def latents(editor: Editor, picture: torch.Tensor) -> torch.Tensor:
    """The edit of ``picture`` before it is decoded."""
    model = editor.sampler.model
    conditions = {name: model.condition(1) for name in (MAIN, SOURCE)}
    session, steps = editor.begun(picture, conditions, Draws(0, [0], model))
    return follow(steps, session.answer)


def compared(model: Model, dtype: str) -> Iterator[Row]:
    plan = Plan.read(PLAN).model_copy(update={"dtype": dtype})
    for share in SHARES:
        before, after = changed(model, share)
        editors = [
            Editor.of(build(model, each), methods.parse(METHOD), masked=False)
            for each in (plan, plan.with_lever("regions"))
        ]
        whole, part = editors
        first = latents(part, before)
        wanted, got = latents(whole, after), latents(part, after)
        times = side_by_side(
            [lambda e=e, x=after: latents(e, x) for e in editors],
            device=model.device,
            rounds=ROUNDS,
        )
        seconds = {
            name: {"median": time.median, "interval": [time.low, time.high], "n": time.n}
            for name, time in zip(("full", "regions"), times, strict=True)
        }
        costs = [macs(lambda e=e, x=after: latents(e, x)) for e in editors]
        yield {
            "network": model.name,
            "parameters": sum(value.numel() for value in model.net.parameters()),
            "shape": model.shape,
            "share": float((before != after).any(1).float().mean()),
            "evaluations": part.program.evaluations,
            "seconds": seconds,
            "times_faster": times[0].median / times[1].median,
            "macs": {"full": costs[0], "regions": costs[1]},
            "times_fewer_macs": costs[0] / costs[1],
            "error_of_spread": relative(got, wanted),
            "changed_of_spread": relative(first, wanted),
            "kept_mb_an_evaluation": kept_mb(part) / part.program.evaluations,
        }


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The root mean square of a difference over the standard deviation of ``wanted``."""
    return float((got - wanted).square().mean().sqrt() / wanted.std())


def kept_mb(editor: Editor) -> float:
    """Megabytes of features that an editor keeps."""
    rows = [one for one in editor.kept.values() if isinstance(one, KeptRow)]
    every = {id(feature): feature for one in rows for feature in one.features}.values()
    return sum(feature.numel() * feature.element_size() for feature in every) / 1e6


def main(
    names: Sequence[str] = ("stable-diffusion", "pixels"),
    device: str = "cpu",
    dtype: str = "float32",
) -> None:
    rows = [row for name in names for row in compared(model_of(name, device), dtype)]
    what = f"edits of a region, {METHOD} of {PLAN} in {dtype}: in full and in regions, in turn"
    if "tiny" in names:
        for row in rows:
            print(row)
    else:
        write("regions" if device == "cpu" else f"regions_{device}", what, rows, device)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["stable-diffusion", "pixels"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    main(**vars(parser.parse_args()))
