"""A search in another engine's files: the same sums from them, and what their schemas publish.

No server is run. The files are read as an engine reads them: words are found by the analyzer that
they define, BM25 is computed from the products in them, and their query says how both are added up.
"""

import json
import re
import subprocess
import unicodedata
import xml.etree.ElementTree as ET
from dataclasses import replace
from math import log
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import Stemmer
from tokenizers import Tokenizer, models, pre_tokenizers

from ecomkd import outputs
from ecomkd import words as words_module
from ecomkd.search import dialects, elsewhere
from ecomkd.search.catalogue import Cells, Product
from ecomkd.search.engine import SearchEngine
from ecomkd.search.retrieve import Weights, token_means, weighted

ROOT = Path(__file__).resolve().parent.parent
TYPES = ROOT / "_build" / "engines"
N, H = 40, 6
WEIGHT = 0.07
VOCABULARY = (
    *(
        "red",
        "blue",
        "green",
        "steel",
        "oak",
        "desks",
        "lamp",
        "lamps",
        "lighting",
        "shoe",
        "shoes",
    ),
    *("running", "the", "with", "and", "kids", "usb", "usb_c", "20", "500ml", "crème", "m12"),
    *("universal", "for", "a", "of", "xl", "blank"),
)
QUERIES = ("red desk lamp", "the lamps with a usb_c lamp lamp", "crème", "running of shoes 20", "a")
FIELDS = {
    "brand": ["acme", None] * (N // 2),
    "price": [None, *np.linspace(1, 9, N - 1).tolist()],
}


@pytest.fixture(scope="module")
def engine() -> SearchEngine:
    """An engine over products of random words, one of which has no vector."""
    random = np.random.default_rng(3)
    numbers = {"[UNK]": 0} | {word: number for number, word in enumerate(VOCABULARY, start=1)}
    pieces = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    table = random.normal(size=(len(numbers), H)).astype(np.float32)
    table[numbers["blank"]] = 0
    texts = [" ".join(random.choice(VOCABULARY[:-1], random.integers(2, 30))) for _ in range(N)]
    texts[7] = "blank"
    texts[9] = 'Red-Lamp, "20%" – the\nCRÈME\x02\\'
    tokens = [text.ids for text in pieces.encode_batch(texts, add_special_tokens=False)]
    vectors = token_means(tokens, table).astype(np.float32)
    return SearchEngine(
        products=catalogue(texts, FIELDS),
        words=words_module.bm25(texts),
        cells=Cells(vectors, np.arange(N), np.array([0, N]), vectors[:1]),
        pieces=pieces,
        table=table,
        student=lambda queries, texts: np.zeros(len(texts)),
        weights=Weights(words=WEIGHT, reranker=0.5),
        fields={"brand": "text", "price": "number"},
    )


def catalogue(texts: list[str], fields: dict[str, list]) -> list[Product]:
    return [
        Product(f"p{row}/é", text[:12], text, {name: own[row] for name, own in fields.items()})
        for row, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def written(engine, tmp_path_factory) -> dict[str, Path]:
    room = tmp_path_factory.mktemp("elsewhere")
    return {name: elsewhere.write(engine, name, room / name) for name in elsewhere.ENGINES}


# The products -------------------------------------------------------------------------------------


def lines(folder: Path, pattern: str) -> list[dict]:
    return [json.loads(line) for path in sorted(folder.glob(pattern)) for line in path.open("rb")]


def products(folder: Path) -> list[dict]:
    if (folder / "services.xml").exists():
        return [line["fields"] for line in lines(folder, "feed-*.jsonl")]
    return lines(folder, "bulk-*.ndjson")[1::2]


@pytest.mark.parametrize("name", elsewhere.ENGINES)
def test_every_product_is_there_once_with_its_texts_fields_and_vector(engine, written, name):
    found = products(written[name])
    assert [product["id"] for product in found] == list(engine.ids)
    for part, texts in (("title", engine.titles), ("text", engine.texts)):
        assert [product[part] for product in found] == [text.replace("\2", " ") for text in texts]
    assert [product.get("brand") for product in found] == FIELDS["brand"]
    prices = [product.get("price") for product in found]
    assert prices == FIELDS["price"]
    vectors = [product.get("vector", [0.0] * H) for product in found]
    np.testing.assert_array_equal(np.array(vectors, np.float32), engine.cells.of(np.arange(N)))
    assert "vector" not in found[7]  # the engines refuse a vector of zeros


def test_products_are_addressed_by_their_ids(engine, written):
    for name in ("opensearch", "elasticsearch"):
        actions = lines(written[name], "bulk-*.ndjson")[0::2]
        assert actions == [{"index": {"_id": own}} for own in engine.ids]
    puts = [line["put"] for line in lines(written["vespa"], "feed-*.jsonl")]
    assert puts == [f"id:shop:product::{own}" for own in engine.ids]


@pytest.mark.parametrize("name", elsewhere.ENGINES)
def test_files_of_products_are_cut_between_products(engine, name, tmp_path, monkeypatch):
    whole = elsewhere.write(engine, name, tmp_path / "whole")
    monkeypatch.setattr(elsewhere, "PART", 900)
    folder = elsewhere.write(engine, name, tmp_path / "cut")
    parts = sorted(folder.glob("*-0*"))
    assert len(parts) > 5
    assert all(path.stat().st_size <= 900 for path in parts)
    first = next(whole.glob("*-00000.*"))
    assert b"".join(path.read_bytes() for path in parts) == first.read_bytes()
    assert not next(iter(whole.glob("*-00001.*")), None)


# The sum ------------------------------------------------------------------------------------------


def analysed(chain: list[tuple[str, dict]], pattern: str, text: str) -> list[str]:
    """The words of a text as a chain of Lucene's filters makes them."""
    assert pattern == dialects.PATTERN  # which Python's \w is, as a test below shows
    found = re.findall(r"\w{2,}", text)
    for kind, settings in chain:
        if kind == "length":
            found = [word for word in found if len(word) <= int(settings["max"])]
        elif kind == "lowercase":
            found = [word.lower() for word in found]
        elif kind == "stop":
            found = [word for word in found if word not in settings["words"]]
        else:
            assert kind in ("snowball", "snowballPorter")
            found = Stemmer.Stemmer(settings["language"].lower()).stemWords(found)
    return found


def lucene_words(folder: Path):
    """A function from a text to its words, as `index.json` defines them."""
    index = json.loads((folder / "index.json").read_text("utf-8"))
    analysis = index["settings"]["analysis"]
    own = analysis["analyzer"][index["mappings"]["properties"]["text"]["analyzer"]]
    filters = [analysis["filter"].get(name, {"type": name}) for name in own["filter"]]
    chain = [(part["type"], part | {"words": part.get("stopwords")}) for part in filters]
    pattern = analysis["tokenizer"][own["tokenizer"]]["pattern"]
    return lambda text: analysed(chain, pattern, text)


def vespa_words(folder: Path):
    """The same, as `services.xml` and the file of stop words define them."""
    [own] = ET.parse(folder / "services.xml").iter("analysis")
    [place] = ET.parse(folder / "services.xml").iter("configDir")
    chain = []
    for item in own.findall("item/tokenFilters/item"):
        settings = {entry.get("key"): entry.text for entry in item.findall("conf/item")}
        if "words" in settings:
            settings["words"] = (folder / place.text / settings["words"]).read_text("utf-8").split()
        chain.append((item.find("name").text, settings))
    pattern = own.find("item/tokenizer/conf/item[@key='pattern']").text
    return lambda text: analysed(chain, pattern, text)


LEGACY = {"elasticsearch": 2.5, "opensearch": 1.0}
"""By so much an engine's BM25 is above Lucene's: k1 + 1 where it keeps `LegacyBM25Similarity`."""


def bm25(texts: list[list[str]], query: list[str], k1: float, b: float) -> np.ndarray:
    """Lucene's BM25 of a query with each text, both as words (Robertson & Zaragoza 2009)."""
    mean = sum(map(len, texts)) / len(texts)
    scores = np.zeros(len(texts))
    for word in query:
        having = sum(word in text for text in texts)
        rarity = log(1 + (len(texts) - having + 0.5) / (having + 0.5))
        for row, text in enumerate(texts):
            times = text.count(word)
            scores[row] += rarity * times / (times + k1 * (1 - b + b * len(text) / mean))
    return scores


def cosine(query: list[float], vector: list[float]) -> float:
    return float(np.dot(query, vector) / np.linalg.norm(query) / np.linalg.norm(vector))


def lucene_scores(folder: Path, query: dict) -> np.ndarray:
    """The score of each product under an OpenSearch or Elasticsearch query, its 1 taken off."""
    index = json.loads((folder / "index.json").read_text("utf-8"))
    found, words = products(folder), lucene_words(folder)
    scoring = query["query"]["script_score"]
    match, knn = scoring["query"]["bool"]["should"]
    assert knn["knn"].get("boost", knn["knn"].get("vector", {}).get("boost")) == 0
    assert knn["knn"].get("field", "vector") == "vector"
    text = match["match"]["text"]
    properties = index["mappings"]["properties"]
    similarity = index["settings"]["index"]["similarity"][properties["text"]["similarity"]]
    matched = (
        text["boost"]
        * LEGACY[folder.name]
        * bm25(
            [words(product["text"]) for product in found],
            words(text["query"]),
            similarity["k1"],
            similarity["b"],
        )
    )
    script = scoring["script"]
    source = re.sub(r"\(([^?]*) \? (.*) : (.*)\)$", r"(\2 if \1 else \3)", script["source"])
    scores = []
    for product, score in zip(found, matched, strict=True):
        value = SimpleNamespace(size=lambda own=product: len(own.get("vector", [])))
        names = {
            "_score": score,
            "doc": {"vector": value},
            "params": SimpleNamespace(**script["params"]),
            # One engine takes the name of the field, and the other one what `doc` has.
            "cosineSimilarity": lambda asked, _, own=product: cosine(asked, own["vector"]),
        }
        scores.append(eval(source, names))
    assert min(scores) >= 0
    return np.array(scores) - 1


def vespa_scores(folder: Path, query: dict) -> np.ndarray:
    """The relevance of each product under the rank profile that a Vespa query names."""
    schema = (folder / "schemas" / "product.sd").read_text("utf-8")
    profile = schema[schema.index(f"rank-profile {query['ranking']} ") :]
    functions = dict(re.findall(r"function (\w+)\(\) \{\s*expression: (.*)\n", profile))
    first = re.search(r"first-phase \{\s*expression: (.*)\n", profile)[1]
    k1, b = (float(re.search(rf"bm25\(text\)\.{name}: (.*)\n", profile)[1]) for name in ("k1", "b"))
    found, words = products(folder), vespa_words(folder)
    matched = bm25([words(product["text"]) for product in found], words(query["text"]), k1, b) * (
        k1 + 1
    )  # as Vespa documents its feature
    scores = []
    for product, score in zip(found, matched, strict=True):
        names = {
            "sum": np.sum,
            "bm25": {"text": score}.get,
            "query": {"vector": np.array(query["input.query(vector)"])}.get,
            "attribute": {"vector": np.array(product.get("vector", [0.0] * H))}.get,
            "vector": "vector",
            "text": "text",
        }
        values = {name: eval(expression, names) for name, expression in functions.items()}
        scores.append(eval(first, values))
    return np.array(scores)


def asked(folder: Path, engine: SearchEngine, text: str) -> dict:
    template = json.loads((folder / "query.json").read_text("utf-8"))
    return elsewhere.fill(template, text, engine.embed([text])[0])


@pytest.mark.parametrize("name", elsewhere.ENGINES)
@pytest.mark.parametrize("text", QUERIES)
def test_sums_and_order_are_those_of_the_engine(engine, written, name, text):
    expected, rows = weighted(*engine.compare([text]), WEIGHT, N)
    scores = vespa_scores if name == "vespa" else lucene_scores
    found = scores(written[name], asked(written[name], engine, text))
    np.testing.assert_allclose(found[rows[0]], expected[0], atol=2e-6)
    # The order is the same wherever float32 tells two sums apart.
    assert np.all(np.diff(found[rows[0]]) < 4e-6)


def test_words_and_cosine_both_decide_in_the_queries_above(engine):
    cosines, matched = engine.compare(QUERIES[:-1])
    for rows in (cosines, WEIGHT * matched):
        orders = np.argsort(-rows, axis=1, kind="stable")[:, :10]
        both = np.argsort(-(cosines + WEIGHT * matched), axis=1, kind="stable")[:, :10]
        assert np.all((orders != both).any(axis=1))


def test_the_first_answers_are_among_the_candidates(engine):
    """Shown for the nearest found exactly: what is neither near nor shares a word comes later."""
    for text in QUERIES:
        cosines, matched = engine.compare([text])
        for size in (1, 5, 20):
            nearest = np.argsort(-cosines[0], kind="stable")[:size]
            _, rows = weighted(cosines, matched, WEIGHT, size)
            assert set(rows[0]) <= set(nearest) | set(np.flatnonzero(matched[0] > 0))


def test_the_analyzers_find_the_words_of_the_engine(engine, written):
    texts = [
        *engine.texts,
        "x" * 9_000,
        "ands wills",
        "Dr. O'Neil's 3.5mm USB-C café_au_lait ½ inch — THE ²",
    ]
    for name in elsewhere.ENGINES:
        words = (vespa_words if name == "vespa" else lucene_words)(written[name])
        for text in texts:
            expected = [word for word in words_module.words_of(text) if len(word) < 9_000]
            assert words(text) == expected


def test_the_pattern_of_a_word_is_what_python_calls_one():
    """Letters and numbers by category, and the underscore, over all of Unicode."""
    points = [chr(point) for point in range(0x110000)]
    ours = {c for c in points if unicodedata.category(c)[0] in "LN" or c == "_"}
    assert ours == set(re.findall(r"\w", "".join(points)))
    assert dialects.PATTERN == r"[\p{L}\p{N}_]{2,}"


def test_bm25_has_the_settings_of_the_package(engine):
    import bm25s

    plain = bm25s.BM25()
    assert (plain.k1, plain.b, plain.method) == (dialects.K1, dialects.B, "lucene")


# What the engines publish -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checked():
    """A function from TypeScript by file to the files that its compiler finds fault with."""
    compiler = TYPES / "node_modules" / "typescript" / "bin" / "tsc"
    if not compiler.exists():
        pytest.skip("no published types of the engines: install npm, then run `make unit`")

    def check(sources: dict[str, str]) -> set[str]:
        for path, source in sources.items():
            (TYPES / path).write_text(source, encoding="utf-8")
        settings = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022"]
        command = ["node", str(compiler), *settings, "--module", "nodenext", *sources]
        told = subprocess.run(command, cwd=TYPES, capture_output=True, text=True)
        assert told.stderr == ""
        return {line.split("(")[0] for line in told.stdout.splitlines() if "error TS" in line}

    return check


def typescript(name: str, folder: Path, engine: SearchEngine) -> str:
    """The files as constants of the types that the engine's own client publishes."""
    index = json.loads((folder / "index.json").read_text("utf-8"))
    actions = lines(folder, "bulk-*.ndjson")[0::2]
    if name == "elasticsearch":
        head = "import { estypes } from '@elastic/elasticsearch'"
        types = (
            "Omit<estypes.IndicesCreateRequest, 'index'>",
            "estypes.SearchRequest",
            "estypes.BulkOperationContainer[]",
        )
    else:
        place = "@opensearch-project/opensearch/api"
        head = (
            f"import type {{ Indices_Create_RequestBody }} from '{place}/indices/create.js'\n"
            f"import type {{ Search_RequestBody }} from '{place}/_core/search.js'\n"
            f"import type {{ OperationContainer }} from '{place}/_types/_core.bulk.d.ts'"
        )
        types = ("Indices_Create_RequestBody", "Search_RequestBody", "OperationContainer[]")
    values = (index, asked(folder, engine, QUERIES[0]), actions)
    return "\n".join(
        [head]
        + [
            f"export const part{number}: {kind} = {json.dumps(value)}"
            for number, (kind, value) in enumerate(zip(types, values, strict=True))
        ]
    )


@pytest.mark.parametrize("name", ["opensearch", "elasticsearch"])
def test_the_files_are_of_the_types_that_the_engine_publishes(checked, engine, written, name):
    source = typescript(name, written[name], engine)
    faults = {
        '"pattern": ': '"expression": ',
        '"script_score": ': '"scriptscore": ',
        '"index": {"_id"': '"indices": {"_id"',
        '"boost": 0.0}': '"boost": "none"}',
        '"type": "BM25"': '"type": "BM52"',
        '"minimum_should_match": 1': '"minimum_should_match": [1]',
    }
    assert all(source.count(right) for right in faults)
    wrong = {
        f"{name}_wrong{number}.ts": source.replace(*fault)
        for number, fault in enumerate(faults.items())
    }
    assert checked({f"{name}.ts": source, **wrong}) == set(wrong)


def test_the_products_have_the_fields_of_the_schema_and_no_other(written):
    """Elasticsearch and OpenSearch refuse others, for the mapping is strict; Vespa always does."""
    for name in elsewhere.ENGINES:
        if name == "vespa":
            schema = (written[name] / "schemas" / "product.sd").read_text("utf-8")
            types = dict(re.findall(r"field (\w+) type (\S+) \{", schema))
            vector, width = types.pop("vector"), f"tensor<float>(x[{H}])"
            kinds = {"string": str, "double": float}
        else:
            index = json.loads((written[name] / "index.json").read_text("utf-8"))
            assert index["mappings"]["dynamic"] == "strict"
            found = index["mappings"]["properties"]
            vector = found["vector"].get("dims", found["vector"].get("dimension"))
            types = {field: own["type"] for field, own in found.items() if field != "vector"}
            kinds, width = {"keyword": str, "text": str, "double": float}, H
        assert vector == width
        for product in products(written[name]):
            own = {field: value for field, value in product.items() if field != "vector"}
            assert own.keys() <= types.keys()
            assert all(isinstance(value, kinds[types[field]]) for field, value in own.items())


def test_the_package_of_vespa_names_what_is_there(written):
    """No parser of its schemas is published without a server, so this is checked by hand."""
    folder = written["vespa"]
    schema = (folder / "schemas" / "product.sd").read_text("utf-8")
    services = ET.parse(folder / "services.xml").getroot()
    query = json.loads((folder / "query.json").read_text("utf-8"))
    assert schema.count("{") == schema.count("}")
    [document] = services.iter("document")
    assert document.get("type") == re.match(r"schema (\w+) ", schema)[1] == "product"
    [item] = services.iterfind(".//analysis/item")
    assert item.get("key") == "profile=" + re.search(r"profile: (\w+)", schema)[1]
    assert f"rank-profile {query['ranking']} {{" in schema
    asked, place = re.search(r"nearestNeighbor\((\w+), (\w+)\)", query["yql"]).groups()
    assert f"field {asked} type tensor" in schema
    assert f"query({place}) tensor<float>(x[{H}])" in schema
    assert f"input.query({place})" in query
    assert "defaultIndex: 'text'" in query["yql"] and "userInput(@text)" in query["yql"]


# The folder ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", elsewhere.ENGINES)
def test_the_readme_says_how_to_load_and_to_ask_and_what_was_not_run(written, name):
    text = (written[name] / "README.md").read_text("utf-8")
    named = {path.split("/")[0].rstrip("`") for path in re.findall(r"`([\w-]+[./][\w./-]*)`", text)}
    there = {path.name for path in written[name].iterdir()}
    assert named - {"search", "ask.py"} <= there
    for needed in ("curl", "engine.embed", "/rerank", f"{WEIGHT:g} ·", "## What was not run"):
        assert needed in text
    assert "  - **" not in text and "{" + "name" not in text


def test_the_lines_of_the_readme_fill_the_query(written, engine, monkeypatch, capsys):
    text = (written["vespa"] / "README.md").read_text("utf-8")
    [script] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.setattr("ecomkd.search.load", lambda folder: engine)
    monkeypatch.setattr("sys.argv", ["ask.py", "red lamp"])
    monkeypatch.chdir(written["vespa"])
    exec(script, {})
    assert json.loads(capsys.readouterr().out) == asked(written["vespa"], engine, "red lamp")


def test_a_folder_of_its_own_is_replaced_whole_and_another_refused(engine, tmp_path):
    elsewhere.write(engine, "vespa", tmp_path / "out")
    elsewhere.write(engine, "opensearch", tmp_path / "out")
    assert not (tmp_path / "out" / "services.xml").exists()
    outputs.check(tmp_path / "out", "export")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match=r"`ecomkd export` did not write notes\.txt"):
        elsewhere.write(engine, "vespa", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_an_unknown_engine_is_refused_and_nothing_written(engine, tmp_path):
    with pytest.raises(ValueError, match=r"^solr: no such engine; give one of opensearch, "):
        elsewhere.write(engine, "solr", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"text": ["a"] * N}, "'text': a field's name"),
        ({"a b": ["a"] * N}, "'a b': a field's name"),
    ],
)
def test_fields_that_an_engine_would_refuse_are_told(engine, tmp_path, fields, fault, monkeypatch):
    monkeypatch.setattr(engine, "products", catalogue(list(engine.texts), fields))
    monkeypatch.setattr(engine, "fields", dict.fromkeys(fields, "text"))
    with pytest.raises(ValueError, match=fault):
        elsewhere.write(engine, "vespa", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("own", ["", "é" * 257, "a\nb\0"])
def test_an_id_that_an_engine_would_refuse_is_told(engine, tmp_path, own, monkeypatch):
    *rest, last = engine.products
    monkeypatch.setattr(engine, "products", [*rest, replace(last, product_id=own)])
    with pytest.raises(ValueError, match=r"^product 39 has the id "):
        elsewhere.write(engine, "elasticsearch", tmp_path / "out")


def test_a_query_without_a_vector_is_told(engine):
    with pytest.raises(ValueError, match="ask for its words alone"):
        elsewhere.fill({}, " ", engine.embed([" "])[0])


def test_texts_that_look_like_places_stay_as_they_are():
    filled = elsewhere.fill({"a": "{{text}}", "b": ["{{vector}}", 1]}, "{{vector}}", np.ones(2))
    assert filled == {"a": "{{vector}}", "b": [[1.0, 1.0], 1]}
