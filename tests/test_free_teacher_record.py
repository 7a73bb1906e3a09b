"""Teachers that nobody trained: their answers on tiny data, and the record."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from test_query_side_record import COLOURS, PLACE, THINGS, WIDTH, pairs

import measure_free_teacher as script
from ecomkd import report
from measure_query_side import Ground, Judged, Static, cosines, of_pairs, unit

EVERY = [f"{colour} {thing}" for thing in THINGS for colour in COLOURS]


def lexical_signals(catalogue):
    """In the place of words: the number of the product, and whether it is the query's."""

    def measure(seen):
        numbers = [int(one[1:]) for one in seen["product_id"]]
        right = [
            COLOURS[query.split()[0]] == n for query, n in zip(seen["query"], numbers, strict=True)
        ]
        return np.column_stack([numbers, right]).astype(float)

    return measure


@pytest.fixture
def ground(monkeypatch):
    """A shop of twenty queries, and what all seeds share of it."""
    monkeypatch.setattr(script.lexical, "lexical_signals", lexical_signals)
    splits = {"train": EVERY[:8], "validation": EVERY[12:16], "test": EVERY[16:]}
    shop = DatasetDict({name: pairs(queries) for name, queries in splits.items()})
    shop["unlabelled"] = pairs(EVERY[8:12], seed=3).map(lambda row: {"label": -1})
    drawn = np.random.default_rng(2)
    table = drawn.normal(size=(30_522, WIDTH)).astype(np.float32)
    vectors = torch.from_numpy(unit(drawn.normal(size=(6, WIDTH)).astype(np.float32)))
    words = {}
    for split in ("train", "validation", "test"):
        ids = zip(shop[split]["query_id"], shop[split]["product_id"], strict=True)
        words |= dict(zip(ids, lexical_signals(None)(shop[split]), strict=True))
    log = of_pairs(shop["unlabelled"], PLACE)
    return Ground([shop], PLACE, vectors, words, log, unit(table), EVERY)


def test_each_candidate_has_the_words_of_its_own_pair(ground):
    (shop,) = ground.parts
    some = of_pairs(shop["train"], PLACE).first(5)
    data = [shop["train"], shop["unlabelled"]]
    found = script.signals_of(some, ground.log, data, catalogue=None)
    rows = torch.cat([some.rows, ground.log.rows])
    assert found.shape == (9, 6, 2) and torch.equal(found[..., 0], rows.float())
    right = [COLOURS[query.split()[0]] for query in (*some.queries, *ground.log.queries)]
    assert torch.equal(
        found[..., 1].argmax(1), (rows == torch.tensor(right)[:, None]).int().argmax(1)
    )


