"""The simulated shop: catalogue, queries, judgments, unlabelled pairs and shoppers from one seed.

Nothing here is real. Words come from ``shop_vocabulary.toml``, brands are invented, and labels
follow from what a query asks and what a product truly is:

- E: the asked type, and every asked attribute matches;
- S: the asked type with an attribute that does not match, or a declared substitute that matches
  every asked attribute it can have;
- C: a declared complement of the asked type;
- I: everything else.

A product depends on the seed, its number and how many types the shop sells, so a catalogue of any
size is written piece by piece. The same seed gives the same bytes.
"""

import hashlib
import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ecomkd.data.schema import GAINS, LABELS, TEXT, normalise_query

VOCABULARY = Path(__file__).with_name("shop_vocabulary.toml")
CHUNK = 1000  # products drawn from one random stream
POOL = 20_000  # judgments are about the first POOL products, so that they need no more memory
SHOPPERS = 200
TRIES = 400  # at a query that nobody has typed before
SPLITS = {"train": 0.5, "validation": 0.14, "test": 0.36}  # shares of the judged queries
KINDS = {
    "plain": 0.06,  # a seller's word
    "synonym": 0.28,  # an everyday word
    "attribute": 0.34,  # with one or two attributes
    "brand": 0.06,  # with a brand
    "typo": 0.08,  # with a slip of the fingers
    "use_case": 0.18,  # what it is for, half of the time without naming it
}
EVERYDAY = 0.7  # how often a query calls a thing by an everyday word, not by a seller's
UNSEEN_SHARE = 0.30  # of test and unlabelled queries: a word that training never shows
# Shares of E, S, C, I that a query's candidates are drawn for, near those of ESCI's reduced set,
# the one for ranking; each query varies around them.
JUDGED_MIX = (0.47, 0.31, 0.05, 0.17)
UNLABELLED_MIX = (0.40, 0.25, 0.10, 0.25)
SAME, SUBSTITUTE, COMPLEMENT, UNRELATED = range(4)
# One stream of random numbers per purpose, so that a change in one leaves the others alone.
ASSORTMENT, PRODUCTS, QUERIES, CANDIDATES, TASTES = range(5)


@dataclass(frozen=True)
class Brand:
    """An invented brand: its style of titles and its price level, 1 (low) to 3 (high)."""

    name: str
    style: str
    level: int


@dataclass(frozen=True)
class ProductType:
    """One kind of product; the head of the vocabulary file says what each field holds."""

    key: str
    department: str
    names: tuple[str, ...]
    known: tuple[str, ...]
    unseen: tuple[str, ...]
    attributes: dict[str, tuple[str, ...]]
    uses: tuple[str, ...]
    needs: tuple[str, ...]
    goes: tuple[str, ...]
    instead: tuple[str, ...]
    price: tuple[float, float]
    mass: bool


@dataclass(frozen=True)
class Vocabulary:
    """All words of the shop. ``forms[attribute, value]`` is (forms in titles, forms in queries)."""

    types: tuple[ProductType, ...]
    brands: dict[str, tuple[Brand, ...]]
    forms: dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]]
    fillers: tuple[str, ...]
    lines: tuple[str, ...]
    stuffing: tuple[str, ...]
    closers: tuple[str, ...]


