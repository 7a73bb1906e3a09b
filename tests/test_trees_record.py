"""Trees that read what a teacher says: which queries they learn from, and the record."""

import numpy as np
import pytest
import torch
from chapter_text import span
from datasets import DatasetDict
from test_query_side_record import COLOURS, PLACE, THINGS, WIDTH, pairs

import measure_query_side as query_side
import measure_trees as script
from ecomkd import report
from ecomkd.relevance import lambdamart
from ecomkd.relevance.lexical import LEXICAL

EVERY = [f"{colour} {thing}" for thing in THINGS for colour in COLOURS]
FEATURES = len(LEXICAL) + 2


def test_labelled_queries_are_the_first_that_have_a_relevant_product():
    # No product has the fourth colour's number among the first three.
    some = pairs(EVERY[:8], products=3)
    order = list(dict.fromkeys(some["query_id"]))
    relevant = [query for query in order if not query.startswith("q black")]
    found = script.first_labelled(some, 5)
    assert list(dict.fromkeys(found["query_id"])) == relevant[:5] and len(found) == 15
    later = script.queries_of(found, 2, 4)
    assert list(dict.fromkeys(later["query_id"])) == relevant[2:4] and len(later) == 6


@pytest.fixture
def tiny(monkeypatch):
    """A shop whose encoder is a table of tokens, with queries of each kind."""
    names = {script.OWN: EVERY[:6], script.OTHER: EVERY[6:12], script.BOTH: EVERY[:12]}
    names |= {"validation": EVERY[12:16], "test": EVERY[16:]}
    data = DatasetDict({of: query_side.by_query(pairs(asked)) for of, asked in names.items()})
    draw = np.random.default_rng(0)
    vectors = torch.from_numpy(query_side.unit(draw.normal(size=(6, WIDTH)).astype(np.float32)))
    lists = {of: query_side.of_pairs(asked, PLACE) for of, asked in data.items()}
    of_words = {of: draw.random((len(asked), FEATURES)) for of, asked in data.items()}
    monkeypatch.setattr(script, "films", lambda: (data, lists, of_words, vectors))
    table = draw.normal(size=(30_522, WIDTH)).astype(np.float32)
    monkeypatch.setattr(query_side, "Network", lambda: query_side.Static(table, EVERY))
    monkeypatch.setattr(query_side, "RATES", (0.2,))
    return data


def test_trees_read_the_teacher_on_queries_that_it_never_saw_and_once_on_its_own(tiny, monkeypatch):
    script.without_teacher.cache_clear()
    learnt, grow = [], script.lambdamart
    taught, fit = [], query_side.fit

    def grown(signals, train, held, validation):
        assert validation is tiny["validation"] and signals.shape[1] == held.shape[1]
        learnt.append((frozenset(train["query_id"]), signals))
        return grow(signals, train, held, validation)

    def fitted(model, asked, *rest, **options):
        taught.append(len(asked.queries))
        return fit(model, asked, *rest, **options)

    monkeypatch.setattr(script, "lambdamart", grown)
    monkeypatch.setattr(query_side, "fit", fitted)
    found = script.measured(1)
    own, other = (frozenset(tiny[of]["query_id"]) for of in (script.OWN, script.OTHER))
    assert taught == [6, 12]
    assert [on for on, _ in learnt] == [other, own | other, other, own]
    free, _, told, _ = (signals for _, signals in learnt)
    assert free.shape[1] == FEATURES + 1 and told.shape[1] == FEATURES + 2
    assert np.array_equal(free, told[:, :-1])  # the teacher's score is the last signal
    assert set(found["values"]) > {name for pair in script.COMPARED for name in pair}
    # Words, the encoder as it came, and the teacher.
    weights = {name: len(of["weights"]) for name, of in found["choices"].items() if "weights" in of}
    assert weights == {
        script.FREE_SUM: len(LEXICAL) + 1,
        script.SUM: len(LEXICAL) + 2,
        script.SUM_OF_BOTH: len(LEXICAL) + 2,
    }


# The record


@pytest.fixture(scope="module")
def recorded():
    return report.recorded("trees")


def test_the_page_says_what_trees_make_of_a_teacher(recorded, pytestconfig):
    page = (pytestconfig.rootpath / "book" / "film_queries.md").read_text("utf-8")
    part = page.partition("(sec-trees)=")[2].partition("(sec-frontier)=")[0]
    part = " ".join(part.split())
    found = {(one["system"], one["against"]): one for one in recorded["data"]["comparisons"]}
    rows = recorded["data"]["rows"]
    others = (script.FREE_TREES, script.FREE_TREES_OF_BOTH, script.SUM, script.SUM_OF_BOTH)
    without, fair, summed, both, own = (
        found[script.TREES, other] for other in (*others, script.TREES_ON_OWN)
    )
    assert rows["teacher"]["ndcg@10"] == pytest.approx(
        report.recorded("query_side")["data"]["msrd"]["rows"]["teacher"]["ndcg@10"], abs=5e-4
    )
    assert (
        f"They stand {span(without)} above trees that learnt from the same 400 queries without it, "
        f"which was our goal, and {span(fair)} above trees without it that learnt from all 800."
    ) in part
    assert f"With the teacher of 400 queries, a sum is {span(summed)} below them;" in part
    assert f"(trees minus sum: {span(both)})." in part
    assert f"the same trees lose {span(own)}.**" in part
    assert all(one["low"] > 0 for one in (without, fair, own))
    assert all(one["low"] < 0 < one["high"] for one in (summed, both))
    assert [goal["met"] for goal in recorded["goals"]] == [True, False]
    level = rows[script.TREES_ON_OWN]["ndcg@10"] - rows["teacher"]["ndcg@10"]
    assert abs(level) < 0.002  # "level with the teacher alone, in the mean"
    taken = [
        of_seed[teacher]["rate"]
        for of_seed in recorded["data"]["choices"]
        for teacher in ("teacher", "teacher of all labels")
    ]
    ends = [min(query_side.RATES), max(query_side.RATES)]
    assert len(taken) == 6 and sum(rate in ends for rate in taken) == 3
    assert "Of the six learning rates that validation chose for teachers, three lie at an" in part


def test_the_trees_of_all_labels_lie_at_an_end_of_every_grid():
    for of_seed in report.recorded("trees")["data"]["choices"]:
        own = of_seed[script.FREE_TREES_OF_BOTH]
        assert own["num_leaves"] == max(lambdamart.LEAVES)
        assert own["min_child_samples"] == min(lambdamart.LEAST_PAIRS)
        assert own["learning_rate"] == max(lambdamart.LEARNING_RATES)
