"""What runs the network."""

from hasten.engines.compile import Compile
from hasten.engines.eager import Eager
from hasten.engines.onnxruntime import OnnxRuntime
from hasten.engines.openvino import OpenVino

__all__ = ["Compile", "Eager", "OnnxRuntime", "OpenVino"]
