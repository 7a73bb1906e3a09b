"""The former name of `ecomkd.relevance.run` and of parts of `ecomkd.export`."""

from ecomkd.export import deploy, exports, predict_onnx
from ecomkd.relevance.run import one_seed, run, speed
from ecomkd.relevance.tables import DISTILLED, STUDENTS, SYSTEMS, UNTRAINED, by_kind, table
from ecomkd.relevance.verdict import verdict

__all__ = [
    "DISTILLED",
    "STUDENTS",
    "SYSTEMS",
    "UNTRAINED",
    "by_kind",
    "deploy",
    "exports",
    "one_seed",
    "predict_onnx",
    "run",
    "speed",
    "table",
    "verdict",
]
