"""Scores of products for a query under a deployed student, without PyTorch.

    python score.py "red sofa" "Couch, crimson velvet" "Floor lamp, brass"

`ecomkd run`, `ecomkd index` and `ecomkd quantize` copy this file beside the model that they deploy.
It needs numpy, onnxruntime and tokenizers alone, and openvino where `labels.json` names it, and
gives what the evaluation gave. The text of a product is its title, brand, colour, bullet points and
description, in this order, joined by " . "; empty ones are left out, and so are a brand and a
colour whose letters stand in the title, side by side. Chapter 5.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


def session(path: Path | str, threads: int | None = None) -> onnxruntime.InferenceSession:
    """An ONNX model ready to run on the processor; with `threads=None` ONNX Runtime chooses."""
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    # The fused kernel takes several times as long as the two operations that it replaces.
    slow = ["SkipLayerNormFusion"]
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(str(path), options, providers, disabled_optimizers=slow)


def openvino_core():
    """OpenVINO's `Core`. ModuleNotFoundError where the package `openvino` is missing."""
    # With this module at hand, OpenVINO tells its makers of each import, over the network.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino.Core()


class OpenVinoSession:
    """An ONNX model run by OpenVINO on the processor, and called as a session of ONNX Runtime is.

    What is not in int8 is computed in float32 or, with `bf16`, in bfloat16, which OpenVINO would
    choose by itself wherever the processor has it. Weights in int8 meet activations that are
    rounded to int8 in groups of 32 values of one token, so that the score of a pair does not depend
    on others. With `threads=None` OpenVINO chooses. Threads that call at once wait for each other.
    """

    def __init__(self, path: Path | str, threads: int | None = None, bf16: bool = False):
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 32,
            # Pinned threads of several processes would share one core and leave the others idle.
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        self.model = openvino_core().compile_model(str(path), "CPU", settings)
        self._request = self.model.create_infer_request()
        self._alone = Lock()

    def get_inputs(self) -> list[SimpleNamespace]:
        """The inputs, each with its `name`."""
        return [SimpleNamespace(name=node.any_name) for node in self.model.inputs]

    def run(self, outputs: None, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs, in the model's order: `outputs` is None, as ONNX Runtime takes it."""
        with self._alone:
            return list(self._request.infer(dict(feed)).values())


class Scorer:
    """An exported classifier as a function from queries and product texts to expected gains (N,).

    It runs on one thread. Each pair is scored by itself: the activations of an int8 model share
    one scale per tensor, so that in a batch the score of a pair would depend on the others.

    Args:
        path: an ONNX file with its `tokenizer.json` beside it.
        max_length: tokens of a query–product pair; the longer of the two texts is cut first.
        gains: what each label is worth, in the order of the classes; `probabilities` needs none.
        runtime: "onnxruntime" or "openvino".
        bf16: as in `OpenVinoSession`.

    Raises:
        FileNotFoundError: the tokenizer is not there.
    """

    def __init__(
        self,
        path: Path | str,
        max_length: int,
        gains: Sequence[float] = (),
        runtime: str = "onnxruntime",
        bf16: bool = False,
    ):
        file = Path(path).with_name("tokenizer.json")
        if not file.is_file():
            raise FileNotFoundError(f"{file}: not found; deploy the student again.")
        self.tokenizer = Tokenizer.from_file(str(file))
        self.tokenizer.enable_truncation(max_length)
        self.tokenizer.no_padding()
        self.session: onnxruntime.InferenceSession | OpenVinoSession = (
            OpenVinoSession(path, 1, bf16) if runtime == "openvino" else session(path, threads=1)
        )
        self.inputs = [node.name for node in self.session.get_inputs()]
        self.gains = np.asarray(gains, dtype=np.float64)

    def probabilities(self, query: str, text: str) -> np.ndarray:
        """The probability of each class (C,) for one pair."""
        pair = self.tokenizer.encode(query, text)
        tokens = {
            "input_ids": pair.ids,
            "attention_mask": pair.attention_mask,
            "token_type_ids": pair.type_ids,
        }
        feed = {name: np.array([tokens[name]], dtype=np.int64) for name in self.inputs}
        logits = self.session.run(None, feed)[0][0].astype(np.float64)
        odds = np.exp(logits - logits.max())
        return odds / odds.sum()

    def __call__(self, queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        pairs = zip(queries, texts, strict=True)
        return np.array([self.probabilities(query, text) @ self.gains for query, text in pairs])


def load(folder: Path | str) -> Scorer:
    """The scorer of a deployed model's folder, with the gains and the length that it states.

    What `labels.json` does not name is the int8 model, run by ONNX Runtime.
    """
    folder = Path(folder)
    known = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    path = folder / known.get("file", "model.int8.onnx")
    further = {name: known[name] for name in ("runtime", "bf16") if name in known}
    return Scorer(path, known["max_length"], known["gains"], **further)


def main() -> None:
    """Print the products of the command line, best first, with their scores for the query."""
    if len(sys.argv) < 3:
        raise SystemExit('Usage: python score.py "red sofa" "Couch, crimson velvet" …')
    query, *products = sys.argv[1:]
    scores = load(Path(__file__).resolve().parent)([query] * len(products), products)
    for score, product in sorted(zip(scores, products, strict=True), reverse=True):
        print(f"{score:.3f}  {product}")


if __name__ == "__main__":
    main()
