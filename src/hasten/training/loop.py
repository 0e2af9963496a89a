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
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils.memory import should_reduce_batch_size
from tqdm import tqdm

from hasten.core.errors import NonFiniteError, UserError, require
from hasten.core.files import JsonObject
from hasten.core.random_streams import StepStream, generator
from hasten.core.transfer import sent
from hasten.training import checkpoint
from hasten.training.budget import Deadline, Length
from hasten.training.ema import EMA, trained
from hasten.training.interrupt import Interrupted, interruptible
from hasten.training.objective import Batch, Objective, Rows
from hasten.training.optimizer import adamw, set_rate_
from hasten.training.order import order
from hasten.training.recipe import Run

LOG_EVERY = 20  # steps

Preview = Callable[[torch.nn.Module, int], dict[str, float] | None]


class Enough(Exception):
    """Raised by a preview that has seen enough: the run ends with the weights it has."""


@dataclasses.dataclass
class Training:
    """One run of ``recipe`` with ``objective``, in folder ``run``.

    Attributes:
        net: the network to train, ``net(x, t, condition)``; trained in place.
        rows: what it is trained on.
        preview: called with the averaged network and the pictures seen so far, every so often; what
            it returns stands in the progress bar, and it may raise :class:`Enough`.
        deadline: when the run has to end; its length follows from the rate of its steps. Time that
            a run took before it was killed counts.
        parts: how many parts a step's pictures are taken in, one after another.
        local: whether ``net`` stays where it is, trained by this process alone.
        step: how many steps were taken, those of earlier sessions of the run among them.

    A step that does not fit into memory is taken again in twice as many parts.
    """

    recipe: Run
    objective: Objective
    net: torch.nn.Module
    rows: Rows
    run: Path
    preview: Preview | None = None
    deadline: Deadline | None = None
    quiet: bool = False
    parts: int = 1
    local: bool = False
    step: int = dataclasses.field(default=0, init=False)
    _seconds: float = dataclasses.field(default=0.0, init=False)
    _shown: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def seen(self) -> int:
        """How many pictures the run has seen."""
        return self.step * self.recipe.optimizer.batch

    def fit_(self) -> EMA:
        """Train (or go on with) the run to its end; returns the averaged weights.

        Raises:
            UserError: the folder holds a run of another recipe.
            NonFiniteError: the loss is not finite; the last good checkpoint stays.
        """
        tracker = None if self.recipe.track == "none" else self.recipe.track
        accelerator = self._accelerator(tracker)
        if tracker:
            accelerator.init_trackers(f"hasten-{self.recipe.name}")
        if self.recipe.channels_last:
            for value in self.net.parameters():
                if value.ndim == 4:  # of clips' networks some have five
                    value.data = value.data.contiguous(memory_format=torch.channels_last)
        ema = EMA(self.net, self.recipe.ema)
        optimizer = adamw(self.net, self.recipe.optimizer)
        steps = self._resume_(ema, optimizer)
        net = self.net
        if not self.local:
            net, optimizer = accelerator.prepare(self.net, optimizer)
        ema.move_to_(self.net)
        stepper = cast("torch.nn.Module", torch.compile(net)) if self.recipe.compile else net
        # With several processes, one that saves would wait for those that were not told.
        alone = accelerator.num_processes == 1
        with interruptible() if alone else contextlib.nullcontext(lambda: False) as stop:
            self._loop_(accelerator, stepper, optimizer, ema, steps, stop)
        if tracker:
            accelerator.end_training()
        return ema

    def _accelerator(self, tracker: str | None) -> Accelerator:
        partly = getattr(self.net, "partly", False)
        try:
            accelerator = Accelerator(
                mixed_precision=self.recipe.precision,
                log_with=tracker,
                project_dir=str(self.run),
                kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=partly)],
            )
        except ValueError as error:
            raise UserError(
                f"recipe field 'precision' is {self.recipe.precision!r}, which accelerate refuses "
                f"({error}); a process that has trained in another precision keeps that one, so "
                "train in a new process."
            ) from error
        batch, processes = self.recipe.optimizer.batch, accelerator.num_processes
        require(
            batch % processes == 0,
            f"recipe field 'optimizer.batch' is {batch}, no multiple of {processes} processes.",
        )
        require(
            processes == 1 or not self.local,
            f"{self.recipe.name!r} is trained by one process, and there are {processes}; start "
            "one.",
        )
        return accelerator

    def _loop_(
        self,
        accelerator: Accelerator,
        net: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: EMA,
        steps: int,
        stop: Callable[[], bool],
    ) -> None:
        recipe, batch, step = self.recipe, self.recipe.optimizer.batch, self.step
        clock = time.monotonic if self.deadline is None else self.deadline.clock
        began, before, length = clock(), self._seconds, None
        if self.deadline is not None:
            length = Length(self.deadline.earlier(before), step, recipe.steps)
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
        recent = None
        while step < steps:
            set_rate_(optimizer, recipe.optimizer, step, steps)
            loss = self._step_(accelerator, net, optimizer, step, steps)
            ema.update_(self.net, step)
            recent = loss if recent is None else torch.lerp(recent, loss, 0.02)
            self.step = step = step + 1
            bar.update(batch)
            if length is not None:
                steps = self._length(accelerator, length, recent, step, steps)
                bar.total = steps * batch
            if step % LOG_EVERY == 0 or step == steps:
                self._log(accelerator, bar, recent, step)
            self._seconds = before + clock() - began
            stopped = stop() and step < steps
            if stopped or _due(step, batch, recipe.checkpoint_every) or step == steps:
                self._save(accelerator, optimizer, ema, step, steps)
            if stopped:
                bar.close()
                raise Interrupted(
                    f"stopped after {self.seen:,} pictures, which are kept in {self.run}; the same "
                    "command goes on from there."
                )
            due = recipe.preview_every and _due(step, batch, recipe.preview_every)
            if self.preview and (due or step == steps) and self._enough(accelerator, ema, step):
                self._save(accelerator, optimizer, ema, step, step)
                break
        bar.close()

    def _step_(
        self,
        accelerator: Accelerator,
        net: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        step: int,
        steps: int,
    ) -> torch.Tensor:
        recipe, rank = self.recipe, accelerator.process_index
        index = order(recipe.seed, step, recipe.optimizer.batch, len(self.rows))
        index = index[rank :: accelerator.num_processes]
        while True:
            try:
                loss = self._gradients_(accelerator, net, index, step, step / steps)
                break
            except RuntimeError as error:
                if not should_reduce_batch_size(error) or self.parts >= len(index):
                    raise
            optimizer.zero_grad(set_to_none=True)
            self.parts *= 2
            tqdm.write(
                f"step {step} does not fit into memory; taken in {self.parts} parts from here on",
                file=sys.stderr,
            )
        accelerator.clip_grad_norm_(net.parameters(), recipe.optimizer.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    def _gradients_(
        self,
        accelerator: Accelerator,
        net: torch.nn.Module,
        index: np.ndarray,
        step: int,
        progress: float,
    ) -> torch.Tensor:
        """Add up the gradients of the step's pictures, part by part; returns the loss."""
        device, total = accelerator.device, torch.zeros((), device=accelerator.device)
        for number in range(self.parts):
            mine = index[number :: self.parts]
            key = (self.recipe.seed, step, accelerator.process_index, *([number] * (number > 0)))
            labels = self.rows.labels
            if labels is not None:
                labels = sent(labels[torch.from_numpy(mine)], device)
            batch = Batch(
                rows=self.rows.at(mine, key, device),
                labels=labels,
                generator=generator(*key, StepStream.OBJECTIVE, device=device),
                step=step,
                progress=progress,
            )
            more = number + 1 < self.parts
            with (
                _dropout_seeded(generator(*key, StepStream.DROPOUT).initial_seed(), device),
                accelerator.no_sync(net) if more else contextlib.nullcontext(),
            ):
                with accelerator.autocast():
                    loss = self.objective.loss(net, batch) * (len(mine) / len(index))
                accelerator.backward(loss)
            total += loss.detach()
        return total

    def _log(self, accelerator: Accelerator, bar: Any, loss: torch.Tensor, step: int) -> None:
        value = float(loss)
        if not math.isfinite(value):
            raise self._not_finite(f"the loss is {value}", step)
        shown = {name: f"{number:.3g}" for name, number in self._shown.items()}
        bar.set_postfix(loss=f"{value:.4f}", **shown, refresh=False)
        if self.recipe.track != "none":
            accelerator.log({"loss": value, "pictures": step * self.recipe.optimizer.batch}, step)

    def _not_finite(self, what: str, step: int) -> NonFiniteError:
        return NonFiniteError(
            f"{what} near step {step} of {self.recipe.name!r}; the last good checkpoint stays. "
            "Lower optimizer.rate, or use precision: no."
        )

    def _length(
        self, accelerator: Accelerator, length: Length, loss: torch.Tensor, step: int, steps: int
    ) -> int:
        """The run's length in steps as it looks after ``step``; the same on every process."""
        due = length.due(step)
        if due:
            loss.item()  # a device may be steps behind
        elif accelerator.num_processes > 1 and step % LOG_EVERY:
            return steps
        mine = length.estimate(step) if due else step if length.over() else steps
        every = accelerator.gather(torch.tensor([mine], device=accelerator.device))
        assert isinstance(every, torch.Tensor)
        return int(every.min())

    def _save(
        self,
        accelerator: Accelerator,
        optimizer: torch.optim.Optimizer,
        ema: EMA,
        step: int,
        steps: int,
    ) -> None:
        accelerator.wait_for_everyone()
        if not accelerator.is_main_process:
            return
        sums = torch.stack([value.float().sum() for value in trained(self.net).values()])
        if not bool(torch.isfinite(sums).all()):
            raise self._not_finite("a weight is not finite", step)
        tensors = {
            "weights": self._changing(),
            "average": ema.tensors(),
            "optimizer": checkpoint.optimizer_tensors(optimizer),
        }
        facts = {"step": step, "steps": steps, "parts": self.parts, "seconds": self._seconds}
        facts["recipe"] = self.recipe.model_dump(mode="json")
        checkpoint.save(self.run, step, tensors, facts)

    def _changing(self) -> dict[str, torch.Tensor]:
        """What a checkpoint holds of the network: all but the parameters that never change."""
        still = {name for name, value in self.net.named_parameters() if not value.requires_grad}
        return {name: v for name, v in self.net.state_dict().items() if name not in still}

    def _resume_(self, ema: EMA, optimizer: torch.optim.Optimizer) -> int:
        """Go on from the newest checkpoint where there is one; returns the run's length."""
        folder = checkpoint.newest(self.run)
        if folder is None:
            return self.recipe.steps
        tensors, facts = checkpoint.load(folder)
        require(
            "recipe" in facts and "weights" in tensors,
            f"{folder} was written by an older hasten; name another --out, or delete {self.run}.",
        )
        mine = self.recipe.model_dump(mode="json")
        theirs = _read(facts["recipe"], type(self.recipe))
        differ = [name for name in mine if mine[name] != theirs.get(name) and name not in _FREE]
        if differ:
            each = "; ".join(
                f"{name}: {mine[name]!r}, there {theirs.get(name)!r}" for name in differ
            )
            raise UserError(
                f"{self.run} holds a run of another recipe ({', '.join(differ)} differ: {each}); "
                "name another folder with --out, or go on with the recipe it was begun with."
            )
        self.parts = int(facts.get("parts", 1))
        missing, extra = self.net.load_state_dict(tensors["weights"], strict=False)
        require(
            not extra and not set(missing) & set(self._changing()),
            f"{folder} does not fit the network; name another folder with --out.",
        )
        ema.load_(tensors["average"])
        checkpoint.restore_optimizer(optimizer, tensors["optimizer"])
        self.step, self._seconds = int(facts["step"]), float(facts.get("seconds", 0.0))
        steps = int(facts["steps"])
        more = self.deadline is not None and self.deadline.earlier(self._seconds).left > 0
        # A run that its budget ended goes on where it is given more.
        return self.recipe.steps if more and self.step == steps else steps

    def _enough(self, accelerator: Accelerator, ema: EMA, step: int) -> bool:
        """Show the preview; whether it has seen enough, on every process."""
        enough = torch.zeros(1, device=accelerator.device)
        if accelerator.is_main_process:
            try:
                self._show(ema, step * self.recipe.optimizer.batch)
            except Enough:
                enough += 1
        every = accelerator.gather(enough)
        assert isinstance(every, torch.Tensor)
        return bool(every.any())

    @torch.no_grad()
    def _show(self, ema: EMA, seen: int) -> None:
        assert self.preview is not None
        module = self.net
        parameters = list(trained(module).values())
        values = [value.detach().clone() for value in parameters]
        ema.put_(module)
        module.eval()
        try:
            self._shown = self.preview(module, seen) or {}
        finally:
            torch._foreach_copy_(parameters, values)
            module.train()


def _read(fields: JsonObject, kind: type[Run]) -> JsonObject:
    """The recipe of a checkpoint; what an older version wrote may have other names, and lack a
    younger field."""
    fields = kind.upgraded(fields)
    with contextlib.suppress(UserError):  # then it differs, and is shown as it is
        return kind(**fields).model_dump(mode="json")
    return fields


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
