"""What goes on beside the answers: the shadow teacher and the drift alarm."""

import asyncio
import itertools
import math
import random
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from serving import TITLES, Hit, Stub, service, until, with_shadow

from ecomkd.service import app as app_module
from ecomkd.service.app import create_app
from ecomkd.service.watch import Drift, Shadow, agreement, judge_served

# Shadow -------------------------------------------------------------------------------------------


def test_agreement_by_hand():
    assert agreement([3, 2, 1], [30, 20, 10]) == (1.0, True)
    assert agreement([3, 2, 1], [1, 2, 3]) == (-1.0, False)
    tau, same = agreement([3, 2, 1], [9, 1, 2])  # one of three pairs is turned
    assert tau == pytest.approx(1 / 3) and same
    assert agreement([1, 1, 1], [1, 2, 3]) == (0.0, False)


def test_an_order_that_was_served_is_judged_by_hand():
    """The two best stand in each other's place."""
    found = judge_served([0.5, 1.0, 0.0])
    second, third = 1 / math.log2(3), 1 / math.log2(4)
    best = 1 + 0.5 * second
    assert found.ndcg == pytest.approx((0.5 + second) / best)
    assert found.random == pytest.approx(0.5 * (1 + second + third) / best)
    assert found.overlap == pytest.approx((0 + 1 + 1) / 3)
    assert found.tau == pytest.approx(1 / 3)
    assert found.same_first is False

    own = judge_served([0.9, 0.3, 0.3, 0.1])
    assert (own.ndcg, own.overlap, own.same_first) == (1, 1, True)
    turned = judge_served([1, 2, 3, 4])
    assert turned.overlap == pytest.approx((0 + 0 + 2 / 3 + 1) / 4) and turned.tau == -1


def test_what_a_random_order_has_is_the_mean_over_all_orders():
    for gains in ([0.7, 0.2, 0.1, 0.4], [1.0, 0.0, 0.0, 0.0, 0.5]):
        each = [judge_served(order) for order in itertools.permutations(gains)]
        assert np.mean([one.ndcg for one in each]) == pytest.approx(each[0].random)
        chance = (len(gains) + 1) / (2 * len(gains))
        if len(set(gains)) == len(gains):
            assert np.mean([one.overlap for one in each]) == pytest.approx(chance)


def test_only_the_first_ten_count_but_all_that_was_shown_could_have_been_first():
    gains = [0.0] * 10 + [1.0]
    found = judge_served(gains)
    assert (found.ndcg, found.same_first) == (0, False)
    assert found.overlap == pytest.approx(np.mean([(depth - 1) / depth for depth in range(1, 11)]))
    assert judge_served([0.0, 0.0]).ndcg == judge_served([-1.0, 0.0]).ndcg == 1
    with pytest.raises(ValueError, match="give two or more"):
        judge_served([0.5])


def test_a_difference_that_costs_nothing_lowers_tau_and_not_ndcg():
    """The teacher's last five are worth next to nothing, in whatever order they stand."""
    gains = [0.9, 0.8, 0.005, 0.004, 0.003, 0.002, 0.001]
    found = judge_served(gains[:2] + gains[:1:-1])
    assert found.ndcg > 0.99
    assert found.tau < 0.2


