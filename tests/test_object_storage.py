"""A catalogue of LanceDB in object storage: moto's S3 server on this machine."""

import os
import socket
import threading
import traceback
from pathlib import Path

import numpy as np
import pytest
import test_stores
import tiny_index
import tiny_models
from serving import until
from test_stores import ALL, N, ask, part, products, texts

import local_s3
from ecomkd import cli, search
from ecomkd.search import buckets, hosted, lance, stores


@pytest.fixture(scope="module")
def server():
    if local_s3.program() is None:
        pytest.skip("moto is not installed: see benchmarks/local_s3.py")
    with local_s3.running("shop") as address:
        yield address


@pytest.fixture
def uri(server, monkeypatch, request) -> str:
    """A place in a bucket that no other test knows."""
    at(server, monkeypatch)
    return f"s3://shop/{request.node.name.replace('[', '-').rstrip(']')}/catalogues"


def at(address: str, monkeypatch) -> None:
    for name, value in local_s3.environment(address).items():
        monkeypatch.setenv(name, value)


def opened(uri: str) -> stores.Store:
    return stores.opened(uri, "products", "b1")


def test_a_catalogue_is_written_asked_and_changed(uri):
    store, other = opened(uri), opened(uri)
    with pytest.raises(FileNotFoundError, match="there is no catalogue 'products' in it"):
        store.count()
    store.write([part(ALL, slice(0, 120)), part(ALL, slice(120, N))])
    where = [stores.condition("price<20")]
    for query, conditions in (("steel lamp", []), ("oak desk", where)):
        expected = test_stores.exact(query, conditions)
        found = ask(other, query, N, conditions)
        assert found.ids == list(expected)
        pairs = np.array(list(expected.values()))
        np.testing.assert_allclose(found.cosines, pairs[:, 0], atol=1e-6)
        np.testing.assert_allclose(found.words, pairs[:, 1], atol=1e-5)
    before = other.version()
    store.put(products(["p3", "new"], ["tall boot", "blue boot set"], "!"))
    until(lambda: other.version() != before)
    found = ask(other, "tall boot", N + 1)
    assert (found.ids[-1], found.titles[found.ids.index("p3")]) == ("new", "Tall Boot!")
    store.remove(["p0", "p7", "of nobody"])
    until(lambda: other.count() == N - 1)
    assert not {"p0", "p7"} & set(ask(other, "tall boot", N).ids)


def test_a_store_that_is_asked_all_the_time_looks_for_a_newer_version_now_and_then(
    uri, monkeypatch
):
    store, other, now = opened(uri), opened(uri), [100.0]
    monkeypatch.setattr(lance.time, "monotonic", lambda: now[0])
    store.write([part(ALL, slice(0, 20))])
    assert [other.count(), other.count()] == [20, 20]
    store.put(part(ALL, slice(20, 21)))
    now[0] += lance._FRESH / 2
    assert (other.count(), store.count()) == (20, 21)
    now[0] += lance._FRESH
    assert other.count() == 21


def test_who_reads_while_another_writes_has_the_old_catalogue_or_the_new_one(uri):
    store, readers = opened(uri), [opened(uri), opened(uri)]
    new = products([f"q{n}" for n in range(60)], texts(60, 2))
    store.write([part(ALL, slice(0, 60))])
    stop, faults = threading.Event(), []
    seen: list[list[tuple[str, ...]]] = [[], []]

    def asking(reader, own) -> None:
        try:
            while not stop.is_set():
                own.append(tuple(ask(reader, "steel lamp", 60).ids))
        except Exception as error:
            faults.append(error)

    threads = [
        threading.Thread(target=asking, args=pair) for pair in zip(readers, seen, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        until(lambda: faults or all(seen))
        store.write([new])
        until(lambda: faults or all(own[-1] == tuple(new.ids) for own in seen))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not faults
    for own in seen:
        assert set(own) == {tuple(ALL.ids[:60]), tuple(new.ids)}
        assert own == sorted(own)  # p… before q…: nobody goes back


def test_a_write_that_fails_leaves_the_old_catalogue(uri):
    store = opened(uri)
    store.write([part(ALL, slice(0, 20))])
    before = store.version()

    def broken():
        yield part(ALL, slice(0, 10))
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        store.write(broken())
    assert (store.count(), store.version()) == (20, before)


def test_an_index_answers_from_a_bucket_and_holds_no_secret(uri, tmp_path):
    parts = tiny_index.parts(tmp_path, tiny_models.profile(tmp_path / "artifacts"))
    own = search.load(search.write(tmp_path / "own", **parts))
    folder = search.write(tmp_path / "served", **parts, store=uri)
    engine = search.load(folder)
    wanted, found = own.search("red shoe", 30), engine.search("red shoe", 30)
    assert [hit.product_id for hit in found] == [hit.product_id for hit in wanted]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in wanted])
    for path in filter(Path.is_file, folder.rglob("*")):
        assert local_s3.SECRET.encode() not in path.read_bytes()


