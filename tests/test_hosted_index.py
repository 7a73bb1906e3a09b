"""An index whose catalogue lies in a store: what is written, asked, updated, and refused."""

import threading
from pathlib import Path
from urllib.parse import quote

import lancedb
import numpy as np
import pytest
import tiny_index
import tiny_models
from serving import Client, until

import local_postgres
from ecomkd import cli, outputs, search, service, words
from ecomkd.search import catalogue as catalogue_module
from ecomkd.search import hosted, index, stores
from ecomkd.search import update as update_module
from ecomkd.search.update import update

PRICES = [float(row) if row % 5 else None for row in range(21)]
BRANDS = ["Acme" if row % 2 else "Öl & Co" for row in range(21)]


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("parts")
    found = tiny_index.parts(folder, tiny_models.profile(folder / "artifacts"))
    found["catalogue"] = (
        found["catalogue"]
        .add_column("price", ["" if one is None else f"{one:g}" for one in PRICES])  # as CSV has it
        .add_column("brand", BRANDS)
    )
    return found | {"fields": ("price", "brand")}


@pytest.fixture(scope="module")
def own(parts, tmp_path_factory) -> search.SearchEngine:
    """The engine that holds the same catalogue in its folder."""
    return search.load(search.write(tmp_path_factory.mktemp("own") / "served", **parts))


@pytest.fixture(params=["lance", "milvus", "postgres"])
def uri(request, tmp_path) -> str:
    if request.param != "lance":
        return request.getfixturevalue(f"{request.param}_uri")
    return str(tmp_path / "catalogues")


@pytest.fixture
def folder(parts, uri, tmp_path) -> Path:
    return search.write(tmp_path / "served", **parts, store=uri)


def test_the_catalogue_is_in_the_store_and_the_rest_in_the_folder(folder):
    names = {Path(name).name for name in outputs.read(folder, "index")["files"]}
    assert "words.idf.npy" in names and "model.int8.onnx" in names
    assert not names & {"products.jsonl", "products.npy", "vectors.npy", "words.data.npy"}
    assert not [name for name in names if name.startswith("cells")]


def test_answers_are_those_of_the_index_that_holds_its_catalogue(own, folder):
    engine = search.load(folder)
    for query in ("red shoe", "kids mug steel", "lamp"):
        wanted, found = own.search(query, 30), engine.search(query, 30)
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in wanted])
        # Two products whose scores differ by what rounding makes may change places.
        scores = {hit.product_id: hit.score for hit in found}
        assert scores == pytest.approx({hit.product_id: hit.score for hit in wanted})
        fields = {hit.product_id: hit.fields for hit in found}
        assert fields == {hit.product_id: hit.fields for hit in wanted}
    assert engine.search("zzzz", 5) == []
    engine.store.close()


