"""A newer engine takes the place of an older one while clients ask: none is lost, none is wrong."""

import logging
import shutil
import threading
import time
from contextlib import contextmanager

import pytest
from serving import TITLES, Client, Hit, Stub, until, value

from ecomkd import outputs
from ecomkd.service.app import create_app
from ecomkd.service.contract import Settings
from ecomkd.service.server import background


class Numbered(Stub):
    """An engine that puts its number into each answer."""

    def __init__(self, number: int):
        super().__init__()
        self.number, self.version = number, f"index {number}"

    def search(self, query, k):
        hits = super().search(query, k)
        return [Hit(f"{self.number}-{hit.product_id}", hit.title, hit.score) for hit in hits]

    def score(self, queries, texts):
        return super().score(queries, texts) + self.number


@contextmanager
def following(first, newer, **settings):
    settings = {"rate": 0, "workers": 2, "look": 0.01, "max_waiting": 64} | settings
    app = create_app(first, Settings(**settings), newer=newer)
    with background(app) as port:
        yield Client(port)


def versions(*engines):
    """Give these engines one after the other, and then none; each may be an error."""
    waiting = list(engines)

    def newer():
        found = waiting.pop(0) if waiting else None
        if isinstance(found, Exception):
            raise found
        return found

    return newer


def test_answers_are_whole_and_name_their_index_while_engines_change():
    rest, faults, seen = [Numbered(number) for number in range(1, 30)], [], set()
    with following(Numbered(0), versions(*rest)) as one:

        def ask() -> None:
            for turn in range(60):
                found = one.ask("/search?q=red&k=2") if turn % 2 else one.rerank()
                number = (found.headers["X-Ecomkd-Index"] or "").removeprefix("index ")
                seen.add(number)
                if turn % 2:
                    named = {hit["product_id"].split("-")[0] for hit in found.content["hits"]}
                    right = named == {number}
                else:
                    wanted = [value("red", title) + int(number) for title in TITLES]
                    right = found.content["scores"] == wanted
                if found.status != 200 or not right:
                    faults.append(found)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: one.ask("/health").content["index"] == "index 29")
        assert one.metrics()["ecomkd_swaps_total",] == 29
    assert not faults
    assert len(seen) > 2  # else nothing was changed while they asked


def test_a_request_is_answered_by_the_engine_that_it_began_with():
    old, new = Numbered(0), Numbered(1)
    given = []

    def newer():
        return given.pop() if given else None

    with following(old, newer) as one:
        old.gate.clear()
        found = []
        thread = threading.Thread(target=lambda: found.append(one.rerank()))
        old.entered = threading.Semaphore(0)
        thread.start()
        assert old.entered.acquire(timeout=20)
        given.append(new)
        until(lambda: one.ask("/health").content["index"] == "index 1")
        old.gate.set()
        thread.join()
    assert found[0].headers["X-Ecomkd-Index"] == "index 0"
    assert found[0].content["scores"] == [value("red", title) for title in TITLES]


def test_an_engine_that_fails_is_told_of_and_not_taken(caplog):
    class Broken(Numbered):
        def score(self, queries, texts):
            raise KeyError("lost")

    steps = versions(ValueError("index.npy: cut"), Broken(1), None, Numbered(2))
    with caplog.at_level(logging.ERROR), following(Numbered(0), steps) as one:
        until(lambda: one.ask("/health").content["index"] == "index 2")
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "The new engine is not taken, and the old one answers on: index.npy: cut",
        "The new engine is not taken, and the old one answers on: 'lost'",
    ]


def test_an_engine_that_is_replaced_is_closed_once_it_is_not_asked_any_more():
    first, second, closed = Numbered(0), Numbered(1), []
    first.close = lambda: closed.append(time.monotonic())
    given = []

    def newer():
        if given:
            return None
        given.append(time.monotonic())
        return second

    with following(first, newer, timeout=0.2) as one:
        until(lambda: closed)
        assert one.ask("/health").content["index"] == "index 1"
    assert closed[0] - given[0] > 0.4  # not sooner than two times the limit of a request


def test_pages_beyond_what_an_engine_ranks_alike_are_refused():
    engine = Numbered(0)
    engine.reach = 3
    with following(engine, versions()) as one:
        assert one.ask("/search?q=red&k=2&offset=1").status == 200
        status, content, _ = one.ask("/search?q=red&k=2&offset=2")
    assert (status, content) == (
        422,
        {"error": "offset and k are 4 together: give 3 or less."},
    )


def test_a_service_with_a_shadow_takes_no_engine_without_a_teacher(caplog):
    first, bare, second = Numbered(0), Numbered(1), Numbered(2)
    asked = []
    first.shadow = lambda queries, texts: first.score(queries, texts)

    def judge(queries, texts):
        asked.append(texts)
        return first.score(queries, texts)

    second.shadow = judge
    with following(first, versions(bare, second), shadow_share=1) as one:
        until(lambda: one.ask("/health").content["index"] == "index 2")
        assert one.ask("/search?q=red").status == 200
        until(lambda: asked)
    assert "it holds no teacher" in caplog.text


def test_drift_is_told_from_the_scores_of_the_newer_engine():
    queries = [f"red {number}" for number in range(120)]
    first, second = Numbered(0), Numbered(1)
    app = create_app(
        first,
        Settings(rate=0, look=0.01, drift_window=100),
        reference=queries,
        newer=versions(None, second),
    )
    with background(app) as port:
        one = Client(port)
        until(lambda: one.metrics()["ecomkd_swaps_total",] == 1)
        until(lambda: one.ask("/health").content["drift"] == "collecting")
    asked = 0
    while second.entered.acquire(blocking=False):
        asked += 1
    assert asked >= 100


def test_a_newer_engine_ends_the_alarm_and_the_comparison_begins_anew():
    queries = [f"red {number}" for number in range(120)]
    waiting: list[Numbered] = []
    app = create_app(
        Numbered(0),
        Settings(rate=0, look=0.01, drift_window=100, drift_in_a_row=1),
        reference=queries,
        newer=lambda: waiting.pop() if waiting else None,
    )
    with background(app) as port:
        one = Client(port)
        until(lambda: one.ask("/health").content["drift"] == "collecting")
        for number in range(100):
            one.ask(f"/search?q=never+seen+before+{number}")
        assert one.metrics()["ecomkd_drift_alarm",] == 1
        waiting.append(Numbered(1))
        until(lambda: one.metrics()["ecomkd_swaps_total",] == 1)
        until(lambda: one.ask("/health").content["drift"] == "collecting")
        assert one.metrics()["ecomkd_drift_alarm",] == 0


# Folders ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "served", "one")
    return tmp_path / "served"


def write(folder, text):
    with outputs.replaced(folder, "index") as working:
        (working / "engine.json").write_text(text)


def test_a_folder_has_changed_once_it_is_written_anew(folder):
    changed = outputs.Changes(folder)
    assert not changed()
    write(folder, "two")
    assert changed() and changed()  # until it is taken
    changed.taken()
    assert not changed()
    shutil.rmtree(folder)  # as it is for a moment while another takes its place
    assert not changed()
    write(folder, "three")
    assert changed()
    changed.taken()
    assert not changed()


def test_an_engine_that_fails_even_to_close_ends_no_search_for_newer_ones():
    class Broken(Numbered):
        def score(self, queries, texts):
            raise KeyError("lost")

        def close(self):
            raise ConnectionError("away")

    with following(Numbered(0), versions(Broken(1), Numbered(2))) as one:
        until(lambda: one.ask("/health").content["index"] == "index 2")