def test_the_order_that_was_served_is_judged_by_the_texts_that_were_read():
    """The student's scores of the texts are turned round: what counts is what stood there."""
    worth = {"whole 0": 0.9, "whole 1": 0.2, "whole 2": 0.6}
    shown = [SimpleNamespace(product_id=f"p{i}", title="mug", score=1.0 - i) for i in range(3)]
    for number, hit in enumerate(shown):
        hit.text = f"whole {number}"
    asked = []

    def shadow(queries, texts):
        asked.append((queries, texts))
        return np.array([worth.get(text, 0.1 * place) for place, text in enumerate(texts)])

    engine = with_shadow(shadow)
    engine.search = lambda query, k: shown[:k]
    with service(engine, shadow_share=1) as one:
        one.ask("/search?q=red+mug")
        until(lambda: one.metrics()["ecomkd_shadow_compared_total",] == 1)
        scored = len(engine.calls)
        found, wanted = one.metrics(), judge_served([0.9, 0.2, 0.6])
        assert asked == [(["red mug"] * 3, ["whole 0", "whole 1", "whole 2"])]
        assert found["ecomkd_shadow_ndcg",] == pytest.approx(wanted.ndcg)
        assert found["ecomkd_shadow_random_ndcg",] == pytest.approx(wanted.random)
        assert found["ecomkd_shadow_overlap",] == pytest.approx(wanted.overlap)
        assert found["ecomkd_shadow_tau",] == pytest.approx(wanted.tau)
        assert found["ecomkd_shadow_same_first_total",] == 1
        answer = one.rerank("red").content
        until(lambda: one.metrics()["ecomkd_shadow_compared_total",] == 2)
        assert asked[1] == (["red"] * 4, [TITLES[place] for place in answer["order"]])
        both = np.mean([wanted.ndcg, judge_served([0, 0.1, 0.2, 0.3]).ndcg])
        assert one.metrics()["ecomkd_shadow_ndcg",] == pytest.approx(both)
        # The warm-up and the four pairs of /rerank: the comparison asks the student nothing.
        assert (scored, len(engine.calls)) == (1, 5)


def test_the_teacher_judges_after_the_answer_was_given():
    gate = threading.Event()

    def shadow(queries, texts):
        gate.wait(30)
        return -Stub().score(queries, texts)

    with service(with_shadow(shadow), shadow_share=1) as one:
        assert one.ask("/health").content["shadow"] is True
        assert one.rerank().status == one.ask("/search?q=red").status == 200
        assert one.metrics()["ecomkd_shadow_compared_total",] == 0
        assert one.metrics()["ecomkd_shadow_waiting",] == 2
        gate.set()
        until(lambda: one.metrics()["ecomkd_shadow_compared_total",] == 2)
        found = one.metrics()
    assert found["ecomkd_shadow_tau",] == -1
    assert found["ecomkd_shadow_waiting",] == 0
    assert found["ecomkd_shadow_same_first_total",] == 0
    assert found["ecomkd_shadow_dropped_total",] == found["ecomkd_shadow_failed_total",] == 0


def test_a_lone_product_has_no_order_to_compare():
    with service(with_shadow(Stub().score), shadow_share=1) as one:
        one.rerank("red", ["mug"])
        one.rerank("red", ["mug", "pot"])
        until(lambda: one.metrics()["ecomkd_shadow_compared_total",] == 1)
        assert one.metrics()["ecomkd_shadow_same_first_total",] == 1


def test_samples_that_the_teacher_has_no_time_for_are_dropped_and_counted():
    gate, entered = threading.Event(), threading.Event()

    def shadow(queries, texts):
        entered.set()
        gate.wait(30)
        return Stub().score(queries, texts)

    with service(with_shadow(shadow), shadow_share=1) as one:
        one.rerank()
        assert entered.wait(20)
        assert {one.rerank().status for _ in range(40)} == {200}
        found = one.metrics()
        gate.set()
    assert found["ecomkd_shadow_dropped_total",] == 40 - 32
    assert found["ecomkd_shadow_compared_total",] == 0


def test_a_teacher_that_fails_harms_nobody():
    def shadow(queries, texts):
        raise RuntimeError("no teacher today")

    with service(with_shadow(shadow), shadow_share=1) as one:
        assert [one.rerank().status for _ in range(3)] == [200] * 3
        until(lambda: one.metrics()["ecomkd_shadow_failed_total",] == 3)
        assert one.metrics()["ecomkd_shadow_waiting",] == 0
        assert one.rerank().status == 200


def test_about_the_share_asked_for_is_sampled():
    async def sampled(share: float) -> int:
        engine = with_shadow(Stub().score)
        shadow = Shadow(engine, share, CollectorRegistry())
        for _ in range(2_000):
            shadow.offer("red", TITLES)
        shadow.stop()
        return shadow._open + int(shadow._counts["dropped"]._value.get())

    assert asyncio.run(sampled(0.1)) == pytest.approx(200, abs=50)
    assert asyncio.run(sampled(1.0)) == 2_000
    assert asyncio.run(sampled(0)) == 0


# Drift --------------------------------------------------------------------------------------------

WORDS = [f"word{i}" for i in range(300)]


