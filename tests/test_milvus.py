"""Milvus as an engine: addresses, tokens, servers that are gone, and what its lite version does."""

import base64
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from pymilvus import MilvusClient
from serving import until
from test_stores import ALL, BUILD, KNOWN, N, ask, embed, opened, part, products

from ecomkd import words
from ecomkd.search import milvus_server, stores
from ecomkd.search.stores import Condition

TOKEN = "root:Mil#vus"


class Guarded(grpc.ServerInterceptor):
    """Lets nobody in without the token, as a server does that asks for one."""

    def __init__(self):
        def refuse(_, context):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, f"auth check failure: {TOKEN}")

        self._refuse = grpc.unary_unary_rpc_method_handler(refuse)

    def intercept_service(self, further, call):
        given = dict(call.invocation_metadata).get("authorization", "")
        expected = base64.b64encode(TOKEN.encode()).decode()
        return further(call) if given == expected else self._refuse


class Lite:
    """A server of Milvus Lite at a port of this machine."""

    def __init__(self, folder: Path, *guards: grpc.ServerInterceptor):
        self._folder, self._guards, self._port = str(folder), guards, 0
        self.start()

    def start(self) -> None:
        from milvus_lite.adapter.grpc import server as lite

        with pytest.MonkeyPatch.context() as patch:
            made, guards = grpc.server, self._guards
            patch.setattr(lite.grpc, "server", lambda *a, **k: made(*a, interceptors=guards, **k))
            self._server, self._db, self._port = lite.start_server_in_thread(
                self._folder, port=self._port
            )
        self.at = f"127.0.0.1:{self._port}"

    def stop(self) -> None:
        self._server.stop(grace=None).wait()
        self._db.close()


@pytest.fixture
def lite(milvus_uri, tmp_path):
    found = Lite(tmp_path / "server")
    yield found
    found.stop()


@pytest.fixture
def guarded(milvus_uri, tmp_path, monkeypatch):
    monkeypatch.delenv("MILVUS_TOKEN", raising=False)
    found = Lite(tmp_path / "server", Guarded())
    yield found
    found.stop()


def test_a_wrong_token_is_told_and_a_right_one_from_anywhere_is_taken(guarded, monkeypatch):
    plain = f"milvus://{guarded.at}"
    for wrong in (plain, f"milvus://root:guessed@{guarded.at}"):
        with pytest.raises(PermissionError, match=r"does not accept who asks.*MILVUS_TOKEN") as one:
            opened(wrong).count()
        assert "guessed" not in str(one.value) and TOKEN not in str(one.value)
    store = opened(f"milvus://root:Mil%23vus@{guarded.at}")
    store.write([ALL])
    store.close()
    monkeypatch.setenv("MILVUS_TOKEN", TOKEN)
    store = opened(plain)
    assert store.count() == N
    store.close()


def test_a_server_that_is_gone_is_told_and_one_that_is_back_answers(lite):
    store = opened(f"milvus://{lite.at}")
    store.write([ALL])
    assert store.count() == N
    lite.stop()
    for call in (store.count, lambda: ask(store, "oak"), lambda: store.put(part(ALL, slice(2)))):
        with pytest.raises(ConnectionError, match="Milvus does not answer: start it, or mend"):
            call()
    lite.start()

    def back() -> bool:
        try:
            return len(ask(store, "oak").ids) == N
        except ConnectionError:  # it is tried again every second
            return False

    until(back)
    store.close()


def test_where_nobody_answers_is_told():
    store = opened("milvus://me:secret@127.0.0.1:9/shop")
    with pytest.raises(ConnectionError, match=r"milvus://127\.0\.0\.1:9/shop: Milvus does not"):
        store.count()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("milvus://me:se%23cret@h:1/shop", "milvus://h:1/shop"),
        ("milvus://key@h", "milvus://h:19530/"),
        ("milvus+tls://me:x@h/shop", "milvus+tls://h:443/shop"),
        ("milvus://me:x@[::1]:7/shop", "milvus://[::1]:7/shop"),
    ],
)
def test_an_address_is_kept_without_its_secrets(given, kept, monkeypatch):
    monkeypatch.setenv("MILVUS_TOKEN", "of the environment")
    assert stores.without_secrets(given) == opened(given).place == kept
    assert stores.without_secrets(kept) == kept
    assert "of the" not in repr(milvus_server._read(kept))


def test_a_file_is_kept_by_its_whole_path(tmp_path):
    file = tmp_path / "a b.db"
    kept = f"milvus://{tmp_path.as_posix()}/a%20b.db"
    assert stores.without_secrets(f"milvus://{tmp_path}/../{tmp_path.name}/a b.db") == kept
    assert milvus_server._read(kept).uri == str(file)


@pytest.mark.parametrize(
    "uri",
    [
        "milvus://", "milvus:///shop", "milvus+tls:///a.db", "milvus://me:se#cret@h", "milvus://h/a/b",
        "milvus://me:se/cret@h/d", "milvus://h?secret=1", "milvus://h:x", "milvus://h/se-cret",
    ],
)  # fmt: skip
def test_what_names_no_milvus_is_told_without_repeating_it(uri):
    with pytest.raises(ValueError, match="names no Milvus: write milvus://HOST:PORT") as found:
        stores.opened(uri, "products", BUILD)
    assert "cret" not in str(found.value)


