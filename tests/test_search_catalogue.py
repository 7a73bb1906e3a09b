"""A catalogue read where it lies: vectors by cells, products by line; a folder that is swapped."""

import threading
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
import tiny_index
import tiny_models
from datasets import Dataset
from serving import Client, until

from ecomkd import outputs, search, service, words
from ecomkd.search import catalogue, index
from ecomkd.search.catalogue import Cells, Product
from ecomkd.search.retrieve import Weights, token_means, unit, weighted

N, H = 600, 8


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Unit vectors around twenty directions."""
    rng = np.random.default_rng(0)
    around = rng.normal(size=(20, H))[rng.integers(20, size=N)]
    return unit(around + 0.3 * rng.normal(size=(N, H))).astype(np.float32)


@pytest.fixture
def few(monkeypatch) -> None:
    """A query is compared with a hundred vectors, so that six hundred are a large catalogue."""
    monkeypatch.setattr(catalogue, "READ", 100)


def in_cells(folder, vectors) -> Cells:
    catalogue.write_cells(folder, [vectors[:50], vectors[50:]], vectors.shape)
    return catalogue.cells(folder)


def test_every_vector_is_in_one_cell_and_with_its_own_product(few, vectors, tmp_path):
    found = in_cells(tmp_path, vectors)
    assert len(found.centres) == 24  # the root of 600
    np.testing.assert_array_equal(found.of(np.arange(N)), vectors)
    np.testing.assert_array_equal(found.vectors, vectors[found.rows])
    np.testing.assert_allclose(found.compare(vectors[:3]), vectors[:3] @ vectors.T, rtol=1e-6)
    assert not (tmp_path / "unordered.npy").exists()
    nearest = ((vectors[:, None] - found.centres) ** 2).sum(-1).argmin(1)
    own = np.searchsorted(found.ends, np.argsort(found.rows), "right") - 1
    np.testing.assert_array_equal(own, nearest)


def test_so_many_are_read_as_were_asked_for_and_the_nearest_are_among_them(few, vectors, tmp_path):
    found, shares = in_cells(tmp_path, vectors), []
    for query in vectors[::20]:
        rows, cosines, read = found.near(query, 10)
        assert 100 <= len(rows) < 200 and len(set(rows.tolist())) == len(rows)
        np.testing.assert_allclose(cosines, vectors[rows] @ query, rtol=1e-5, atol=1e-6)
        assert len(found.outside(rows, read)) == 0
        rest = np.setdiff1d(np.arange(N), rows)
        np.testing.assert_array_equal(np.sort(found.outside(rest, read)), rest)
        best = np.argsort(-(vectors @ query))[:10]
        shares.append(np.isin(best, rows).mean())
    assert np.mean(shares) > 0.9
    assert len(found.near(vectors[0], 400)[0]) >= 400
    assert len(found.near(vectors[0], 5_000)[0]) == N


def test_a_small_catalogue_is_compared_as_a_whole_and_in_its_order(vectors, tmp_path):
    found = in_cells(tmp_path, vectors)
    rows, cosines, _ = found.near(vectors[7], 1)
    np.testing.assert_array_equal(rows, np.arange(N))
    np.testing.assert_array_equal(cosines, (vectors[7][None] @ vectors.T)[0])


# An engine over many cells ------------------------------------------------------------------------


@pytest.fixture
def engine(few, tmp_path) -> search.SearchEngine:
    rng = np.random.default_rng(1)
    pieces = tiny_models.tokenizer().backend_tokenizer
    names = [name for name in pieces.get_vocab() if name.isalpha() and len(name) > 2]
    texts = [" ".join(rng.choice(names, rng.integers(2, 6))) for _ in range(N)]
    texts[3] = texts[400]  # equal sums
    table = rng.normal(size=(pieces.get_vocab_size(), H)).astype(np.float32)
    tokens = [text.ids for text in pieces.encode_batch(texts, add_special_tokens=False)]
    own = token_means(tokens, table).astype(np.float32)
    return search.SearchEngine(
        products=[Product(f"p{row}", text, text, {}) for row, text in enumerate(texts)],
        words=words.bm25(texts),
        cells=in_cells(tmp_path, own),
        pieces=pieces,
        table=table,
        student=lambda queries, texts: np.zeros(len(texts)),
        weights=Weights(words=0.1),
        depth=0,
    )


def test_candidates_have_their_exact_sums(engine):
    for query in engine.texts[0], engine.texts[9]:
        cosines, shared = engine.compare([query])
        sums = (cosines + 0.1 * shared)[0]
        for hit in engine.search(query, 50):
            assert hit.score == pytest.approx(sums[int(hit.product_id[1:])], abs=1e-5)


def test_what_words_alone_find_is_found_in_a_far_cell(engine):
    engine.weights = Weights(words=100.0)
    query = engine.texts[5]
    _, wanted = weighted(*engine.compare([query]), 100.0, 5)
    assert [hit.product_id for hit in engine.search(query, 5)] == [f"p{row}" for row in wanted[0]]


def test_equal_sums_keep_the_order_of_the_catalogue_over_cells(engine):
    engine.weights = Weights(words=100.0)
    found = [hit.product_id for hit in engine.search(engine.texts[3], 2)]
    assert found == ["p3", "p400"]


def test_so_many_come_as_were_asked_for_over_cells(engine):
    for k in (1, 100, 300, N, N + 5):
        found = [hit.product_id for hit in engine.search(engine.texts[0], k)]
        assert len(found) == len(set(found)) == min(k, N)


# Products -----------------------------------------------------------------------------------------


def test_products_are_read_as_they_were_written(tmp_path):
    own = [
        Product("a", "Téa\npot", "Téa\npot", {"price": 1.5, "brand": None}),
        Product("b\u2028", "x", "", {"price": None, "brand": "Ö"}),
    ]
    catalogue.write_products(tmp_path / "products.jsonl", iter(own))
    found = catalogue.Products(tmp_path / "products.jsonl")
    assert list(found) == own and len(found) == 2
    with pytest.raises(IndexError, match="row 2 of 2 products"):
        found[2]
    assert list(catalogue.Column(found, "title")) == ["Téa\npot", "x"]


def test_a_field_holds_numbers_where_all_values_are_some():
    columns = Dataset.from_dict(
        {
            "price": ["9.5", "", "-1e3", ".5", "+12"],
            "size": ["9", "M", "", "", ""],
            "code": ["007", "8", "9", "1", "2"],
            "stock": [1, 2, None, 4, 5],
            "date": ["2026-01-01"] * 5,
            "socket": ["E27", "E14", "", "", ""],
            "weight": [Decimal("9.99"), Decimal(100), None, None, None],
        }
    )
    assert index._kinds(columns, columns.column_names) == {
        "price": "number", "size": "text", "code": "text", "stock": "number", "date": "text",
        "socket": "text", "weight": "number",
    }  # fmt: skip


def test_a_field_that_is_none_is_told_before_any_training(tmp_path, monkeypatch):
    profile = tiny_models.profile(tmp_path / "artifacts")
    small = replace(profile, products=100, queries=20, judged_per_query=2, unlabelled_pairs=4)
    with pytest.raises(ValueError, match=r"no column 'prise' in the catalogue: it has product_id"):
        search.build("shop", small, tmp_path / "out", fields=["prise"])
    tags = Dataset.from_dict({"product_id": ["a"], "tags": [["red", "tall"]]})
    monkeypatch.setattr(index.sources, "catalogue", lambda *_: tags)
    with pytest.raises(ValueError, match="the column 'tags' holds lists or objects, and a field"):
        search.build("shop", small, tmp_path / "out", fields=["tags"])
    assert not (tmp_path / "out").exists()


# A folder that is swapped -------------------------------------------------------------------------


def test_a_folder_written_anew_is_taken_while_clients_ask(tmp_path):
    """Each answer is whole, and that of the index that it names; none is lost."""
    parts = tiny_index.parts(tmp_path, tiny_models.profile(tmp_path / "artifacts"))
    folder = search.write(tmp_path / "served", **parts)
    changed = outputs.Changes(folder)
    app = service.create_app(
        search.load(folder),
        service.Settings(rate=0, max_waiting=64, look=0.02),
        newer=lambda: search.load(folder) if changed() else None,
    )
    answers, faults, done = {}, [], threading.Event()
    with service.background(app) as port:
        one = Client(port)

        def ask() -> None:
            while not done.is_set():
                status, content, headers = one.ask("/search?q=red+shoe&k=30")
                if status != 200:
                    faults.append(content)
                found = [hit["product_id"] for hit in content.get("hits", [])]
                answers.setdefault(headers["X-Ecomkd-Index"], []).append(found)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        expected = {search.load(folder).version: 21}
        try:
            for size in (5, 9):
                shorter = parts | {"catalogue": parts["catalogue"].select(range(size))}
                search.write(folder, **shorter)
                expected[search.load(folder).version] = size
                until(lambda: len(answers) == len(expected))
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert not faults
    assert answers.keys() == expected.keys()
    for version, found in answers.items():
        assert {len(hits) for hits in found} == {expected[version]}
        assert len(set(map(tuple, found))) == 1


def test_a_text_of_bytes_is_a_text():
    assert catalogue.plain_field("Öl & Co".encode(), "text") == "Öl & Co"
    assert catalogue.plain_field(b" ", "text") is None
