"""NNCF's post-training quantization of the same network: one static set of ranges.

Its defaults but one: ``mixed`` ranges, with a zero point, as ours have. It is calibrated on the
states of the very plan that is measured, and runs in OpenVINO like ours. ``pip install nncf``.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import hasten
from hasten.core.random_streams import Seed
from hasten.engines.openvino import OpenVinoNet

PICTURES = 64


class NncfNet(OpenVinoNet):
    """The network of ``model`` as NNCF quantizes it for ``plan``.

    Raises:
        ImportError: NNCF is not installed.
    """

    def __init__(self, model: hasten.Model, plan: hasten.Plan) -> None:
        import nncf
        import openvino

        super().__init__(model, "float32", openvino.Core(), openvino.get_version())
        self._nncf, self._real, self._core = nncf, self._core, self
        nncf.set_log_level(40)
        self._states = _states(model, plan)

    def compile_model(self, file: str, device: str, options: dict[str, Any]) -> Any:
        """What OpenVINO compiles of an ONNX file, with NNCF in between."""
        graph = self._real.read_model(file)
        size = graph.inputs[0].shape[0]
        names = [one.get_any_name() for one in graph.inputs]
        batches = [
            state
            for x, t, condition in self._states
            for state in self._split(x, t, condition, size)
        ]
        given = [{k: v.numpy() for k, v in zip(names, state, strict=True)} for state in batches]
        with contextlib.redirect_stdout(sys.stderr):  # its progress
            quantized = self._nncf.quantize(
                graph,
                self._nncf.Dataset(given),
                preset=self._nncf.QuantizationPreset.MIXED,
                subset_size=len(given),
            )
        self.weights_mb = _megabytes(quantized)
        return self._real.compile_model(quantized, device, options)

    def _split(self, x: torch.Tensor, t: torch.Tensor, condition: Any, size: int) -> list[Any]:
        inputs = [x, t, condition] if self._shifts is None else [x, self._shifts(t, condition)]
        return list(zip(*(one.split(size) for one in inputs), strict=True))

    def _check(self, compiled: Any) -> None:
        pass  # it answers for NNCF's choice of integers


def _states(model: hasten.Model, plan: hasten.Plan) -> list[Any]:
    """What the network is asked on the way of ``plan``: x, times, labels of every call."""
    found: list[Any] = []
    hook = model.net.register_forward_pre_hook(
        lambda _, given: found.append(tuple(one.clone() for one in given))
    )
    try:
        condition = [i % 10 for i in range(PICTURES)]
        hasten.build(model, plan).sample(
            PICTURES, seed=Seed.QUANTIZATION, condition=condition, batch=PICTURES
        )
    finally:
        hook.remove()
    return found


def _megabytes(graph: Any) -> float:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.xml"
        openvino.save_model(graph, file, compress_to_fp16=False)
        return round(file.with_suffix(".bin").stat().st_size / 1e6, 3)
