"""Facts of a product, a checker that holds a description against them, and a guard that mends it.

A description names a fact of the record, or misses it. Anything else that it claims is contradicted
where the record says something else about the same attribute, and invented where the record says
nothing. The checker sees what its vocabulary holds: words for values of attributes, brands, uses
and promises; and every number. Words are runs of the letters a to z: a fact in another script, or
with an accent, is not recognised. Chapter 12.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer

PROMISES = (
    "guarantee", "warranty", "free returns", "free shipping", "best seller", "limited edition",
    "award winning", "certified", "handmade", "handcrafted", "hand painted", "eco friendly",
    "recycled", "waterproof", "water resistant", "discount", "sale", "support team",
    "plain packaging", "machine washable", "dishwasher safe",
)  # fmt: skip
# What is claimed of every kind of product; other attributes count where a record has them.
ASSERTED = {
    "brand", "colour", "material", "power", "link", "diet", "flavour", "scent", "who", "pattern",
    "skin", "hair", "pet", "promise", "number", "for",
}  # fmt: skip
# Words that sellers use for a value, and everybody for something else.
AMBIGUOUS = {
    "original", "plain", "natural", "everyday", "small", "full", "single", "double", "classic",
    "down", "check", "s", "m", "l",
}  # fmt: skip
# How a mail merge says an attribute; any other is named.
_MERGED = {
    "colour": "It comes in {values}.",
    "material": "It is made of {values}.",
    "number": "In numbers: {values}.",
    "promise": "Good to know: {values}.",
    "who": "It is from the {values} range.",
}
_NUMBERS = {
    "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12,
}  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """A fact of a record: the attribute, its value, and the words in which the shop shows it."""

    attribute: str
    value: str
    shown: str


@dataclass(frozen=True)
class Product:
    """A product's record, and the description that somebody has written for it, "" for none."""

    product_id: str
    name: str
    facts: tuple[Fact, ...]
    context: tuple[str, ...] = ()
    written: str = ""

    @property
    def record(self) -> str:
        """The record as lines `Attribute: value, value`."""
        lines = defaultdict(list)
        for fact in self.facts:
            lines[fact.attribute.replace("_", " ").capitalize()].append(fact.shown)
        told = [f"{name}: {', '.join(values)}" for name, values in lines.items()]
        return "\n".join([f"Product: {self.name}", *self.context, *told])

    @property
    def prompt(self) -> str:
        """The text that a fine-tuned model reads before it writes."""
        return f"{self.record}\nDescription:"


@dataclass(frozen=True)
class Check:
    """A text held against a record: facts that are named and missing, and words of wrong claims."""

    named: tuple[Fact, ...]
    missing: tuple[Fact, ...]
    contradicted: tuple[str, ...]
    invented: tuple[str, ...]

    @property
    def wrong(self) -> tuple[str, ...]:
        """The words of all wrong claims, contradicted and invented ones."""
        return self.contradicted + self.invented


def words(text: str) -> list[str]:
    """The lower-case words and numbers of a text.

    Plurals lose their s, and the words three to twelve become numbers.
    """
    return [word for word, _, _ in _places(text)]


def phrase(text: str) -> str:
    """The `words` of a text with one space between them: two forms of a phrase become equal."""
    return " ".join(words(text))


def _places(text: str) -> list[tuple[str, int, int]]:
    found = []
    for place in re.finditer(r"[A-Za-z]+|\d+(?:[.,]\d+)*", text):
        word = place.group().lower()
        plural = len(word) > 3 and word[-1] == "s" and word[-2] != "s"
        word = "grey" if word == "gray" else word[:-1] if plural else word
        found.append((str(_NUMBERS.get(word, word)), *place.span()))
    return found


