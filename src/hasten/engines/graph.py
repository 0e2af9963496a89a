"""A network as an ONNX file for inputs of fixed shapes: what OpenVINO and ONNX Runtime both read.

Exported directly with torch: the exporters built on optimum cannot be installed beside current
diffusers. Opset 21 keeps group normalisation one operator, which both runtimes run faster than its
expansion.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path

import torch

from hasten.core.artifact import weights_stamp
from hasten.core.engine import Flat
from hasten.core.errors import UserError
from hasten.core.model import Model

OPSET = 21


class Exports:
    """The ONNX files of one network, with the weights that it had when this was made, by input
    shapes; they go when the network does."""

    def __init__(self, net: torch.nn.Module) -> None:
        self.stamp = weights_stamp(net)
        self._folder = tempfile.TemporaryDirectory(prefix="hasten-onnx-")
        self._files: dict[str, Path] = {}

    def file(self, model: Model, flat: Flat, inputs: list[torch.Tensor]) -> Path:
        shapes = "-".join("x".join(map(str, value.shape)) for value in inputs)
        key = f"{shapes}-{abs(hash(flat.structure.key)):x}"
        if key not in self._files:
            file = Path(self._folder.name) / key / "net.onnx"
            _export(model, flat, inputs, file)
            self._files[key] = file
        return self._files[key]


_exported: weakref.WeakKeyDictionary[torch.nn.Module, Exports] = weakref.WeakKeyDictionary()


def onnx_file(model: Model, flat: Flat, inputs: list[torch.Tensor]) -> Path:
    """The network of ``model``, made a function of tensors by ``flat``, as an ONNX file (weights
    beside it) for ``inputs`` of these shapes: x, times, the condition's tensors, and what was kept.

    Raises:
        UserError: torch.export cannot follow the network, or an operator has no ONNX form.
    """
    exports = _exported.get(model.net)
    if exports is None or exports.stamp != weights_stamp(model.net):
        exports = _exported[model.net] = Exports(model.net)
    return exports.file(model, flat, inputs)


def _export(model: Model, flat: Flat, inputs: list[torch.Tensor], file: Path) -> None:
    net = model.net if model.dtype == torch.float32 else copy.deepcopy(model.net).float()
    flat = Flat(net, flat.structure, flat.count)
    try:
        file.parent.mkdir(exist_ok=True)
        with _quiet():
            program = torch.export.export(flat, tuple(inputs))
            done = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, optimize=False, verbose=False
            )
            assert done is not None
            done.save(str(file), external_data=True)
    except Exception as error:
        cause = error.__cause__ or error
        what = f"{type(cause).__name__}: {str(cause).strip().splitlines()[0][:160]}"
        raise UserError(
            f"the network of {model.name!r} cannot be exported to ONNX ({what}); set engine=eager "
            "or engine=compile."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on operators of packages that are not installed."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "onnx_ir.passes")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
