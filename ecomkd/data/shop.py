"""The simulated shop: a catalogue, queries, judgments, unlabelled traffic and shoppers from one seed.

Nothing here is real. Words come from ``shop_vocabulary.toml``, brands are invented, and labels
follow from what each query asks and what each product truly is:

- E: the asked type, and every asked attribute matches;
- S: the asked type with an attribute that does not match, or a declared substitute that carries
  every asked attribute it can carry;
- C: a declared complement of the asked type;
- I: everything else.

A product depends on the seed, its index and the number of types alone, so a catalogue of any
size is written chunk by chunk. The same seed gives the same bytes.
"""

import hashlib
import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ecomkd.data.schema import GAINS, LABELS, normalise_query

VOCABULARY = Path(__file__).with_name("shop_vocabulary.toml")
CHUNK = 1000  # products drawn from one random stream
POOL = 20_000  # judgments are about the first POOL products, so that they stay the same size
SHOPPERS = 200
SAME, SUBSTITUTE, COMPLEMENT, OTHER = range(4)
# One stream of random numbers per purpose, so that changing one leaves the others alone.
ASSORTMENT, PRODUCTS, QUERIES, CANDIDATES, TASTES = range(5)

SPLITS = {"train": 0.5, "validation": 0.14, "test": 0.36}
# Share of each kind of query, without and with the kind that only test and unlabelled queries have.
SEEN_KINDS = {
    "plain": 0.14,
    "synonym": 0.20,
    "attribute": 0.30,
    "brand": 0.10,
    "typo": 0.10,
    "use_case": 0.16,
}
UNSEEN_SHARE = 0.34
# Expected shares of E, S, C, I among a query's candidates; each query's own shares vary around them.
JUDGED_MIX = (0.62, 0.22, 0.04, 0.12)
UNLABELLED_MIX = (0.40, 0.25, 0.10, 0.25)
CONTRACT_TEXT = [
    "product_title",
    "product_description",
    "product_bullet_point",
    "product_brand",
    "product_color",
]


@dataclass(frozen=True)
class Brand:
    """An invented brand: its house style of titles and its price level, 1 (low) to 3 (high)."""

    name: str
    style: str
    level: int


