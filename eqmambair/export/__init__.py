"""Networks as ONNX files: written by `export_network`, run by `OnnxNetwork`. Needs the extra [onnx]."""

from eqmambair.export.session import OnnxNetwork
from eqmambair.export.writing import CLASSIFIERS, RESTORERS, TOLERANCE, Exported, export_network

__all__ = ["CLASSIFIERS", "RESTORERS", "TOLERANCE", "Exported", "OnnxNetwork", "export_network"]
