"""PyTorch as it is: what every other engine is held against."""

from __future__ import annotations

import copy
import dataclasses

import torch

from hasten.core.condition import Condition
from hasten.core.engine import Engine, Prepared, engines
from hasten.core.model import Model


class Cast(Prepared):
    """A network whose weights are in ``dtype`` (the model's own object where they are already)."""

    versions: dict[str, str] = {}  # noqa: RUF012  (an instance never changes it)

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        net = model.net
        self.net = net if dtype == model.dtype else copy.deepcopy(net).to(dtype)
        self.dtype = dtype
        self.precision = str(dtype).removeprefix("torch.")
        if dtype == torch.float32 and _tf32(model.device):
            self.precision = "tf32"
        tensors = [*self.net.parameters(), *self.net.buffers()]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.weights_mb = round(size / 1e6, 3)

    def __call__(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: Condition | torch.Tensor | None = None,
        *features: torch.Tensor,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        seen = x if x.dtype == self.dtype else x.to(self.dtype)
        answer = self.net(seen, t, condition, *features)
        if isinstance(answer, tuple):
            return (answer[0].float(), *answer[1:])
        whole = isinstance(answer, torch.Tensor) and answer.dtype != torch.float32
        return answer.float() if whole else answer


@engines.add("eager")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Eager(Engine):
    """One operator after another."""

    title = "PyTorch"

    static = False

    def prepare(self, model: Model, dtype: str) -> Cast:
        return Cast(model, getattr(torch, dtype))


def _tf32(device: torch.device) -> bool:
    """Whether float32 convolutions are rounded to TF32, torch's default on a CUDA device."""
    return device.type == "cuda" and torch.backends.cudnn.allow_tf32
