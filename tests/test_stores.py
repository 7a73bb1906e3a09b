"""A catalogue in an engine: the same answers as an exact search, whatever holds it."""

import importlib.util
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from pymilvus import MilvusClient
from serving import until

import local_postgres
from ecomkd import words
from ecomkd.search import lance, milvus, postgres, stores
from ecomkd.search.hosted import StoreEngine
from ecomkd.search.retrieve import Weights
from ecomkd.search.stores import Batch, Condition, condition

N, WIDTH, BUILD = 300, 12, "b1"
WORDS = ["oak", "pine", "steel", "lamp", "desk", "chair", "shelf", "shoe", "lace", "boot", "red"]
WORDS += ["blue", "small", "tall", "set", "of", "with"]


def texts(number: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(number)]


TEXTS = texts(N, 1)
KNOWN = words.statistics(TEXTS)


def embed(given: list[str]) -> np.ndarray:
    """A vector of each text that only its letters decide; of a short text it is zero."""
    rows = np.zeros((len(given), WIDTH))
    for row, text in zip(rows, given, strict=True):
        for letter in text if len(text) > 4 else "":
            row[ord(letter) % WIDTH] += 1 + ord(letter) % 5
    lengths = np.linalg.norm(rows, axis=1)
    return (rows / np.where(lengths > 0, lengths, 1)[:, None]).astype(np.float32)


def products(ids: list[str], own: list[str], mark: str = "") -> Batch:
    rng = np.random.default_rng(len(ids))
    prices = np.where(rng.random(len(ids)) < 0.9, rng.integers(1, 100, len(ids)), np.nan)
    brands = [None if n % 11 == 0 else f"{n % 4}'s" for n in range(len(ids))]
    titles = [text.title() + mark for text in own]
    return stores.encoded(embed, KNOWN, ids, titles, own, {"price": prices, "brand": brands})


ALL = products([f"p{n}" for n in range(N)], TEXTS)


def part(whole: Batch, rows: slice) -> Batch:
    fields = {name: own[rows] for name, own in whole.fields.items()}
    columns = ("ids", "titles", "texts", "vectors", "words")
    return replace(whole, **{name: getattr(whole, name)[rows] for name in columns}, fields=fields)


@pytest.fixture(params=["lance", "milvus", "postgres"])
def uri(request, tmp_path) -> str:
    if request.param != "lance":
        return request.getfixturevalue(f"{request.param}_uri")
    return str(tmp_path / "catalogues")


def opened(uri: str, build: str = BUILD) -> stores.Store:
    return stores.opened(uri, "products", build)


@pytest.fixture
def store(uri):
    found = opened(uri)
    found.write([part(ALL, slice(0, 120)), part(ALL, slice(120, N))])
    yield found
    found.close()


def exact(query: str, where=(), own: Batch = ALL) -> dict[str, tuple[float, float]]:
    """Cosine and BM25 of every product that keeps the conditions, by NumPy."""
    compare = {
        "=": np.equal, "!=": np.not_equal, "<": np.less, "<=": np.less_equal, ">": np.greater,
        ">=": np.greater_equal,
    }  # fmt: skip
    numbers, often = words.asked(KNOWN, query)
    asked = dict(zip(numbers.tolist(), often.tolist(), strict=True))
    found = {}
    for row, product in enumerate(own.ids):
        values = {name: own.fields[name][row] for name in own.fields}
        there = {name for name, value in values.items() if value is not None and value == value}
        keeps = all(
            c.field in there
            and compare[c.operator](values[c.field], type(values[c.field])(c.value))
            for c in where
        )
        if keeps:
            adds = zip(*(part.tolist() for part in own.words[row]), strict=True)
            sums = sum(asked.get(number, 0) * add for number, add in adds)
            found[product] = float(own.vectors[row] @ embed([query])[0]), sums
    return found


def ask(store: stores.Store, query: str, number: int = N, where=()) -> stores.Candidates:
    return store.candidates(embed([query])[0], words.asked(KNOWN, query), number, where)


CONDITIONS = st.lists(
    st.sampled_from(
        ["price<20", "price>=50", "price=7", "price!=3", "brand=1's", "brand!=2's", "brand>1's"]
    ).map(condition),
    max_size=2,
)
QUERIES = st.lists(st.sampled_from([*WORDS, "unheard"]), min_size=1, max_size=4).map(" ".join)


