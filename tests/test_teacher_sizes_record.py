"""Teachers of two sizes: rates that are searched, who learns from whom, and the record."""

import json

import chapter_text
import numpy as np
import pytest
import torch
from test_free_teacher_record import EVERY, ground  # noqa: F401, a fixture
from test_query_side_record import PLACE

import measure_teacher_sizes as script
from book import teacher_sizes
from ecomkd import report
from measure_query_side import Static, of_pairs


class Looked:
    """In the place of `tuned`: what validation says of each rate."""

    def __init__(self, quality):
        self.quality, self.tried = quality, []

    def __call__(self, make, rates, *given, **options):
        (rate,) = rates
        self.tried.append(rate)
        found = self.quality(rate)
        return f"of {rate}", {"rate": rate, "looks": [found], "tried": {str(rate): found}}


@pytest.mark.parametrize(
    ("best", "tried"),
    [(8, [1, 2, 4, 8, 16]), (1, [1, 2, 0.5]), (0.25, [1, 2, 0.5, 0.25, 0.125])],
)
def test_a_rate_is_searched_until_those_beside_it_are_no_better(monkeypatch, best, tried):
    looked = Looked(lambda rate: -abs(np.log2(rate / best)))
    monkeypatch.setattr(script, "tuned", looked)
    model, chosen = script.searched(script.Search(1, 2), None)
    assert looked.tried == tried and list(chosen["tried"]) == list(map(str, tried))
    assert (model, chosen["rate"]) == (f"of {best}", best)


def test_a_search_ends_where_better_rates_never_do(monkeypatch):
    looked = Looked(lambda rate: rate)
    monkeypatch.setattr(script, "tuned", looked)
    _, chosen = script.searched(script.Search(1, 2), None)
    assert chosen["rate"] == 2**5 == max(looked.tried)
    looked = Looked(lambda rate: rate)
    monkeypatch.setattr(script, "tuned", looked)
    script.searched(script.Search(1, furthest=0), None)
    assert looked.tried == [1]


def test_each_seed_has_labelled_queries_of_its_own(ground, monkeypatch):  # noqa: F811
    monkeypatch.setattr(script, "LABELLED", 3)
    train = of_pairs(ground.parts[0]["train"], PLACE)
    first, second = (script.labelled(train, seed).queries for seed in (1, 2))
    assert [*first, *second] == train.queries[:6]
    for seed in (0, 3):
        with pytest.raises(SystemExit, match=rf"seed {seed}: give one from 1 to 2\."):
            script.labelled(train, seed)


