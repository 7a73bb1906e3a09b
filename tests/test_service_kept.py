"""Answers that the service gives again without asking its engine."""

import pytest
from prometheus_client import CollectorRegistry
from serving import Client, Hit, Stub, service, until

from ecomkd.service.app import create_app
from ecomkd.service.contract import Settings
from ecomkd.service.kept import Kept
from ecomkd.service.server import background

GIVEN = ("ecomkd_answered_again_total",)


class Counting(Stub):
    """An engine with a version that notes what it was asked."""

    def __init__(self, version="index 1", named=None):
        super().__init__()
        self.version, self.named, self.asked = version, named, []

    def search(self, query, k, *where):
        self.asked.append((query, k, *where))
        hits = super().search(query, k)
        if self.named is None:
            return hits
        found = type("Hits", (list,), {})(hits)
        found.version = self.named
        return found


def test_the_same_search_is_answered_once_by_the_engine():
    engine = Counting()
    with service(engine, keep=10) as one:
        first, again = one.ask("/search?q=red&k=2"), one.ask("/search?q=red&k=2")
        assert first.status == again.status == 200 and first.content == again.content
        assert again.headers["X-Ecomkd-Index"] == "index 1"
        assert engine.asked == [("red", 2)] and one.metrics()[GIVEN] == 1
        other = one.ask("/search?q=red&k=1&offset=1")  # the same depth, another page
        assert other.content["hits"] == first.content["hits"][1:]
        assert engine.asked == [("red", 2)]
        for path in ("/search?q=Red&k=2", "/search?q=red&k=3"):
            assert one.ask(path).status == 200
        assert engine.asked[1:] == [("Red", 2), ("red", 3)]


def test_conditions_belong_to_what_was_asked():
    class Filtering(Counting):
        def conditions(self, texts):
            return tuple(texts)

    engine = Filtering()
    with service(engine, keep=10) as one:
        for conditions in ("", "&filter=price%3C5", "&filter=price%3C9", "&filter=price%3C5"):
            assert one.ask(f"/search?q=red&k=2{conditions}").status == 200
    assert [where for *_, where in engine.asked[1:]] == [("price<5",), ("price<9",)]


def test_a_kept_answer_needs_no_thread_of_the_engine():
    engine = Counting()
    with service(engine, keep=10, workers=1, timeout=0.5) as one:
        assert one.ask("/search?q=red").status == 200
        engine.gate.clear()
        assert one.ask("/search?q=blue").status == 504
        assert one.ask("/search?q=red").status == 200
        engine.gate.set()


@pytest.mark.parametrize(
    ("engine", "keep"),
    [
        (Counting(), 0),
        (Counting(version=None), 10),
        (Counting(named="index 1, catalogue 7"), 10),
    ],
    ids=["unless asked", "without a version", "of a catalogue that changes under the engine"],
)
def test_nothing_is_kept(engine, keep):
    with service(engine, keep=keep) as one:
        for _ in range(2):
            assert one.ask("/search?q=red&k=2").status == 200
        assert one.metrics()[GIVEN] == 0
    assert len(engine.asked) == 2


def test_a_newer_index_answers_anew():
    first, second = Counting("index 1"), Counting("index 2")
    waiting, settings = [], Settings(rate=0, look=0.01, keep=10)
    app = create_app(first, settings, newer=lambda: waiting.pop() if waiting else None)
    with background(app) as port:
        one = Client(port)
        assert one.ask("/search?q=red").headers["X-Ecomkd-Index"] == "index 1"
        waiting.append(second)
        until(lambda: one.ask("/health").content["index"] == "index 2")
        assert one.ask("/search?q=red").headers["X-Ecomkd-Index"] == "index 2"
    assert len(first.asked) == len(second.asked) == 1


def test_an_answer_of_an_older_version_of_the_same_engine_is_not_kept():
    engine, hits = Counting("1"), [Hit("p", "mug", 1.0)]
    kept = Kept(2, 1, CollectorRegistry())
    assert kept.find(engine, engine.version, "a") is None
    engine.version = "2"
    assert kept.find(engine, engine.version, "b") is None
    kept.keep(engine, "1", "a", hits)  # what was asked before the change
    assert kept.find(engine, engine.version, "a") is None


def test_drift_and_shadow_see_a_kept_answer():
    engine, judged = Counting(), []
    engine.shadow = lambda queries, texts: judged.append(queries) or [1.0] * len(texts)
    reference = ["red mug"] * 100
    given = {"keep": 10, "shadow_share": 1.0, "drift_window": 100, "reference": reference}
    with service(engine, **given) as one:
        until(lambda: one.ask("/health").content["drift"] == "collecting")
        for _ in range(100):
            assert one.ask("/search?q=red").status == 200
        assert engine.asked.count(("red", 10)) == 1
        assert one.metrics()[GIVEN] == 99
        assert one.ask("/health").content["drift"] != "collecting"  # a window is full
        until(lambda: len(judged) > 1)


def test_fields_of_a_kept_answer():
    class Fielded(Counting):
        fields = ("price",)

        def search(self, query, k):
            hits = super().search(query, k)
            return [type("H", (), {**hit._asdict(), "fields": {"price": 5.0}})() for hit in hits]

    with service(Fielded(), keep=10) as one:
        assert "fields" not in one.ask("/search?q=red&k=1").content["hits"][0]
        again = one.ask("/search?q=red&k=1&fields=price").content["hits"][0]
        assert again["fields"] == {"price": 5.0} and one.metrics()[GIVEN] == 1


def test_what_was_asked_longest_ago_goes_first():
    engine, newer, hits = Counting(), Counting("index 2"), [Hit("p", "mug", 1.0)]
    kept = Kept(2, 1, CollectorRegistry())
    for query in ("a", "b"):
        assert kept.find(engine, engine.version, query) is None
        kept.keep(engine, engine.version, query, hits)
    assert kept.find(engine, engine.version, "a") is hits  # now b is the older one
    kept.keep(engine, engine.version, "c", hits)
    known = [kept.find(engine, engine.version, query) is hits for query in "abc"]
    assert known == [True, False, True]
    kept.keep(engine, engine.version, "d", 2 * hits)
    assert kept.find(engine, engine.version, "d") is None  # too deep
    assert kept.find(newer, newer.version, "a") is None
    kept.keep(engine, engine.version, "a", hits)  # an answer of the older one, come late
    assert kept.find(newer, newer.version, "a") is kept.find(engine, engine.version, "a") is None