@dataclass(frozen=True)
class ProductType:
    """What the vocabulary says about one kind of product; see the head of the vocabulary file."""

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

    ``products`` (the contract's columns and the truth: product_type, department, price_cents,
    attributes as JSON), ``judgments`` and ``unlabelled`` (the contract's columns and query_kind),
    ``queries`` (the truth of each: product_type, asked attributes as JSON), ``shoppers`` (tastes).
    """

    seed: int
    products: pd.DataFrame
    judgments: pd.DataFrame
    unlabelled: pd.DataFrame
    queries: pd.DataFrame
    shoppers: pd.DataFrame

    def taste(self, shopper_id: str) -> pd.Series:
        """How much each product suits a shopper, from 0 to 1, indexed by product_id.

        Half of it is a favourite brand, 0.3 the price level, 0.2 a favourite department.
        """
        found = self.shoppers[self.shoppers.shopper_id == shopper_id]
        if found.empty:
            raise ValueError(f"no shopper {shopper_id!r}: take one of shop.shoppers.shopper_id")
        shopper = found.iloc[0]
        kinds = {kind.key: kind for kind in vocabulary().types}
        low, high = np.array([kinds[key].price for key in self.products.product_type]).T
        level = np.log(self.products.price_cents / 100 / low) / np.log(high / low)
        taste = (
            0.5 * self.products.product_brand.isin(json.loads(shopper.brands))
            + 0.3 * (1 - (level - shopper.price_level).abs()).clip(0, 1)
            + 0.2 * self.products.department.isin(json.loads(shopper.departments))
        )
        return pd.Series(taste.to_numpy(), index=self.products.product_id, name="taste")

    def personal_relevance(self, shopper_id: str, query_id: str) -> pd.DataFrame:
        """Judged products of a query with what each is worth to one shopper, best first.

        ``relevance`` = gain of the label · (1 + taste) / 2: what the query asks comes first, and
        taste decides between products that answer it equally well.
        """
        rows = self.judgments[self.judgments.query_id == query_id]
        if rows.empty:
            raise ValueError(f"no judged query {query_id!r}: take one of shop.judgments.query_id")
        rows = rows[["query_id", "product_id", "esci_label"]].copy()
        rows["taste"] = self.taste(shopper_id).loc[rows.product_id].to_numpy()
        rows["relevance"] = rows.esci_label.map(GAINS) * (1 + rows.taste) / 2
        return rows.sort_values("relevance", ascending=False, kind="stable", ignore_index=True)


# -- the vocabulary -----------------------------------------------------------------------------


@lru_cache(maxsize=1)
def vocabulary() -> Vocabulary:
    """Read and check the vocabulary file. Raises ValueError where it contradicts itself."""
    raw = tomllib.loads(VOCABULARY.read_text(encoding="utf-8"))
    forms = {
        (attribute, value): tuple(map(tuple, pair))
        for attribute, values in raw["attributes"].items()
        for value, pair in values.items()
    }
    types = []
    for department, entries in raw["types"].items():
        for key, entry in entries.items():
            attributes = {}
            for text in entry["attrs"]:
                name, _, listed = text.partition("=")
                values = tuple(listed.split("|")) if listed else tuple(raw["attributes"][name])
                attributes[name] = values
                for value in values:
                    forms.setdefault((name, value), _plain_forms(value, raw["units"]))
            words = {k: tuple(entry[k]) for k in ("names", "known", "unseen", "uses", "needs")}
            types.append(
                ProductType(
                    key=key,
                    department=department,
                    attributes=attributes,
                    goes=tuple(entry["goes"]),
                    instead=tuple(entry["instead"]),
                    price=tuple(entry["price"]),
                    mass=entry.get("mass", False),
                    **words,
                )
            )
    keys = {kind.key for kind in types}
    if len(keys) < len(types):
        raise ValueError(f"{VOCABULARY.name}: a type stands in two departments")
    for kind in types:
        if missing := {*kind.goes, *kind.instead} - keys:
            raise ValueError(f"{VOCABULARY.name}: {kind.key} names unknown types {missing}")
    brands = {
        department: tuple(
            Brand(name, style, int(level))
            for name, style, level in (text.rsplit(" ", 2) for text in texts)
        )
        for department, texts in raw["brands"].items()
    }
    lists = {k: tuple(raw[k]) for k in ("fillers", "lines", "stuffing", "closers")}
    return Vocabulary(tuple(types), brands, forms, **lists)


def _plain_forms(value: str, units: dict) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Forms of a value that the attribute tables do not list: a number with a unit, or a word."""
    number, _, unit = value.partition(" ")
    if unit in units:
        return tuple(tuple(form.format(n=number) for form in side) for side in units[unit])
    return (value.title(),), (value,)


def generator_hash() -> str:
    """SHA-256 of this module's source and its vocabulary: two equal hashes mean equal shops."""
    digest = hashlib.sha256()
    for path in (Path(__file__), VOCABULARY):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _stream(seed: int, *purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, *purpose]))


# -- the catalogue ------------------------------------------------------------------------------


@dataclass
class _Assortment:
    """What one shop sells: its types in order of popularity, and how likely each is."""

    types: list[ProductType]
    values: list[dict[str, tuple[str, ...]]]  # each type's values, the most common first
    stock: np.ndarray  # (types,) share of the products
    demand: np.ndarray  # (types,) share of the queries: a longer tail than the stock's
    relation: np.ndarray = field(init=False)  # (types, types) of SAME, SUBSTITUTE, COMPLEMENT, OTHER

    def __post_init__(self):
        index = {kind.key: i for i, kind in enumerate(self.types)}
        self.relation = np.full((len(index), len(index)), OTHER, dtype=np.int8)
        for code, attribute in ((COMPLEMENT, "goes"), (SUBSTITUTE, "instead")):
            for i, kind in enumerate(self.types):
                for key in getattr(kind, attribute):
                    if key in index:
                        self.relation[i, index[key]] = self.relation[index[key], i] = code
        np.fill_diagonal(self.relation, SAME)