@dataclass
class Shop:
    """The frames of one simulated shop.

    ``products``: the contract's columns and the truth (product_type, department, price_cents,
    attributes as JSON). ``judgments``, ``unlabelled``: the contract's columns and query_kind.
    ``queries``: the truth of each query (product_type, asked attributes as JSON).
    ``shoppers``: price_level (0 to 1), favourite brands and departments as JSON.
    """

    products: pd.DataFrame
    judgments: pd.DataFrame
    unlabelled: pd.DataFrame
    queries: pd.DataFrame
    shoppers: pd.DataFrame

    def taste(self, shopper_id: str) -> pd.Series:
        """How much each product suits a shopper, from 0 to 1, indexed by product_id.

        0.5 for a favourite brand, 0.2 for a favourite department, and up to 0.3 for the price:
        where it lies in its type's range against where the shopper likes it to lie.
        """
        shopper = _only(self.shoppers, "shopper_id", shopper_id).iloc[0]
        prices = {kind.key: kind.price for kind in vocabulary().types}
        low, high = np.array([prices[key] for key in self.products.product_type]).T
        place = np.log(self.products.price_cents / 100 / low) / np.log(high / low)
        taste = (
            0.5 * self.products.product_brand.isin(json.loads(shopper.brands))
            + 0.2 * self.products.department.isin(json.loads(shopper.departments))
            + 0.3 * (1 - (place - shopper.price_level).abs()).clip(0, 1)
        )
        return pd.Series(taste.to_numpy(), index=self.products.product_id, name="taste")

    def personal_relevance(self, shopper_id: str, query_id: str) -> pd.DataFrame:
        """The judged products of a query and what each is worth to one shopper, best first.

        ``relevance`` = gain of the label · (1 + taste) / 2: first comes what the query asks, then
        taste decides between products that answer it equally well.
        """
        rows = _only(self.judgments, "query_id", query_id)[["query_id", "product_id", "esci_label"]]
        rows = rows.assign(taste=self.taste(shopper_id).loc[rows.product_id].to_numpy())
        rows["relevance"] = rows.esci_label.map(GAINS) * (1 + rows.taste) / 2
        return rows.sort_values("relevance", ascending=False, kind="stable", ignore_index=True)


def generate(
    seed: int,
    products: int = 3000,
    queries: int = 900,
    judged_per_query: int = 10,
    unlabelled_pairs: int = 20_000,
) -> Shop:
    """The simulated shop of a seed, in memory.

    Of the judged queries, half are for training, 14 % for validation, 36 % for testing. Raises
    ValueError where the shop is too small for so many different queries.
    """
    shop = _assortment(seed, products)
    frame = pd.concat(_catalogue(seed, products, shop), ignore_index=True)
    traffic = _traffic(seed, shop, frame[:POOL], queries, judged_per_query, unlabelled_pairs)
    return Shop(frame, *traffic, _shoppers(seed))


def write(
    folder: Path | str,
    products: int,
    seed: int,
    queries: int = 900,
    judged_per_query: int = 10,
    unlabelled_pairs: int = 20_000,
) -> Path:
    """Write the same shop as parquet files that keep the data contract; return the folder.

    Memory does not grow with ``products``: the catalogue is written chunk by chunk, and the
    judgments are about its first 20,000 products. A file appears only when it is complete.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shop = _assortment(seed, products)
    parts = {
        name: folder / f"{name}.parquet.part" for name in ("products", "judgments", "unlabelled")
    }
    chunks = _catalogue(seed, products, shop)
    head = [next(chunks)]
    schema = pa.Table.from_pandas(head[0], preserve_index=False).schema
    with pq.ParquetWriter(parts["products"], schema) as writer:
        for number, frame in enumerate(chain(head[:1], chunks)):
            writer.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))
            if 0 < number < POOL // CHUNK:
                head.append(frame)
    pool = pd.concat(head, ignore_index=True)
    traffic = _traffic(seed, shop, pool, queries, judged_per_query, unlabelled_pairs)
    for name, frame in zip(("judgments", "unlabelled"), traffic[:2], strict=True):
        frame.to_parquet(parts[name], index=False)
    for part in parts.values():
        part.replace(part.with_suffix(""))
    return folder


def generator_hash() -> str:
    """SHA-256 of this module's source and its vocabulary: two equal hashes mean equal shops."""
    return hashlib.sha256(Path(__file__).read_bytes() + VOCABULARY.read_bytes()).hexdigest()


@lru_cache(maxsize=1)
def vocabulary() -> Vocabulary:
    """The vocabulary file, read once."""
    raw = tomllib.loads(VOCABULARY.read_text(encoding="utf-8"))
    forms = {
        (name, value): tuple(map(tuple, both))
        for name, values in raw["attributes"].items()
        for value, both in values.items()
    }
    types = []
    for department, entries in raw["types"].items():
        for key, entry in entries.items():
            attributes = {}
            for text in entry["attrs"]:
                name, _, listed = text.partition("=")
                attributes[name] = tuple(listed.split("|") if listed else raw["attributes"][name])
                for value in attributes[name]:
                    forms.setdefault((name, value), _unlisted_forms(value, raw["units"]))
            lists = ("names", "known", "unseen", "uses", "needs", "goes", "instead", "price")
            rest = {field: tuple(entry[field]) for field in lists}
            mass = entry.get("mass", False)
            types.append(ProductType(key, department, attributes=attributes, mass=mass, **rest))
    brands = {
        department: tuple(
            Brand(name, style, int(level))
            for name, style, level in (text.rsplit(" ", 2) for text in texts)
        )
        for department, texts in raw["brands"].items()
    }
    lists = {name: tuple(raw[name]) for name in ("fillers", "lines", "stuffing", "closers")}
    return Vocabulary(tuple(types), brands, forms, **lists)


