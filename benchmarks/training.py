"""The training loop against the bare forward, backward and optimizer step of its network."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.results_io import write
from hasten.core.codec import codecs
from hasten.measuring.timer import once
from hasten.training.ema import EMA
from hasten.training.loop import Training
from hasten.training.recipe import Recipe, load_recipe
from hasten.training.train import prepared, rows_of

ROOT = Path(__file__).parents[1]
BLOCK, BLOCKS = 8, 9


class Noise:
    """Random pictures with labels, in memory, as `Pictures` holds real ones."""

    def __init__(self, n: int, shape: tuple[int, ...]) -> None:
        self.all = torch.randint(0, 256, (n, *shape), dtype=torch.uint8)
        self.labels = torch.randint(0, 10, (n,))

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, index: np.ndarray) -> torch.Tensor:
        return self.all[torch.from_numpy(index)]


def main() -> None:
    from accelerate import Accelerator

    recipe = load_recipe(ROOT / "recipes" / "mnist.yaml", Recipe)
    net, objective = prepared(recipe)
    net.to(memory_format=torch.channels_last)
    batch = recipe.optimizer.batch
    accelerator = Accelerator(mixed_precision=recipe.precision)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-6, foreach=True)
    ready, optimizer = accelerator.prepare(net, optimizer)
    with tempfile.TemporaryDirectory() as folder:
        training = Training(
            recipe=recipe,
            objective=objective,
            net=net,
            rows=rows_of(recipe, Noise(60_000, recipe.data.shape)),  # type: ignore[arg-type]
            run=Path(folder),
        )
        ema, step = EMA(net, recipe.ema), iter(range(10**6))

        def loop() -> None:
            for _ in range(BLOCK):
                number = next(step)
                training._step_(accelerator, ready, optimizer, number, 10**6)
                ema.update_(net, number)

        shape = codecs.parse(recipe.codec).encoded_shape(recipe.data.shape)
        x, target = torch.randn(batch, *shape), torch.randn(batch, *shape)
        t, labels = torch.rand(batch) * 999, torch.randint(0, 10, (batch,))

        def bare() -> None:
            for _ in range(BLOCK):
                loss = torch.nn.functional.mse_loss(ready(x, t, labels).float(), target)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

        once(loop), once(bare)
        ratios, rates = [], []
        for block in range(BLOCKS):
            pair = (once(loop), once(bare)) if block % 2 else (once(bare), once(loop))[::-1]
            ratios.append(pair[1] / pair[0])
            rates.append(BLOCK * batch / pair[0])
    row = {
        "what": "training rate over the bare forward, backward and step",
        "value": statistics.median(ratios),
        "pictures_per_s": statistics.median(rates),
        "batch": batch,
        "dtype": recipe.precision,
        "n": BLOCKS,
    }
    write("training", "what the training loop adds to the network", [row])


if __name__ == "__main__":
    main()