def _assortment(seed: int, products: int) -> _Assortment:
    """Choose the shop's types: one for every 15 products, in at most one department for every 12.

    A type is chosen together with its substitutes, so that labels S have something to stand on.
    """
    rng = _stream(seed, ASSORTMENT)
    kinds = {kind.key: kind for kind in vocabulary().types}
    wanted = min(len(kinds), max(6, products // 15))
    departments = list(dict.fromkeys(kind.department for kind in vocabulary().types))
    kept = rng.permutation(departments)[: max(1, wanted // 12)]
    pools = [
        [keys[i] for i in rng.permutation(len(keys))]
        for keys in ([k for k in kinds if kinds[k].department == d] for d in kept)
    ]
    chosen: dict[str, None] = {}
    while len(chosen) < wanted and any(pools):
        for pool in filter(None, pools):
            key = pool.pop()
            for other in (key, *kinds[key].instead):
                if kinds[other].department in kept and len(chosen) < wanted:
                    chosen[other] = None
    keys = list(chosen)
    types = [kinds[keys[i]] for i in rng.permutation(len(keys))]
    values = [
        {
            name: tuple(listed[j] for j in rng.permutation(len(listed)))
            for name, listed in kind.attributes.items()
        }
        for kind in types
    ]
    rank = np.arange(len(types))
    stock, demand = (rank + 8.0) ** -0.7, (rank + 3.0) ** -0.9
    return _Assortment(types, values, stock / stock.sum(), demand / demand.sum())


def _chunks(seed: int, products: int, shop: _Assortment) -> Iterator[pd.DataFrame]:
    """The products in frames of at most CHUNK rows."""
    for chunk, start in enumerate(range(0, products, CHUNK)):
        rng = _stream(seed, PRODUCTS, chunk)
        kinds = rng.choice(len(shop.types), size=CHUNK, p=shop.stock)
        draws = rng.random((CHUNK, 64)).tolist()
        rows = [
            _product(f"S{seed}P{start + i:07d}", shop.types[kinds[i]], shop.values[kinds[i]], draws[i])
            for i in range(min(CHUNK, products - start))
        ]
        yield pd.DataFrame(rows)


def _product(product_id: str, kind: ProductType, values: dict, draws: list[float]) -> dict:
    """One product, from 64 uniform draws."""
    words = vocabulary()
    draw = iter(draws).__next__

    def pick(options, skew=1.0):
        return options[int(len(options) * draw() ** skew)]

    brand = pick(words.brands[kind.department], 1.2)
    name, line = pick(kind.names), pick(words.lines)
    truth = {attribute: pick(listed, 1.5) for attribute, listed in values.items()}
    shown = {a: pick(words.forms[a, v][0]) for a, v in truth.items()}
    use, other_use = pick(kind.uses), pick(kind.uses)
    title_parts = [shown[a] for a in shown if draw() < 0.85]
    if draw() < 0.5:
        title_parts.reverse()
    title = _title(
        brand,
        line if draw() < 0.6 else "",
        name,
        pick(kind.names),
        title_parts,
        (use, other_use),
        pick(words.stuffing),
    )
    bullets = [
        f"{a.replace('_', ' ').capitalize()}: {pick(words.forms[a, v][0]) if draw() < 0.3 else shown[a]}"
        for a, v in truth.items()
    ]
    bullets.append(f"For {other_use}")
    description = f"The {brand.name} {line} {pick(kind.names).lower()} is made for {use}. " + pick(
        words.closers
    )
    low, high = kind.price
    place = 0.3 * (brand.level - 1) + 0.4 * draw()
    return {
        "product_id": product_id,
        "product_title": title,
        "product_description": description if draw() < 0.8 else "",
        "product_bullet_point": "\n".join(bullets) if draw() < 0.9 else "",
        "product_brand": brand.name,
        "product_color": shown.get("colour", ""),
        "product_type": kind.key,
        "department": kind.department,
        "price_cents": round(low * (high / low) ** place) * 100 - 1,
        "attributes": json.dumps(truth),
    }


def _title(brand, line, name, other_name, attributes, uses, stuffing) -> str:
    """A title in the brand's house style."""
    first, rest = " ".join(attributes[:1]), attributes[1:]
    head = " ".join(part for part in (line, first, name) if part)
    if brand.style == "plain":
        return ", ".join([f"{brand.name} {head}", *rest])
    if brand.style == "tail":
        return f"{', '.join([head, *rest])} for {uses[0].title()} by {brand.name}"
    if brand.style == "pipes":
        return " | ".join([brand.name, " ".join(filter(None, (name, line))), *attributes, uses[0].title()])
    if brand.style == "terse":
        return " ".join(filter(None, (brand.name, line, name, *attributes[:2])))
    if brand.style == "shout":
        return f"{brand.name.upper()} {name.upper()} {' / '.join(attributes)} - {stuffing}"
    if brand.style == "stuffed":
        pieces = [f"{first} {name}".strip(), *rest]
        if other_name != name:
            pieces.append(other_name)
        return f"{', '.join(pieces)} for {uses[0].title()} {uses[1].title()} - {stuffing} - {brand.name}"
    raise ValueError(f"{VOCABULARY.name}: {brand.name} has an unknown style {brand.style!r}")


# -- queries ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Query:
    text: str
    kind: str
    type_index: int
    asked: dict[str, str]  # attribute (or "brand") -> value


class _Pool:
    """The products that judgments are about, as integer columns, with an index of title words."""

    def __init__(self, products: pd.DataFrame, shop: _Assortment):
        index = {kind.key: i for i, kind in enumerate(shop.types)}
        self.type_index = products.product_type.map(index).to_numpy()
        self.of_type = [np.flatnonzero(self.type_index == i) for i in range(len(index))]
        departments = {name: i for i, name in enumerate(vocabulary().brands)}
        self.department = products.department.map(departments).to_numpy()
        self.truth = [json.loads(text) for text in products.attributes]
        for truth, brand in zip(self.truth, products.product_brand, strict=True):
            truth["brand"] = brand
        self.code = defaultdict(lambda: len(self.code) + 1)  # (attribute, value) -> code; 0: has none
        self.columns = defaultdict(lambda: np.zeros(len(products), dtype=np.int32))
        places = defaultdict(list)
        for i, truth in enumerate(self.truth):
            for attribute, value in truth.items():
                self.columns[attribute][i] = self.code[attribute, value]
            for word in set(_words(products.product_title.iat[i])):
                places[word].append(i)
        self.places = {word: np.array(found) for word, found in places.items()}

    def overlap(self, text: str) -> np.ndarray:
        """(products,) rarity-weighted number of query words in each title."""
        score = np.zeros(len(self.truth))
        for word in set(_words(text)):
            if (found := self.places.get(word)) is not None:
                score[found] += np.log(1 + len(score) / len(found))
        return score

    def labels(self, query: _Query, relation: np.ndarray) -> np.ndarray:
        """(products,) index into LABELS: the rule at the head of this module."""
        related = relation[query.type_index][self.type_index]
        exact = np.ones(len(related), dtype=bool)
        carried = exact.copy()  # every asked attribute that the product has at all
        for attribute, value in query.asked.items():
            column, code = self.columns[attribute], self.code[attribute, value]
            exact &= column == code
            carried &= (column == code) | (column == 0)
        labels = np.full(len(related), LABELS.index("I"))
        labels[related == COMPLEMENT] = LABELS.index("C")
        labels[(related == SAME) | ((related == SUBSTITUTE) & carried)] = LABELS.index("S")
        labels[(related == SAME) & exact] = LABELS.index("E")
        return labels


def _words(text: str) -> list[str]:
    """Lower-case words, a final s taken off, so that a plural meets its singular."""
    return [w[:-1] if len(w) > 3 and w.endswith("s") else w for w in re.findall(r"\w+", text.lower())]


def _plural(name: str) -> str:
    if name.endswith(("s", "ss")):
        return name
    if name.endswith(("ch", "sh", "x")):
        return name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def _misspell(rng: np.random.Generator, text: str) -> str:
    """One slip of the fingers in the longest word: a letter swapped, dropped or doubled."""
    word = max(text.split(), key=len)
    at = int(rng.integers(1, max(2, len(word) - 1)))
    slips = (
        word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
    )
    return text.replace(word, slips[rng.integers(3)], 1)


def _draw_query(rng, kind: str, shop: _Assortment, pool: _Pool, hurry: float) -> _Query | None:
    """One query of a kind about some product of the pool; None where the type has no such words.

    ``hurry`` (0 to 1) makes queries longer, when short ones are used up.
    """
    words = vocabulary()
    # Rare types, too, are asked for in words that training never showed.
    weights = shop.stock if kind == "unseen_synonym" else shop.demand
    type_index = int(rng.choice(len(shop.types), p=weights))
    asked_type, owned = shop.types[type_index], pool.of_type[type_index]
    if len(owned) < 2:
        return None
    if kind == "use_case" and rng.random() < 0.5:
        return _Query(str(rng.choice(asked_type.needs)), kind, type_index, {})
    names = {
        "plain": asked_type.names,
        "synonym": asked_type.known,
        "unseen_synonym": asked_type.unseen,
    }.get(kind, asked_type.names + asked_type.known)
    if not names:
        return None
    name = str(rng.choice(names)).lower()
    if not asked_type.mass and rng.random() < 0.3:
        name = _plural(name)
    if kind == "typo":
        name = _misspell(rng, name)
    truth = pool.truth[rng.choice(owned)]
    count = {"plain": 0, "attribute": 1 + int(rng.random() < 0.5)}.get(
        kind, int(rng.random() < max(0.4, hurry))
    )
    own = list(asked_type.attributes)
    attributes = [own[i] for i in rng.permutation(len(own))[:count]]
    if kind == "brand":
        attributes.append("brand")
    asked = {attribute: truth[attribute] for attribute in attributes}
    before, after = [], []
    for attribute, value in asked.items():
        forms = (value.lower(),) if attribute == "brand" else words.forms[attribute, value][1]
        form = str(rng.choice(forms))
        trails = form.startswith(("for ", "with ")) or rng.random() < 0.25
        (after if trails else before).append(form)
    if kind == "use_case" or rng.random() < 0.3 * hurry:
        after.append(f"for {rng.choice(asked_type.uses)}")
    if rng.random() < max(0.12, hurry):
        before.insert(0, str(rng.choice(words.fillers)))
    return _Query(" ".join([*before, name, *after]).lower(), kind, type_index, asked)


def _queries(seed: int, wanted: dict[str, int], shop: _Assortment, pool: _Pool) -> pd.DataFrame:
    """Distinct queries for each split, with their truth; splits take turns at random.

    Raises ValueError where the shop is too small for that many different texts.
    """
    rng = _stream(seed, QUERIES)
    turns = np.repeat(np.arange(len(wanted)), list(wanted.values()))
    rng.shuffle(turns)
    kinds, shares = list(SEEN_KINDS), np.array(list(SEEN_KINDS.values()))
    taken, rows = set(), []
    for number, turn in enumerate(turns):
        split = list(wanted)[turn]
        for attempt in range(400):
            unseen = split in ("test", "unlabelled") and rng.random() < UNSEEN_SHARE
            kind = "unseen_synonym" if unseen else kinds[rng.choice(len(kinds), p=shares)]
            query = _draw_query(rng, kind, shop, pool, hurry=min(1.0, attempt / 100))
            text = normalise_query(query.text) if query else None
            if query is None or text in taken:
                continue
            if (pool.labels(query, shop.relation) == LABELS.index("E")).sum() >= 2:
                break
        else:
            raise ValueError(
                f"a shop of {len(pool.truth)} products has no {len(turns)} different queries: "
                "ask for more products, fewer queries or fewer unlabelled pairs"
            )
        taken.add(text)
        rows.append((f"S{seed}Q{number:06d}", split, query))
    return pd.DataFrame(
        {
            "query_id": [query_id for query_id, _, _ in rows],
            "query": [query.text for _, _, query in rows],
            "split": [split for _, split, _ in rows],
            "query_kind": [query.kind for _, _, query in rows],
            "product_type": [shop.types[query.type_index].key for _, _, query in rows],
            "asked": [json.dumps(query.asked) for _, _, query in rows],
        }
    )


# -- candidates and labels ----------------------------------------------------------------------


def _candidates(rng, query: _Query, count: int, mix, shop: _Assortment, pool: _Pool):
    """Product indices and labels of a query's candidates: (count,), (count,).

    Half of the irrelevant ones share words with the query, a third its department.
    """
    labels = pool.labels(query, shop.relation)
    overlap = pool.overlap(query.text)
    shares = rng.dirichlet(7 * np.array(mix))
    need = rng.multinomial(count, shares)
    groups = [rng.permutation(np.flatnonzero(labels == code)) for code in range(len(LABELS))]
    # Substitutes are what the word alone does not tell apart: half of S where there are any.
    substitutes = pool.type_index[groups[1]] != query.type_index
    groups[1] = _interleave(groups[1][substitutes], groups[1][~substitutes])
    for code in (2, 3):  # the likest complements and the likest irrelevant ones in words
        group = groups[code]
        likest = group[np.argsort(-overlap[group], kind="stable")[:30]]
        likest = rng.permutation(likest[overlap[likest] > 0])
        near = group[pool.department[group] == pool.department[pool.of_type[query.type_index][0]]]
        groups[code] = _interleave(likest, _interleave(near, group))
    chosen = [group[:n] for group, n in zip(groups, need, strict=True)]
    missing = count - sum(map(len, chosen))
    for code in (1, 3, 0):  # where a label runs short, others fill its places
        extra = groups[code][len(chosen[code]) :][:missing]
        chosen[code] = np.concatenate([chosen[code], extra])
        missing -= len(extra)
    picked = rng.permutation(np.concatenate(chosen))
    return picked, labels[picked]


def _interleave(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """One from each in turn, then the rest; no repeats."""
    shared = min(len(first), len(second))
    mixed = np.stack([first[:shared], second[:shared]], axis=1).ravel()
    mixed = np.concatenate([mixed, first[shared:], second[shared:]])
    _, places = np.unique(mixed, return_index=True)
    return mixed[np.sort(places)]


def _pairs(number: int, queries: pd.DataFrame, sizes, mix, shop, pool, products, seed):
    """Rows of the contract for some queries; ``sizes`` says how many candidates each has."""
    rng = _stream(seed, CANDIDATES, number)
    types = {kind.key: i for i, kind in enumerate(shop.types)}
    found = [
        _candidates(
            rng,
            _Query(row.query, row.query_kind, types[row.product_type], json.loads(row.asked)),
            size,
            mix,
            shop,
            pool,
        )
        for row, size in zip(queries.itertuples(), sizes, strict=True)
    ]
    which = np.concatenate([picked for picked, _ in found])
    repeats = [len(picked) for picked, _ in found]
    pairs = queries.loc[queries.index.repeat(repeats), ["query_id", "query", "query_kind", "split"]]
    pairs = pairs.reset_index(drop=True)
    texts = products.iloc[which][["product_id", *CONTRACT_TEXT]].reset_index(drop=True)
    labels = pd.Series(np.array(LABELS)[np.concatenate([codes for _, codes in found])])
    pairs = pd.concat([pairs[["query_id", "query"]], texts, pairs[["split", "query_kind"]]], axis=1)
    pairs.insert(len(pairs.columns) - 2, "esci_label", labels)
    return pairs


def _traffic(seed, shop, products, queries, judged_per_query, unlabelled_pairs):
    """Judgments, unlabelled pairs and the queries' truth, about the given products."""
    if judged_per_query < 1 or queries < 10:
        raise ValueError("a shop needs at least 10 queries and 1 judged product per query")
    pool = _Pool(products, shop)
    wanted = {split: round(share * queries) for split, share in SPLITS.items()}
    sizes = [judged_per_query] * -(-unlabelled_pairs // judged_per_query)
    if sizes:
        sizes[-1] = unlabelled_pairs - judged_per_query * (len(sizes) - 1)
    truth = _queries(seed, {**wanted, "unlabelled": len(sizes)}, shop, pool)
    is_judged = truth.split != "unlabelled"
    judged, free = truth[is_judged], truth[~is_judged]
    judgments = _pairs(
        0, judged, [judged_per_query] * len(judged), JUDGED_MIX, shop, pool, products, seed
    )
    if free.empty:
        unlabelled = judgments.iloc[:0].drop(columns="esci_label")
    else:
        unlabelled = _pairs(1, free, sizes, UNLABELLED_MIX, shop, pool, products, seed)
        unlabelled = unlabelled.drop(columns="esci_label")
    return judgments, unlabelled, truth


# -- the whole shop -----------------------------------------------------------------------------


def _shoppers(seed: int) -> pd.DataFrame:
    """SHOPPERS people: departments and brands they like, and a price level from 0 to 1."""
    rng, words = _stream(seed, TASTES), vocabulary()
    rows = []
    for number in range(SHOPPERS):
        departments = rng.choice(list(words.brands), size=3, replace=False)
        brands = [
            brand.name
            for department in words.brands
            for brand in rng.choice(
                np.array(words.brands[department], dtype=object), size=2, replace=False
            )
        ]
        rows.append(
            {
                "shopper_id": f"S{seed}U{number:05d}",
                "price_level": round(float(rng.beta(1.2, 1.2)), 3),
                "brands": json.dumps(brands),
                "departments": json.dumps(departments.tolist()),
            }
        )
    return pd.DataFrame(rows)


def generate(
    seed: int,
    products: int = 3000,
    queries: int = 900,
    judged_per_query: int = 10,
    unlabelled_pairs: int = 20_000,
) -> Shop:
    """The simulated shop of a seed, in memory. Half of the judged queries are for training, 14 %
    for validation, 36 % for testing.

    Raises ValueError where the numbers cannot be met (too few products for that many queries).
    """
    _check(seed, products)
    shop = _assortment(seed, products)
    frame = pd.concat(_chunks(seed, products, shop), ignore_index=True)
    judgments, unlabelled, truth = _traffic(
        seed, shop, frame.iloc[:POOL], queries, judged_per_query, unlabelled_pairs
    )
    return Shop(seed, frame, judgments, unlabelled, truth, _shoppers(seed))


def write(
    folder: Path | str,
    products: int,
    seed: int,
    queries: int = 900,
    judged_per_query: int = 10,
    unlabelled_pairs: int = 20_000,
) -> Path:
    """Write products, judgments and unlabelled pairs as parquet files that keep the contract.

    Memory does not grow with ``products``: the catalogue is written chunk by chunk, and judgments
    are about the first 20,000 products. Each file appears only when it is complete.
    """
    _check(seed, products)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shop = _assortment(seed, products)
    head, kept = [], 0
    partial = folder / "products.parquet.partial"
    writer = None
    try:
        for frame in _chunks(seed, products, shop):
            table = pa.Table.from_pandas(frame, preserve_index=False)
            writer = writer or pq.ParquetWriter(partial, table.schema)
            writer.write_table(table)
            if kept < POOL:
                head.append(frame)
                kept += len(frame)
    finally:
        if writer is not None:
            writer.close()
    judgments, unlabelled, _ = _traffic(
        seed,
        shop,
        pd.concat(head, ignore_index=True).iloc[:POOL],
        queries,
        judged_per_query,
        unlabelled_pairs,
    )
    for name, frame in (("judgments", judgments), ("unlabelled", unlabelled)):
        target = folder / f"{name}.parquet"
        frame.to_parquet(target.with_suffix(".parquet.partial"), index=False)
        target.with_suffix(".parquet.partial").replace(target)
    partial.replace(folder / "products.parquet")
    return folder


def _check(seed: int, products: int) -> None:
    if seed < 0:
        raise ValueError(f"seed {seed} is negative: take 0 or more")
    if products < 100:
        raise ValueError(f"{products} products are too few for a shop: take 100 or more")