def _unlisted_forms(value: str, units: dict) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Forms of a value that no attribute table lists: a number with a unit, or the word itself."""
    number, _, unit = value.partition(" ")
    if unit in units:
        return tuple(tuple(form.format(n=number) for form in side) for side in units[unit])
    return (value.title(),), (value,)


def _stream(seed: int, *purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, *purpose]))


def _only(frame: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    rows = frame[frame[column] == value]
    if rows.empty:
        raise ValueError(f"this shop has no {column} {value!r}")
    return rows


@dataclass
class _Assortment:
    """What one shop sells: types in order of popularity, N of them."""

    types: list[ProductType]
    values: list[dict[str, tuple[str, ...]]]  # of each type, the most common first
    stock: np.ndarray  # (N,) share of the products
    demand: np.ndarray  # (N,) share of the queries
    relation: np.ndarray  # (N, N) of SAME, SUBSTITUTE, COMPLEMENT, UNRELATED


def _assortment(seed: int, products: int) -> _Assortment:
    """Choose the shop's types, one for every 15 products, in at most a department for every 12.

    A type comes with what stands in for it and goes with it, so that S and C have a meaning.
    """
    if seed < 0 or products < 100:
        raise ValueError(f"seed {seed}, {products} products: take a seed ≥ 0 and ≥ 100 products")
    rng = _stream(seed, ASSORTMENT)
    kinds = {kind.key: kind for kind in vocabulary().types}
    wanted = min(len(kinds), products // 15)
    departments = rng.permutation(list(vocabulary().brands))[: max(1, wanted // 12)]
    by_department = [[k for k in kinds if kinds[k].department == d] for d in departments]
    queues = [rng.permutation(keys).tolist() for keys in by_department]
    order = [key for turn in zip_longest(*queues) for key in turn if key]
    order = [k for key in order for k in (key, *kinds[key].instead, *kinds[key].goes[:1])]
    chosen = list(dict.fromkeys(k for k in order if kinds[k].department in departments))[:wanted]
    types = [kinds[key] for key in rng.permutation(chosen)]
    values = [
        {name: tuple(rng.permutation(listed).tolist()) for name, listed in kind.attributes.items()}
        for kind in types
    ]
    relation = np.full((len(types), len(types)), UNRELATED, dtype=np.int8)
    for i, kind in enumerate(types):
        for j, other in enumerate(types):
            if other.key in kind.goes:
                relation[i, j] = relation[j, i] = COMPLEMENT
            elif other.key in kind.instead:
                relation[i, j] = relation[j, i] = SUBSTITUTE
    np.fill_diagonal(relation, SAME)
    rank = np.arange(len(types))
    stock, demand = (rank + 8.0) ** -0.7, (rank + 3.0) ** -0.9  # Zipf: demand has the longer tail
    return _Assortment(types, values, stock / stock.sum(), demand / demand.sum(), relation)


def _catalogue(seed: int, products: int, shop: _Assortment) -> Iterator[pd.DataFrame]:
    """The products in frames of at most CHUNK rows."""
    for chunk, start in enumerate(range(0, products, CHUNK)):
        rng = _stream(seed, PRODUCTS, chunk)
        types = rng.choice(len(shop.types), size=CHUNK, p=shop.stock)
        draws = rng.random((CHUNK, 64)).tolist()
        yield pd.DataFrame(
            _product(
                f"S{seed}P{start + i:07d}", shop.types[types[i]], shop.values[types[i]], draws[i]
            )
            for i in range(min(CHUNK, products - start))
        )


def _product(product_id: str, kind: ProductType, values: dict, draws: list[float]) -> dict:
    """One product, from 64 uniform draws."""
    words, draw = vocabulary(), iter(draws).__next__

    def pick(options, skew=1.0):
        return options[int(len(options) * draw() ** skew)]

    brand, line, name = (
        pick(words.brands[kind.department], 1.2),
        pick(words.lines),
        pick(kind.names),
    )
    truth = {attribute: pick(listed, 2.0) for attribute, listed in values.items()}
    shown = {a: pick(words.forms[a, v][0]) for a, v in truth.items()}
    uses = list(dict.fromkeys((pick(kind.uses), pick(kind.uses))))
    in_title = [shown[a] for a in shown if draw() < 0.85]
    if draw() < 0.5:
        in_title.reverse()
    title_line = line if draw() < 0.6 else ""
    title = _title(brand, title_line, name, pick(kind.names), in_title, uses, pick(words.stuffing))
    bullets = [f"{a.replace('_', ' ').capitalize()}: {text}" for a, text in shown.items()]
    description = f"{brand.name} {line} {pick(kind.names).lower()} made for {uses[0]}."
    low, high = kind.price
    price = low * (high / low) ** (0.3 * (brand.level - 1) + 0.4 * draw())
    return {
        "product_id": product_id,
        "product_title": title,
        "product_description": f"{description} {pick(words.closers)}" if draw() < 0.8 else "",
        "product_bullet_point": "\n".join([*bullets, f"For {uses[-1]}"]) if draw() < 0.9 else "",
        "product_brand": brand.name,
        "product_color": shown.get("colour", ""),
        "product_type": kind.key,
        "department": kind.department,
        "price_cents": round(price) * 100 - 1,
        "attributes": json.dumps(truth),
    }


def _title(brand, line, name, other_name, attributes, uses, stuffing) -> str:
    """A title in the brand's style."""
    first, rest = " ".join(attributes[:1]), attributes[1:]
    use = uses[0].title()
    head = " ".join(filter(None, (line, first, name)))
    if brand.style == "plain":
        return ", ".join([f"{brand.name} {head}", *rest])
    if brand.style == "tail":
        return f"{', '.join([head, *rest])} for {use} by {brand.name}"
    if brand.style == "pipes":
        return " | ".join([brand.name, f"{name} {line}".strip(), *attributes, use])
    if brand.style == "terse":
        return " ".join(filter(None, (brand.name, line, name, *attributes[:2])))
    if brand.style == "shout":
        return f"{brand.name.upper()} {name.upper()} {' / '.join(attributes)} - {stuffing}"
    keywords = [f"{first} {name}".strip(), *rest] + [other_name] * (other_name != name)  # stuffed
    use = " ".join(uses).title()
    return f"{', '.join(keywords)} for {use} - {stuffing} - {brand.name}"


