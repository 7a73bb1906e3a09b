"""The former name of parts of `relevance` and `export`, which chapter 5 still uses."""

from ecomkd.export import exports, predict_onnx
from ecomkd.relevance.run import speed
from ecomkd.relevance.tables import DISTILLED, SYSTEMS

__all__ = ["DISTILLED", "SYSTEMS", "exports", "predict_onnx", "speed"]
