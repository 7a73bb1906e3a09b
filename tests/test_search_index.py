"""The folder of an index: what it holds, what happens to the one before, what damage is told."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_index
import tiny_models
import torch
from datasets import Dataset
from safetensors.numpy import load_file, save_file
from serving import Client, until
from tiny_index import TITLES, engine, folder, profile, written

from ecomkd import cli, export, outputs, search
from ecomkd.data.schema import TEXT
from ecomkd.search import encoders, sparse
from ecomkd.search import index as index_module
from ecomkd.search.tune import DEFAULT

__all__ = ["engine", "folder", "profile", "written"]  # fixtures


@pytest.fixture(scope="module")
def parts(profile, tmp_path_factory) -> dict:
    """What `search.write` takes, of models of a few words that nothing has trained."""
    return tiny_index.parts(tmp_path_factory.mktemp("parts"), profile)


# What it holds ------------------------------------------------------------------------------------


def test_an_index_lists_its_files_and_the_version_that_wrote_it(written):
    from ecomkd import __version__

    manifest = outputs.read(written, "index")
    assert manifest["version"] == __version__
    there = {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()}
    assert set(manifest["files"]) | {"manifest.json"} == there
    assert json.loads((written / "engine.json").read_text())["format"] == 4


def test_an_engine_says_which_index_it_is(written, folder):
    from ecomkd import __version__

    version = search.load(written).version
    start = f"served, format 4, written by ecomkd {__version__}, "
    assert version.startswith(start) and len(version) == len(start) + 12
    assert search.load(folder).version == version  # a copy is the same index
    (folder / "engine.json").write_text((folder / "engine.json").read_text() + " ")
    assert search.load(sealed(folder)).version != version


def test_the_engine_has_the_teacher_that_the_folder_has(parts, engine, tmp_path):
    pairs = ["red shoe", "lamp"], ["large mat", "red shoe steel"]
    export_scorer = export.Scorer(parts["teacher"] / "model.onnx", 32, [1, 0.1, 0.01, 0])
    np.testing.assert_array_equal(engine.shadow(*pairs), export_scorer(*pairs))
    assert not np.allclose(engine.shadow(*pairs), engine.score(*pairs))
    alone = search.write(tmp_path / "alone", **parts | {"teacher": None})
    assert search.load(alone).shadow is None
    assert not (alone / "teacher").exists()


def test_vectors_and_words_are_those_of_the_texts(parts, engine):
    rows = engine.cells.rows
    np.testing.assert_array_equal(engine.cells.vectors, engine.embed(engine.texts)[rows])
    from ecomkd import words

    fresh = words.bm25(engine.texts)
    for query in ("kids mug", "shoe shoe", "unheard", ""):
        np.testing.assert_array_equal(
            words.bm25_of(engine.words, query), words.bm25_of(fresh, query)
        )


def test_a_catalogue_of_stop_words_is_searched_by_vectors(parts, tmp_path):
    catalogue = Dataset.from_dict(
        {name: [""] * 3 for name in TEXT}
        | {"product_id": ["a", "b", "c"], "product_title": ["the", "and the", "of"]}
    )
    with pytest.warns(UserWarning, match="No validation query has a relevant product in the cata"):
        folder = search.write(tmp_path / "x", **parts | {"catalogue": catalogue})
    engine = search.load(folder)
    assert len(engine.search("red shoe", 10)) == 3


@pytest.mark.parametrize("how", ["irrelevant", "not in the catalogue"])
def test_where_validation_cannot_choose_the_default_weights_are_used(parts, tmp_path, how):
    pairs = parts["validation"]
    if how == "irrelevant":
        pairs = pairs.filter(lambda row: row["label"] == 3)
    else:
        pairs = pairs.map(lambda row: {"product_id": f"delisted {row['product_id']}"})
    with pytest.warns(UserWarning, match="No validation query has a relevant product in the cata"):
        folder = search.write(tmp_path / "x", **parts | {"validation": pairs})
    assert search.load(folder).weights == DEFAULT


# Answers ------------------------------------------------------------------------------------------


def test_k_beyond_what_the_student_reads_is_honoured(engine, monkeypatch):
    monkeypatch.setattr(engine, "weights", search.Weights(0.1, 0.5))
    monkeypatch.setattr(engine, "depth", 5)
    hits = engine.search("red shoe", 12)
    assert len({hit.product_id for hit in hits}) == 12
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[:3] == engine.search("red shoe", 3)
    sums = engine.compare(["red shoe"])
    order = search.weighted(*sums, 0.1, 12)[1][0]
    assert [hit.product_id for hit in hits[5:]] == [engine.ids[row] for row in order[5:]]
    assert {hit.product_id for hit in hits[:5]} == {engine.ids[row] for row in order[:5]}
    assert len(engine.search("red shoe", 1000)) == len(engine.ids)


def test_a_student_that_reads_nothing_leaves_the_order_of_words_and_vectors(engine, monkeypatch):
    monkeypatch.setattr(engine, "weights", search.Weights(0.1, 0.5))
    monkeypatch.setattr(engine, "depth", 0)
    monkeypatch.setattr(engine, "student", lambda queries, texts: np.zeros(len(texts)))
    hits = engine.search("red shoe", 12)
    scores, order = search.weighted(*engine.compare(["red shoe"]), 0.1, 12)
    assert [hit.product_id for hit in hits] == [engine.ids[row] for row in order[0]]
    assert [hit.score for hit in hits] == scores[0].tolist()
    assert [hit.text for hit in hits] == [engine.texts[row] for row in order[0]]


def test_k_below_one_is_refused(engine):
    with pytest.raises(ValueError, match="k is 0: give 1 or more"):
        engine.search("red shoe", 0)


def test_a_query_of_which_nothing_is_known_has_no_hits(engine):
    assert engine.search("zzzz 沙发") == []
    assert engine.search("") == []
    assert engine.search("zzzz shoe")


# Where it goes ------------------------------------------------------------------------------------


def test_a_folder_of_somebody_else_is_refused_before_any_work(tmp_path, profile, monkeypatch):
    def never(*_):
        raise AssertionError("work was begun")

    monkeypatch.setattr(index_module.sources, "catalogue", never)
    mine = tmp_path / "my_shop"
    mine.mkdir()
    (mine / "judgments.csv").write_text("only copy")
    with pytest.raises(FileExistsError, match=r"did not write judgments\.csv"):
        search.build(mine, profile, mine)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="a file of this name is there"):
        search.build(mine, profile, tmp_path / "file")
    assert (mine / "judgments.csv").read_text() == "only copy"


def test_a_missing_package_is_named_before_any_work(tmp_path, profile, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr(
        index_module.sources, "catalogue", lambda *_: pytest.fail("the work had begun")
    )
    with pytest.raises(ModuleNotFoundError, match="onnx is missing, which `ecomkd index` needs"):
        search.build("shop", profile, tmp_path / "out")


def test_an_index_is_not_written_over_what_was_put_into_it(folder, parts):
    (folder / "notes.txt").write_text("only copy")
    with pytest.raises(FileExistsError, match=r"did not write notes\.txt"):
        search.write(folder, **parts)
    assert (folder / "notes.txt").read_text() == "only copy"


def test_a_link_stays_and_what_it_names_is_replaced(folder, parts, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(folder)
    before = (folder / "manifest.json").stat().st_ino
    assert search.write(link, **parts) == link
    assert link.is_symlink()
    assert (folder / "manifest.json").stat().st_ino != before
    assert search.load(link).search("red shoe", 1)


def test_two_at_once_leave_one_whole_index(parts, tmp_path, monkeypatch):
    folder, choose, begun = tmp_path / "served", index_module.weights_on, []

    def meanwhile(*given):
        if not begun:
            begun.append(True)
            search.write(folder, **parts)
        return choose(*given)

    monkeypatch.setattr(index_module, "weights_on", meanwhile)
    search.write(folder, **parts)
    assert search.load(folder).search("red shoe", 1)
    assert {path.name for path in tmp_path.iterdir()} <= {"served", ".served.lock"}


def test_a_run_that_fails_leaves_the_old_index(folder, parts, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    before = search.load(folder).search("red shoe", 3)
    monkeypatch.setattr(index_module, "weights_on", full)
    with pytest.raises(OSError, match=f"No space left while writing {folder}"):
        search.write(folder, **parts)
    assert search.load(folder).search("red shoe", 3) == before


# Damage -------------------------------------------------------------------------------------------

DAMAGES = {
    "removed": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": lambda path: path.write_bytes(
        bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]
    ),
    "replaced": lambda path: path.write_bytes(b"{}"),
}
READ = (
    "engine.json",
    "products.jsonl",
    "products.npy",
    "vectors.npy",
    "cells.rows.npy",
    "cells.ends.npy",
    "cells.centres.npy",
    "words.json",
    "words.data.npy",
    "words.indices.npy",
    "words.indptr.npy",
    "encoder/tokenizer.json",
    "encoder/model.safetensors",
    "student/tokenizer.json",
    "student/model.int8.onnx",
    "teacher/tokenizer.json",
    "teacher/model.onnx",
)
"""The files that an engine is made of."""


def refusal(folder: Path) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        search.load(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) < 400
    assert str(folder) in sentence
    assert "`ecomkd index`" in sentence
    return sentence


def sealed(folder: Path) -> Path:
    """The folder with a manifest of what is in it now, as if it had been written so."""
    (folder / "manifest.json").unlink(missing_ok=True)
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    outputs.add(folder, "index", sorted(path.as_posix() for path in files))
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_to_every_file_is_named(written, tmp_path, damage):
    for name in outputs.read(written, "index")["files"]:
        folder = Path(shutil.copytree(written, tmp_path / name.replace("/", "-")))
        DAMAGES[damage](folder / name)
        sentence = refusal(folder)
        assert name in sentence, sentence


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_was_written_wrong_is_named(written, tmp_path, damage):
    for name in READ:
        folder = Path(shutil.copytree(written, tmp_path / name.replace("/", "-")))
        DAMAGES[damage](folder / name)
        sentence = refusal(sealed(folder))
        # Words without numbers can also be told as numbers without words.
        assert name in sentence or name == "words.json", sentence


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"kind": "index"}', "\x00"])
def test_a_damaged_manifest_is_named(folder, text):
    (folder / "manifest.json").write_text(text)
    assert "manifest.json" in refusal(folder)


def test_another_commands_folder_is_refused_by_name(folder):
    files = sorted(outputs.read(folder, "index")["files"])
    (folder / "manifest.json").unlink()
    outputs.add(folder, "run", files)
    assert "`ecomkd run` wrote this folder" in refusal(folder)


def test_a_folder_of_an_older_version_is_named_as_such(folder):
    (folder / "manifest.json").unlink()
    assert "an older version wrote the folder" in refusal(folder)
    (folder / "engine.json").write_text(
        '{"max_length": 32, "weights": {"words": 0, "reranker": 1}}'
    )
    assert "is of format 1, and this version reads formats 4" in refusal(sealed(folder))


WRONG = {
    "format": (None, 1, 2, 3, 5, "4"),
    "max_length": (None, 0, 3, 10**6, "32", 32.0, True, [32]),
    "gains": (None, [], [1], [1, 0.1, 0.01], [1, 0.1, 0.01, 0, 0], [1, 0, 0, "0"], {"E": 1}),
    "weights": (
        None,
        {},
        [1, 2],
        {"words": 1},
        {"words": 1, "reranker": "1"},
        {"words": 1, "reranker": -1},
        {"words": float("nan"), "reranker": 1},
        {"words": 1, "reranker": 1, "more": 1},
    ),
    "teacher": (None, 1, "yes"),
    "fields": (None, "price", ["price"], {"price": "date"}),
    "store": ("postgresql://h/d", {}, {"uri": "x", "table": "t", "build": "b", "length": -1}),
}


@pytest.mark.parametrize("key", WRONG)
def test_every_wrong_setting_is_named(folder, key):
    path = folder / "engine.json"
    right = json.loads(path.read_text())
    for value in WRONG[key]:
        path.write_text(json.dumps(right | {key: value}))
        sentence = refusal(sealed(folder))
        assert key in sentence or "classes" in sentence, sentence
    path.write_text(json.dumps({name: value for name, value in right.items() if name != key}))
    if key != "store":  # without it, the catalogue lies in the folder
        assert key in refusal(sealed(folder))
    path.write_text(json.dumps([right]))
    assert "engine.json" in refusal(sealed(folder))


def test_a_length_beyond_the_models_positions_is_refused(folder):
    path = folder / "engine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_length": 64}))
    assert "is no model that reads 64 tokens" in refusal(sealed(folder))


def test_tables_that_do_not_fit_are_named(folder):
    def change(name: str, new) -> str:
        file = folder / f"{name}.npy"
        before = file.read_bytes()
        np.save(file, new(np.load(file)))
        sentence = refusal(sealed(folder))
        file.write_bytes(before)
        return sentence

    unfit = "vectors.npy: does not fit the files of its cells"
    assert unfit in change("vectors", lambda old: old[1:])
    assert unfit in change("vectors", lambda old: old[:, 1:])
    assert "vectors.npy: is no table of float32" in change("vectors", lambda old: old.astype("i1"))
    assert "vectors.npy: holds numbers that are not" in change("vectors", lambda old: old * np.nan)
    assert unfit in change("cells.rows", lambda old: old * 0)
    assert unfit in change("cells.rows", lambda old: old - 1)
    assert unfit in change("cells.ends", lambda old: old[::-1])
    assert unfit in change("cells.centres", lambda old: np.concatenate([old, old]))
    misfit = "does not fit products and words"
    assert misfit in change("words.indices", lambda old: old + 1000)
    assert misfit in change("words.indptr", lambda old: old[::-1])
    assert misfit in change("words.data", lambda old: old[:-1])
    unlisted = "products.npy: tells of no product"
    assert unlisted in change("products", lambda old: old[:1])
    assert unlisted in change("products", lambda old: old.astype(float))
    assert "products.jsonl: does not fit products.npy" in change(
        "products", lambda old: old - np.eye(len(old), dtype=int)[3]
    )
    path = folder / "encoder" / "model.safetensors"
    table, before = load_file(path)["embedding.weight"], path.read_bytes()
    save_file({"embedding.weight": table[:-1].copy()}, path)
    assert "too few rows" in refusal(sealed(folder))
    save_file({"embedding.weight": table[:, :-1].copy()}, path)
    assert "vectors.npy: does not fit products and encoder" in refusal(sealed(folder))
    path.write_bytes(before)
    (folder / "words.json").write_text('{"red": "0"}')
    assert "words.json" in refusal(sealed(folder))
    (folder / "words.json").write_text('{"red": 100000}')
    assert misfit in refusal(sealed(folder))


@pytest.mark.parametrize(
    "line",
    ["1", "[]", '["p", "title"]', '["p", "title", null, {}]', '["p", "t", "t", {"a": [1]}]', "{"],
)
def test_a_line_that_is_no_product_is_named_when_it_is_read(folder, line):
    """Of a folder that another hand has written: its manifest and its numbers fit."""
    path = folder / "products.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = line
    path.write_text("".join(f"{line}\n" for line in lines))
    np.save(path.with_suffix(".npy"), np.cumsum([0, *(len(line) + 1 for line in lines)]))
    engine = search.load(sealed(folder))
    assert engine.products[0].product_id == "p0"
    with pytest.raises(ValueError, match=r"products\.jsonl: line 2 is no list of three texts"):
        engine.search("red shoe", len(lines))
    path.write_text(path.read_text().replace(lines[0], line.ljust(len(lines[0]))))
    assert "products.jsonl: line 1 is no list of three texts" in refusal(sealed(folder))


def test_nothing_in_the_folder_is_executed(folder, tmp_path):
    evil = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    for place in (folder, folder / "encoder", folder / "student"):
        (place / "evil.py").write_text(evil)
        (place / "score.py").write_text(evil)
        modules = [{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]
        (place / "modules.json").write_text(json.dumps(modules))
    code = f"from ecomkd import search; search.load({str(folder)!r}).search('red shoe')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=sealed(folder))
    assert not (tmp_path / "ran").exists()


def test_neither_index_nor_engine_needs_faiss(written):
    code = (
        "import sys; sys.modules['faiss'] = None\n"
        "import numpy as np\n"
        "from ecomkd import search\n"
        f"assert search.load({str(written)!r}).search('red shoe')\n"
        "search.build, search.write, search.bi_encoder\n"
        "try:\n    search.approximate(np.eye(3, dtype=np.float32))\n"
        "except ModuleNotFoundError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        'faiss is missing, which approximate needs: pip install "ecomkd[search]"\n'
    )


# From data to index -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """One judged product is not in the catalogue, and none of validation is an exact match."""
    folder = tmp_path_factory.mktemp("shop")
    rows = ["query_id,product_id,query,product_title,esci_label,split"]
    for query, split in enumerate(["train"] * 4 + ["validation"] * 2 + ["test"] * 2):
        for product, label in enumerate("SCII" if split == "validation" else "ESCI"):
            title = f"{TITLES[query % 7]} {product}"
            rows.append(f"q{query},p{query}{product},query {query},{title},{label},{split}")
    (folder / "judgments.csv").write_text("\n".join(rows))
    listed = [f"{row.split(',')[1]},{row.split(',')[3]}" for row in rows]
    (folder / "products.csv").write_text("\n".join([listed[0], *listed[2:]]))
    return folder


@pytest.fixture(scope="module", autouse=True)
def drawn_tokens():
    """A table of tokens that is drawn: to compute it takes half a minute, and test_search does."""
    drawn = np.random.default_rng(0).normal(size=(30_522, 96)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "_token_table", lambda *_: drawn.copy())
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A profile whose teacher is tiny and pretrained for nothing; what is trained is shared."""
    folder = tmp_path_factory.mktemp("tiny")
    teacher = tiny_models.save(tiny_models.bert(), folder / "pretrained")
    return tiny_models.profile(
        folder / "artifacts", teacher=str(teacher), student_layers=(0,), unlabelled_pairs=16
    )