@dataclass(frozen=True)
class _Query:
    text: str
    kind: str
    type_index: int
    asked: dict[str, str]  # attribute, or "brand", and the value it must have


class _Pool:
    """The products that judgments are about, with what is needed to label and to find them."""

    def __init__(self, products: pd.DataFrame, shop: _Assortment):
        index = {kind.key: i for i, kind in enumerate(shop.types)}
        self.shop = shop
        self.type_index = products.product_type.map(index).to_numpy()
        self.of_type = [np.flatnonzero(self.type_index == i) for i in range(len(index))]
        departments = products.department.to_numpy()
        self.of_department = {d: np.flatnonzero(departments == d) for d in set(departments)}
        rows = zip(products.attributes, products.product_brand, strict=True)
        self.truth = [json.loads(text) | {"brand": brand} for text, brand in rows]
        places = defaultdict(list)
        for i, title in enumerate(products.product_title):
            for word in set(_words(title)):
                places[word].append(i)
        self.places = {word: np.array(found) for word, found in places.items()}

    def label(self, query: _Query, product: int) -> str:
        """The rule at the head of this module."""
        relation = self.shop.relation[query.type_index, self.type_index[product]]
        truth = self.truth[product]
        if relation == SAME:
            return "E" if all(truth[a] == v for a, v in query.asked.items()) else "S"
        if relation == SUBSTITUTE and all(truth.get(a, v) == v for a, v in query.asked.items()):
            return "S"
        return "C" if relation == COMPLEMENT else "I"

    def related(self, query: _Query, relation: int) -> list[int]:
        """The products whose type stands in this relation to the asked type."""
        types = np.flatnonzero(self.shop.relation[query.type_index] == relation)
        return [int(i) for t in types for i in self.of_type[t]]

    def overlap(self, text: str) -> np.ndarray:
        """(products,) how many of the query's words a title has, rare words counting more."""
        score = np.zeros(len(self.truth))
        for word in set(_words(text)):
            found = self.places.get(word, [])
            score[found] += np.log(len(score) / max(1, len(found)))
        return score


