"""ExecuTorch programs (.pte) for XNNPACK, the CPU kernels of phones, and a runner."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from pathlib import Path

import torch

from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.exporting.bundle import NET, Bundle
from hasten.exporting.runner import write_runner
from hasten.exporting.target import Call, Condition, Target, targets
from hasten.exporting.targets.onnx import example

OPENED = """    import torch
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(str(HERE / f"{name}.pte"))
    method = program.load_method("forward")  # which lives as long as the program

    def call(x, t, label, program=program):
        inputs = [torch.from_numpy(np.ascontiguousarray(x, np.float32)), torch.tensor([float(t)])]
        inputs += [] if BUNDLE["labels"] is None else [torch.from_numpy(arrays(x, t, label)[2])]
        return method.execute(inputs)[0].numpy()

    return call
"""


@targets.add("executorch")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ExecuTorch(Target):
    """For ExecuTorch on phones and small devices, one picture at a time, in float32; what XNNPACK
    lacks runs in its portable kernels."""

    others = True

    def check(self, model: Model) -> None:
        try:
            import executorch.runtime  # type: ignore[import-not-found] # noqa: F401
        except ImportError as error:
            raise UserError(
                "target 'executorch' is not installed: pip install \"hasten[mobile]\""
            ) from error

    def write(self, bundle: Bundle, folder: Path) -> None:
        for name in bundle.networks():
            (folder / f"{name}.pte").write_bytes(_lowered(bundle, name))
        write_runner(folder, OPENED, "ExecuTorch with torch")

    def network(self, bundle: Bundle, folder: Path, name: str = NET) -> Call:
        from executorch.runtime import Runtime  # type: ignore[import-not-found]

        program = Runtime.get().load_program(str(folder / f"{name}.pte"))
        method = program.load_method("forward")
        labelled = bundle.model.labels is not None

        def call(
            x: torch.Tensor, t: float, label: Condition, program: object = program
        ) -> torch.Tensor:
            inputs = [x.contiguous().float(), torch.tensor([float(t)])]
            inputs += [torch.tensor([label or 0])] if labelled else []
            return method.execute(inputs)[0].clone()

        return call


def _lowered(bundle: Bundle, name: str) -> bytes:
    """The network ``name`` for one picture as an ExecuTorch program.

    Raises:
        UserError: an operator that ExecuTorch has not.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (  # type: ignore[import-not-found]
        XnnpackPartitioner,
    )
    from executorch.exir import to_edge_transform_and_lower  # type: ignore[import-not-found]

    flat, inputs = example(bundle, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            program = torch.export.export(flat, tuple(inputs), strict=False)
            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            return bytes(edge.to_executorch().buffer)
        except Exception as error:
            what = str(error).strip().splitlines()[0][:160]
            raise UserError(
                f"target 'executorch' cannot take this network ({what}); export it to 'onnx'."
            ) from error
        finally:
            logging.disable(logging.NOTSET)
