"""Anderson acceleration of a fixed point, for each picture of a batch on its own."""

from __future__ import annotations

import torch

RIDGE = 1e-8  # of the largest square, so that steps that have become equal do no harm


class Mixer:
    """Type-II Anderson mixing (Anderson 1965; Walker & Ni 2011, eq. 2.3) of the last ``depth``
    steps. It holds 2 (depth + 1) copies of the values."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._values: list[torch.Tensor] = []
        self._steps: list[torch.Tensor] = []

    def next(self, values: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Where to go from ``values`` (n, ...), whose plain fixed-point iteration would add
        ``step``, in the light of the steps before."""
        self._values = [*self._values[-self.depth :], values.flatten(1)]
        self._steps = [*self._steps[-self.depth :], step.flatten(1)]
        if len(self._values) == 1:
            return values + step
        moved = torch.stack(
            [b - a for a, b in zip(self._values, self._values[1:], strict=False)], 1
        )
        bent = torch.stack([b - a for a, b in zip(self._steps, self._steps[1:], strict=False)], 1)
        wide = torch.float32 if values.device.type == "mps" else torch.float64
        square = (bent @ bent.mT).to(wide)
        ridge = RIDGE * square.diagonal(dim1=1, dim2=2).amax(dim=1).clamp(min=1e-30)
        square = square + ridge[:, None, None] * torch.eye(square.shape[1]).to(square)
        right = (bent @ self._steps[-1].unsqueeze(2)).to(wide)
        weights = torch.linalg.solve(square, right).to(values.dtype)
        back = ((moved + bent).mT @ weights).squeeze(2)
        return values + step - back.view(values.shape)

    def keep_(self, rows: torch.Tensor) -> None:
        """Go on with the pictures ``rows`` of the batch alone."""
        self._values = [values[rows] for values in self._values]
        self._steps = [step[rows] for step in self._steps]
