"""Any Program as a diffusers scheduler:
``pipe.scheduler = ProgramScheduler(program, like=pipe.scheduler)``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping

import torch

from hasten.adapters.quiet import quiet_import
from hasten.adapters.scheduler_arguments import (
    as_program,
    check_program,
    near,
    predicted,
    refuse_other,
    sigmas_of,
)
from hasten.adapters.schedules import Scheduler
from hasten.core.ask import Ask
from hasten.core.errors import UserError, require
from hasten.core.prediction import Prediction, Translation, predictions
from hasten.core.program import START, Program
from hasten.core.stepping import Answers, Pending, follow, stepping

with quiet_import():
    from diffusers.configuration_utils import ConfigMixin
    from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
    from diffusers.utils.torch_utils import randn_tensor

Timestep = torch.Tensor | float
Generators = torch.Generator | list[torch.Generator] | None


@dataclasses.dataclass
class ProgramSchedulerOutput(SchedulerOutput):
    """``prev_sample``, and the clean picture the network believed in (for previews)."""

    pred_original_sample: torch.Tensor | None = None


class ProgramScheduler(SchedulerMixin, ConfigMixin):
    """A scheduler whose steps are the rows of a traced Program.

    Every network evaluation of the program is one step, so ``order`` is 1 for every solver and
    ``num_inference_steps`` has to be ``program.evaluations``. The program's own levels always rule:
    ``mu`` (a resolution shift that pipelines compute themselves) changes nothing, and ``timesteps``
    or ``sigmas`` that name other levels are refused. The one exception are the evenly spaced
    sigmas ``1, 1 - 1/n, ...`` that FluxPipeline and its like pass on their own when their caller
    gave none; they mean "no choice was made" and are accepted unused.

    Set it on a finished pipeline: DDIMPipeline replaces a scheduler given to its constructor.

    Args:
        program: a Program, its JSON text, or that JSON as a dict.
        like: the scheduler that it replaces (or its config), which says what the pipeline's network
            predicts; it stays in the config, so that :func:`hasten.schedule` can read this one too.
        prediction: what the network predicts, where ``like`` is not given or does not know better:
            ``epsilon``, ``v``, ``x0``, ``flow``, ``edm(sigma_data=0.5)``.
        num_train_timesteps: for pipelines that ask the config for it; by default that of ``like``.

    Raises:
        UserError: neither ``like`` nor ``prediction``; a scheduler that cannot be read; a program
            that is lowered, or whose first network call is not about its start.
    """

    _compatibles: list[str] = []  # noqa: RUF012  (diffusers reads it from the class)
    order = 1

    def __init__(
        self,
        program: Program | str | dict[str, object] | None = None,
        prediction: str | Prediction | None = None,
        num_train_timesteps: int | None = None,
        like: Scheduler | Mapping[str, object] | None = None,
    ) -> None:
        self.program = as_program(program)
        self.prediction, replaced = predicted(prediction, like)
        count = (replaced or {}).get("num_train_timesteps", 1000)
        self.register_to_config(
            program=json.loads(self.program.to_json()),
            prediction=predictions.text(self.prediction),
            num_train_timesteps=count if num_train_timesteps is None else num_train_timesteps,
            like=replaced,
        )
        self._calls = [i for i, row in enumerate(self.program.rows) if row.ask.calls]
        self._levels = self.program.levels
        self._translations = [self.prediction.at(level) for level in self._levels]
        self._read_start = False
        check_program(self.program, self._calls)
        self.set_timesteps()

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: torch.Tensor | Iterable[float] | None = None,
        sigmas: torch.Tensor | Iterable[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Start a new run: the program's times on ``device``, and no memory of the run before.

        Raises:
            UserError: another number of steps, or other levels, than the program has.
        """
        n = self.program.evaluations
        if num_inference_steps is not None and num_inference_steps != n:
            raise UserError(
                f"num_inference_steps is {num_inference_steps}, but this program makes {n} network "
                f"evaluations; call the pipeline with num_inference_steps={n}, or trace another."
            )
        times = [level.t for level in self._levels]
        own = sigmas_of(self._levels)
        refuse_other("timesteps", timesteps, [times])
        refuse_other("sigmas", sigmas, [own, [*own, 0.0], [1 - k / n for k in range(n)]])
        self.num_inference_steps = n
        self.timesteps = torch.tensor(times, dtype=torch.float32, device=device)
        self.sigmas = torch.tensor([*own, 0.0], dtype=torch.float32)
        self._begin_index: int | None = None
        self._reset()

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at evaluation ``begin_index``: the pipeline has an image and skips the first steps.

        Raises:
            UserError: a later step needs what the skipped ones would have computed.
        """
        n = len(self._calls)
        require(0 <= begin_index < n, f"begin_index is {begin_index}; it takes 0 to {n - 1}.")
        self._require_start_at(begin_index)
        self._begin_index = begin_index
        self._reset()

    @property
    def begin_index(self) -> int | None:
        return self._begin_index

    @property
    def step_index(self) -> int | None:
        """The evaluation that the next step answers; None before the first."""
        return self._step_index

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the start."""
        self._read_start = True
        return self.program.start.spread

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    def scale_model_input(
        self, sample: torch.Tensor, timestep: Timestep | None = None
    ) -> torch.Tensor:
        """``sample`` as the network wants it (only EDM networks want it scaled)."""
        index = self._locate(timestep)
        self._scaled_for = index
        scale = self._translations[index].scale
        if scale == 1.0:
            return sample
        self._scaled = sample * scale
        return self._scaled

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Timestep,
        sample: torch.Tensor,
        generator: Generators = None,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = None,
        return_dict: bool = True,
    ) -> ProgramSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Answer one evaluation and run the rows up to the next.

        Args:
            model_output: the network's answer about ``sample``, guided already.
            timestep: the one of :attr:`timesteps` whose turn it is.
            sample: the latent the network was asked about.
            generator: for the program's noise; one, or one a picture.

        Returns:
            The latent to ask about next (after the last step: the result) and the believed x0.

        Raises:
            UserError: a step out of turn, or an option that the program fixes.
        """
        require(not eta, f"eta is {eta}; the program fixes its own noise. Trace ddim(eta={eta}).")
        require(not use_clipped_model_output, "use_clipped_model_output: trace with clipping.")
        index = self._locate(timestep)
        self._require_scaled(index, sample)
        rows, row = self.program.rows, self._calls[index]
        (latent,) = rows[row].ask.reads()
        state = self._state(latent, sample)
        answer = _Answer(model_output.to(state.dtype), self._translations[index], state, generator)
        if self._step_index is None:
            self._begin(index, state, answer)
        self._values[latent] = state
        last = index + 1 == len(self._calls)
        stop = len(rows) if last else self._calls[index + 1]
        self._run(row, stop, answer)
        following = self.program.output if last else rows[stop].ask.reads()[0]
        after = self._values[following].to(sample.dtype)
        self._step_index = index + 1
        if last:
            self._values = {}
        assert answer.x0 is not None
        x0 = answer.x0.to(sample.dtype)
        return ProgramSchedulerOutput(after, x0) if return_dict else (after, x0)

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """``alpha * original + sigma * noise`` at times of this program (one, or one a picture)."""
        self._read_start = True
        levels = [self._levels[self._index_of(t)] for t in timesteps.reshape(-1).tolist()]
        shape = (-1, *[1] * (original_samples.ndim - 1))
        like = {"dtype": original_samples.dtype, "device": original_samples.device}
        alpha = torch.tensor([level.alpha for level in levels], **like).reshape(shape)
        sigma = torch.tensor([level.sigma for level in levels], **like).reshape(shape)
        return alpha * original_samples + sigma * noise

    def scale_noise(
        self, sample: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """:meth:`add_noise` as pipelines of flow models call it."""
        return self.add_noise(sample, noise, timestep)

    def _reset(self) -> None:
        self._step_index: int | None = None
        self._values: dict[str, torch.Tensor] = {}
        self._scaled_for: int | None = None
        self._scaled: torch.Tensor | None = None

    def _begin(self, index: int, state: torch.Tensor, answer: _Answer) -> None:
        self._require_start_at(index)
        spread = self.program.start.spread
        plain = index == 0 and not self._read_start
        if plain and abs(spread - 1) > 1e-3:
            raise UserError(
                f"this program starts from noise of standard deviation {spread:.4g}, but the "
                "pipeline did not ask for it (init_noise_sigma); use a schedule that starts at 1."
            )
        if index == 0:
            self._values = {START: state}
            self._run(0, self._calls[0], answer)

    def _run(self, first: int, stop: int, answer: _Answer) -> None:
        follow(stepping(self.program, self._values, rows=range(first, stop)), answer)

    def _state(self, latent: str, sample: torch.Tensor) -> torch.Tensor:
        """``sample`` in float32 or wider; what a half-precision pipeline rounded is not lost unless
        somebody changed the latent between the steps."""
        if sample.dtype in (torch.float32, torch.float64):
            return sample
        unrounded = self._values.get(latent)
        if unrounded is not None and torch.equal(unrounded.to(sample.dtype), sample):
            return unrounded
        return sample.float()

    def _locate(self, timestep: Timestep | None) -> int:
        index = self._begin_index if self._step_index is None else self._step_index
        if index is None:
            return self._index_of(timestep)
        if index >= len(self._calls):
            raise UserError(
                f"the program is at its end after {len(self._calls)} steps; call set_timesteps "
                "to begin another run."
            )
        own = self.timesteps[index]
        # A view of our own timesteps needs no look at its value, which would wait for the device.
        ours = isinstance(timestep, torch.Tensor) and timestep.data_ptr() == own.data_ptr()
        if timestep is not None and not ours and not near(float(timestep), float(own)):
            raise UserError(
                f"step {index} of this program is at timestep {float(own):g}, not "
                f"{float(timestep):g}; step through scheduler.timesteps in order."
            )
        return index

    def _index_of(self, timestep: Timestep | None) -> int:
        if timestep is None:
            return 0
        t, times = float(timestep), [level.t for level in self._levels]
        index = min(range(len(times)), key=lambda i: abs(times[i] - t))
        require(
            near(t, times[index]),
            f"timestep {t:g} is none of this program's; take one from scheduler.timesteps "
            f"(nearest: {times[index]:g}).",
        )
        return index

    def _require_scaled(self, index: int, sample: torch.Tensor) -> None:
        if self._translations[index].scale == 1.0:
            return
        right = self._scaled_for == index and sample is not self._scaled
        require(
            right,
            "an edm network has to be asked about scheduler.scale_model_input(sample, t), and step "
            "has to be given the sample before that; this pipeline does otherwise.",
        )

    def _require_start_at(self, index: int) -> None:
        if index == 0:
            return
        row = self._calls[index]
        known = set(self.program.rows[row].ask.reads())
        for later in self.program.rows[row:]:
            missing = [name for name in later.ask.reads() if name not in known]
            if missing:
                raise UserError(
                    f"this program cannot start at step {index}: a later row reads {missing[0]!r}, "
                    "which the skipped steps compute. Trace a program that starts at the level you "
                    "need, or use a single-step solver such as ddim."
                )
            known.update(later.out)


class _Answer:
    """Answers the rows of one step: the pipeline has called the network already."""

    def __init__(
        self, output: torch.Tensor, here: Translation, like: torch.Tensor, generator: Generators
    ) -> None:
        self._output, self._here, self._like, self._generator = output, here, like, generator
        self.x0: torch.Tensor | None = None

    def __call__(self, pending: tuple[Pending, ...]) -> list[Answers]:
        return [self._row(row.ask, row.values) for row in pending]

    def _row(self, ask: Ask, values: tuple[torch.Tensor, ...]) -> Answers:
        if not ask.calls:
            return (self._noise(),)
        output, variance = self._split()
        self.x0 = self._here.skip * values[0] + self._here.out * output
        if ask.op == "denoise":
            return (self.x0,)
        if variance is None:
            raise UserError(
                "this program reads the variance that the network learned, but the pipeline gave "
                "none (it drops it, or the network has none); trace ddpm(variance='small')."
            )
        return self.x0, variance

    def _noise(self) -> torch.Tensor:
        like = self._like
        shape = tuple(like.shape)
        return randn_tensor(shape, self._generator, device=like.device, dtype=like.dtype)

    def _split(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self._output.shape[1] != 2 * self._like.shape[1]:
            return self._output, None
        output, variance = self._output.chunk(2, dim=1)
        return output, variance
