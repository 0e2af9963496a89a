"""How much can be measured within the budget, from how long a network evaluation takes here."""

from __future__ import annotations

import dataclasses

from hasten.core.errors import UserError
from hasten.tuning.settings import TunerSettings


class OutOfTime(UserError):
    """The budget is too small for a single plan to be measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What ``seconds`` are enough for.

    Attributes:
        sample_s: seconds of an evaluation, per sample of a large batch.
        call_s: seconds of a network call of the batch size that is tuned for; both in the fastest
            engine that is exact.
    """

    seconds: float
    sample_s: float
    call_s: float
    settings: TunerSettings = dataclasses.field(default_factory=TunerSettings)

    @property
    def allows_full_reference(self) -> bool:
        """Whether the reference solution can be of as many samples as one would want."""
        return self._allows(*self.settings.reference_sizes[0])

    @property
    def reference_size(self) -> tuple[int, int]:
        """Samples of the reference solution, and evaluations that each takes.

        Raises:
            UserError: there is no time for the smallest reference solution.
        """
        sizes = self.settings.reference_sizes
        affordable = next((size for size in sizes if self._allows(*size)), None)
        if affordable is not None:
            return affordable
        samples, evaluations = sizes[-1]
        needed = samples * evaluations * self.sample_s
        minutes = needed / self.settings.reference_share / 60 * 1.1 + 1
        raise OutOfTime(
            f"an evaluation of one sample takes {self.sample_s:.2g} s here, so the reference "
            f"solution of {samples} samples alone takes {needed / 60:.0f} minutes; give --minutes "
            f"{minutes:.0f} or more."
        )

    def finer_reference(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """The largest size that there is time for of at least twice the evaluations of ``size``."""
        sizes = self.settings.reference_sizes
        finer = (other for other in sizes if other[1] >= 2 * size[1] and self._allows(*other))
        return next(finer, None)

    @property
    def reference_s(self) -> float:
        """Seconds that the reference solution takes; 0 where there is no time for one."""
        sizes = (size for size in self.settings.reference_sizes if self._allows(*size))
        samples, evaluations = next(sizes, (0, 0))
        return samples * evaluations * self.sample_s

    def rungs(self, samples: int) -> tuple[int, ...]:
        """Samples with which plans are screened, fewest first, up to all of a reference."""
        return (*(rung for rung in self.settings.rungs if rung < samples), samples)

    def throughput_batch(self, limit: int) -> int:
        """The batch size that throughput is measured with, at most ``limit``."""
        sizes = [size for size in self.settings.batch_sizes if size <= limit]
        per_sample = self.sample_s * self.settings.throughput_evaluations
        affordable = (size for size in sizes if size * per_sample <= self.settings.throughput_s)
        return next(affordable, 1)

    def _allows(self, samples: int, evaluations: int) -> bool:
        needed = samples * evaluations * self.sample_s
        return needed <= self.settings.reference_share * self.seconds
