"""The simulated shop: its truth, its splits, its words, and that one seed gives one shop."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from itertools import combinations

import pandas as pd
import pytest

from ecomkd.data import schema, shop

SMALL = {"products": 600, "queries": 120, "judged_per_query": 8, "unlabelled_pairs": 500}
RAW = tomllib.loads(shop.VOCABULARY.read_text(encoding="utf-8"))
TYPES = {key: entry for entries in RAW["types"].values() for key, entry in entries.items()}
HASH = "f5ac0f410dc4bd100ac6393beae852e604b307c55109fc27141c854fa3105d59"
"""The generator's, which stands in every record on the shop."""
CONTENT = "b4c864c094e1d6bd1e655ffa97b4c02fc2ae6f8f505927ce425508ad7fa91c8c"
"""SHA-256 of what that generator makes of one seed, as text."""
STYLES = {"plain", "tail", "pipes", "terse", "shout", "stuffed"}


@pytest.fixture(scope="module")
def default():
    return shop.generate(900)


@pytest.fixture(scope="module")
def small():
    return shop.generate(901, **SMALL)


def normal(text):
    """Words without a final s between single spaces, so that phrases can be searched for."""
    words = re.findall(r"\w+", text.lower())
    return f" {' '.join(w[:-1] if len(w) > 3 and w.endswith('s') else w for w in words)} "


def test_size_and_shares_of_the_default_shop(default):
    judged = default.judgments
    assert len(default.products) == 3000
    assert len(judged) == 9000
    assert len(default.unlabelled) == 20_000
    assert judged.groupby("query_id").size().eq(10).all()
    queries = judged.groupby("split").query_id.nunique()
    assert queries["train"] == 450
    assert 100 <= queries["validation"] <= 150
    assert queries["test"] >= 300
    shares = judged.esci_label.value_counts(normalize=True)
    for label, low, high in (
        ("E", 0.40, 0.50),
        ("S", 0.27, 0.38),
        ("C", 0.02, 0.06),
        ("I", 0.14, 0.25),
    ):
        assert low <= shares[label] <= high, label


def test_unseen_words_and_rare_types_are_a_solid_part_of_the_test_queries(default):
    queries = default.queries
    test = queries[queries.split == "test"]
    assert (test.query_kind == "unseen_synonym").sum() >= 80
    assert set(test.query_kind) == {*shop.KINDS, "unseen_synonym"}
    trained = set(queries.product_type[queries.split == "train"])
    assert (~test.product_type.isin(trained)).mean() >= 0.05


def test_types_and_queries_have_a_long_tail(default):
    for counts in (
        default.products.product_type.value_counts(),
        default.queries.product_type.value_counts(),
    ):
        tenth = len(counts) // 10
        assert counts.iloc[:tenth].sum() > 0.2 * counts.sum()
        assert counts.iloc[-tenth:].sum() < 0.05 * counts.sum()


def test_columns_follow_the_contract(default):
    text = ["product_id", *schema.TEXT]
    assert list(default.judgments.columns) == [
        *("query_id", "query", *text, "esci_label", "split", "query_kind")
    ]
    assert list(default.unlabelled.columns) == [
        *("query_id", "query", *text, "split", "query_kind")
    ]
    assert list(default.products.columns) == [
        *text,
        *("product_type", "department", "price_cents", "attributes"),
    ]
    assert default.products.product_id.is_unique
    assert default.products.product_title.str.len().gt(0).all()
    assert default.products.price_cents.gt(0).all()
    assert not default.judgments.duplicated(["query_id", "product_id"]).any()
    assert not default.unlabelled.duplicated(["query_id", "product_id"]).any()


def test_written_shop_passes_the_contract_and_equals_the_generated_one(small, tmp_path):
    folder = shop.write(tmp_path / "shop", seed=901, **SMALL)
    assert sorted(path.name for path in folder.iterdir()) == [
        "judgments.parquet",
        "products.parquet",
        "unlabelled.parquet",
    ]
    for name in ("products", "judgments", "unlabelled"):
        written = pd.read_parquet(folder / f"{name}.parquet")
        pd.testing.assert_frame_equal(written, getattr(small, name), check_dtype=False)
    tables = schema.read(folder, tmp_path)
    assert len(tables.judgments) == len(small.judgments)
    assert len(tables.unlabelled) == len(small.unlabelled)
    assert len(tables.products) == len(small.products)


def test_no_query_text_stands_in_two_splits(default):
    pairs = pd.concat([default.judgments, default.unlabelled])
    text = pairs["query"].map(schema.normalise_query)
    assert pairs.groupby(text).split.nunique().eq(1).all()
    assert pairs.groupby(text).query_id.nunique().eq(1).all()