class Vocabulary:
    """Words by which a text can name, or claim, a value of an attribute.

    Args:
        forms: for each attribute and value, the words for it.
    """

    def __init__(self, forms: Mapping[tuple[str, str], Iterable[str]]):
        self.forms = {reading: {phrase(form) for form in all_} for reading, all_ in forms.items()}
        self.readings: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for reading, all_ in self.forms.items():
            for form in all_ - AMBIGUOUS - {""}:
                if reading[0] != "product" and not re.search(r"\d", form):
                    self.readings[form].add(reading)
        self.longest = max((len(form.split()) for form in self.readings), default=1)

    def find(self, text: str) -> list[tuple[str, str]]:
        """The phrases of this vocabulary in a text, and the text's numbers.

        Each stands there as the vocabulary has it and as the text has it. Where two phrases share a
        word, the one that begins first counts, and of two that begin together the longer one.
        """
        own, found, start = _places(text), [], 0
        while start < len(own):
            for end in range(min(len(own), start + self.longest), start, -1):
                form = " ".join(word for word, _, _ in own[start:end])
                if form in self.readings or (end == start + 1 and form[0].isdigit()):
                    found.append((form, text[own[start][1] : own[end - 1][2]].lower()))
                    start = end - 1
                    break
            start += 1
        return found

    def check(self, text: str, product: Product) -> Check:
        """The `Check` of what `text` says of `product`.

        A fact is named by the words in which the shop shows it or by other words for its value. A
        claim holds if the record has its words or its value.
        """
        told, record = f" {phrase(text)} ", f" {phrase(product.record)} "
        known = {(fact.attribute, fact.value) for fact in product.facts}
        about = {attribute for attribute, _ in known}
        if re.search(r"\d", record):
            about = about | {"number"}
        named, missing, denied, invented = [], [], [], []
        for fact in product.facts:
            forms = {phrase(fact.shown), *self.forms.get((fact.attribute, fact.value), ())}
            said = any(form and f" {form} " in told for form in forms)
            (named if said else missing).append(fact)
        for form, _ in (claim for one in sentences(text) for claim in self.find(one)):
            readings = self.readings.get(form) or {("number", form)}
            if f" {form} " in record or readings & known:
                continue
            attributes = {attribute for attribute, _ in readings}
            if attributes & about:
                denied.append(form)
            elif attributes & ASSERTED:
                invented.append(form)
        return Check(tuple(named), tuple(missing), tuple(denied), tuple(invented))


def sentences(text: str) -> list[str]:
    """The sentences of a text, each of which ends where a space follows a `.`, `!` or `?`."""
    return [one for one in re.split(r"(?<=[.!?])\s+", text.strip()) if one]


def plain(product: Product, facts: Sequence[Fact] | None = None) -> str:
    """The record, or the given `facts` of it, as a text that needs no model and invents nothing."""
    told = [f"{fact.attribute.replace('_', ' ').capitalize()}: {fact.shown}."
            for fact in (product.facts if facts is None else facts)]  # fmt: skip
    return " ".join([f"{product.name}."] * (facts is None) + told)


def template(product: Product) -> str:
    """The record as sentences, by the rule of a mail merge: no model, and nothing invented.

    Example:
        >>> own = (Fact("brand", "Lum", "Lum"), Fact("colour", "blue", "Navy"))
        >>> template(Product("k", "kettle", (*own, Fact("for", "tea", "tea"))))
        'Meet our kettle by Lum. It comes in navy. It is made for tea.'
    """
    told: dict[str, list[str]] = defaultdict(list)
    for fact in product.facts:
        told[fact.attribute].append(fact.shown)
    brand, use = told.pop("brand", []), told.pop("for", [])
    sentences = [f"Meet our {product.name}{' by ' * bool(brand)}{_listed(brand)}."]
    for attribute, values in told.items():
        rule = _MERGED.get(attribute, "Its {attribute} is {values}.")
        own = [value.lower().removeprefix("for " if attribute == "who" else "") for value in values]
        sentences.append(rule.format(attribute=attribute.replace("_", " "), values=_listed(own)))
    return " ".join(sentences + [f"It is made for {_listed(use)}."] * bool(use))


def _listed(values: Sequence[str]) -> str:
    return " and ".join([", ".join(values[:-1])] * (len(values) > 1) + list(values[-1:]))


