"""An exponential moving average of weights, with a warm-up so that short runs forget the start."""

from __future__ import annotations

import torch


def trained(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters of ``module`` that train, by name."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


class EMA:
    """Average of a module's parameters that train, in float32 (float64 where they are); decay
    min(decay, (1 + n) / (10 + n))."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        parameters = trained(module)
        self.names = list(parameters)
        self.average = [_wide(value).clone() for value in parameters.values()]

    @torch.no_grad()
    def update_(self, module: torch.nn.Module, step: int) -> None:
        """Take in the weights after step ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        values = [_wide(value) for value in trained(module).values()]
        torch._foreach_lerp_(self.average, values, 1 - decay)

    @torch.no_grad()
    def put_(self, module: torch.nn.Module) -> None:
        """Give ``module`` the averages as its weights."""
        torch._foreach_copy_(list(trained(module).values()), self.average)

    def move_to_(self, module: torch.nn.Module) -> None:
        """Move the averages to where the weights of ``module`` are."""
        weights = trained(module).values()
        self.average = [a.to(w.device) for a, w in zip(self.average, weights, strict=True)]

    def tensors(self) -> dict[str, torch.Tensor]:
        """The averages by parameter name."""
        return dict(zip(self.names, self.average, strict=True))

    def load_(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put :meth:`tensors` back."""
        for name, value in zip(self.names, self.average, strict=True):
            value.copy_(tensors[name])


def _wide(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to(torch.promote_types(value.dtype, torch.float32))
