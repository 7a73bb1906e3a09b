"""BM25 over texts: the words that a query and a product share, and spelling. Chapters 1 and 8.

`bm25s` makes an index, and is loaded for that alone: it brings SciPy, which would cost a service
more than all else that searches by words.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ecomkd.extras import needed

with needed("ecomkd.words", "run"):
    import Stemmer

_WORD = re.compile(r"\b\w\w+\b")
_STOP = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
)
"""The English stop words of `bm25s`, which are Lucene's."""
_STOPPED = frozenset(_STOP.split())
_MOST_EDITS = 2
_K1, _B = 1.5, 0.75
"""How soon repeating a word adds no more, and how much long texts lose by it."""
_ROWS = 262_144
"""Texts whose entries are put together at a time."""


@dataclass(frozen=True)
class Words:
    """A BM25 index of N texts: what each of W words adds to the score of each text that has it.

    It is a sparse matrix by columns: the entries of word w are `indptr[w]` to `indptr[w + 1]`.
    """

    numbers: dict[str, int]
    """The number of each word, 0 to W − 1."""
    data: np.ndarray
    """What each entry adds to a score, float32."""
    indices: np.ndarray
    """The number of the text that each entry belongs to."""
    indptr: np.ndarray
    """Where the entries of each word begin, and where the last ones end, (W + 1,)."""
    texts: int
    """The number of texts, N."""


def bm25(texts: Sequence[str]) -> Words:
    """A BM25 index over texts: English stop words, Snowball stemming, k1 = 1.5, b = 0.75.

    These are the defaults of `bm25s` (Robertson & Zaragoza 2009). Texts that hold stop words alone
    give an index that knows no word, under which every score is 0.
    """
    with needed("bm25", "run"):
        import bm25s

    # It reports each index that it makes, once a program has set up logging.
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    met: dict[str, int] = {}
    # A number a word, and not the word itself, of which each text would hold a copy.
    found = [[met.setdefault(word, len(met)) for word in words_of(text)] for text in texts]
    numbers = {word: number for number, word in enumerate(sorted(met))}
    if not numbers:
        none = np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(1, np.int64)
        return Words({}, *none, len(found))
    index = bm25s.BM25()
    own = [numbers[word] for word in met]
    ids = [[own[number] for number in text] for text in found]
    index.index((ids, dict(numbers)), show_progress=False)
    made = index.scores
    return Words(numbers, made["data"], made["indices"], made["indptr"], len(found))


def bm25_of(index: Words, query: str) -> np.ndarray:
    """BM25 of a query with each text of the index, (N,); 0 where they share no word."""
    return term_sums(index, words_of(query))


def term_sums(index: Words, terms: Iterable[str]) -> np.ndarray:
    """What terms add up to in each text of the index, (N,), float32.

    A term counts as often as it stands there; those that the index does not know add nothing.
    """
    scores = np.zeros(index.texts, np.float32)
    for term in terms:
        if term in index.numbers:
            number = index.numbers[term]
            entries = slice(index.indptr[number], index.indptr[number + 1])
            scores[index.indices[entries]] += index.data[entries]
    return scores


def inverse_frequency(total: int, having: np.ndarray) -> np.ndarray:
    """The idf (W,) of words that so many of `total` texts have, as BM25 takes it."""
    return np.log(1 + (total - having + 0.5) / (having + 0.5))


@dataclass(frozen=True)
class Statistics:
    """What BM25 knows of W words from N texts: enough to say what each word of a new text adds.

    It is kept as it stands: `numbers` as JSON, `idf` and `length` as arrays or numbers.
    """

    numbers: dict[str, int]
    """The number of each word, 0 to W − 1, as `bm25` numbers the words of the same texts."""
    idf: np.ndarray
    """(W,), float64: log(1 + (N − n + 0.5) / (n + 0.5)) of a word that n of the texts have."""
    length: float
    """The mean number of words of a text, each counted as often as it stands there."""