def test_a_store_gets_what_encoding_and_counting_again_would_give_it(parts, tmp_path, monkeypatch):
    """Byte by byte, of a catalogue that lies in several cells."""
    monkeypatch.setattr(catalogue_module, "READ", 4)
    monkeypatch.setattr(hosted, "_PART", 8)
    made = search.load(search.write(tmp_path / "own", **parts))
    assert made.cells.rows.tolist() != list(range(21))  # else their order proves nothing
    taken = []
    write = "ecomkd.search.lance.LanceStore.write"
    monkeypatch.setattr(write, lambda _, given: taken.extend(given))
    monkeypatch.setattr(search.SearchEngine, "embed", lambda *_: pytest.fail("encoded again"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "words_of", lambda *_: pytest.fail("counted again"))
        hosted.moved(made, tmp_path / "own", str(tmp_path / "lance"), "products")
    monkeypatch.undo()
    known = words.statistics(made.texts)
    again = stores.encoded(made.embed, known, made.ids, made.titles, made.texts)
    assert [len(one.ids) for one in taken] == [8, 8, 5]
    for name in ("ids", "titles", "texts"):
        own = [text for batch in taken for text in getattr(batch, name)]
        assert own == list(getattr(again, name))
    assert np.concatenate([one.vectors for one in taken]).tobytes() == again.vectors.tobytes()
    own = [one for batch in taken for one in batch.words]
    assert [part.tobytes() for one in own for part in one] == [
        part.tobytes() for one in again.words for part in one
    ]
    assert np.load(tmp_path / "own" / "words.idf.npy").tobytes() == known.idf.tobytes()


def test_conditions_are_kept_over_http(folder):
    engine = search.load(folder)
    with service.background(service.create_app(engine, service.Settings(rate=0))) as port:
        one = Client(port)
        asked = (
            "/search?q=red+shoe&k=30&filter=price%3C12&filter=brand%3D%C3%96l+%26+Co&fields=price"
        )
        status, content, headers = one.ask(asked)
        kept = [row for row in range(21) if PRICES[row] and PRICES[row] < 12 and row % 2 == 0]
        assert status == 200
        found = {hit["product_id"]: hit["fields"]["price"] for hit in content["hits"]}
        assert found == {f"p{row}": PRICES[row] for row in kept}
        assert headers["X-Ecomkd-Index"].startswith("served, format 4, written by ecomkd")
        assert len(headers["X-Ecomkd-Index"].split(", ")) > len(engine.version.split(", "))
        for wrong, told in (("price", "is no condition"), ("colour%3Dred", "no field 'colour'"),
                            ("price%3Ca", "price holds numbers")):  # fmt: skip
            status, content, _ = one.ask(f"/search?q=red&filter={wrong}")
            assert status == 422 and told in content["error"]
    engine.store.close()


def test_an_update_is_seen_at_once_by_who_answers(folder, tmp_path, capsys):
    engine = search.load(folder)
    assert engine.search("red shoe", 1)[0].product_id != "new"
    (tmp_path / "more.csv").write_text(
        "product_id,product_title,product_description,price,brand\n"
        "new,red shoe red shoe,,3.5,Acme\np1,green lamp,tall,,\n"
    )
    (tmp_path / "gone.txt").write_text("\ufeffp0\n\np7\nunknown\n")
    given = ["update", folder, tmp_path / "more.csv", "--remove", tmp_path / "gone.txt"]
    assert cli.main(list(map(str, given))) == 0
    assert capsys.readouterr().out == (
        f"{folder}: put 2 products, took out what was there of 3 ids.\n"
    )
    until(lambda: len(engine.search("red shoe", 30)) == 20)
    hits = {hit.product_id: hit for hit in engine.search("red shoe", 30)}
    assert hits["new"].fields == {"price": 3.5, "brand": "Acme"}
    assert hits["p1"].fields == {"price": None, "brand": None}
    assert hits["p1"].text.startswith("green lamp") and "tall" in hits["p1"].text
    assert not hits.keys() & {"p0", "p7"}
    engine.store.close()


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ("product_id,product_title,price\na,b,1", "column 'brand' is missing"),
        ("product_id,product_title,price,brand\n,b,1,c", "line 2: product_id is empty"),
        ("product_id,product_title,price,brand\na, ,1,c", "line 2: product_title is empty"),
        ("product_id,product_title,price,brand\na,b,1,c\nb,c,dear,c", "line 3: price is 'dear'"),
        ("product_id,product_title,price,brand\na,b,1,c\na,b,1,c", "'a' stands there twice"),
        ("product_id,product_title,price,brand\na,b,1,c\nb,c\0d,1,c", "line 3: holds a NUL"),
        ("product_id,product_title,price,brand\na,b,1,c\nb,c,1,c\0d", "line 3: holds a NUL"),
    ],
)
def test_a_wrong_row_is_told_before_anything_is_changed(parts, tmp_path, rows, fault, monkeypatch):
    monkeypatch.setattr(update_module, "_PART", 1)
    folder = search.write(tmp_path / "served", **parts, store=str(tmp_path / "lance"))
    (tmp_path / "rows.csv").write_text(rows)
    before = search.load(folder).search("red shoe", 30)
    with pytest.raises(ValueError, match=fault):
        update(folder, tmp_path / "rows.csv", None)
    assert search.load(folder).search("red shoe", 30) == before


def test_an_index_that_holds_its_catalogue_is_not_updated(parts, tmp_path):
    folder = search.write(tmp_path / "served", **parts)
    with pytest.raises(ValueError, match="its catalogue lies in the folder itself"):
        update(folder, None, tmp_path / "ids")


