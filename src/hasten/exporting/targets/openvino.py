"""An OpenVINO graph (IR), the programs as JSON, and a runner."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from hasten.core.engine import engines
from hasten.core.model import Model
from hasten.engines.graph import onnx_file
from hasten.engines.openvino import HINTS
from hasten.exporting.bundle import NET, Bundle
from hasten.exporting.runner import write_runner, write_text
from hasten.exporting.target import Call, Condition, Target, arrays, targets
from hasten.exporting.targets.onnx import example

OPENED = """    import openvino

    hint = "bf16" if BUNDLE["dtype"] == "bfloat16" and name == "net" else "f32"
    settings = {"INFERENCE_PRECISION_HINT": hint}
    compiled = openvino.Core().compile_model(str(HERE / f"{name}.xml"), "CPU", settings)

    def call(x, t, condition=None):
        inputs = [x, np.array([t], np.float32), given(condition)]
        return compiled(inputs[: len(compiled.inputs)])[0]

    return call
"""


@targets.add("openvino")
@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenVino(Target):
    """For Intel's runtime on CPUs, one picture at a time, in float32 or bfloat16 as the plan is."""

    others = True
    prompts = True
    dtypes = ("float32", "bfloat16")

    def check(self, model: Model) -> None:
        engines["openvino"]().check(model, "float32")

    def write(self, bundle: Bundle, folder: Path) -> None:
        import openvino

        for name, model in bundle.networks().items():
            graph = openvino.convert_model(str(onnx_file(model, *example(bundle, name))))
            openvino.save_model(graph, str(folder / f"{name}.xml"), compress_to_fp16=False)
        write_text(bundle, folder)
        write_runner(folder, OPENED, "OpenVINO")

    def network(self, bundle: Bundle, folder: Path, name: str = NET) -> Call:
        import openvino

        hint = HINTS[bundle.dtype if name == NET else "float32"]
        settings = {"INFERENCE_PRECISION_HINT": hint}
        compiled = openvino.Core().compile_model(str(folder / f"{name}.xml"), "CPU", settings)

        def call(x: torch.Tensor, t: float, condition: Condition) -> torch.Tensor:
            inputs = arrays(x, t, condition)
            answer = compiled(inputs[: len(compiled.inputs)])[0]
            return torch.from_numpy(answer.copy())

        return call
