"""Scores of products for a query under a deployed student, without PyTorch.

    python score.py "red sofa" "Couch, crimson velvet" "Floor lamp, brass"

`ecomkd run` and `ecomkd index` copy this file beside the student that they deploy. It needs numpy,
onnxruntime and tokenizers alone, and gives what the evaluation gave. The text of a product is its
title, brand, colour, bullet points and description, in this order, joined by " . "; empty ones are
left out, and so are a brand and a colour that the title names. Chapter 5.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

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


class Scorer:
    """An exported classifier as a function from queries and product texts to expected gains (N,).

    It runs on one thread. Each pair is scored by itself: the activations of an int8 model share
    one scale per tensor, so that in a batch the score of a pair would depend on the others.

    Args:
        path: an ONNX file with its `tokenizer.json` beside it.
        max_length: tokens of a query–product pair; the longer of the two texts is cut first.
        gains: what each label is worth, in the order of the classes; `probabilities` needs none.

    Raises:
        FileNotFoundError: the tokenizer is not there.
    """

    def __init__(self, path: Path | str, max_length: int, gains: Sequence[float] = ()):
        file = Path(path).with_name("tokenizer.json")
        if not file.is_file():
            raise FileNotFoundError(f"{file}: not found; deploy the student again.")
        self.tokenizer = Tokenizer.from_file(str(file))
        self.tokenizer.enable_truncation(max_length)
        self.tokenizer.no_padding()
        self.session = session(path, threads=1)
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
    """The scorer of a deployed student's folder, with the gains and the length that it states."""
    folder = Path(folder)
    known = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    return Scorer(folder / "model.int8.onnx", known["max_length"], known["gains"])


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
