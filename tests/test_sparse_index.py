"""An index without vectors: what its folder holds, what it answers, and what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tiny_index
import tiny_models
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from serving import Client, until
from test_search_index import refusal, sealed
from tiny_index import engine, folder, profile, written

from ecomkd import cli, outputs, search, words
from ecomkd.search import index as index_module
from ecomkd.search import sparse
from ecomkd.search.folder import quality
from ecomkd.search.tune import SPARSE_DEFAULT, quality_on

__all__ = ["engine", "folder", "profile", "written"]  # fixtures
QUERIES = ["red shoe", "kids lamp lamp", "Tea, small POT", "zzzz", ""]


@pytest.fixture(scope="module")
def parts(profile, tmp_path_factory) -> dict:
    """What `search.write` takes: a sparse student that nothing has trained, over a few words."""
    folder = tmp_path_factory.mktemp("parts")
    found = tiny_index.parts(folder, profile)
    model = tiny_models.bert(layers=1, dropout=0.0).base_model
    tiny_models.save(model, folder / "bert")
    modules = [Transformer(str(folder / "bert"))]
    modules += [Pooling(modules[0].get_embedding_dimension()), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "start"))
    encoder = search.encoder(folder / "start", profile)
    head = sparse.untrained_head(encoder, found["catalogue"]["product_title"])
    with torch.no_grad():  # a query's weight of a piece is more than its idf, as after training
        head.log_factor += torch.linspace(-0.5, 0.5, len(head.log_factor))
        head.bias -= 2.0  # of so few words, all are near each other
    (folder / "sparse").mkdir()
    sparse.save_sparse(search.SparseStudent(encoder, head), folder / "sparse")
    return found | {
        "encoder": folder / "sparse",
        "first_stage": "sparse",
        "test": tiny_models.pairs(24, seed=3, prefix="t"),
        "teacher": None,
    }


# What it answers ----------------------------------------------------------------------------------


def test_an_index_has_the_scores_of_the_student_and_of_the_words(parts, engine):
    student = search.load_sparse(parts["encoder"], parts["profile"])
    wanted = student.queries(QUERIES) @ student.documents(list(engine.texts)).T
    sums, by_words = engine.compare(QUERIES)
    np.testing.assert_allclose(sums, sparse.TEMPERATURE * wanted.toarray(), atol=1e-5)
    index = words.bm25(list(engine.texts))
    np.testing.assert_array_equal(by_words, search.word_scores(index, QUERIES))
    assert sums[:3].any(axis=1).all() and not sums[3:].any()
    assert ((sums > 0) & (by_words == 0)).any()  # pieces that do not stand in the text


@pytest.mark.parametrize("weights", [(0, 0), (0.1, 0), (0.1, 0.5)])
def test_pieces_words_and_student_are_added_up(engine, monkeypatch, weights):
    monkeypatch.setattr(engine, "weights", search.Weights(*weights))
    monkeypatch.setattr(engine, "depth", 4)
    query = "red shoe"
    scores, by_words = engine.compare([query])
    sums = scores[0] + weights[0] * by_words[0]
    order = np.argsort(-sums, kind="stable")
    order = order[sums[order] > 0]
    read = sums[order[:4]] + weights[1] * engine.score(
        [query] * 4, [engine.texts[r] for r in order[:4]]
    )
    order[:4] = order[:4][np.argsort(-read, kind="stable")]
    hits = engine.search(query, 100)
    assert [hit.product_id for hit in hits] == [engine.ids[row] for row in order]
    assert 4 < len(hits) < len(engine.ids)
    np.testing.assert_allclose([hit.score for hit in hits[:4]], -np.sort(-read), rtol=1e-6)


def test_what_shares_nothing_with_the_query_is_no_hit(engine):
    assert engine.search("zzzz") == engine.search("") == []
    with pytest.raises(ValueError, match="k is 0: give 1 or more"):
        engine.search("red shoe", 0)


def test_a_query_longer_than_a_product_may_be_is_read_to_its_end(engine):
    long = " ".join(["zzzz"] * 300 + ["lamp"])
    np.testing.assert_array_equal(engine.compare([long])[0], engine.compare(["lamp"])[0])


def test_what_serves_it_loads_neither_torch_nor_scipy(written):
    heavy = ("torch", "transformers", "sentence_transformers", "datasets", "scipy", "bm25s")
    code = (
        "import sys\n"
        "from ecomkd import search\n"
        f"assert search.load({str(written)!r}).search('red shoe')\n"
        f"print(*[name for name in {heavy} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_it_is_served_with_fields_and_pages_and_replaced_by_a_newer_one(parts, tmp_path):
    column = [f"{row}.5" for row in range(len(parts["catalogue"]))]
    priced = parts["catalogue"].add_column("price", column)
    more = {"catalogue": priced, "fields": ["price"]}
    folder = search.write(tmp_path / "served", **parts | more)
    command = [sys.executable, "-m", "ecomkd.cli", "serve", str(folder), "--port", "0"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        one = Client(int(child.stdout.readline().split(":")[2].split()[0]))
        first = one.ask("/search?q=red+shoe&fields=price&k=3")
        assert (
            first.status == 200 and first.headers["X-Ecomkd-Index"] == search.load(folder).version
        )
        whole = search.load(folder).search("red shoe", 6)
        shown = [hit["product_id"] for hit in first.content["hits"]]
        shown += [
            h["product_id"] for h in one.ask("/search?q=red+shoe&k=3&offset=3").content["hits"]
        ]
        assert shown == [hit.product_id for hit in whole]
        prices = dict(zip(priced["product_id"], range(len(priced)), strict=True))
        found = {hit["product_id"]: hit["fields"]["price"] for hit in first.content["hits"]}
        assert found == {own: prices[own] + 0.5 for own in found}
        assert one.ask("/search?q=red&filter=price%3C2").status == 422
        static = tiny_index.parts(tmp_path, parts["profile"])
        search.write(folder, **static | {"teacher": None})
        wanted = search.load(folder).version
        until(lambda: one.ask("/health").content["index"] == wanted)
        assert one.ask("/search?q=red+shoe").headers["X-Ecomkd-Index"] == wanted
    finally:
        child.kill()
        child.communicate()


# What the folder holds ----------------------------------------------------------------------------


def test_the_folder_has_posting_lists_and_no_vectors(written):
    files = set(outputs.read(written, "index")["files"])
    lists = {
        f"{name}.{part}.npy"
        for name in ("pieces", "words")
        for part in ("data", "indices", "indptr")
    }
    assert lists < files and "encoder/tokenizer.json" in files
    assert not [name for name in files if name.startswith(("vectors", "cells", "encoder/model"))]
    told = json.loads((written / "engine.json").read_text())
    assert (told["format"], told["first_stage"]) == (5, "sparse")
    assert ", format 5, written by ecomkd " in search.load(written).version


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"format": 4}, "is of format 4, and its first_stage is 'sparse'"),
        ({"first_stage": "static"}, "is of format 5, and its first_stage is 'static'"),
        ({"first_stage": ["sparse"]}, "is of format 5, and its first_stage is ['sparse']"),
        ({"format": 6}, "is of format 6, and this version reads formats 4 (static) and 5 (sparse)"),
        ({"store": {"uri": "x", "table": "t", "build": "b", "length": 1.0}}, "store is {'uri'"),
    ],
)
def test_a_format_that_does_not_fit_its_first_stage_is_named(folder, wrong, fault):
    path = folder / "engine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    assert fault in refusal(sealed(folder))


def test_posting_lists_that_do_not_fit_are_named(folder):
    changes = {
        "indices": lambda old: old + 1000,
        "indptr": lambda old: old[:-1],
        "data": lambda old: old[:-1],
    }
    for name, change in changes.items():
        path = folder / f"pieces.{name}.npy"
        before = path.read_bytes()
        np.save(path, change(np.load(path)))
        assert "pieces.data.npy: does not fit products and tokenizer" in refusal(sealed(folder))
        path.unlink()
        assert f"pieces.{name}.npy: is missing" in refusal(sealed(folder))
        path.write_bytes(before)
    (folder / "encoder" / "tokenizer.json").write_text("{}")
    assert "tokenizer.json: is not a tokenizer" in refusal(sealed(folder))


# Weights, and what it is worth --------------------------------------------------------------------


def test_an_index_tells_what_it_is_worth_on_test_queries(parts, written, engine):
    found = json.loads((written / "quality.json").read_text())
    queries, judge = quality_on(parts["test"], engine.ids)
    place = {own: row for row, own in enumerate(engine.ids)}

    def rows(asked) -> np.ndarray:
        table = np.full((len(queries), 10), -1)
        for number, query in enumerate(queries):
            hits = asked(query)
            table[number, : len(hits)] = hits
        return table

    def sums(weight: float) -> np.ndarray:
        scores, by_words = engine.compare(queries)
        added = scores + weight * by_words
        order = np.argsort(-added, axis=1, kind="stable")[:, :10]
        return np.where(np.take_along_axis(added, order, 1) > 0, order, -1)

    wanted = {
        "BM25": judge(search.lexical(engine.words, queries, 10)[1]),
        "sparse": judge(sums(0.0)),
        "sparse + BM25": judge(sums(engine.weights.words)),
        "re-ranked": judge(rows(lambda query: [place[h.product_id] for h in engine.search(query)])),
    }
    assert found == {"queries": len(queries), "ndcg@10": pytest.approx(wanted)}
    lines = quality(written)
    assert f"BM25 {engine.weights.words:g}, the student that re-ranks" in lines[0]
    assert lines[2:] == [f"    {name}: {value:.3f}" for name, value in wanted.items()]


def test_without_a_judged_test_product_nothing_is_told(parts, tmp_path):
    pairs = parts["test"].map(lambda row: {"product_id": f"delisted {row['product_id']}"})
    folder = search.write(tmp_path / "x", **parts | {"test": pairs})
    assert not (folder / "quality.json").exists() and quality(folder) == []


def test_where_validation_cannot_choose_words_hardly_count(parts, tmp_path):
    pairs = parts["validation"].filter(lambda row: row["label"] == 3)
    with pytest.warns(UserWarning, match="BM25 counts 0.003 and the student 0.3, as on the simul"):
        folder = search.write(tmp_path / "x", **parts | {"validation": pairs})
    assert search.load(folder).weights == SPARSE_DEFAULT


# What is refused ----------------------------------------------------------------------------------


def test_a_store_is_refused_before_any_work(tmp_path, profile, monkeypatch, capsys):
    monkeypatch.setattr(index_module.sources, "catalogue", lambda *_: pytest.fail("work was begun"))
    monkeypatch.setattr(cli.Profile, "named", lambda *_: profile)
    given = ["index", "shop", "--first-stage", "sparse", "--engine", str(tmp_path / "lance")]
    assert cli.main([*given, "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == (
        "ecomkd: a store finds products by their vectors, and a sparse first stage has none: leave "
        "out --engine, or --first-stage sparse.\n"
    )


def test_an_unknown_first_stage_is_refused(parts, tmp_path):
    with pytest.raises(ValueError, match="'dense': no such first stage; give static or sparse"):
        search.write(tmp_path / "x", **parts | {"first_stage": "dense"})


def test_its_catalogue_is_not_updated_in_place(written, tmp_path, capsys):
    (tmp_path / "gone.txt").write_text("p0\n")
    assert cli.main(["update", str(written), "--remove", str(tmp_path / "gone.txt")]) == 1
    assert "its catalogue lies in the folder itself: write it anew with" in capsys.readouterr().err


# Into another engine ------------------------------------------------------------------------------


def test_it_is_exported_with_the_pieces_of_its_tokenizer(written, engine, tmp_path):
    given = ["export", str(written), "--to", "vespa", "--out", str(tmp_path / "vespa")]
    assert cli.main(given) == 0
    lines = (tmp_path / "vespa" / "feed-00000.jsonl").read_text().splitlines()
    held = [json.loads(line)["fields"].get("pieces", {}) for line in lines]
    for query in QUERIES[:3]:
        asked = engine.asked(query)
        sums = [sum(often * own.get(piece, 0) for piece, often in asked.items()) for own in held]
        np.testing.assert_allclose(sums, engine.compare([query])[0][0], atol=1e-6)
