"""Search that runs in a page of the book: its data file.

The page ranks a catalogue without a server. `write` puts what it needs into one JavaScript file:
the vocabulary, the vectors of a static student as int8, the catalogue, and word counts for BM25.
`book/_static/search.js` reads that file; `benchmarks/measure_search_page.py` has the same scores in
Python. Chapter 8.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from datasets import Dataset
from tokenizers import normalizers, pre_tokenizers

from ecomkd.artifacts import write_text
from ecomkd.data.sources import product_text
from ecomkd.search.retrieve import token_means

FORMAT = 2
"""Version of the data file; search.js refuses any other."""
MAX_BYTES = 6_000_000
K1, B = 1.5, 0.75
_CLASSES = 4

_BERT = {
    "normalizer": ("BertNormalizer", {"clean_text": True, "handle_chinese_chars": True}),
    "pre_tokenizer": ("BertPreTokenizer", {}),
    "model": ("WordPiece", {"continuing_subword_prefix": "##"}),
}


def token_ids(texts: Sequence[str], tokenizer) -> list[list[int]]:
    """The ids of each text as a static student reads it: whole, without special tokens."""
    if not len(texts):
        return []
    options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    return tokenizer(list(texts), add_special_tokens=False, **options)["input_ids"]


def quantise(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, d) as int8 (N, d) and float32 scales (N,): row ≈ int8 · scale.

    The largest number of a row becomes 127; a row of zeros stays one. Raises ValueError unless
    `vectors` is a table of finite numbers.
    """
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError(
            f"quantise: the vectors, of shape {vectors.shape}, are no table of finite numbers: "
            "give one row per token."
        )
    scales = np.abs(vectors).max(axis=1, initial=0) / 127
    rows = np.rint(vectors / np.where(scales == 0, 1, scales)[:, None])
    return rows.astype(np.int8), scales.astype(np.float32)


def dequantised(vectors: np.ndarray) -> np.ndarray:
    """The vectors (N, d) that a page has of these: those that `quantise` has rounded."""
    rows, scales = quantise(vectors)
    return rows * scales[:, None]


def write(
    path: Path | str,
    tokenizer,
    vectors: np.ndarray,
    catalogue: Dataset,
    samples: Mapping[str, Sequence[int]],
    labels: Mapping[str, np.ndarray] | None = None,
    gains: Sequence[float] = (),
) -> Path:
    """Write the page's data file, in one step, and return its path.

    `tokenizer` is an uncased BERT tokenizer and `vectors` (V, d) the static student's table, one
    row per token. `catalogue` has the contract's columns, and N rows. `samples` maps a query to
    rows of the catalogue in the teacher's order, best first. `labels` has the true class of every
    row (N,), 0 to 3 for E, S, C and I, of those samples of which it is known, and `gains` what
    these classes are worth: the page marks each product and tells nDCG.

    Raises ValueError for an empty catalogue, a table that does not fit the vocabulary, a
    tokenizer that works in another way than the page does, a sample that names a row that is not
    there, labels that do not fit the catalogue, the samples or the gains, a labelled sample for
    which nothing is exact, or a file larger than MAX_BYTES.
    """
    if not len(catalogue):
        raise ValueError("The search page: the catalogue has no products.")
    for query, rows in samples.items():
        if outside := [row for row in rows if not 0 <= row < len(catalogue)]:
            raise ValueError(
                f"The search page: sample {query!r} names row {outside[0]}, and the catalogue's "
                f"rows are 0 to {len(catalogue) - 1}."
            )
    labels = labels or {}
    if labels and len(gains) != _CLASSES:
        raise ValueError("The search page: labels need four gains, those of E, S, C and I.")
    for query, classes in labels.items():
        if query not in samples:
            raise ValueError(f"The search page: labels of {query!r}, which is not a sample.")
        if len(classes) != len(catalogue) or not set(classes) <= set(range(_CLASSES)):
            raise ValueError(
                f"The search page: {len(classes)} labels of {query!r}: give one from 0 to 3 for "
                f"each of the catalogue's {len(catalogue)} products."
            )
        if 0 not in classes:
            raise ValueError(f"The search page: nothing is exact for {query!r}: leave it out.")
    longest = _check_tokenizer(tokenizer)
    vocabulary = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    if len(vectors) != len(vocabulary):
        raise ValueError(
            f"The search page: {len(vectors)} token vectors for a vocabulary of "
            f"{len(vocabulary)}: give one row per token."
        )
    token_rows, scales = quantise(vectors)
    ids = token_ids(product_text(catalogue[:]), tokenizer)
    product_rows, _ = quantise(token_means(ids, dequantised(vectors)))
    added = tokenizer.get_added_vocab()
    data = {
        "format": FORMAT,
        "vocabulary": vocabulary,
        "special": sorted(added, key=added.get),
        "unknown": tokenizer.unk_token_id,
        "longest": longest,
        "characters": _character_classes(),
        "width": token_rows.shape[1],
        "tokens": _base64(token_rows),
        "scales": _base64(scales.astype("<f4")),
        "products": {
            "ids": list(catalogue["product_id"]),
            "titles": list(catalogue["product_title"]),
            # Without scales, which cancel in a cosine.
            "vectors": _base64(product_rows),
        },
        "bm25": {"k1": K1, "b": B, "postings": _base64(_varints(_postings(ids)))},
        "samples": [
            {"query": query, "teacher": [int(row) for row in rows]}
            | ({"labels": _rows_of(labels[query])} if query in labels else {})
            for query, rows in samples.items()
        ],
        "gains": [float(gain) for gain in gains],
    }
    text = f"window.ecomkdSearch = {json.dumps(data, separators=(',', ':'))};\n"
    if len(text) > MAX_BYTES:
        raise ValueError(
            f"The search page: its data file would have {len(text):,} bytes, more than "
            f"{MAX_BYTES:,}: take fewer products or shorter vectors."
        )
    write_text(path, text)
    return Path(path)