def test_the_spread_is_that_within_a_list():
    scores = torch.tensor([[5.0, 7.0, 100.0], [1.0, 1.0, 4.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    # The first list is 1 from its mean, the second 1, 1 and 2 from its own.
    assert script.spread(scores, mask) == pytest.approx(((1 + 1 + 1 + 1 + 4) / 5) ** 0.5)


def test_a_sum_has_the_order_of_its_scores_and_the_spread_of_its_cosines(ground):
    (shop,) = ground.parts
    validation, test = (of_pairs(shop[split], PLACE) for split in ("validation", "test"))
    seen = Judged(ground, shop, validation, test)
    model, asked = Static(ground.table), ground.log
    words = script.signals_of(asked.first(0), asked, [shop["train"], shop["unlabelled"]], None)
    answers = cosines(model, asked, ground.vectors)
    found = script.summed(seen, model, answers, words, asked)
    right = [COLOURS[query.split()[0]] for query in asked.queries]
    assert asked.rows.gather(1, found.argmax(1, keepdim=True))[:, 0].tolist() == right
    assert script.spread(found, asked.mask) == pytest.approx(
        script.spread(answers, asked.mask), rel=1e-5
    )


def test_given_weights_take_the_place_of_the_chosen_ones(ground):
    (shop,) = ground.parts
    validation, test = (of_pairs(shop[split], PLACE) for split in ("validation", "test"))
    seen, model = Judged(ground, shop, validation, test), Static(ground.table)
    values = {}
    seen.add(values, "model", model)
    weights = seen.weights["words + model"]
    assert script.weighed(seen, model, weights) == values["words + model"]
    alone = [0.0] * (len(weights) - 1) + [1.0]
    assert script.weighed(seen, model, alone) == values["model"] != values["words + model"]


def test_each_student_learns_from_each_teacher(ground, monkeypatch, tmp_path):
    class Small(Static):
        def __init__(self, layers=None, name="minilm"):
            super().__init__(ground.table, EVERY)

    monkeypatch.setattr(script, "Network", Small)
    fine_tuned = Small()
    torch.nn.init.normal_(fine_tuned.moved.weight)
    chosen = {"rate": 0.03, "looks": [0.5]}
    monkeypatch.setattr(script, "taught_by", lambda *_: (fine_tuned, chosen))
    monkeypatch.setattr(script, "TEACHER", "minilm")
    monkeypatch.setattr(script, "RATES", dict.fromkeys(script.CURVED, (0.03,)))
    monkeypatch.setattr(script, "parts_of", lambda *_: (ground.parts, None))
    known = {"weights": {script.FREE_SUM: [1.0, 1.0, 0.5]}, "teacher": {"rate": 0.03}}
    before = {"data": {"choices": [known]}}
    monkeypatch.setattr(script.report, "recorded", lambda name: before)
    monkeypatch.setattr(script.shared, "profile", dict)
    profile = script.Profile.named("smoke", artifacts=tmp_path)
    taught, fitted = [], script.tuned

    def tuned(make, rates, asked, *given, **options):
        taught.append((len(asked.queries), options.get("taught")))
        return fitted(make, rates, asked, *given, **options)

    monkeypatch.setattr(script, "tuned", tuned)
    found = script.measured(ground, ground, profile, seed=1)
    assert [count for count, _ in taught] == [8, 12, 12, 12, 12] * 2
    answers = [given for _, given in taught[1:5]]
    for n, one in enumerate(answers):
        assert all(not torch.equal(one, other) for other in answers[n + 1 :])
    rows = {
        script.taught(student, teacher) for student in script.CURVED for teacher in script.TEACHERS
    }
    assert {script.EARLIER} | rows < set(found["values"]) and all(
        len(one) == 4 for one in found["values"].values()
    )
    for seed in (1, 2, 3):
        script.shared.write(tmp_path / "files", seed, found)
    script.merge(tmp_path / "files", tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    told = {(one["system"], one["against"]) for one in record["data"]["comparisons"]}
    assert told == set(script.compared()) and len(record["goals"]) == len(script.CURVED)
    assert "--seeds 1 2 3 --merge" in record["command"]


def test_what_the_page_says_of_teachers_that_nobody_fine_tuned():
    """book/film_queries.md: by itself, no student is shown to be above that of the free sum."""
    record = report.recorded("free_teacher")
    told = {(one["system"], one["against"]): one for one in record["data"]["comparisons"]}
    page = (Path(__file__).parents[1] / "book" / "film_queries.md").read_text("utf-8")
    part = page.partition("(sec-free-teacher)=")[2].partition("What this part does not say")[0]

    def written(value: float) -> str:
        return report.number(value) if abs(value) >= 1e-4 else f"{value:.5f}"

    def said(one: str, other: str) -> dict:
        """The difference, which has to stand on the page."""
        found = told[one, other]
        number, low, high = (written(found[end]) for end in ("value", "low", "high"))
        assert f"{number} [{low}, {high}]".replace("-", "−") in part.replace("\n", " ")
        return found

    for student in script.CURVED:
        labels, (free, free_sum, tuned, tuned_sum) = (
            f"{student}, labels",
            (script.taught(student, teacher) for teacher in script.TEACHERS),
        )
        assert said(tuned, free_sum)["low"] < 0 < told[tuned, free_sum]["high"]
        assert (said(tuned, free)["low"] > 0) == (student == "three layers")
        assert said(free, labels)["low"] > 0 > said(tuned_sum, tuned)["low"]
        with_words = [f"words + {name}" for name in (free, free_sum, tuned)]
        assert (said(with_words[2], with_words[1])["low"] > 0) == (student == "static")
        said(with_words[2], with_words[0])
        said(with_words[1], with_words[0])
        both = with_words[2], f"words + {labels}"
        assert (said(*both)["low"] > 0) == (student == "static")
        assert said(with_words[2], script.FREE_SUM)["low"] > 0
        assert (said(with_words[2], script.EARLIER)["low"] > 0) == (student == "static")
    assert said(script.FREE_SUM, script.EARLIER)["high"] < 0
    ends = {min(script.RATES["three layers"]), max(script.RATES["three layers"])}
    rates = [
        chosen[script.taught("three layers", teacher)]["rate"]
        for chosen in record["data"]["choices"]
        for teacher in script.TEACHERS
    ]
    assert sum(rate in ends for rate in rates) == 9 and len(rates) == 12
    three, table = (
        tuple(f"words + {script.taught(student, one)}" for one in (script.TUNED, script.UNTRAINED))
        for student in script.CURVED
    )
    assert told[three]["low"] < 0 < told[three]["high"] and told[table]["low"] > 0
    assert not any(goal["met"] for goal in record["goals"])
    free = record["data"]["rows"][script.FREE_SUM]["ndcg@10"]
    assert f"nDCG@10 is {free:.3f} in place of 0.901" in part
    before = report.recorded("frontier")["data"]["msrd"]["rows"][script.FREE_SUM]["ndcg@10"]
    assert f"{before:.3f}" == "0.901"


def test_labels_alone_lie_at_the_top_of_their_rates_too():
    choices = report.recorded("free_teacher")["data"]["choices"]
    at_top = {
        name: sum(one[f"{name}, labels"]["rate"] == max(script.RATES[name]) for one in choices)
        for name in script.CURVED
    }
    assert at_top == {"three layers": 2, "static": 3}