def test_labels_follow_from_the_truth(default):
    """The rule written a second time, from the vocabulary file and the frames alone."""
    products = default.products.set_index("product_id")
    queries = default.queries.set_index("query_id")
    queries, products = queries.to_dict("index"), products.to_dict("index")
    for row in default.judgments.itertuples():
        query, product = queries[row.query_id], products[row.product_id]
        asked = json.loads(query["asked"])
        truth = {**json.loads(product["attributes"]), "brand": product["product_brand"]}
        wanted, given = query["product_type"], product["product_type"]

        def linked(field, a=wanted, b=given):
            return b in TYPES[a][field] or a in TYPES[b][field]

        if wanted == given:
            expected = "E" if all(truth[name] == value for name, value in asked.items()) else "S"
        elif linked("goes"):
            expected = "C"
        elif linked("instead") and all(truth[n] == v for n, v in asked.items() if n in truth):
            expected = "S"
        else:
            expected = "I"
        assert row.esci_label == expected, (row.query, row.product_title)


def test_a_product_shows_its_attributes(small):
    """What a label depends on can be read: bullets, where there are any, name every attribute."""
    forms = shop.vocabulary().forms
    for row in small.products[small.products.product_bullet_point != ""].itertuples():
        for attribute, value in json.loads(row.attributes).items():
            assert any(
                f": {form}" in row.product_bullet_point for form in forms[attribute, value][0]
            )


def test_unseen_words_reach_neither_training_nor_products(default):
    queries, products = default.queries, default.products
    learnt = queries["query"][queries.split.isin(["train", "validation"])]
    texts = products.product_title + " " + products.product_bullet_point
    texts = texts + " " + products.product_description
    known = "".join(map(normal, [*learnt, *texts]))
    for key in set(products.product_type):
        for word in TYPES[key]["unseen"]:
            assert normal(word) not in known, (key, word)
    asked = queries[queries.query_kind == "unseen_synonym"]
    assert set(asked.split) == {"test", "unlabelled"}
    for row in asked.itertuples():
        words = TYPES[row.product_type]["unseen"]
        assert any(form in row.query for word in words for form in (word, shop._plural(word)))


def test_no_listing_of_any_shop_can_hold_an_unseen_word():
    """The same for every shop: no seller's word, use, form, brand or known word contains one."""
    words = shop.vocabulary()
    seen = [*words.lines, *words.stuffing, *words.closers, *words.fillers]
    seen += [form for sides in words.forms.values() for side in sides for form in side]
    seen += [brand.name for brands in words.brands.values() for brand in brands]
    for kind in words.types:
        seen += [*kind.names, *kind.known, *kind.uses, *kind.needs]
    seen = "".join(map(normal, seen))
    unseen = [(word, kind.key) for kind in words.types for word in kind.unseen]
    for word, key in unseen:
        assert normal(word) not in seen, (key, word)
    assert len({normal(word) for word, _ in unseen}) == len(unseen)


def test_the_vocabulary_is_no_toy():
    words = shop.vocabulary()
    assert len(words.types) >= 150
    assert len(words.brands) >= 12
    assert {kind.department for kind in words.types} == set(words.brands)
    for kind in words.types:
        assert len(kind.names) >= 2, kind.key
        assert len(kind.known) >= 1, kind.key
        assert len(kind.unseen) >= 1, kind.key
        assert len(kind.attributes) >= 1, kind.key
        assert kind.uses, kind.key
        assert kind.needs, kind.key
        assert kind.instead, kind.key
        assert kind.goes, kind.key
        assert 0 < kind.price[0] < kind.price[1], kind.key
        assert {*kind.goes, *kind.instead} <= set(TYPES) - {kind.key}, kind.key
    for brands in words.brands.values():
        assert len(brands) >= 8
        assert {brand.style for brand in brands} <= STYLES
        assert {brand.level for brand in brands} == {1, 2, 3}
    names = [brand.name for brands in words.brands.values() for brand in brands]
    assert len(set(names)) == len(names)


def test_one_word_means_one_type_and_one_pair_has_one_relation():
    owners = {}
    for key, entry in TYPES.items():
        for word in (*entry["names"], *entry["known"], *entry["unseen"], *entry["needs"]):
            assert owners.setdefault(normal(word), key) == key, word
    for field, other in (("goes", "instead"), ("instead", "goes")):
        for key, entry in TYPES.items():
            for linked in entry[field]:
                assert linked not in entry[other], (key, linked)
                assert key not in TYPES[linked][other], (key, linked)


