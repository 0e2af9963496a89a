"""The runtimes that a plan can be exported to: one file each."""

from hasten.exporting.targets import executorch, folder, onnx, openvino, web

__all__ = ["executorch", "folder", "onnx", "openvino", "web"]