def statistics(texts: Iterable[str]) -> Statistics:
    """The statistics of texts, which are read one by one: memory grows with the words alone."""
    counts: Counter[str] = Counter()
    total = length = 0
    for text in texts:
        found = words_of(text)
        counts.update(set(found))
        total, length = total + 1, length + len(found)
    names = sorted(counts)
    having = np.array([counts[name] for name in names], np.float64)
    idf = inverse_frequency(total, having)
    return Statistics({name: n for n, name in enumerate(names)}, idf, length / max(total, 1))


def statistics_of(index: Words, texts: Iterable[str]) -> Statistics:
    """What `statistics` finds in the texts of an index, of which the lengths alone are counted."""
    having = np.diff(index.indptr).astype(np.float64)
    length = sum(len(_counted(text)) for text in texts)
    idf = inverse_frequency(index.texts, having)
    return Statistics(index.numbers, idf, length / max(index.texts, 1))


def entries(index: Words) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What `added` gives of each text of an index, one after the other: the rows of its matrix.

    Memory is bounded by some hundred thousand texts, and a byte for each entry of the index.
    """
    for start in range(0, index.texts, _ROWS):
        stop = min(start + _ROWS, index.texts)
        at = np.flatnonzero((index.indices >= start) & (index.indices < stop))
        at = at[np.argsort(index.indices[at], kind="stable")]  # and the words of each text rise
        numbers = (np.searchsorted(index.indptr, at, "right") - 1).astype(np.int32)
        ends = np.bincount(index.indices[at] - start, minlength=stop - start).cumsum()
        parts = (np.split(own, ends[:-1]) for own in (numbers, index.data[at]))
        yield from zip(*parts, strict=True)


def added(known: Statistics, text: str) -> tuple[np.ndarray, np.ndarray]:
    """What each word of one text adds to BM25: numbers (n,), int32, rising, and adds, float32.

    For a text that the statistics were made of, these are its entries of `bm25`, bit by bit. A text
    that came later is judged by the same idf and mean length. Words that the statistics do not know
    add nothing, though they count to its length.

    Example:
        >>> known = statistics(["steel lamp", "oak desk", "desk lamps"])
        >>> added(known, "oak lamp")[0].tolist() == [known.numbers["lamp"], known.numbers["oak"]]
        True
    """
    found = words_of(text)
    counts = Counter(known.numbers[word] for word in found if word in known.numbers)
    numbers = np.array(sorted(counts), np.int32)
    often = np.array([counts[number] for number in numbers.tolist()], np.float64)
    if not len(numbers):  # there may be no length either
        return numbers, often.astype(np.float32)
    damped = often + _K1 * (1 - _B + _B * len(found) / known.length)
    # Rounded where `bm25s` rounds, so that no last digit differs.
    idf = known.idf[numbers].astype(np.float32)
    return numbers, (idf * (often / damped)).astype(np.float32)


def asked(known: Statistics, query: str) -> tuple[np.ndarray, np.ndarray]:
    """The known words of a query: numbers (n,), int32, rising, and how often each stands in it.

    The BM25 of a text is the sum, over these, of how often · what the word adds to the text.
    """
    counts = Counter(known.numbers[w] for w in words_of(query) if w in known.numbers)
    numbers = np.array(sorted(counts), np.int32)
    return numbers, np.array([counts[number] for number in numbers.tolist()], np.float32)


@dataclass(frozen=True)
class Spelling:
    """The words of a catalogue, among which a query's misspelt words find what was meant."""

    stems: frozenset[str]
    """The stems of all its words: a word with one of these is spelt well enough for BM25."""
    words: dict[tuple[str, int], list[str]]
    """Its words by first letter and length, those of most texts first."""
    letters: dict[tuple[str, int], np.ndarray]
    """The code points of the same words, (length, words)."""
    texts: dict[str, int]
    """In how many texts each word stands."""