# What is out of reach -----------------------------------------------------------------------------


def index(uri: str, tmp_path: Path, capsys, monkeypatch) -> str:
    """What `ecomkd index` tells, which ends before any work."""
    monkeypatch.setattr(
        "ecomkd.search.index.sources.catalogue", lambda *_: pytest.fail("the work had begun")
    )
    given = ["index", "shop", "--out", str(tmp_path / "out"), "--engine", uri]
    assert cli.main(given) == 1
    told = capsys.readouterr().err
    assert local_s3.SECRET not in told and len(told.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
    return told


def test_a_bucket_that_is_not_there_is_told(uri, tmp_path, capsys, monkeypatch):
    told = index("s3://nowhere/x", tmp_path, capsys, monkeypatch)
    assert "s3://nowhere/x: there is no such bucket: make it first" in told


def test_http_has_to_be_allowed(uri, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    assert "AWS_ALLOW_HTTP=true" in index(uri, tmp_path, capsys, monkeypatch)


def test_an_endpoint_that_is_no_address_is_told(tmp_path, capsys, monkeypatch):
    at("here", monkeypatch)
    told = index("s3://shop/x", tmp_path, capsys, monkeypatch)
    assert "AWS_ENDPOINT_URL is no address such as https://HOST:PORT" in told


@pytest.mark.parametrize("silent", [False, True])
def test_an_endpoint_where_nobody_answers_is_told(silent, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(buckets.QUICK, "timeout", "300ms")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        if silent:  # it takes connections, and says nothing
            one.listen(50)
        at(f"http://127.0.0.1:{one.getsockname()[1]}", monkeypatch)
        told = index("s3://shop/x", tmp_path, capsys, monkeypatch)
    assert "s3://shop/x: the object storage does not answer as it should" in told


def test_a_server_that_goes_away_later_is_told_too(server, monkeypatch):
    monkeypatch.setattr(lance, "_FRESH", 0.0)
    with local_s3.running("shop") as address:
        at(address, monkeypatch)
        store = opened("s3://shop/x")
        store.write([part(ALL, slice(0, 5))])
        assert store.count() == 5
    for call in (store.count, lambda: ask(store, "oak"), lambda: store.remove(["p1"])):
        with pytest.raises(ConnectionError, match="does not answer as it should"):
            call()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Status { status: 403, body: Some(<Code>AccessDenied</Code> token) }", PermissionError),
        ("PermissionDenied { path: token }", PermissionError),
        ("The operation lacked the necessary privileges for path token", PermissionError),
        ("Failed to get AWS credentials: ProviderError token", PermissionError),
        ("RetryError(HttpError { kind: Timeout, uri: token })", ConnectionError),
    ],
)
def test_what_the_storage_refuses_is_told_without_its_words(said, kind):
    store = opened("s3://shop/x")
    with pytest.raises(kind, match=r"s3://shop/x: the object storage") as caught, store._told():
        raise RuntimeError(f"lance error: {said}")
    assert "token" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("uri", ["s3://me:se#cret@shop/x", "az://se#cret@shop"])
def test_credentials_in_a_uri_are_refused_and_not_shown(uri, capsys, tmp_path, monkeypatch):
    told = index(uri, tmp_path, capsys, monkeypatch)
    assert "holds credentials: take them out" in told and "cret" not in told


def test_an_at_sign_in_a_folder_is_none(server, monkeypatch):
    at(server, monkeypatch)
    hosted.tried("s3://shop/a@b", "products", [])
    assert os.environ["AWS_ENDPOINT_URL"] == server
