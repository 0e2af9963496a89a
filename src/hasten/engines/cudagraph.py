"""A CUDA graph: what the eager network launches is recorded once for a batch size and replayed, so
that a GPU never waits for Python."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from hasten.core.engine import Engine, Flat, Runner, Static, engines
from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.engines.eager import Cast

WARM = 3  # calls before the recording, in which libraries choose their kernels


class Recorded(Static):
    """The cast network, recorded whole; every answer is a copy of the recording's."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__(model)
        self.network = cast = Cast(model, dtype)
        self.precision, self.weights_mb = cast.precision, cast.weights_mb
        self.versions = {"cuda": str(torch.version.cuda)}

    def compile(self, flat: Flat, inputs: list[torch.Tensor]) -> Runner:
        graph = torch.cuda.CUDAGraph()
        try:
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(WARM):
                    flat(*inputs)
            torch.cuda.current_stream().wait_stream(beside)
            with torch.cuda.graph(graph):
                answer = flat(*inputs)
        except RuntimeError as error:
            what = str(error).strip().splitlines()[0][:160]
            raise UserError(
                f"engine 'cudagraph' cannot record {self.model.name!r} ({what}); set engine=eager "
                "or compile."
            ) from error

        def call(*tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
            for recorded, value in zip(inputs, tensors, strict=True):
                recorded.copy_(value)
            graph.replay()
            if isinstance(answer, tuple):
                return tuple(value.clone() for value in answer)
            return answer.clone()

        return call


@engines.add("cudagraph")
@dataclasses.dataclass(frozen=True, kw_only=True)
class CudaGraph(Engine):
    """Pays where a network call is short and launched piece by piece: few pictures at a time."""

    title = "CUDA graphs"

    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def here(self) -> str:
        return super().here() if torch.cuda.is_available() else "needs a CUDA device"

    def prepare(self, model: Model, dtype: str) -> Recorded:
        return Recorded(model, getattr(torch, dtype))