def _words(text: str) -> list[str]:
    """Lower-case words without a final s, so that a plural meets its singular."""
    return [
        w[:-1] if len(w) > 3 and w.endswith("s") else w for w in re.findall(r"\w+", text.lower())
    ]


def _plural(name: str) -> str:
    if name.endswith(("ch", "sh", "x")):
        return name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name if name.endswith("s") else name + "s"


def _misspell(rng: np.random.Generator, text: str) -> str:
    """One slip of the fingers in the longest word: two letters swapped, one dropped or doubled."""
    word = max(text.split(), key=len)
    at = int(rng.integers(1, max(2, len(word) - 1)))
    slips = (
        word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
    )
    return text.replace(word, slips[rng.integers(3)], 1)


def _draw_query(rng, kind: str, pool: _Pool, hurry: float) -> _Query | None:
    """One query about some product; None where the pool has too few answers to it.

    ``hurry``, 0 to 1, makes queries longer, when the short ones are used up.
    """
    shop, words = pool.shop, vocabulary()
    # Unseen words ask more evenly, so that many are about types rare in training.
    weights = shop.stock if kind == "unseen_synonym" else shop.demand
    type_index = int(rng.choice(len(shop.types), p=weights))
    about, owned = shop.types[type_index], pool.of_type[type_index]
    if len(owned) == 0:
        return None
    if kind == "use_case" and rng.random() < 0.5:
        query = _Query(str(rng.choice(about.needs)), kind, type_index, {})
    else:
        sources = {"plain": about.names, "synonym": about.known, "unseen_synonym": about.unseen}
        usual = about.known if rng.random() < EVERYDAY else about.names
        name = str(rng.choice(sources.get(kind, usual))).lower()
        if not about.mass and rng.random() < 0.3:
            name = _plural(name)
        if kind == "typo":
            name = _misspell(rng, name)
        count = {"plain": 0, "attribute": rng.integers(1, 3)}.get(
            kind, rng.random() < max(0.6, hurry)
        )
        asked = rng.permutation(list(about.attributes))[: int(count)].tolist()
        truth = pool.truth[rng.choice(owned)]
        asked = {attribute: truth[attribute] for attribute in asked + ["brand"] * (kind == "brand")}
        before, after = [], []
        for attribute, value in asked.items():
            forms = (value,) if attribute == "brand" else words.forms[attribute, value][1]
            form = str(rng.choice(forms))
            trails = form.startswith(("for ", "with ")) or rng.random() < 0.25
            (after if trails else before).append(form)
        if kind == "use_case" or rng.random() < 0.3 * hurry:
            after.append(f"for {rng.choice(about.uses)}")
        if rng.random() < max(0.12, hurry):
            before.insert(0, str(rng.choice(words.fillers)))
        query = _Query(" ".join([*before, name, *after]).lower(), kind, type_index, asked)
    return query if sum(pool.label(query, i) == "E" for i in owned) >= 3 else None


def _candidates(rng, query: _Query, count: int, mix, pool: _Pool) -> list[tuple[int, str]]:
    """Products and labels of one query, in random order.

    Half of what is irrelevant shares words with the query, a quarter only its department.
    """
    groups = {label: [] for label in LABELS}
    for relation in (SAME, SUBSTITUTE, COMPLEMENT):
        rows = rng.permutation(pool.related(query, relation)).astype(int).tolist()
        found = {label: [] for label in LABELS}
        for row in rows:
            found[pool.label(query, row)].append(row)
        for label in LABELS:  # the right type with a wrong attribute and substitutes take turns
            groups[label] = _take_turns(groups[label], found[label])
    kinds = pool.shop.relation[query.type_index][pool.type_index]
    overlap = np.where(kinds == UNRELATED, pool.overlap(query.text), 0.0)
    likest = np.argsort(-overlap, kind="stable")[:30]
    likest = rng.permutation(likest[overlap[likest] > 0])
    department = pool.of_department[pool.shop.types[query.type_index].department]
    near, far = (
        rows[kinds[rows] == UNRELATED]
        for rows in (rng.choice(department, 5 * count), rng.integers(len(kinds), size=5 * count))
    )
    near = _take_turns(groups["I"], near.tolist())
    groups["I"] = _take_turns(likest.tolist(), _take_turns(near, far.tolist()))
    need = rng.multinomial(count, rng.dirichlet(7 * np.array(mix)))
    chosen = [
        (row, label) for label, n in zip(LABELS, need, strict=True) for row in groups[label][:n]
    ]
    rest = {label: groups[label][n:] for label, n in zip(LABELS, need, strict=True)}
    spare = [
        (row, label)
        for pair in zip_longest(rest["S"], rest["I"])
        for row, label in zip(pair, "SI", strict=True)
        if row is not None
    ]
    chosen += (spare + [(row, "E") for row in rest["E"]])[: count - len(chosen)]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def _take_turns(first: list, second: list) -> list:
    """One of each in turn, without repeats."""
    mixed = chain.from_iterable(zip_longest(first, second))
    return list(dict.fromkeys(row for row in mixed if row is not None))


