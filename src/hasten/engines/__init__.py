"""What runs the network."""

from hasten.engines.compile import Compile
from hasten.engines.compile_blocks import CompileBlocks
from hasten.engines.cudagraph import CudaGraph
from hasten.engines.eager import Eager
from hasten.engines.onnxruntime import OnnxRuntime
from hasten.engines.openvino import OpenVino

__all__ = ["Compile", "CompileBlocks", "CudaGraph", "Eager", "OnnxRuntime", "OpenVino"]