@pytest.fixture(scope="module")
def both(request, tmp_path_factory):
    """A store in each engine that is there, written once."""
    places = [str(tmp_path_factory.mktemp("lance"))]
    if importlib.util.find_spec("milvus_lite") is not None:
        places.append(f"milvus://{tmp_path_factory.mktemp('milvus')}/shop.db")
    if local_postgres.programs() is not None:
        uri = request.getfixturevalue("server").uri
        places.append(uri.replace("postgres@", f"postgres:{quote(local_postgres.PASSWORD)}@"))
    found = [stores.opened(place, "whole", BUILD) for place in places]
    for one in found:
        one.write([ALL])
    yield found
    for one in found:
        one.close()


@settings(max_examples=25, deadline=None)
@given(query=QUERIES, where=CONDITIONS, number=st.sampled_from([N, 1_500]))
def test_asked_for_all_a_store_ranks_as_an_exact_search_does(both, query, where, number):
    expected = exact(query, where)
    for store in both:
        found = ask(store, query, number, where)
        assert found.ids == list(expected)  # in the order of the catalogue
        pairs = np.array(list(expected.values())).reshape(-1, 2)
        np.testing.assert_allclose(found.cosines, pairs[:, 0], atol=1e-6)
        np.testing.assert_allclose(found.words, pairs[:, 1], atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(query=QUERIES, where=CONDITIONS, number=st.sampled_from([1, 7, 40]))
def test_the_first_by_vector_and_the_first_by_words_are_found(both, query, where, number):
    expected = exact(query, where)
    cosines, sums = (sorted((pair[n] for pair in expected.values()), reverse=True) for n in (0, 1))
    for store in both:
        found = ask(store, query, number, where)
        assert len(set(found.ids)) == len(found.ids) <= 2 * number
        own = np.sort(found.cosines)[::-1][:number]
        np.testing.assert_allclose(own, cosines[:number], atol=1e-6)
        shared = [one for one in sums[:number] if one > 0]
        own = np.sort(found.words)[::-1][: len(shared)]
        np.testing.assert_allclose(own, shared, atol=1e-5)


def test_a_candidate_has_all_that_the_store_was_given(store):
    found = ask(store, "steel lamp")
    assert (found.titles, found.texts) == (ALL.titles, TEXTS)
    assert found.fields["brand"] == ALL.fields["brand"]
    prices = np.array(found.fields["price"], float)
    np.testing.assert_array_equal(prices, ALL.fields["price"])
    assert found.version == store.version()


def test_a_graph_finds_most_of_the_nearest_and_goes_on_where_a_condition_takes_many_out(
    uri, monkeypatch
):
    for engine in (lance, milvus, postgres):
        monkeypatch.setattr(engine, "FLAT", 100)
    monkeypatch.setattr(postgres, "EXACT", 0)
    store = opened(uri)
    store.write([ALL])
    for where in ([], [condition("price<20")]):
        nearest = sorted((pair[0] for pair in exact("steel desk", where).values()), reverse=True)
        found = ask(store, "steel desk", 20, where)
        assert (np.sort(found.cosines)[::-1][:20] >= nearest[19] - 1e-6).mean() >= 0.9
    store.close()


def test_words_that_many_products_have_count_beside_another_word_alone(postgres_uri, monkeypatch):
    known = postgres._Known(BUILD, {}, WIDTH, {"1": 60, "2": 70, "3": 90})
    monkeypatch.setattr(postgres, "READ", 100)
    assert known.sought(np.array([0, 1, 2, 3])) == ([0, 1], [2], [0, 1, 3])
    assert known.sought(np.array([0, 1])) == ([0, 1], [], [0, 1])
    monkeypatch.setattr(postgres, "READ", 50)
    assert known.sought(np.array([2, 3])) == ([], [2], [3])
    assert known.sought(np.array([3])) == ([3], [], [3])  # a word alone finds all that have it


def test_what_the_frequent_words_find_is_what_was_sought(postgres_uri, monkeypatch):
    monkeypatch.setattr(postgres, "READ", 150)
    store = opened(postgres_uri)
    store.write([ALL])
    query = "oak lamp steel desk"
    numbers, _ = words.asked(KNOWN, query)
    assert store.count() == N
    rare, common, others = store._of.sought(numbers)
    assert rare and common  # else nothing is left out
    has = [set(own[0].tolist()) for own in ALL.words]
    sums = np.array([pair[1] for pair in exact(query).values()])
    sought = [
        bool(own & set(rare)) or (common[0] in own and bool(own & set(others))) for own in has
    ]
    assert 0 < sum(sought) < (sums > 0).sum()
    found = store.candidates(np.zeros(WIDTH), words.asked(KNOWN, query), 40)
    nearest = {f"p{n}" for n in range(40)}  # all are equally near
    rest = [one for one in found.ids if one not in nearest]
    assert rest and all(sought[ALL.ids.index(one)] for one in rest)
    best = np.sort(sums[sought])[::-1][:40]
    np.testing.assert_allclose(np.sort(found.words)[::-1][:20], best[:20], atol=1e-5)
    store.close()


def test_what_is_put_and_removed_shows_at_once_to_everybody(store, uri):
    other = opened(uri)
    before = other.version()
    new = products(["p3", "new", "p5"], ["tall boot", "blue boot set", "oak"], "!")
    store.put(new)
    store.remove(["p0", "p7", "of nobody"])
    assert other.count() == N + 1 - 2
    assert before != other.version() == store.version()
    found = ask(other, "tall boot", N + 1)
    at = {one: row for row, one in enumerate(found.ids)}
    assert not {"p0", "p7"} & set(at)
    assert found.ids[-1] == "new"  # what came last stands last, what was there in its place
    assert found.ids[:4] == ["p1", "p2", "p3", "p4"]
    for row, one in enumerate(new.ids):
        assert found.titles[at[one]] == new.titles[row]
        pair = exact("tall boot", own=new)[one]
        assert (found.cosines[at[one]], found.words[at[one]]) == pytest.approx(pair, abs=1e-5)
    other.close()


def test_many_small_changes_are_folded_in_and_lose_nothing(uri, monkeypatch):
    """In LanceDB: PostgreSQL has nothing to fold, and Milvus folds by itself."""
    monkeypatch.setattr(lance, "_FRAGMENTS", 3)
    monkeypatch.setattr(lance, "_UNFOLDED", 2)
    store = opened(uri)
    store.write([part(ALL, slice(0, 5))])
    for start in range(5, 35, 3):
        store.put(part(ALL, slice(start, start + 3)))
        store.remove([f"p{start}"])
    expected = [f"p{n}" for n in range(35) if n < 5 or (n - 5) % 3]
    assert ask(store, "steel lamp").ids == expected
    if isinstance(store, lance.LanceStore):
        assert lance._fragments(store._view().table) <= 4
    store.close()


def test_during_a_write_every_answer_is_of_the_old_catalogue_or_of_the_new_one(store, uri):
    new = products([f"q{n}" for n in range(N)], texts(N, 2))
    asker, stop, seen, faults = opened(uri), threading.Event(), [], []

    def asking():
        while not stop.is_set():
            try:
                found = ask(asker, "steel lamp", N)
                seen.append((found.version, tuple(found.ids)))
            except Exception as error:
                faults.append(error)
                raise

    threads = [threading.Thread(target=asking) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(seen) < 4 and not faults:
        pass
    store.write([part(new, slice(0, 100)), part(new, slice(100, N))])
    after = len(seen) + 8
    while len(seen) < after and not faults:
        pass
    stop.set()
    for thread in threads:
        thread.join()
    asker.close()
    assert not faults
    assert {ids for _, ids in seen} == {tuple(ALL.ids), tuple(new.ids)}
    assert len(set(seen)) == 2  # each under its own version


def test_a_write_that_fails_leaves_the_old_catalogue(store):
    before = store.version()

    def full():
        yield part(ALL, slice(0, 10))
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        store.write(full())
    assert (store.count(), store.version()) == (N, before)
    store.put(part(ALL, slice(0, 1)))  # and what failed does not come back with the next change
    assert ask(store, "steel lamp").ids == ALL.ids


def test_a_full_disk_is_told_in_a_sentence():
    one = postgres.PostgresStore("postgresql://u:secret@h/d", "products", BUILD)
    server_says = "no space left on the server's disk; the old catalogue stays"
    with pytest.raises(OSError, match=server_says) as found, one._server.told():
        raise postgres.errors.DiskFull("could not extend file")
    assert found.value.errno == 28
    folder = lance.LanceStore("folder", "products", BUILD)
    with pytest.raises(OSError, match="no space left; the old catalogue stays"), folder._told():
        raise RuntimeError("lance error: LanceError(IO): No space left on device (os error 28)")


def test_another_build_is_refused_and_may_write_anew(store, uri):
    other = opened(uri, "b2")
    for call in (other.version, other.count, lambda: ask(other, "oak"), lambda: other.remove([])):
        with pytest.raises(ValueError, match="written by the build b1, and this one is b2: write"):
            call()
    with pytest.raises(ValueError, match="build b1"):
        other.put(part(ALL, slice(0, 1)))
    other.claim()
    other.write([part(ALL, slice(0, 3))])
    # A service answers 503 to this, and is asked again.
    with pytest.raises(ConnectionError, match="written by the build b2, and this one is b1"):
        ask(store, "oak")
    other.close()


def test_a_catalogue_with_other_fields_takes_the_place_of_the_old_one(store, uri):
    asker = opened(uri)
    ask(asker, "oak")
    few = replace(part(ALL, slice(0, 5)), fields={"stock": np.arange(5.0)})
    store.write([few])
    assert ask(asker, "oak", where=[condition("stock>=3")]).fields == {"stock": [3.0, 4.0]}
    with pytest.raises(ValueError, match="no field 'price': it has stock"):
        ask(asker, "oak", where=[condition("price<3")])
    asker.close()


def test_a_place_where_nothing_is_may_be_claimed(uri):
    opened(uri).claim()


def test_what_nobody_has_written_is_told(uri):
    store = opened(uri)
    for call in (store.version, store.count, lambda: ask(store, "oak"), lambda: store.remove([])):
        with pytest.raises(FileNotFoundError, match="there is no catalogue 'products' in it"):
            call()


def test_a_catalogue_may_run_empty_and_fill_again(store):
    store.remove(ALL.ids)
    assert (store.count(), ask(store, "oak").ids) == (0, [])
    store.put(part(ALL, slice(4, 6)))
    assert ask(store, "oak").ids == ["p4", "p5"]


def test_a_catalogue_that_began_without_a_product_or_a_word_fills_later(uri):
    store = opened(uri)
    with pytest.raises(ValueError, match="There is no product to write"):
        store.write([])
    empty = part(ALL, slice(0, 0))
    silent = products(["a", "b"], ["the", "!"])
    for first in (empty, silent):
        store.write([first])
        assert ask(store, "oak").ids == first.ids
        store.put(ALL)
        best = ask(store, "steel lamp", 5)
        expected = sorted((pair[1] for pair in exact("steel lamp").values()), reverse=True)[:5]
        assert np.sort(best.words)[::-1][:5] == pytest.approx(expected, abs=1e-5)
    store.close()


def test_a_table_of_somebody_else_is_left_alone(uri, request):
    if uri.startswith("postgresql"):
        request.getfixturevalue("server").sql("CREATE TABLE products AS SELECT 7 AS own")
    elif uri.startswith("milvus"):
        file = Path(uri.removeprefix("milvus://"))
        file.parent.mkdir()
        MilvusClient(str(file)).create_collection("products", 2)
    else:
        lance.lancedb.connect(uri).create_table("products", [{"own": 7}])
    for refused in (opened(uri).claim, lambda: opened(uri).write([ALL])):
        with pytest.raises(ValueError, match="'products' is a table that ecomkd did not write"):
            refused()
    with pytest.raises((FileNotFoundError, ValueError)):
        ask(opened(uri), "oak")
    if uri.startswith("postgresql"):
        assert request.getfixturevalue("server").sql("SELECT own FROM products") == "7"
    elif uri.startswith("milvus"):
        assert MilvusClient(str(file)).list_collections() == ["products"]
    else:
        table = lance.lancedb.connect(uri).open_table("products")
        assert table.to_arrow().to_pylist() == [{"own": 7}]


@pytest.mark.parametrize(
    "wrong, told",
    [
        (replace(ALL, ids=["p1"] * N), "Product id 'p1' stands there twice"),
        (replace(ALL, titles=["a"]), "not all of one length"),
        (replace(ALL, vectors=np.full((N, WIDTH), np.nan)), "finite numbers"),
        (replace(ALL, vectors=np.zeros((N, 3), np.float32)), "have 3 numbers, and those of the"),
        (replace(ALL, fields={}), r"fields \(none\), and the catalogue brand \(text\), price"),
    ],
)
def test_products_that_do_not_fit_are_refused_and_nothing_changes(store, wrong, told):
    before = store.version()
    with pytest.raises(ValueError, match=told):
        store.put(wrong)
    assert (store.version(), store.count()) == (before, N)


def test_an_id_in_two_batches_is_refused(store):
    with pytest.raises(ValueError, match="stands there twice"):
        store.write([part(ALL, slice(0, 9)), part(ALL, slice(8, 12))])
    assert store.count() == N


def test_a_value_is_never_read_as_sql(store):
    where = [Condition("brand", "=", "1' OR '1'='1")]
    assert ask(store, "oak", where=where).ids == []
    assert ask(store, "oak", where=[condition("brand='1's'")]).ids


@pytest.mark.parametrize(
    "text, told",
    [
        ("price", "'price' is no condition: write a field, one of"),
        ("price<", "is no condition"),
        ("price; drop<3", "is no condition"),
        ("colour=red", "The catalogue has no field 'colour': it has brand, price."),
        ("price<cheap", "price holds numbers, and 'cheap' is none"),
        ("price<nan", "price holds numbers, and 'nan' is none"),
        ("lance=1", "The catalogue has no field 'lance'"),
    ],
)
def test_a_wrong_condition_is_told_in_a_sentence(text, told):
    with pytest.raises(ValueError, match=told):
        stores.fitted([condition(text)], ALL.kinds())


def test_a_condition_is_read_with_and_without_quotes():
    assert condition(' brand != "Oak & Co" ') == Condition("brand", "!=", "Oak & Co")
    assert condition("price<=20") == Condition("price", "<=", "20")
    assert condition("a=<b") == Condition("a", "=", "<b")


@pytest.mark.parametrize("uri", ["http://x", "mysql://x/y", "file:///x"])
def test_no_other_engine_is_opened(uri):
    with pytest.raises(ValueError, match=r"is no store: give postgresql://…, a folder"):
        opened(uri)


@pytest.mark.parametrize("table", ["a b", "A", "1a", 'a"; drop table x', "a" * 41, ""])
def test_a_name_that_no_table_may_have_is_refused(table):
    with pytest.raises(ValueError, match="is no name of a table"):
        stores.opened("folder", table, BUILD)


def test_a_wrong_password_and_an_unknown_database_are_told_without_the_password(
    postgres_uri, monkeypatch
):
    monkeypatch.setenv("PGPASSWORD", "guessed")
    for uri in (postgres_uri, postgres_uri.replace("postgres@", "postgres:guessed@")):
        with pytest.raises(PermissionError, match="does not accept user and password") as found:
            opened(uri).version()
        assert "guessed" not in str(found.value)
    monkeypatch.setenv("PGPASSWORD", local_postgres.PASSWORD)
    with pytest.raises(FileNotFoundError, match="no such database"):
        opened(postgres_uri + "2").version()


def test_a_database_without_the_extension_is_told(postgres_uri, server):
    server.sql("CREATE DATABASE bare")
    with pytest.raises(ValueError, match="extension pgvector is not there: have an admin"):
        opened(postgres_uri.removesuffix("postgres") + "bare").write([ALL])


def test_a_server_that_is_gone_is_told_and_one_that_is_back_answers(postgres_uri, server):
    store = opened(postgres_uri)
    store.write([ALL])
    assert store.count() == N
    server.stop()
    with pytest.raises(ConnectionError, match="PostgreSQL does not answer: start it, or mend"):
        store.count()
    server.start()
    assert store.count() == N
    server.stop()
    server.start()  # the connection that was kept is dead, and nobody notices
    assert len(ask(store, "oak").ids) == N
    store.close()


def test_a_catalogue_older_than_what_is_kept_is_replaced_and_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(lance, "_KEPT", timedelta(seconds=2))
    monkeypatch.setattr(lance, "_UNFOLDED", 0)
    store = opened(str(tmp_path / "catalogues"))
    store.write([ALL])
    time.sleep(2.2)
    store.put(products(["new"], ["oak lamp"]))
    assert len(ask(store, "oak", N + 1).ids) == N + 1
    time.sleep(2.2)
    store.write([ALL])
    assert store.count() == len(ask(store, "oak").ids) == N
    store.close()


def test_who_holds_a_version_whose_files_are_gone_asks_the_current_one(tmp_path, monkeypatch):
    monkeypatch.setattr(lance, "_KEPT", timedelta(seconds=1))
    place = str(tmp_path / "catalogues")
    writer, reader = opened(place), opened(place)
    writer.write([ALL])
    time.sleep(1.2)
    old, view = reader._view(), reader._view
    writer.write([part(ALL, slice(0, 9))])
    # As in object storage, where the version is asked for once a second.
    monkeypatch.setattr(reader, "_view", lambda now=False: view(True) if now else old)
    assert len(ask(reader, "oak").ids) == 9
    # What is wrong with the question stays wrong.
    with pytest.raises(ValueError, match="no field 'size'"):
        ask(reader, "oak", where=[condition("size<3")])
    writer.close()


def test_a_tag_that_a_writer_lengthens_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    store, other = opened(str(tmp_path)), opened(str(tmp_path))
    store.write([part(ALL, slice(0, 20))])
    (file,) = tmp_path.rglob("current.json")
    tags, whole = type(store._view().table.tags), file.read_bytes()
    ends, read = iter([]), tags.get_version

    def lengthened(own, name):
        file.write_bytes(whole[: next(ends, None)])
        return read(own, name)

    monkeypatch.setattr(tags, "get_version", lengthened)
    ends = iter([-2] * lance._READ_AGAIN)
    assert other.count() == 20
    ends = iter([-2] * (1 + lance._READ_AGAIN))
    with pytest.raises(OSError, match=r"LanceDB refuses: .*EOF while parsing"):
        other.count()


def test_a_catalogue_that_grows_gets_its_graph_once(server, postgres_uri, monkeypatch):
    monkeypatch.setattr(postgres, "FLAT", 110)
    store = opened(postgres_uri)
    store.write([part(ALL, slice(0, 100))])
    graphs = "SELECT count(*) FROM pg_indexes WHERE tablename = 'products' AND indexdef ~ 'hnsw'"
    found = []
    for end in (105, 120, 130):
        store.put(part(ALL, slice(end - 10, end)))
        found.append(server.sql(graphs))
    assert found == ["0", "1", "1"]
    assert store.count() == 125
    store.close()


def test_a_table_that_took_the_place_of_a_dropped_one_is_not_replaced(server, postgres_uri):
    store = opened(postgres_uri)
    store.write([ALL])
    server.sql("DROP TABLE products")
    store.write([ALL])  # the name is free
    server.sql("DROP TABLE products")
    server.sql("CREATE TABLE products (mine text)")
    with pytest.raises(ValueError, match="a table that ecomkd did not write"):
        store.write([ALL])
    assert server.sql("SELECT count(*) FROM products") == "0"
    server.sql("DROP TABLE products")
    store.close()


def test_a_store_that_was_closed_keeps_no_connection(server, postgres_uri):
    store = opened(postgres_uri)
    store.write([ALL])
    assert store.count() == N
    store.close()
    assert store.count() == N  # it connects again, and lets go
    clients = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    until(lambda: server.sql(clients) == "1")  # who asks


@pytest.mark.parametrize("text", ["brand=\0", "brand\0=x"])
def test_a_nul_is_no_condition(text):
    with pytest.raises(ValueError, match="is no condition"):
        condition(text)


def test_a_nul_in_a_product_is_told_with_its_id():
    with pytest.raises(ValueError, match="Product 'p1' has a NUL"):
        stores.checked(products(["p0", "p1"], ["oak", "oak \0"]))


@pytest.fixture
def engine(store) -> StoreEngine:
    pieces = tiny_models.tokenizer().backend_tokenizer
    table = np.random.default_rng(3).normal(size=(pieces.get_vocab_size(), WIDTH))
    table = table.astype(np.float32)

    def student(queries, given):
        return np.array([len(text) / 100 for text in given])

    made = StoreEngine(store, KNOWN, pieces, table, student, Weights(0.1, 1.0), depth=5)
    whole = stores.encoded(made.embed, KNOWN, ALL.ids, ALL.titles, ALL.texts, ALL.fields)
    store.write([whole])
    made.whole = whole
    return made


def test_an_engine_over_a_store_answers_as_one_in_memory_does(engine):
    rank = {}
    own, query = engine.embed(["oak lamp"])[0], "oak lamp"
    sums = exact(query)
    for row, one in enumerate(ALL.ids):
        rank[one] = float(engine.whole.vectors[row] @ own) + 0.1 * sums[one][1]
    order = sorted(rank, key=lambda one: (-round(rank[one], 6), ALL.ids.index(one)))
    gains = {one: len(TEXTS[ALL.ids.index(one)]) / 100 for one in order[:5]}
    first = sorted(order[:5], key=lambda one: -(rank[one] + gains[one]))
    hits = engine.search(query, 10)
    assert [hit.product_id for hit in hits] == first + order[5:10]
    scores = [rank[one] + gains.get(one, 0) for one in first + order[5:10]]
    assert [hit.score for hit in hits] == pytest.approx(scores, abs=1e-5)
    assert hits[0].fields["brand"] == ALL.fields["brand"][ALL.ids.index(hits[0].product_id)]
    assert len(engine.search(query, N + 7)) == N
    assert hits.version == f"None, {engine.store.version()}"


def test_nothing_to_put_changes_nothing(engine):
    before = engine.store.version()
    engine.put([])
    assert engine.store.version() == before


def test_an_engine_keeps_conditions_and_the_order_without_a_student(engine):
    hits = engine.search("oak lamp", 400, [condition("price<20")])
    assert {hit.product_id for hit in hits} == set(exact("oak lamp", [condition("price<20")]))
    assert engine.search("oak lamp", 5, [condition("price<0")]) == []
    engine.depth = 0
    scores = [hit.score for hit in engine.search("oak lamp", 50)]
    assert scores == sorted(scores, reverse=True) and len(scores) == 50
    with pytest.raises(ValueError, match="k is 0: give 1 or more"):
        engine.search("oak", 0)


def test_a_query_of_which_nothing_is_known_has_no_hits(engine):
    assert engine.search("", 5) == []


@pytest.mark.parametrize(
    "uri, package, extra",
    [
        ("folder", "lancedb", "lance"),
        ("milvus://h/d", "pymilvus", "milvus"),
        ("postgres://h/d", "psycopg", "postgres"),
    ],
)
def test_a_missing_package_is_told_with_what_brings_it(uri, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    for name in (extra, "lines", "milvus_server"):
        monkeypatch.delitem(sys.modules, f"ecomkd.search.{name}", raising=False)
    with pytest.raises(ModuleNotFoundError, match=rf"{package} .*\[{extra}\]"):
        opened(uri)


def test_what_engines_are_measured_against_is_an_exact_search():
    from measure_engines import Best

    queries, wheres = ["steel lamp", "oak desk"], {"all": [], "few": ["price<9", "brand=1's"]}
    best = Best(embed(queries), queries, KNOWN, wheres)
    for start in range(0, N, 70):
        best.see(part(ALL, slice(start, start + 70)))
    for name, where in wheres.items():
        for query, (number, tenth) in zip(queries, best.tenth(name), strict=True):
            pairs = exact(query, [condition(text) for text in where]).values()
            sums = sorted((cosine + 0.1 * bm25 for cosine, bm25 in pairs), reverse=True)
            assert (best.kept[name], number) == (len(sums), min(len(sums), 10))
            assert tenth == pytest.approx(sums[number - 1], abs=1e-5)


def test_what_serves_from_a_store_loads_no_framework():
    code = (
        "import sys; import ecomkd.search.hosted, ecomkd.search.stores\n"
        "heavy = ('torch', 'transformers', 'scipy', 'pandas', 'psycopg', 'lancedb', 'pymilvus')\n"
        "assert not [name for name in heavy if name in sys.modules], sys.modules.keys()\n"
        "import ecomkd.search.postgres\n"
        "assert not [name for name in heavy[:4] if name in sys.modules]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_equal_signs_are_no_condition():
    with pytest.raises(ValueError, match="is no condition"):
        condition("brand==acme")
    assert condition('brand="=acme"').value == "=acme"
