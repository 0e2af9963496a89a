"""The runtimes that a plan can be exported to: one file each."""

from hasten.exporting.targets import folder, onnx, openvino, web

__all__ = ["folder", "onnx", "openvino", "web"]