def test_a_catalogue_written_again_answers_while_clients_ask(parts, folder, uri):
    """The old state answers until the new one is whole, and each answer names its own."""
    app = service.create_app(search.load(folder), service.Settings(rate=0, max_waiting=64))
    faults, versions, done = [], set(), threading.Event()
    with service.background(app) as port:
        one = Client(port)

        def ask() -> None:
            while not done.is_set():
                status, content, headers = one.ask("/search?q=red+shoe&k=30")
                versions.add(headers["X-Ecomkd-Index"])
                if status != 200 or len(content["hits"]) != 21:
                    faults.append((status, content))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(2):
                search.write(folder, **parts, store=uri)
            until(lambda: len(versions) > 2)
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert not faults


def test_another_name_of_a_table_leaves_the_old_catalogue(parts, folder, uri, tmp_path):
    other = parts | {"catalogue": parts["catalogue"].select(range(5))}
    second = search.write(tmp_path / "second", **other, store=uri, table="june")
    assert len(search.load(folder).search("red shoe", 30)) == 21
    assert len(search.load(second).search("red shoe", 30)) == 5


def test_a_table_that_another_index_has_replaced_is_refused(parts, folder, uri, tmp_path):
    other = parts | {"catalogue": parts["catalogue"].select(range(5))}
    search.write(tmp_path / "second", **other, store=uri)
    with pytest.raises(ValueError, match="was written by the build"):
        search.load(folder)


@pytest.mark.parametrize("store", ["mysql://here/shop", "host=here password=x", "a folder"])
def test_where_the_store_fails_the_old_index_stays(parts, own, tmp_path, monkeypatch, store):
    def full(*_):
        raise OSError(28, "No space left on device")

    folder = search.write(tmp_path / "served", **parts)
    monkeypatch.setattr("ecomkd.search.lance.LanceStore.write", full)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=r"mysql|no URI|No space left"):
        search.write(folder, **parts, store=store)
    assert search.load(folder).search("red shoe", 5) == own.search("red shoe", 5)
    assert not list(tmp_path.glob("*password*"))


def test_a_field_that_no_store_takes_is_told_before_any_work(tmp_path, parts, monkeypatch):
    monkeypatch.setattr(
        "ecomkd.search.index.sources.catalogue", lambda *_: pytest.fail("the work had begun")
    )
    place = {"store": str(tmp_path / "lance"), "fields": ["my-col"]}
    with pytest.raises(ValueError, match="'my-col' is no name of a field"):
        search.build("shop", parts["profile"], tmp_path / "out", **place)


def test_a_store_that_holds_something_else_is_told_before_any_work(tmp_path, parts, monkeypatch):
    monkeypatch.setattr(
        "ecomkd.search.index.sources.catalogue", lambda *_: pytest.fail("the work had begun")
    )
    (tmp_path / "file").write_text("mine")
    lancedb.connect(str(tmp_path / "lance")).create_table("products", [{"own": 7}])
    for place, sentence in (("file", "a file of this name"), ("lance", "ecomkd did not write")):
        with pytest.raises((OSError, ValueError), match=sentence):
            search.build("shop", parts["profile"], tmp_path / "out", store=str(tmp_path / place))


def test_a_strangers_file_is_told_before_the_table_is_replaced(parts, folder, uri, monkeypatch):
    made = index.engine.assemble

    def busy(working):
        (folder / "notes.txt").write_text("only copy")
        return made(working)

    fewer = parts | {"catalogue": parts["catalogue"].select(range(5))}
    with monkeypatch.context() as patch, pytest.raises(FileExistsError, match=r"notes\.txt"):
        patch.setattr(index.engine, "assemble", busy)
        search.write(folder, **fewer, store=uri)
    assert len(search.load(folder).search("red shoe", 30)) == 21


def test_another_choice_of_fields_is_another_build(parts, folder, uri, tmp_path):
    search.write(tmp_path / "second", **parts | {"fields": ("brand",)}, store=uri)
    with pytest.raises(ValueError, match="was written by the build"):
        search.load(folder)


def test_a_store_out_of_reach_is_told_before_any_work(tmp_path, parts, monkeypatch):
    monkeypatch.setattr(
        "ecomkd.search.index.sources.catalogue", lambda *_: pytest.fail("the work had begun")
    )
    with pytest.raises(ConnectionError):
        search.build("shop", parts["profile"], tmp_path / "out", store="postgresql://127.0.0.1:9/x")