def test_a_text_that_is_too_long_is_told_and_nothing_changes(milvus_uri):
    store = opened(milvus_uri)
    store.write([part(ALL, slice(3))])
    before = store.version()
    for wrong in (
        products(["a"], ["ö" * 40_000]),
        replace(part(ALL, slice(1)), ids=["p" * 70_000]),
        replace(part(ALL, slice(1)), fields={"price": np.ones(1), "brand": ["b" * 65_536]}),
    ):
        with pytest.raises(ValueError, match=r"its (title|id|brand) is longer than the 65,535 by"):
            store.put(wrong)
    store.put(products(["a"], ["ö" * 32_767]))
    assert store.count() == 4 and store.version() != before
    store.close()


def test_the_row_of_the_state_is_no_product(milvus_uri):
    from ecomkd.search.milvus import _STATE

    store = opened(milvus_uri)
    with pytest.raises(ValueError, match="the state of this catalogue' is taken: give"):
        store.write([replace(part(ALL, slice(1)), ids=[_STATE])])
    store.write([ALL])
    store.remove([_STATE])
    nothing = np.zeros(len(embed(["oak"])[0])), words.asked(KNOWN, "")
    for vector, terms in (nothing, (-ALL.vectors[0], nothing[1])):  # the row would be the nearest
        assert len(store.candidates(vector, terms, 5).ids) == 5
        assert store.candidates(vector, terms, N + 5).ids == ALL.ids
    store.close()


VALUES = ['a"b', "a'b", "a\\", "a\nb", "{a}", "Öl", '" or id != "', "%", "a\tb"]


def test_a_value_is_never_read_as_a_condition(milvus_uri):
    ids = [f"{value} {row}" for row, value in enumerate(VALUES)]
    own = products(ids, ["oak lamp"] * len(ids))
    store = opened(milvus_uri)
    store.write([replace(own, fields={"brand": VALUES})])
    for value, one in zip(VALUES, ids, strict=True):
        assert ask(store, "oak", where=[Condition("brand", "=", value)]).ids == [one]
    store.put(replace(own, fields={"brand": VALUES}))  # found by their ids, and in their places
    assert ask(store, "oak").ids == ids
    store.remove(ids[1:])
    assert ask(store, "oak").ids == ids[:1]
    store.close()


def test_more_candidates_than_milvus_gives_are_refused(milvus_uri):
    with pytest.raises(ValueError, match="Milvus gives 8,000 candidates at most"):
        ask(opened(milvus_uri), "oak", 8_001)


def test_nothing_that_somebody_else_made_is_written_over_or_dropped(milvus_uri):
    ours = opened(milvus_uri)
    ours.write([ALL])
    client = MilvusClient(milvus_server._read(milvus_uri).uri)
    (mine,) = client.list_collections()
    client.create_alias(mine, "june")
    client.create_collection("theirs", 2)
    client.create_alias("theirs", "july")
    for name in ("june", "july", "theirs"):
        store = stores.opened(milvus_uri, name, BUILD)
        for call in (store.count, lambda store=store: store.write([ALL])):
            with pytest.raises(ValueError, match=f"'{name}' is a table that ecomkd did not write"):
                call()
        store.close()
    assert sorted(client.list_collections()) == sorted([mine, "theirs"])
    client.close()
    ours.write([ALL])
    assert ours.count() == N
    ours.close()


def test_a_write_leaves_one_collection_whether_it_succeeds_or_not(milvus_uri):
    store = opened(milvus_uri)
    store.write([ALL])
    with pytest.raises(ValueError, match="stands there twice"):
        store.write([ALL, ALL])
    store.write([ALL])
    client = MilvusClient(milvus_server._read(milvus_uri).uri)
    assert len(client.list_collections()) == 1
    client.close()
    store.close()


def test_a_file_is_let_go_once_the_last_store_is_closed(milvus_uri):
    from milvus_lite.server_manager import server_manager_instance

    code = (
        "import sys; from ecomkd.search import stores\n"
        f"print(stores.opened(sys.argv[1], 'products', {BUILD!r}).count())"
    )

    def another() -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", code, milvus_uri]
        return subprocess.run(command, capture_output=True, text=True)

    store, second = opened(milvus_uri), opened(milvus_uri)
    store.write([ALL])
    assert second.count() == N
    store.close()
    assert second.count() == N
    found = another()
    assert "OSError: milvus:///" in found.stderr and "another process has it open" in found.stderr
    second.close()
    second.close()  # which changes nothing
    assert not server_manager_instance._servers
    found = another()
    assert found.stdout == f"{N}\n", found.stderr
    assert store.count() == N  # it opens the file again
    store.close()


def test_asking_makes_no_file(milvus_uri):
    with pytest.raises(FileNotFoundError, match="there is no catalogue 'products'"):
        opened(milvus_uri).count()
    assert not Path(milvus_server._read(milvus_uri).uri).parent.exists()


def test_a_missing_lite_version_is_told(milvus_uri, monkeypatch):
    monkeypatch.setitem(sys.modules, "milvus_lite.server_manager", None)
    with pytest.raises(ModuleNotFoundError, match="a file needs: pip install milvus-lite"):
        opened(milvus_uri).write([ALL])


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (dict(code=7, message="disk quota exhausted"), OSError, "no space left; the old cat"),
        (dict(message="[Errno 28] No space left on device"), OSError, "no space left; the old cat"),
        (dict(code=800, message="database not found"), FileNotFoundError, "no such database"),
        (dict(code=1401, message="privilege not permitted"), PermissionError, "does not accept"),
        (dict(message="a  b\nc"), OSError, "Milvus refuses: a b c$"),
    ],
)
def test_what_the_server_refuses_is_told_in_a_sentence(error, kind, told):
    server = milvus_server.Server("milvus://h", "products")
    with pytest.raises(kind, match=f"milvus://h:19530/: .*{told}"), server.told():
        raise milvus_server.MilvusException(**error)