def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path):
    code = (
        "import sys; from ecomkd.data import shop;"
        "shop.write(sys.argv[1], 300, 902, queries=40, judged_per_query=5, unlabelled_pairs=60)"
    )
    digests = []
    for hash_seed in ("1", "2"):
        folder = tmp_path / hash_seed
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env=environment)
        files = sorted(folder.iterdir())
        assert len(files) == 3
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert digests[0] == digests[1]


def test_the_shop_is_the_one_that_the_records_are_about():
    # The hash covers module and vocabulary; this covers whatever else decides the data.
    made, content = shop.generate(900, 300, 60, 10, 200), hashlib.sha256()
    for name in ("products", "judgments", "unlabelled", "queries", "shoppers"):
        content.update(getattr(made, name).to_csv(index=False, lineterminator="\n").encode())
    assert (shop.generator_hash(), content.hexdigest()) == (HASH, CONTENT)


def test_another_seed_gives_another_shop(small):
    other = shop.generate(902, **SMALL)
    assert set(other.products.product_title).isdisjoint(small.products.product_title)


def test_a_larger_catalogue_begins_with_the_smaller_one(tmp_path):
    """From the size on at which a shop sells every type, products depend on their number alone."""
    every = 15 * len(TYPES)
    few = {"queries": 20, "judged_per_query": 5, "unlabelled_pairs": 20}
    short, long = (
        pd.read_parquet(shop.write(tmp_path / str(size), size, 903, **few) / "products.parquet")
        for size in (every, every + 1500)
    )
    assert long.product_type.nunique() > 0.98 * len(TYPES)
    pd.testing.assert_frame_equal(short, long[:every])


def test_an_interrupted_write_leaves_no_file_that_looks_whole(tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(shop, "_traffic", stop)
    with pytest.raises(KeyboardInterrupt):
        shop.write(tmp_path, seed=901, **SMALL)
    assert not list(tmp_path.glob("*.parquet"))


def test_taste_decides_between_equally_good_answers(default):
    first, *_ = default.shoppers.shopper_id
    taste = default.taste(first)
    assert taste.between(0, 1).all()
    assert taste.index.equals(pd.Index(default.products.product_id))
    assert taste.nunique() > 100
    judged = default.judgments
    plain = judged[judged.query_kind == "plain"]
    exact = (plain.esci_label == "E").groupby(plain.query_id).mean()
    query = exact[exact < 1].idxmax()
    best = set()
    for shopper in default.shoppers.shopper_id[:50]:
        ranked = default.personal_relevance(shopper, query)
        assert ranked.relevance.is_monotonic_decreasing
        exact = ranked.relevance[ranked.esci_label == "E"]
        rest = ranked.relevance[ranked.esci_label != "E"]
        assert exact.min() > rest.max()
        best.add(ranked.product_id[0])
    assert len(best) >= 3


def test_shoppers_differ(default):
    assert len(default.shoppers) == shop.SHOPPERS
    assert default.shoppers.shopper_id.is_unique
    brands = [set(json.loads(text)) for text in default.shoppers.brands[:20]]
    assert all(a != b for a, b in combinations(brands, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: shop.generate(-1),
            "seed -1, 3000 products: take a seed ≥ 0 and ≥ 100 products",
        ),
        (
            lambda: shop.generate(901, products=99),
            "seed 901, 99 products: take a seed ≥ 0 and ≥ 100 products",
        ),
        (
            lambda: shop.generate(901, products=100, queries=9000, unlabelled_pairs=1000),
            "100 products are too few for 9100 different queries: take more products, fewer "
            "queries or fewer unlabelled pairs",
        ),
    ],
)
def test_impossible_sizes_say_so(call, message, monkeypatch):
    monkeypatch.setattr(shop, "TRIES", 3)
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


def test_unknown_shopper_and_query_say_so(small):
    with pytest.raises(ValueError, match="this shop has no shopper_id 'nobody'"):
        small.taste("nobody")
    with pytest.raises(ValueError, match="this shop has no query_id 'none'"):
        small.personal_relevance(small.shoppers.shopper_id[0], "none")


def test_the_generator_hash_covers_the_vocabulary(tmp_path, monkeypatch):
    before = shop.generator_hash()
    assert re.fullmatch("[0-9a-f]{64}", before)
    changed = tmp_path / shop.VOCABULARY.name
    changed.write_bytes(shop.VOCABULARY.read_bytes() + b"\n")
    monkeypatch.setattr(shop, "VOCABULARY", changed)
    assert shop.generator_hash() != before