def test_no_password_is_written(postgres_uri, parts, tmp_path, monkeypatch):
    monkeypatch.delenv("PGPASSWORD", raising=False)
    secret = quote(local_postgres.PASSWORD)
    given = postgres_uri.replace("@", f":{secret}@")
    folder = search.write(tmp_path / "served", **parts, store=given)
    for path in folder.rglob("*.json"):
        assert secret not in path.read_text() and local_postgres.PASSWORD not in path.read_text()
    monkeypatch.setenv("PGPASSWORD", local_postgres.PASSWORD)
    assert len(search.load(folder).search("red shoe", 30)) == 21


SECRET = "postgresql://me:se#cret@h:1/d", "postgresql://h/d?sslpassword=se%23cret&user=me"


@pytest.mark.parametrize("given", [*SECRET, "postgresql://me:a?b[@h/d", "postgres://:x@/d"])
def test_a_uri_is_kept_without_its_secrets(given):
    from psycopg.conninfo import conninfo_to_dict

    told = conninfo_to_dict(given)
    kept = conninfo_to_dict(stores.without_secrets(given))
    assert kept == {n: v for n, v in told.items() if n not in ("password", "sslpassword")}


def test_a_uri_without_secrets_is_kept_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for uri in ("postgresql:///shop", "postgresql://h/d?options=-c%20search_path%3Dx", "s3://b/p"):
        assert stores.without_secrets(uri) == uri
    for uri in ("cat", "lance://cat", f"lance://{tmp_path}/cat"):
        assert stores.without_secrets(uri) == str(tmp_path / "cat")


def test_an_export_needs_the_catalogue_in_the_folder(parts, tmp_path, capsys):
    folder = search.write(tmp_path / "served", **parts, store=str(tmp_path / "lance"))
    given = ["export", str(folder), "--to", "vespa", "--out", str(tmp_path / "out")]
    assert cli.main(given) == 1
    assert "its catalogue lies in a store" in capsys.readouterr().err
    whole = search.write(tmp_path / "whole", **parts)
    assert cli.main(["export", str(whole), *given[2:]]) == 0
    assert (tmp_path / "out" / "services.xml").is_file()


def test_no_answer_of_a_catalogue_in_a_store_is_kept(parts, tmp_path, capsys):
    folder = search.write(tmp_path / "served", **parts, store=str(tmp_path / "lance"))
    assert cli.main(["serve", str(folder), "--keep", "10", "--port", "0"]) == 1
    assert "changes under the service, so no answer can be kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "kind", "kept"),
    [("9.5", "number", 9.5), (" ", "number", None), (None, "text", None), (float("nan"), "number",
      None), (3, "text", "3"), (7, "number", 7.0), (float("inf"), "number", None)],
)  # fmt: skip
def test_a_field_is_a_number_or_a_text_or_nothing(value, kind, kept):
    assert catalogue_module.plain_field(value, kind) == kept


@pytest.mark.parametrize(
    ("spoilt", "scheme", "told"),
    [("ti\0tle", "", "'p11' holds a NUL"), ("t" * 65_536, "milvus://x", "'p11' .* 65,535 bytes")],
)
def test_a_product_that_the_store_refuses_is_told_before_any_work(
    tmp_path, monkeypatch, spoilt, scheme, told
):
    rows = ["query_id,product_id,query,product_title,esci_label"]
    rows += [f"q{n // 2},p{n},query {n // 2},title {n},{'EI'[n % 2]}" for n in range(12)]
    rows[-1] = rows[-1].replace("title", spoilt)
    (tmp_path / "judgments.csv").write_text("\n".join(rows))
    monkeypatch.setattr(index.hosted, "tried", lambda *_: None)
    monkeypatch.setattr(
        index.mining, "with_unlabelled", lambda *_: pytest.fail("the work had begun")
    )
    profile, place = tiny_models.profile(tmp_path / "artifacts"), scheme or str(tmp_path / "lance")
    with (
        pytest.warns(UserWarning, match="too few to conclude"),
        pytest.raises(ValueError, match=told),
    ):
        search.build(tmp_path / "judgments.csv", profile, tmp_path / "out", store=place)
