"""The training loop that every objective uses.

A step is a pure function of (weights, optimizer, step number): which pictures it sees and what it
draws follow from the recipe's seed and the step, so a run that was killed and resumed ends with the
weights of one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from tqdm import tqdm

from hasten.core.codec import Codec, codecs
from hasten.core.errors import NonFiniteError, UserError, require
from hasten.core.seeds import generator
from hasten.data import Pictures
from hasten.learning import checkpoint
from hasten.learning.ema import EMA
from hasten.learning.order import order
from hasten.learning.recipe import Optimizer, Recipe

DROPOUT, DRAWS, FLIPS = 0, 1, 2  # streams of random numbers within one step
SETTLE = 10  # steps before the rate is measured


class Objective(Protocol):
    """What a step minimises."""

    def loss(
        self,
        net: torch.nn.Module,
        x0: torch.Tensor,
        labels: torch.Tensor | None,
        generator: torch.Generator,
    ) -> torch.Tensor: ...


Preview = Callable[[torch.nn.Module, int], None]


@dataclasses.dataclass
class Training:
    """One run of ``recipe`` with ``objective``, in folder ``run``.

    Attributes:
        net: the network to train, ``net(x, t, cond)``; trained in place.
        preview: called with the averaged network and the pictures seen so far, every so often.
        minutes: the budget; the length of the run is set from the rate of its first steps.
    """

    recipe: Recipe
    objective: Objective
    net: torch.nn.Module
    pictures: Pictures
    run: Path
    preview: Preview | None = None
    minutes: float | None = None
    quiet: bool = False

    def fit_(self) -> EMA:
        """Train (or go on with) the run to its end; returns the averaged weights.

        Raises:
            UserError: the folder holds a run of another recipe.
            NonFiniteError: the loss is not finite; the last good checkpoint stays.
        """
        tracker = None if self.recipe.track == "none" else self.recipe.track
        accelerator = Accelerator(
            mixed_precision=self.recipe.precision, log_with=tracker, project_dir=str(self.run)
        )
        if tracker:
            accelerator.init_trackers(f"hasten-{self.recipe.name}")
        batch, processes = self.recipe.optimizer.batch, accelerator.num_processes
        require(
            batch % processes == 0,
            f"recipe field 'optimizer.batch' is {batch}, no multiple of {processes} processes.",
        )
        ema = EMA(self.net, self.recipe.ema)
        optimizer = _adam(self.net, self.recipe.optimizer)
        step, steps = self._resume_(ema, optimizer)
        if self.recipe.channels_last:
            self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        net, optimizer = accelerator.prepare(self.net, optimizer)
        ema.average = [value.to(accelerator.device) for value in ema.average]
        stepper = torch.compile(net) if self.recipe.compile else net
        self._loop_(accelerator, stepper, optimizer, ema, step, steps)
        if tracker:
            accelerator.end_training()
        return ema

    def _loop_(
        self, accelerator: Accelerator, net: Any, optimizer: Any, ema: EMA, step: int, steps: int
    ) -> None:
        recipe, batch = self.recipe, self.recipe.optimizer.batch
        bar = tqdm(
            total=steps * batch,
            initial=step * batch,
            unit="pic",
            unit_scale=True,
            desc=recipe.name,
            disable=self.quiet or not accelerator.is_main_process,
            file=sys.stderr,
            mininterval=1.0,
        )
        began = settled = time.monotonic()
        measure = self.minutes is not None and step == 0
        recent = None
        while step < steps:
            _set_rate_(optimizer, recipe.optimizer, step, steps)
            loss = self._step_(accelerator, net, optimizer, step)
            ema.update_(self.net, step)
            recent = loss if recent is None else torch.lerp(recent, loss, 0.02)
            step += 1
            bar.update(batch)
            if step % 20 == 0 or step == steps:
                self._log(accelerator, bar, recent, step)
            if measure and step == SETTLE:
                settled = time.monotonic()  # compiling and caching are over
            if measure and step == 4 * SETTLE:
                now = time.monotonic()
                each = (now - settled) / (3 * SETTLE)
                steps = self._budget(accelerator, step, now - began, each, steps)
                bar.total = steps * batch
            if _due(step, batch, recipe.checkpoint_every) or step == steps:
                self._save(accelerator, optimizer, ema, step, steps)
            due = recipe.preview_every and _due(step, batch, recipe.preview_every)
            if self.preview and accelerator.is_main_process and (due or step == steps):
                self._show(ema, step * batch)
        bar.close()

    def _step_(self, accelerator: Accelerator, net: Any, optimizer: Any, step: int) -> torch.Tensor:
        recipe, rank = self.recipe, accelerator.process_index
        index = order(recipe.seed, step, recipe.optimizer.batch, len(self.pictures))
        index = index[rank :: accelerator.num_processes]
        key = (recipe.seed, step, rank)
        x0 = self._batch(index, key, accelerator.device)
        labels = None
        if self.pictures.labels is not None:
            labels = self.pictures.labels[torch.from_numpy(index)].to(accelerator.device)
        draws = generator(*key, DRAWS, device=accelerator.device)
        with _dropout_seeded(generator(*key, DROPOUT).initial_seed(), accelerator.device):
            loss = self.objective.loss(net, x0, labels, draws)
            accelerator.backward(loss)
        accelerator.clip_grad_norm_(net.parameters(), recipe.optimizer.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _batch(self, index: Any, key: tuple[int, ...], device: torch.device) -> torch.Tensor:
        pictures = self.pictures[index].to(device).float() / 255
        if self.recipe.data.flip:
            coin = torch.rand(len(index), generator=generator(*key, FLIPS)) < 0.5
            pictures = torch.where(coin.to(device).view(-1, 1, 1, 1), pictures.flip(-1), pictures)
        return self.codec.encode(pictures)

    @property
    def codec(self) -> Codec:
        return codecs.parse(self.recipe.codec)

    def _log(self, accelerator: Accelerator, bar: Any, loss: torch.Tensor, step: int) -> None:
        value = float(loss)
        if not math.isfinite(value):
            raise self._not_finite(f"the loss is {value}", step)
        bar.set_postfix(loss=f"{value:.4f}", refresh=False)
        if self.recipe.track != "none":
            accelerator.log({"loss": value, "pictures": step * self.recipe.optimizer.batch}, step)

    def _not_finite(self, what: str, step: int) -> NonFiniteError:
        return NonFiniteError(
            f"{what} near step {step} of {self.recipe.name!r}; the last good checkpoint stays. "
            "Lower optimizer.rate, or use precision: no."
        )

    def _budget(
        self, accelerator: Accelerator, step: int, spent: float, each: float, steps: int
    ) -> int:
        """The run's length in steps: what fits into ``minutes``, at most the recipe's; the same on
        every process."""
        assert self.minutes is not None
        mine = min(steps, max(step, step + int((self.minutes * 60 - spent) / each)))
        every: Any = accelerator.gather(torch.tensor([mine], device=accelerator.device))
        return int(every.min())

    def _save(
        self, accelerator: Accelerator, optimizer: Any, ema: EMA, step: int, steps: int
    ) -> None:
        accelerator.wait_for_everyone()
        if not accelerator.is_main_process:
            return
        sums = torch.stack([value.float().sum() for value in self.net.parameters()])
        if not bool(torch.isfinite(sums).all()):
            raise self._not_finite("a weight is not finite", step)
        tensors = {
            "weights": dict(self.net.state_dict()),
            "average": ema.tensors(),
            "optimizer": checkpoint.optimizer_tensors(optimizer),
        }
        facts = {"step": step, "steps": steps, "recipe": self.recipe.model_dump(mode="json")}
        checkpoint.save(self.run, step, tensors, facts)

    def _resume_(self, ema: EMA, optimizer: torch.optim.Optimizer) -> tuple[int, int]:
        found = checkpoint.newest(self.run)
        if found is None:
            return 0, self.recipe.steps
        tensors, facts = checkpoint.load(found)
        mine, theirs = self.recipe.model_dump(mode="json"), facts["recipe"]
        differ = [name for name in mine if mine[name] != theirs.get(name) and name not in _FREE]
        if differ:
            raise UserError(
                f"{self.run} holds a run of another recipe ({', '.join(differ)} differ); "
                "name another folder with --out, or go on with the recipe it was begun with."
            )
        self.net.load_state_dict(tensors["weights"])
        ema.load_(tensors["average"])
        checkpoint.restore_optimizer(optimizer, tensors["optimizer"])
        return int(facts["step"]), int(facts["steps"])

    @torch.no_grad()
    def _show(self, ema: EMA, seen: int) -> None:
        assert self.preview is not None
        module = self.net
        kept = [value.detach().clone() for value in module.parameters()]
        torch._foreach_copy_(list(module.parameters()), ema.average)
        module.eval()
        try:
            self.preview(module, seen)
        finally:
            torch._foreach_copy_(list(module.parameters()), kept)
            module.train()


_FREE = {"checkpoint_every", "preview_every", "track"}  # may change when a run goes on


@contextlib.contextmanager
def _dropout_seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from the global generators: seed them, and give the CPU's back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        yield


def _due(step: int, batch: int, every: int) -> bool:
    return step * batch // every > (step - 1) * batch // every


def _adam(net: torch.nn.Module, options: Optimizer) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        net.parameters(),
        lr=options.rate,
        betas=options.betas,
        weight_decay=options.weight_decay,
        foreach=True,
    )


def _set_rate_(optimizer: Any, options: Optimizer, step: int, steps: int) -> None:
    warm = min(1.0, (step + 1) * options.batch / max(options.warmup, 1))
    left = 1 - step / steps
    shape = {"none": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}
    for group in optimizer.param_groups:
        group["lr"] = options.rate * warm * shape[options.decay]