def test_each_student_learns_from_labels_and_from_each_teacher(
    ground,  # noqa: F811
    monkeypatch,
    tmp_path,
):
    class Small(Static):
        def __init__(self, layers=None, name="minilm"):
            super().__init__(ground.table, EVERY)

    titles = np.random.default_rng(3).normal(size=(len(EVERY), ground.table.shape[1]))
    monkeypatch.setattr(script.features, "last_layer", lambda *_: titles.astype(np.float32))
    monkeypatch.setattr(script, "Encoder", Small)
    monkeypatch.setattr(script, "Narrow", lambda seed: Small())
    monkeypatch.setattr(script, "LABELLED", 4)
    monkeypatch.setattr(script, "SEARCHES", dict.fromkeys(script.SEARCHES, script.Search(0.03, 3)))
    monkeypatch.setattr(script, "place", lambda teacher: ground)
    monkeypatch.setattr(script.shared, "profile", dict)
    learnt, fitted = [], script.searched

    def searched(search, make, asked, *given, **options):
        learnt.append((len(asked.queries), options.get("taught")))
        return fitted(search, make, asked, *given, **options)

    monkeypatch.setattr(script, "searched", searched)
    found = script.measured(2)
    alone, with_log = 4, 4 + len(ground.log.queries)
    assert [count for count, _ in learnt] == [
        *[alone] * 4, *[with_log] * 2, alone, *[with_log] * 4, alone, *[with_log] * 4
    ]  # fmt: skip
    free, small = (learnt[place][1] for place in (4, 7))
    assert torch.equal(free, learnt[5][1]) and not torch.equal(free, small)
    asked = {name for pair in (*script.compared(), *script.kept()) for name in pair}
    assert asked < set(found["values"])
    assert all(len(one) == 4 for one in found["values"].values())
    for seed in (1, 2, 3):
        script.shared.write(tmp_path / "files", seed, found)
    script.merge(tmp_path / "files", tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    told = {(one["system"], one["against"]) for one in record["data"]["comparisons"]}
    assert told == set(script.compared())
    assert len(record["goals"]) == 4 * len(script.TEACHERS)


# The record


@pytest.fixture(scope="module")
def record():
    return report.recorded("teacher_sizes")


def test_no_rate_that_was_searched_stands_at_an_end(record):
    searched = [
        one
        for of_seed in record["data"]["choices"]
        for name, one in of_seed.items()
        if name not in ("weights", script.LARGE)
    ]
    assert len(searched) == 3 * (1 + 4 + 2 + 2 * 4)
    for one in searched:
        rates = sorted(map(float, one["tried"]))
        assert rates[0] < one["rate"] < rates[-1]


def test_the_tables_have_each_student_and_teacher(record):
    alone, summed, apart, rates, _ = teacher_sizes.page_part(record).split("\n\n")
    size = 2 + 1 + len(teacher_sizes.STUDENTS)
    assert len(alone.splitlines()) == len(summed.splitlines()) == size
    assert tuple(script.TEACHERS) == teacher_sizes.STUDENTS
    told = script.shared.by_pair(record["data"]["comparisons"])
    small, large = (script.taught("static", one) for one in (script.SMALL, script.LARGE))
    row = apart.splitlines()[-1]
    assert chapter_text.span(told[small, "static, labels"]) in row
    assert chapter_text.span(told[large, small]) in row
    assert "| teacher of base size | 0.0001 | 0.0001 | 0.0001 | 0.0001 |" in rates


def test_the_page_says_that_the_larger_teacher_is_not_shown_to_teach_better(record, pytestconfig):
    page = (pytestconfig.rootpath / "book" / "film_queries.md").read_text("utf-8")
    part = " ".join(page.partition("(sec-teacher-sizes)=")[2].split())
    told = script.shared.by_pair(record["data"]["comparisons"])

    def said(one: str, other: str) -> dict:
        found = told[one, other]
        assert chapter_text.span(found) in part
        return found

    def below(one: str, other: str) -> dict:
        """The same of a difference that the page turns round."""
        found = told[one, other]
        ends = {"value": -found["value"], "low": -found["high"], "high": -found["low"]}
        assert chapter_text.span(ends) in part
        return ends

    small, large, untrained = script.SMALL, script.LARGE, script.UNTRAINED
    assert said(large, small)["low"] > 0 > said(small, untrained)["low"]
    shares = {one["system"]: one["value"] for one in record["data"]["kept"]}
    for name in script.TEACHERS:
        of_small, of_large = (script.taught(name, one) for one in (small, large))
        assert said(of_small, f"{name}, labels")["low"] > 0
        size = said(of_large, of_small)
        assert size["low"] < 0 < size["high"]
        with_words = told[f"words + {of_large}", f"words + {of_small}"]
        assert (with_words["low"] > 0) == (name == "two layers")
        assert (shares[of_small] >= 0.97) == (name != script.NARROW)
        assert f"{100 * shares[of_small]:.1f} %" in part
        assert max(told[one, script.FREE[0]]["high"] for one in (of_small, of_large)) < 0
    for name in ("three layers", "static"):
        free, taught = script.taught(name, untrained), script.taught(name, small)
        one = said(free, taught)
        assert one["low"] < 0 < one["high"]
        words = below(f"words + {free}", f"words + {taught}")
        assert (words["low"] > 0) == (name == "three layers")
        assert told[free, script.FREE[0]]["high"] < 0
    for teacher in (small, large):
        below(script.taught("three layers", teacher), script.FREE[0])
        two = f"words + {script.taught('two layers', teacher)}"
        assert said(two, script.FREE[0])["low"] > 0 and told[two, script.FREE[1]]["low"] > 0
    three = [f"words + {script.taught('three layers', one)}" for one in (large, small)]
    assert said(three[0], script.FREE[0])["low"] > 0 > told[three[1], script.FREE[0]]["low"]
    assert told[three[0], script.FREE[1]]["low"] > 0
    two = [f"words + {script.taught('two layers', one)}" for one in (large, small)]
    assert said(*two)["low"] > 0
    met = [goal["met"] for goal in record["goals"]]
    assert met == [True, False] * 4 + [True] * 4 + [False] * 2 + [True] * 2
    earlier = script.shared.by_pair(report.recorded("query_side")["data"]["msrd"]["comparisons"])
    gain = earlier["three layers, kd_unlabelled", "three layers, labels"]
    assert gain["low"] < 0 and chapter_text.span(gain) in part


def test_the_questions_say_the_same(record, pytestconfig):
    """Which pretrained model? The page says that the larger one need not teach better."""
    page = " ".join((pytestconfig.rootpath / "book" / "faq.md").read_text("utf-8").split())
    told = script.shared.by_pair(record["data"]["comparisons"])
    assert told[script.LARGE, script.SMALL]["low"] > 0
    for name in script.TEACHERS:
        larger, smaller = (script.taught(name, one) for one in (script.LARGE, script.SMALL))
        assert told[larger, smaller]["low"] < 0
    said = "ranks better than one of six layers, and its students, by themselves, are not shown to."
    assert said in page.partition("(#sec-teacher-sizes)")[2]