def _rows_of(classes: np.ndarray) -> list[list[int]]:
    """The rows that are E, that are S and that are C; all others are I."""
    return [np.flatnonzero(np.asarray(classes) == label).tolist() for label in range(_CLASSES - 1)]


def _postings(ids: Sequence[Sequence[int]]) -> list[int]:
    """Which products have a token and how often: gap to the last token, number of products, and
    for each product the gap to the last one and the count."""
    counts: dict[int, list[tuple[int, int]]] = {}
    for product, tokens in enumerate(ids):
        for token, count in Counter(tokens).items():
            counts.setdefault(token, []).append((product, count))
    numbers, last_token = [], 0
    for token in sorted(counts):
        numbers += [token - last_token, len(counts[token])]
        last_token, last_product = token, 0
        for product, count in counts[token]:
            numbers += [product - last_product, count]
            last_product = product
    return numbers


def _varints(numbers: Sequence[int]) -> bytes:
    """Seven bits a byte, the lowest first; the eighth bit says that more bytes follow."""
    out = bytearray()
    for number in numbers:
        while number > 127:
            out.append(number & 127 | 128)
            number >>= 7
        out.append(number)
    return bytes(out)


def _base64(data: np.ndarray | bytes) -> str:
    raw = data if isinstance(data, bytes) else data.tobytes()
    return base64.b64encode(raw).decode("ascii")


def _check_tokenizer(tokenizer) -> int:
    """The longest word, in characters, that the tokenizer cuts into pieces."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    for part, (kind, options) in _BERT.items():
        found = parts[part] or {}
        if found.get("type") != kind or any(found[key] != options[key] for key in options):
            raise ValueError(
                f"The search page: its script cuts words as uncased BERT does, and this "
                f"tokenizer's {part} is another one: give the tokenizer of 'minilm'."
            )
    if not parts["normalizer"]["lowercase"] or parts["normalizer"]["strip_accents"] is False:
        raise ValueError(
            "The search page: its script drops case and accents, and this tokenizer keeps them: "
            "give the tokenizer of 'minilm'."
        )
    return parts["model"]["max_input_chars_per_word"]


@cache
def _character_classes() -> dict[str, str]:
    """The kinds of characters that BERT's rules name, each as the inside of a RegExp class.

    They are asked from the tokenizer's library: its Unicode tables are older than a browser's, so
    that `\\p{Mn}` there holds marks that the student's tokenizer has never dropped.
    """
    apart = "\U0010ffff"  # stands for no character, so no rule touches it
    planes = (range(0xD800), range(0xE000, 0x40000), range(0xE0000, ord(apart)))  # others are empty
    everything = [chr(code) for plane in planes for code in plane]
    text = apart.join(everything)

    def those(become: str, **options: bool) -> str:
        off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False}
        normalizer = normalizers.BertNormalizer(**{**off, "lowercase": False, **options})
        found = normalizer.normalize_str(text).split(apart)
        pairs = zip(everything, found, strict=True)
        return _ranges([old for old, new in pairs if new == become.format(old)])

    words = {word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)}
    return {
        "control": those("", clean_text=True),
        "ideograph": those(" {} ", handle_chinese_chars=True),
        "mark": those("", strip_accents=True),
        "punctuation": _ranges([word for word in words if len(word) == 1 and word != apart]),
    }


def _ranges(characters: Sequence[str]) -> str:
    spans: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if spans and spans[-1][1] == code - 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return "".join(f"\\u{{{low:x}}}-\\u{{{high:x}}}" for low, high in spans)