def traffic(count: int, seed: int, words=WORDS, more=0, score=0.6):
    """Queries of one to four words, rare ones too, and the scores of their best answers."""
    draw = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(len(words))]
    for _ in range(count):
        query = " ".join(draw.choices(words, weights, k=draw.randint(1, 4) + more))
        yield query, min(1.0, max(0.0, draw.gauss(score, 0.15)))


def watcher(window=200, level=0.001) -> Drift:
    queries, scores = zip(*traffic(600, seed=1), strict=True)
    return Drift(queries, scores[:300], window, level, in_a_row=1)


def windows(drift: Drift, live) -> list[list[str]]:
    """What drifted in each window."""
    return [drift.drifting for query, score in live if drift.see(query, score)]


def test_no_alarm_while_nothing_changes():
    drift = watcher()
    found = windows(drift, traffic(200 * 40, seed=2))
    assert found == [[]] * 40
    assert drift.windows == 40
    assert set(drift.statistic) == set(drift.FEATURES)


def test_alarms_without_drift_are_as_rare_as_asked():
    found = 0
    for seed in range(20):  # in the mean over references
        queries, scores = zip(*traffic(600, seed=seed), strict=True)
        drift = Drift(queries, scores[:300], 200, 0.2, in_a_row=1)
        found += sum(map(bool, windows(drift, traffic(200 * 10, seed=1_000 + seed))))
    # Where the level is not shared out among the three numbers, it is 62.
    assert 10 < found <= 0.2 * 200


@pytest.mark.parametrize(
    ("change", "feature"),
    [
        ({"more": 1}, "length"),
        ({"words": WORDS[:60] + [f"new{i}" for i in range(240)]}, "unknown"),
        ({"score": 0.45}, "score"),
    ],
    ids=["length", "unknown", "score"],
)
def test_the_alarm_names_what_has_changed(change, feature):
    drift = watcher()
    assert windows(drift, traffic(200, seed=4)) == [[]]
    found = windows(drift, traffic(600, seed=5, **change))
    assert all(feature in names for names in found)
    assert drift.statistic[feature] == max(drift.statistic.values())
    assert windows(drift, traffic(200, seed=6)) == [[]]


def test_the_alarm_waits_for_as_many_windows_as_asked():
    queries, scores = zip(*traffic(600, seed=1), strict=True)
    drift = Drift(queries, scores[:300], 200, 0.001, in_a_row=2)
    assert windows(drift, traffic(200, seed=4, more=1)) == [[]]
    assert drift.statistic["length"] > 0.25
    assert windows(drift, traffic(200, seed=5)) == [[]]
    assert windows(drift, traffic(200, seed=6, score=0.3)) == [[]]
    # Each number counts for itself.
    assert windows(drift, traffic(200, seed=7, more=1)) == [[]]
    assert windows(drift, traffic(400, seed=8, more=1)) == [["length"]] * 2


def test_queries_without_an_answer_are_lower_than_any_score():
    drift = watcher()
    live = ((query, -np.inf) for query, _ in traffic(200, seed=7))
    assert windows(drift, live) == [["score"]]
    assert drift.statistic["score"] == 1


def test_words_count_as_unknown_by_the_other_queries():
    queries = ["red mug"] * 99 + ["Blue mug"]
    drift = Drift(queries, [0.5] * 100, window=100, level=0.001, in_a_row=1)
    assert drift._reference[-1].tolist() == [2, 0.5, 0.5]
    assert drift._reference[0].tolist() == [2, 0, 0.5]
    drift.see("BLUE pot", 0.5)
    assert drift._live == [(2, 0.5, 0.5)]


def test_too_few_reference_queries_are_refused():
    with pytest.raises(ValueError, match="at least 100 reference queries, and there are 99"):
        Drift(["red"] * 99, [0.5] * 99, 200, 0.001, 1)
    with pytest.raises(ValueError, match="got 99 scores for 100 reference queries"):
        Drift(["red"] * 100, [0.5] * 99, 200, 0.001, 1)
    with pytest.raises(ValueError, match="99 reference queries and a window of 500"):
        create_app(Stub(), reference=["red"] * 99 + [" "])