def spelling(texts: Sequence[str]) -> Spelling:
    """The spelling of the words that BM25 counts in texts: of the words, not of their stems."""
    counts = Counter(word for text in texts for word in set(_counted(text)))
    groups: dict[tuple[str, int], list[str]] = {}
    for word in sorted(counts, key=lambda word: (-counts[word], word)):
        groups.setdefault((word[0], len(word)), []).append(word)
    letters = {
        group: np.ascontiguousarray(np.array([_points(word) for word in own]).T)
        for group, own in groups.items()
    }
    return Spelling(frozenset(_stems(list(counts))), groups, letters, dict(counts))


def mended(known: Spelling, query: str) -> str:
    """The query in small letters, each unknown word replaced by the nearest known one.

    As `fuzziness: AUTO` of Elasticsearch has it, a word of three to five letters may be one edit
    away, a longer one two, and a shorter one none; an edit adds, drops or changes a letter, or
    swaps two neighbours (optimal string alignment; Damerau 1964). The first letter has to agree,
    and among equally near words that of most texts is taken, then the first by alphabet. Stop words
    and words with a digit, such as sizes and model numbers, stay. So do words of which the
    catalogue has another form, and those that nothing is near to.

    Example:
        >>> known = spelling(["steel lamp", "oak desk", "desk lamps"])
        >>> mended(known, "A stele lqmp for 20 desks")
        'a steel lamp for 20 desks'
    """

    def mend(found: re.Match[str]) -> str:
        word = found[0]
        if word in _STOPPED or any(letter.isdigit() for letter in word):
            return word
        return word if _stems([word])[0] in known.stems else _nearest(known, word)

    return _WORD.sub(mend, query.lower())


def _nearest(known: Spelling, word: str) -> str:
    """The known word that is fewest edits away from one that is not known, or that word itself."""
    most = 0 if len(word) < 3 else 1 if len(word) < 6 else _MOST_EDITS
    points, found = _points(word), [(_MOST_EDITS + 1, 0, word)]
    for length in range(len(word) - most, len(word) + most + 1):
        group = word[0], length
        if group in known.words:
            edits = _edits(points, known.letters[group])
            best = int(edits.argmin())  # the first of equals, which stands in most texts
            other = known.words[group][best]
            if edits[best] <= most:
                found.append((int(edits[best]), -known.texts[other], other))
    return min(found)[2]


def _edits(word: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How many edits lead from a word (L,) to each of others (M, N); 3 where that is more than 2.

    The usual table of prefixes, for all N at once; only its cells within 2 of the diagonal count.
    """
    size, count = others.shape
    far = np.full(count, _MOST_EDITS + 1)
    # Cell j of a row belongs to the first j letters of the others.
    last = [np.full(count, j) if j <= _MOST_EDITS else far for j in range(size + 1)]
    before = last
    for i in range(1, len(word) + 1):
        row = [np.full(count, i) if i <= _MOST_EDITS else far] + [far] * size
        for j in range(max(1, i - _MOST_EDITS), min(size, i + _MOST_EDITS) + 1):
            differs = others[j - 1] != word[i - 1]
            cell = np.minimum(np.minimum(row[j - 1], last[j]) + 1, last[j - 1] + differs)
            if i > 1 and j > 1:
                swapped = (others[j - 2] == word[i - 1]) & (others[j - 1] == word[i - 2])
                cell = np.where(swapped, np.minimum(cell, before[j - 2] + 1), cell)
            row[j] = cell
        before, last = last, row
    return np.minimum(last[size], far)


def _points(word: str) -> np.ndarray:
    return np.array([ord(letter) for letter in word], np.int32)


def any_word(texts: Sequence[str]) -> bool:
    """Whether one of the texts at least has a word that BM25 counts."""
    return any(words_of(text) for text in texts)


def words_of(text: str) -> list[str]:
    """The stems of the words of a text that BM25 counts, in order, as `bm25s.tokenize` has them."""
    return _stems(_counted(text))


def _counted(text: str) -> list[str]:
    """The words of a text that BM25 counts, in order and as they are written."""
    return [word for word in _WORD.findall(text.lower()) if word not in _STOPPED]


def _stems(words: list[str]) -> list[str]:
    # A stemmer is made for each call, because two threads may not use one at once.
    return Stemmer.Stemmer("english").stemWords(words)