def test_what_check_accepts_index_finishes(shop, tiny, tmp_path):
    with pytest.warns(UserWarning, match="No validation query has a relevant product"):
        folder = search.build(shop, tiny, tmp_path / "served")
    engine = search.load(folder)
    assert engine.weights == DEFAULT
    assert len(engine.ids) == len((shop / "judgments.csv").read_text().splitlines()) - 2
    assert len(engine.search("red shoe", 5)) == 5


@pytest.mark.filterwarnings("ignore:No validation query")
def test_a_shop_without_vectors_is_indexed_by_its_pieces(shop, tiny, tmp_path, monkeypatch, capsys):
    def drawn(model, texts):
        pieces = torch.randn(len(model.tokenizer), 384, generator=torch.Generator().manual_seed(0))
        idf = torch.from_numpy(sparse.piece_idf(model, texts))
        return sparse.SparseHead(torch.nn.functional.normalize(pieces), idf)

    monkeypatch.setattr(sparse, "untrained_head", drawn)  # to compute it takes half a minute
    monkeypatch.setattr(cli.Profile, "named", lambda *_: tiny)
    folder = tmp_path / "served"
    given = ["index", str(shop), "--first-stage", "sparse", "--out", str(folder)]
    assert cli.main(given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Search engine: {folder}"
    assert lines[1].startswith("  Weights: BM25 ")
    assert [line.split(":")[0].strip() for line in lines[3:]] == [
        "BM25",
        "sparse",
        "sparse + BM25",
        "re-ranked",
    ]
    assert isinstance(search.load(folder), search.SparseEngine)
    assert search.load(folder).search("red shoe", 5)


@pytest.mark.filterwarnings("ignore:No validation query")
def test_an_index_with_its_teacher_is_served_with_a_shadow(shop, tiny, tmp_path, monkeypatch):
    """From the data to answers that the teacher has judged, by the two commands."""
    monkeypatch.setattr(cli.Profile, "named", lambda *_: tiny)
    assert cli.main(["index", str(shop), "--with-teacher", "--out", str(tmp_path / "served")]) == 0
    command = [sys.executable, "-m", "ecomkd.cli", "serve", str(tmp_path / "served")]
    child = subprocess.Popen(
        [*command, "--shadow", "0.5", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        one = Client(int(child.stdout.readline().split(":")[2].split()[0]))
        assert [one.ask("/search?q=red+shoe").status for _ in range(20)] == [200] * 20

        def judged() -> float:
            assert one.metrics()["ecomkd_shadow_failed_total",] == 0
            return one.metrics()["ecomkd_shadow_compared_total",]

        until(lambda: judged() and one.metrics()["ecomkd_shadow_waiting",] == 0)
        assert 0 < judged() < 20
        assert 0 < one.metrics()["ecomkd_shadow_ndcg",] <= 1
        found = one.ask("/health")
    finally:
        child.kill()
        child.communicate()
    assert found.content["shadow"] is True
    version = search.load(tmp_path / "served").version
    assert found.content["index"] == found.headers["X-Ecomkd-Index"] == version
