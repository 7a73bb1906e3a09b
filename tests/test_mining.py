"""Queries made of a catalogue's own words, and the products that they meet."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_models
from datasets import Dataset, DatasetDict, load_from_disk

from ecomkd import features
from ecomkd.config import Profile
from ecomkd.data.schema import TEXT, normalise_query
from ecomkd.data.sources import product_text
from ecomkd.relevance import mining

KINDS = ["yoga mat", "desk lamp", "tea pot", "running shoe", "wool scarf", "frying pan"]
COLOURS = ["red", "blue", "green", ""]
PRODUCTS = [
    {
        "product_id": f"p{kind}-{variant}",
        "product_title": f"Acme{variant} {KINDS[kind].title()}, Large | {COLOURS[variant]} Deluxe",
        "product_description": "",
        "product_bullet_point": "",
        "product_brand": f"Acme{variant}",
        "product_color": COLOURS[variant],
        "product_type": KINDS[kind],
        "price": 1.0,
    }
    for kind in range(6)
    for variant in range(4)
]


@pytest.fixture(scope="module")
def catalogue() -> Dataset:
    return Dataset.from_list(PRODUCTS)


def mined(catalogue, taken=(), pairs=60, **options):
    profile = Profile.named("smoke", device="cpu", unlabelled_pairs=pairs)
    return mining.catalogue_pairs(catalogue, taken, tiny_models.CLASSES, profile, **options)


def kind_of(product_id: str) -> str:
    return KINDS[int(product_id[1])]


def test_nothing_is_written_beside_the_catalogue(catalogue, tmp_path):
    """It may be an artefact, to which nothing is added."""
    catalogue.save_to_disk(str(tmp_path / "kept"))
    before = sorted(tmp_path.rglob("*"))
    assert len(mined(load_from_disk(str(tmp_path / "kept"))))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_judged_query_is_left_out_whatever_invisible_it_holds(catalogue):
    taken = [f"{query}\u200b" for query in set(mined(catalogue)["query"])]
    assert not set(mined(catalogue, taken)["query"]) & {query[:-1] for query in taken}


def test_queries_are_distinct_normal_and_of_the_catalogues_words(catalogue):
    queries = mining.catalogue_queries(catalogue, 60, seed=1)
    assert len(queries) == len(set(queries)) == 60
    assert all(query == normalise_query(query) for query in queries)
    words = {w for p in PRODUCTS for text in p.values() for w in normalise_query(str(text)).split()}
    words |= {word.strip(",") for word in words}
    assert {word for query in queries for word in query.split()} <= words
    # Each of the sources is there: a type alone, one with a brand or colour, a phrase of a title.
    assert set(KINDS) & set(queries)
    assert {"red desk lamp", "acme1 desk lamp", "blue desk lamp"} & set(queries)
    assert any("large" in query for query in queries)


def test_queries_follow_the_seed(catalogue):
    assert mining.catalogue_queries(catalogue, 30, 1) == mining.catalogue_queries(catalogue, 30, 1)
    assert mining.catalogue_queries(catalogue, 30, 1) != mining.catalogue_queries(catalogue, 30, 2)


def test_a_catalogue_without_types_gives_phrases_of_titles(catalogue):
    plain = catalogue.remove_columns("product_type")
    titles = [" ".join(p["product_title"].replace(",", " ").replace("|", " ").split())
              for p in PRODUCTS]  # fmt: skip
    titles = [normalise_query(title) for title in titles]
    for query in mining.catalogue_queries(plain, 40, seed=1):
        assert any(query in title for title in titles)
        assert 2 <= len(query.split()) <= 4


def test_types_written_as_identifiers_become_words(catalogue):
    named = catalogue.map(lambda row: {"product_type": row["product_type"].replace(" ", "_")})
    queries = mining.catalogue_queries(named, 60, seed=1)
    assert queries == mining.catalogue_queries(catalogue, 60, seed=1)
    assert not any("_" in query for query in queries)


def test_products_without_a_word_for_their_type_give_phrases(catalogue):
    for value in (None, 7, 7.5):
        numbered = catalogue.remove_columns("product_type")
        numbered = numbered.add_column("product_type", [value] * len(catalogue))
        plain = catalogue.remove_columns("product_type")
        queries = mining.catalogue_queries(numbered, 40, seed=1)
        assert queries == mining.catalogue_queries(plain, 40, seed=1)
    some = [kind if row % 2 else None for row, kind in enumerate(catalogue["product_type"])]
    mixed = catalogue.remove_columns("product_type").add_column("product_type", some)
    assert set(KINDS) & set(mining.catalogue_queries(mixed, 40, seed=1))


def test_columns_that_no_query_is_made_of_are_not_read(catalogue):
    class Watched:
        column_names = (*catalogue.column_names, "picture")

        def __len__(self):
            return len(catalogue)

        def __getitem__(self, name):
            assert name in ("product_title", "product_brand", "product_color", "product_type")
            return catalogue[name]

    queries = mining.catalogue_queries(Watched(), 20, seed=1)
    assert queries == mining.catalogue_queries(catalogue, 20, seed=1)


def test_a_catalogue_of_one_product_and_one_whose_queries_are_all_taken(catalogue):
    one = catalogue.select(range(1))
    pairs = mined(one)
    assert set(pairs["product_id"]) == {"p0-0"}
    nothing = mined(one, taken=mining.catalogue_queries(one, 1_000, seed=1) + pairs["query"][:])
    assert len(nothing) == 0
    assert set(nothing.column_names) == set(pairs.column_names)


def test_a_catalogue_without_an_untaken_query_is_mined_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(mining, "catalogue_queries", lambda *_: ["yoga mat"])
    monkeypatch.setattr(features, "embed", lambda texts, profile: np.ones((len(texts), 2)))
    judged = tiny_models.pairs(4).map(lambda row: {"query": "Yoga mat"})
    data = DatasetDict(train=judged, validation=judged, test=judged)
    profile = tiny_models.profile(tmp_path)
    pairs = mining.mined_pairs(data, Dataset.from_list(PRODUCTS), profile)
    assert len(pairs) == 0
    assert pairs.features["query"] == judged.features["query"]


def test_asking_for_more_queries_than_there_are_ends(catalogue):
    one = catalogue.select(range(1)).remove_columns("product_type")
    assert 0 < len(mining.catalogue_queries(one, 1_000, seed=1)) < 30


def test_mined_pairs_keep_the_contract(catalogue):
    pairs = mined(catalogue)
    assert 50 <= len(pairs) <= 60
    assert set(pairs.column_names) == {"query_id", "product_id", "query", "label", *TEXT}
    assert pairs.features["label"] == tiny_models.CLASSES
    assert set(pairs["label"]) == {-1}
    keys = list(zip(pairs["query_id"], pairs["product_id"], strict=True))
    assert len(set(keys)) == len(keys)
    assert len(set(pairs["query_id"])) == len(set(pairs["query"]))
    by_id = {product["product_id"]: product for product in PRODUCTS}
    assert all(row["product_title"] == by_id[row["product_id"]]["product_title"] for row in pairs)
    assert pairs[:] == mined(catalogue)[:]


def test_no_mined_query_is_a_judged_one(catalogue):
    before = mined(catalogue)["query"]
    taken = [f"  {query.upper()} " for query in before[:30]]
    after = mined(catalogue, taken)["query"]
    assert after
    assert not {normalise_query(query) for query in taken} & set(after)


def test_near_products_are_of_the_querys_kind_and_random_ones_are_not(catalogue, monkeypatch):
    monkeypatch.setattr(mining, "_NEIGHBOURS", 4)  # as many as there are products of a kind

    def right(**options) -> float:
        pairs = [row for row in mined(catalogue, per_query=4, **options) if row["query"] in KINDS]
        assert len(pairs) >= 12
        return sum(kind_of(row["product_id"]) == row["query"] for row in pairs) / len(pairs)

    assert right(random_share=0.0) > 0.9
    assert right(random_share=1.0) < 0.5


def test_seeds_share_the_embeddings_of_a_catalogue(catalogue, tmp_path, monkeypatch):
    asked = []
    encode = features.encode
    monkeypatch.setattr(
        features, "encode", lambda *told, **rest: asked.append(told[1]) or encode(*told, **rest)
    )
    data = tiny_models.shop()
    profile = tiny_models.profile(tmp_path, unlabelled_pairs=40)
    first = mining.mined_pairs(data, catalogue, profile)
    second = mining.mined_pairs(data, catalogue, replace(profile, seed=901))
    assert asked.count(product_text(catalogue[:])) == 1
    assert set(first["query"]) != set(second["query"])
    taken = {query for split in ("train", "validation", "test") for query in data[split]["query"]}
    assert first[:] == mining.catalogue_pairs(catalogue, taken, tiny_models.CLASSES, profile)[:]