def _traffic(
    seed: int,
    shop: _Assortment,
    products: pd.DataFrame,
    queries: int,
    judged_per_query: int,
    unlabelled_pairs: int,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Judgments, unlabelled pairs and the queries' truth, about the given products."""
    pool, rng = _Pool(products, shop), _stream(seed, QUERIES)
    unlabelled = -(-unlabelled_pairs // judged_per_query)
    counts = [round(share * queries) for share in SPLITS.values()]
    splits = rng.permutation(np.repeat([*SPLITS, "unlabelled"], [*counts, unlabelled]))
    taken, truths, pairs = set(), [], []
    chooser = _stream(seed, CANDIDATES)
    for number, split in enumerate(splits.tolist()):
        query = _new_query(rng, split in ("test", "unlabelled"), pool, taken)
        if query is None:
            raise ValueError(
                f"{len(products)} products are too few for {len(splits)} different queries: take "
                "more products, fewer queries or fewer unlabelled pairs"
            )
        key = f"S{seed}Q{number:06d}"
        kind = shop.types[query.type_index].key
        truths.append((key, query.text, split, query.kind, kind, json.dumps(query.asked)))
        mix = UNLABELLED_MIX if split == "unlabelled" else JUDGED_MIX
        for row, label in _candidates(chooser, query, judged_per_query, mix, pool):
            pairs.append((key, query.text, row, label, split, query.kind))
    columns = ["query_id", "query", "split", "query_kind", "product_type", "asked"]
    truth = pd.DataFrame(truths, columns=columns)
    columns = ["query_id", "query", "row", "esci_label", "split", "query_kind"]
    frame = pd.DataFrame(pairs, columns=columns)
    texts = products[["product_id", *TEXT]].iloc[frame.pop("row")].reset_index(drop=True)
    frame = pd.concat([frame[["query_id", "query"]], texts, frame.iloc[:, 2:]], axis=1)
    free = frame.split == "unlabelled"
    unlabelled = frame[free].drop(columns="esci_label")[:unlabelled_pairs]
    return frame[~free].reset_index(drop=True), unlabelled.reset_index(drop=True), truth


def _new_query(rng, unseen_words: bool, pool: _Pool, taken: set[str]) -> _Query | None:
    """A query whose normalised text nobody has typed before; None after TRIES."""
    kinds, shares = list(KINDS), list(KINDS.values())
    for attempt in range(TRIES):
        unseen = unseen_words and rng.random() < UNSEEN_SHARE
        kind = "unseen_synonym" if unseen else str(rng.choice(kinds, p=shares))
        query = _draw_query(rng, kind, pool, hurry=min(1.0, attempt * 4 / TRIES))
        if query is not None and (text := normalise_query(query.text)) not in taken:
            taken.add(text)
            return query
    return None


def _shoppers(seed: int) -> pd.DataFrame:
    """SHOPPERS people with a price level, two favourite brands a department, three departments."""
    rng, brands = _stream(seed, TASTES), vocabulary().brands
    rows = []
    for number in range(SHOPPERS):
        liked = [rng.choice([b.name for b in brands[d]], 2, replace=False).tolist() for d in brands]
        departments = rng.choice(list(brands), size=3, replace=False).tolist()
        level = round(float(rng.beta(1.2, 1.2)), 3)
        names = json.dumps(list(chain.from_iterable(liked)))
        rows.append((f"S{seed}U{number:05d}", level, names, json.dumps(departments)))
    return pd.DataFrame(rows, columns=["shopper_id", "price_level", "brands", "departments"])
