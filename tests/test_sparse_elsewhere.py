"""An index without vectors in another engine's files: the same sums, and what is published."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse as matrices
from test_elsewhere import (
    FIELDS,
    LEGACY,
    QUERIES,
    bm25,
    catalogue,
    checked,
    lines,
    lucene_words,
    products,
    vespa_words,
)
from tokenizers import Tokenizer, models, pre_tokenizers

from ecomkd import words as words_module
from ecomkd.search import elsewhere
from ecomkd.search.engine import SparseEngine
from ecomkd.search.retrieve import Weights, weighted

__all__ = ["checked"]  # a fixture
N = 40
VOCABULARY = ("red", "blue", "desk", "lamp", "lamps", "usb", "_", "c", "crème", "shoes", "20", ".")


@pytest.fixture(scope="module")
def engine() -> SparseEngine:
    """An engine over products of random words and random pieces, one of which has none."""
    random = np.random.default_rng(3)
    numbers = {"[UNK]": 0} | {word: number for number, word in enumerate(VOCABULARY, start=1)}
    pieces = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    texts = [" ".join(random.choice(VOCABULARY, random.integers(2, 30))) for _ in range(N)]
    adds = random.random((N, len(numbers))) * (random.random((N, len(numbers))) < 0.3)
    adds[:, 0] = adds[7] = 0  # no product has what is unknown
    lists = matrices.csc_matrix(adds.astype(np.float32))
    index = words_module.Words(numbers, lists.data, lists.indices, lists.indptr, N)
    return SparseEngine(
        products=catalogue(texts, FIELDS),
        words=words_module.bm25(texts),
        postings=index,
        pieces=pieces,
        student=lambda queries, texts: np.zeros(len(texts)),
        weights=Weights(words=0.07, reranker=0.5),
        fields={"brand": "text", "price": "number"},
    )


@pytest.fixture(scope="module")
def written(engine, tmp_path_factory) -> dict[str, Path]:
    room = tmp_path_factory.mktemp("elsewhere")
    return {name: elsewhere.write(engine, name, room / name) for name in elsewhere.ENGINES}


def asked(folder: Path, engine: SparseEngine, text: str) -> dict:
    template = json.loads((folder / "query.json").read_text("utf-8"))
    return elsewhere.fill(template, text, engine.asked(text))


def by_pieces(folder: Path, query: dict[str, float]) -> np.ndarray:
    """The sum of each product's pieces, as a Lucene engine or a tensor of Vespa's has it."""
    held = [product.get("pieces", {}) for product in products(folder)]
    return np.array([sum(often * own.get(key, 0) for key, often in query.items()) for own in held])


def lucene_scores(folder: Path, query: dict) -> np.ndarray:
    *match, pieces = query["query"]["bool"]["should"]
    if "sparse_vector" in pieces:
        own = pieces["sparse_vector"]
        assert own.keys() == {"field", "query_vector", "prune"} and own["field"] == "pieces"
        counts = own["query_vector"]
    else:
        counts = pieces["neural_sparse"]["pieces"]["query_tokens"]
    scores = by_pieces(folder, counts)
    words = lucene_words(folder)
    similarity = json.loads((folder / "index.json").read_text())["settings"]["index"]["similarity"]
    for one in match:
        text = one["match"]["text"]
        found = [words(product["text"]) for product in products(folder)]
        k1, b = (similarity["bm25"][name] for name in ("k1", "b"))
        own = LEGACY[folder.name] * bm25(found, words(text["query"]), k1, b)
        scores = scores + text["boost"] * own
    return scores


def vespa_scores(folder: Path, query: dict) -> np.ndarray:
    schema = (folder / "schemas" / "product.sd").read_text("utf-8")
    profile = schema[schema.index(f"rank-profile {query['ranking']} ") :]
    assert "expression: sum(query(pieces) * attribute(pieces))" in profile
    first = re.search(r"first-phase \{\s*expression: (.*)\n", profile)[1]
    found, words = products(folder), vespa_words(folder)
    matched = bm25([words(one["text"]) for one in found], words(query["text"]), 1.5, 0.75)
    return eval(
        first, {"pieces": by_pieces(folder, query["input.query(pieces)"]), "words": matched}
    )


@pytest.mark.parametrize("name", elsewhere.ENGINES)
@pytest.mark.parametrize("text", QUERIES[:-1])
def test_sums_and_order_are_those_of_the_engine(engine, written, name, text):
    expected, rows = weighted(*engine.compare([text]), engine.weights.words, N)
    scores = vespa_scores if name == "vespa" else lucene_scores
    found = scores(written[name], asked(written[name], engine, text))
    np.testing.assert_allclose(found[rows[0]], expected[0], atol=2e-6)
    assert expected[0].max() > 0


@pytest.mark.parametrize("name", elsewhere.ENGINES)
def test_every_product_has_its_pieces_by_number(engine, written, name):
    found = products(written[name])
    assert [product["id"] for product in found] == list(engine.ids)
    held = np.zeros((N, len(VOCABULARY) + 1), np.float32)
    for row, product in enumerate(found):
        for number, add in product.get("pieces", {}).items():
            held[row, int(number)] = add
        if name == "vespa":
            numbers = [int(number) for number in product.get("pieces", {})]
            assert product.get("numbers", []) == numbers
    index = engine.postings
    parts = index.data, index.indices, index.indptr
    np.testing.assert_array_equal(held, matrices.csc_matrix(parts, held.shape).toarray())
    assert "pieces" not in found[7]


def test_a_query_is_asked_for_by_the_pieces_that_products_have(engine):
    assert engine.asked("lamp unheard lamp red") == {"4": 2, "1": 1}
    assert engine.asked("unheard") == {}
    with pytest.raises(ValueError, match="'unheard' has no piece of a product: ask for its words"):
        elsewhere.fill({}, "unheard", {})


def test_vespa_finds_products_by_the_numbers_of_pieces(engine, written):
    query = asked(written["vespa"], engine, "lamp red lamp")
    assert "where numbers in (@numbers) or ({defaultIndex: 'text'" in query["yql"]
    assert query["numbers"] == "4,1" and query["input.query(pieces)"] == {"4": 2, "1": 1}
    schema = (written["vespa"] / "schemas" / "product.sd").read_text("utf-8")
    assert schema.count("{") == schema.count("}") and "field numbers type array<int>" in schema
    assert f"rank-profile {query['ranking']} {{" in schema
    assert "field pieces type tensor<float>(piece{})" in schema
    assert "query(pieces) tensor<float>(piece{})" in schema


@pytest.mark.parametrize("name", elsewhere.ENGINES)
def test_words_that_weigh_nothing_find_nothing(engine, tmp_path, monkeypatch, name):
    monkeypatch.setattr(engine, "weights", Weights())
    folder = elsewhere.write(engine, name, tmp_path / "out")
    query = (folder / "query.json").read_text()
    assert "userInput" not in query and '"match"' not in query


@pytest.mark.parametrize("name", ["opensearch", "elasticsearch"])
def test_the_files_are_of_the_types_that_the_engine_publishes(checked, engine, written, name):
    folder = written[name]
    index = json.loads((folder / "index.json").read_text("utf-8"))
    if name == "elasticsearch":
        head = "import { estypes } from '@elastic/elasticsearch'"
        types = "Omit<estypes.IndicesCreateRequest, 'index'>", "estypes.SearchRequest"
        faults = {'"sparse_vector": ': '"sparse": ', '"prune": false': '"prune": "no"'}
    else:
        place = "@opensearch-project/opensearch/api"
        head = (
            f"import type {{ Indices_Create_RequestBody }} from '{place}/indices/create.js'\n"
            f"import type {{ Search_RequestBody }} from '{place}/_core/search.js'"
        )
        types = "Indices_Create_RequestBody", "Search_RequestBody"
        faults = {'"neural_sparse": ': '"neural": ', '"query_tokens": ': '"tokens": '}
    values = index, asked(folder, engine, QUERIES[0])
    source = "\n".join(
        [head]
        + [
            f"export const sparse{number}: {kind} = {json.dumps(value)}"
            for number, (kind, value) in enumerate(zip(types, values, strict=True))
        ]
    )
    assert all(source.count(right) for right in faults)
    wrong = {
        f"sparse_{name}_wrong{number}.ts": source.replace(*fault)
        for number, fault in enumerate(faults.items())
    }
    assert checked({f"sparse_{name}.ts": source, **wrong}) == set(wrong)


@pytest.mark.parametrize("name", elsewhere.ENGINES)
def test_the_readme_says_how_to_load_and_to_ask_and_what_was_not_run(written, name):
    text = (written[name] / "README.md").read_text("utf-8")
    for needed in ("curl", "engine.asked(text)", "/rerank", "0.07 ·", "## What was not run"):
        assert needed in text
    assert "vector of zeros" not in text and "  - **" not in text and "{" + "name" not in text
    actions = [] if name == "vespa" else lines(written[name], "bulk-*.ndjson")[0::2]
    assert actions == (
        [] if name == "vespa" else [{"index": {"_id": p["id"]}} for p in products(written[name])]
    )


def test_a_field_that_is_called_as_its_own_are_is_told(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "fields", {"pieces": "text"})
    with pytest.raises(ValueError, match="'pieces': a field's name is of letters, digits and _"):
        elsewhere.write(engine, "vespa", tmp_path / "out")