def mend(text: str, product: Product, vocabulary: Vocabulary) -> str | None:
    """The text with all facts and without any claim that the checker finds wrong; None to refuse.

    Sentences with a wrong claim, and a last one that was cut short, are taken out. Facts that are
    then missing are added as `plain` says them. Where no sentence is left, the guard refuses.
    """
    kept = [
        one
        for one in sentences(text)
        if one[-1] in ".!?" and not vocabulary.check(one, product).wrong
    ]
    if not kept:
        return None
    missing = vocabulary.check(" ".join(kept), product).missing
    return " ".join([*kept, plain(product, missing)]).strip()


# What a text is like -----------------------------------------------------------------------------


def repetition(text: str) -> float:
    """The share of a text's runs of three words that stood in it before (Welleck et al. 2020)."""
    runs = _runs(text)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _runs(text: str) -> list[tuple[str, ...]]:
    own = words(text)
    return list(zip(own, own[1:], own[2:], strict=False))


def reading_ease(text: str) -> float:
    """Flesch's reading ease, 206.835 - 1.015 words/sentences - 84.6 syllables/words (Flesch 1948).

    A syllable is a group of vowels, but for a silent e; 60 to 70 is plain English, and a text
    without a word has 0.
    """
    own = re.findall(r"[a-z][a-z']*", text.casefold())
    if not own:
        return 0.0
    syllables = sum(
        max(1, len(re.findall(r"[aeiouy]+", re.sub(r"(?<=[^aeiouyl])e$", "", one)))) for one in own
    )
    return 206.835 - 1.015 * len(own) / max(1, len(sentences(text))) - 84.6 * syllables / len(own)


def distance(texts: Sequence[str], training: Sequence[str]) -> np.ndarray:
    """The distance of each text from the nearest training text, (N,); 0 is a copy.

    It is 1 minus the Jaccard index of the two texts' runs of three words. A text of fewer words, a
    copy too, is at distance 1 of all.
    """
    if not len(texts) or not any(map(_runs, training)):
        return np.ones(len(texts))
    count = CountVectorizer(analyzer=_runs, binary=True)
    known = count.fit_transform(training).astype(np.float32)
    size = np.asarray(known.sum(axis=1)).ravel()
    found = []
    for start in range(0, len(texts), 500):  # a table of all pairs of texts takes memory
        part = texts[start : start + 500]
        # Runs that no training text has count too.
        own = np.array([max(1, len(set(_runs(text)))) for text in part])
        shared = (count.transform(part).astype(np.float32) @ known.T).toarray()
        found.append(1 - (shared / (own[:, None] + size - shared)).max(axis=1))
    return np.concatenate(found)


def measure(
    texts: Sequence[str],
    products: Sequence[Product],
    vocabulary: Vocabulary,
    training: Sequence[str],
) -> pd.DataFrame:
    """A table of how right and how readable texts are, one row for each, by product_id.

    Args:
        texts, products: N texts, each with the product that it describes.
        vocabulary: the words that the checker knows.
        training: texts from which `distance` is measured.

    Returns:
        `facts` of the record and how many of them are `named`; `contradicted` and `invented`, 1
        where there is such a claim and else 0; `clean`, 1 where all facts are named and no claim is
        wrong; the number of `words`; `repetition`, `reading_ease` and `distance`.

    Raises ValueError for no text.
    """
    if not len(texts):
        raise ValueError("measure: there is no text to measure; give one or more.")
    rows = []
    for text, product in zip(texts, products, strict=True):
        found = vocabulary.check(text, product)
        rows.append(
            {
                "product_id": product.product_id,
                "facts": len(product.facts),
                "named": len(found.named),
                "contradicted": float(bool(found.contradicted)),
                "invented": float(bool(found.invented)),
                "clean": float(not found.missing and not found.wrong),
                "words": len(text.split()),
                "repetition": repetition(text),
                "reading_ease": reading_ease(text),
            }
        )
    table = pd.DataFrame(rows).set_index("product_id")
    return table.assign(distance=distance(texts, training))