def test_the_service_raises_the_alarm_and_calls_it_off():
    engine = Stub()
    engine.search = lambda query, k: [Hit("p", "mug", 0.5)]
    reference = [query for query, _ in traffic(400, seed=1)]
    with service(engine, reference=reference, drift_window=150) as one:
        until(lambda: one.ask("/health").content["ready"])
        assert one.ask("/health").content["drift"] == "collecting"
        assert one.metrics()["ecomkd_drift_alarm",] == 0

        def live(**change):
            for query, _ in traffic(150, seed=8, **change):
                one.ask("/search?q=" + query.replace(" ", "+"))
            health = one.ask("/health").content
            return health["drift"], health["drifting"], one.metrics()

        assert live()[:2] == ("none", [])
        # The service waits for a second window.
        state, features, found = live(more=2)
        assert (state, features, found["ecomkd_drift_alarm",]) == ("none", [], 0)
        state, features, found = live(more=2)
        assert (state, features) == ("alarm", ["length"])
        assert found["ecomkd_drift_alarm",] == 1
        assert found["ecomkd_drift", "length"] > 0.3
        assert found["ecomkd_drift", "score"] == 0
        state, _, found = live()
        assert (state, found["ecomkd_drift_alarm",]) == ("none", 0)


def test_the_service_answers_before_it_is_ready():
    engine = Stub()
    with service(engine, reference=["red mug"] * 100, drift_window=100) as one:
        assert one.rerank().status == 200
        until(lambda: one.ask("/health").status == 200)
    shut = Stub()

    def search(query, k):
        shut.gate.wait(30)
        return [Hit("p", "mug", 0.5)]

    shut.search = search
    shut.score = lambda queries, texts: np.zeros(len(texts))
    shut.gate.clear()
    with service(shut, reference=["red mug"] * 100, drift_window=100) as one:
        found = one.ask("/health")
        assert (found.status, found.content["live"], found.content["ready"]) == (503, True, False)
        alive = one.ask("/live")
        assert (alive.status, alive.content) == (200, {"live": True})
        assert found.content["drift"] == "reading the reference"
        assert one.rerank().status == 200
        shut.gate.set()
        until(lambda: one.ask("/health").status == 200)


def test_a_catalogue_that_is_away_for_a_moment_is_asked_again(monkeypatch):
    monkeypatch.setattr(app_module, "_AGAIN", (0.01, 0.01))
    engine, asked = Stub(), []
    answer = engine.search

    def search(query, k):
        asked.append(query)
        if len(asked) in (3, 4):
            raise ConnectionError("the server restarts")
        return answer(query, k)

    engine.search = search
    with service(engine, reference=["red mug"] * 100, drift_window=100) as one:
        until(lambda: one.ask("/health").status == 200)
    gone = Stub()

    def away(query, k):
        raise ConnectionError("gone")

    gone.search = away
    with service(gone, reference=["red mug"] * 100, drift_window=100) as one:
        until(lambda: one.ask("/health").content["drift"] == "the reference failed")
        assert one.ask("/health").status == 503


def test_drift_does_not_see_searches_with_a_filter():
    class Filtering(Stub):
        def conditions(self, texts):
            return tuple(texts)

        def search(self, query, k, where=()):
            return [Hit("p", "mug", 0.2 if where else 0.9)]

    how = {"drift_window": 100, "drift_in_a_row": 1}
    with service(Filtering(), reference=["red mug"] * 100, **how) as one:
        until(lambda: one.ask("/health").content["drift"] == "collecting")
        for _ in range(100):
            assert one.ask("/search?q=red+mug&filter=price%3C5").status == 200
        assert one.ask("/health").content["drift"] == "collecting"


@pytest.mark.parametrize("wrong", [[float("nan"), 1, 2, 3], [1, 2, 3, float("inf")], [1, 2]])
def test_a_teacher_without_a_number_for_each_product_has_failed(wrong):
    with service(with_shadow(lambda queries, texts: wrong), shadow_share=1) as one:
        assert one.rerank().status == 200
        until(lambda: one.metrics()["ecomkd_shadow_failed_total",] == 1)
        assert one.metrics()["ecomkd_shadow_compared_total",] == 0
    with pytest.raises(ValueError, match="gain 1 is nan; mend the teacher"):
        judge_served([1.0, float("nan")])
