"""``torch.compile``: operators fused into C++ or Triton, one graph a batch size."""

from __future__ import annotations

import dataclasses
import shutil
import types
import warnings

import torch

from hasten.core.engine import Engine, Flat, Runner, Static, engines
from hasten.core.errors import UserError, require
from hasten.core.model import Model
from hasten.engines.eager import Cast

COMPILERS = ("c++", "g++", "clang++", "cl")


class Compiled(Static):
    """The cast network, compiled whole: a break in the graph is an error, not a slow path."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__(model)
        self.network = cast = Cast(model, dtype)
        self.precision, self.weights_mb = cast.precision, cast.weights_mb
        self.versions = {}

    def compile(self, flat: Flat, inputs: list[torch.Tensor]) -> Runner:
        def call(*tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
            return flat(*tensors)

        compiled = torch.compile(_fresh(call), dynamic=False, fullgraph=True)
        try:
            with warnings.catch_warnings():  # on what the compiler thinks of other people's code
                warnings.simplefilter("ignore")
                compiled(*inputs)
        except Exception as error:
            what = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"
            raise UserError(
                f"engine 'compile' cannot compile {self.model.name!r} ({what}); set engine=eager."
            ) from error
        return compiled


@engines.add("compile")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Compile(Engine):
    """TorchInductor; the first call of each batch size takes up to a minute."""

    title = "torch.compile"

    def prepare(self, model: Model, dtype: str) -> Compiled:
        require_compiler(self.part_name, model.device)
        return Compiled(model, getattr(torch, dtype))


def require_compiler(engine: str, device: torch.device) -> None:
    """Refuse where TorchInductor has nothing to compile with."""
    require(
        device.type != "cpu" or any(map(shutil.which, COMPILERS)),
        f"engine {engine!r} needs a C++ compiler on a CPU, and none is installed (g++ or clang++); "
        "install one, or set engine=eager.",
    )


def _fresh(call: Runner) -> Runner:
    """``call`` with a code object of its own: torch counts recompilations by code object, and what
    was compiled for one batch size shall not count against another."""
    assert isinstance(call, types.FunctionType)
    code, known = call.__code__.replace(), call.__globals__
    return types.FunctionType(code, known, call.__name__, call.__defaults__, call.__closure__)
