"""Tables and verdicts from results small enough to check by hand."""

import pandas as pd
import pytest
from tiny_results import result, without_ranking

from ecomkd.relevance import tables
from ecomkd.relevance.verdict import verdict

# The table


def test_table_has_a_row_for_each_system_and_means_over_seeds():
    other = {"teacher": [0.7, 0.9]}
    rows = tables.table([result(900, "a"), result(901, "b", other)])
    assert list(rows.index) == list(tables.SYSTEMS)
    assert rows["role"].to_dict() == tables.SYSTEMS
    assert rows.loc["teacher", "ndcg@10"] == pytest.approx((0.9 + 0.8) / 2)
    assert rows.loc["teacher", "lift@10"] == pytest.approx(0.35)
    assert rows.loc["BM25", "accuracy"] == pytest.approx((0.25 + 0.5) / 2)
    low, high = rows.loc["teacher", ["ndcg@10 low", "ndcg@10 high"]]
    assert 0.7 <= low < 0.85 < high <= 0.9


def test_table_without_ranking_has_no_ranking_columns():
    rows = tables.table([without_ranking()])
    assert list(rows.columns) == ["role", "accuracy", "macro_f1"]


def test_intervals_count_a_query_that_seeds_share_once():
    """Noise of the seeds cancels within a query; two shops with the same ids are four queries."""

    def row(*data: str) -> pd.Series:
        first = result(900, data[0], {"teacher": [0.9, 0.7]})
        second = result(901, data[1], {"teacher": [0.7, 0.9]})
        return tables.table([first, second]).loc["teacher"]

    shared, apart = row("same", "same"), row("one", "other")
    assert shared["ndcg@10"] == apart["ndcg@10"] == pytest.approx(0.8)
    assert [shared["ndcg@10 low"], shared["ndcg@10 high"]] == pytest.approx([0.8, 0.8])
    assert apart["ndcg@10 high"] - apart["ndcg@10 low"] > 0.1


# By kind


def test_by_kind_is_the_mean_lift_of_each_kind():
    kinds = tables.by_kind([result(), result(901, "other", {"teacher": [0.7, 0.9]})])
    assert list(kinds.index) == ["plain", "typo"]
    assert kinds.loc["plain", "teacher"] == pytest.approx((0.4 + 0.2) / 2)
    assert kinds.loc["typo", "teacher"] == pytest.approx(0.4)
    assert tables.by_kind([result(kinds=None)]) is None
    assert tables.by_kind([without_ranking()]) is None


# The verdict, on 24 test queries

PLAIN, DISTILLED = "student, labels only", "student, distilled"
VERDICTS = {
    "BM25": (
        {"BM25": [0.95, 0.8]},
        "Stay with BM25: the teacher's nDCG@10 is not clearly above it (+0.025 nDCG@10 (95 % ",
    ),
    "bi-encoder": (
        {"bi-encoder, untrained": [0.95, 0.8]},
        "Stay with the untrained bi-encoder: the teacher's nDCG@10 is not clearly above it",
    ),
    "distil": (
        {DISTILLED: [0.88, 0.85]},
        "Distil: the student keeps 91% of the teacher's lift over a random order and stands +0.215 "
        "nDCG@10 (95 % interval +0.2",
    ),
    "teacher": (
        {DISTILLED: [0.8, 0.76]},
        "Keep the teacher: it is above the untrained bi-encoder, and the student keeps only 70% of "
        "the teacher's lift over a random order; more unlabelled pairs or more layers may change "
        "that.",
    ),
    "teacher, for the student is not above what is free": (
        {DISTILLED: [0.6, 0.76]},
        "Keep the teacher: it is above the untrained bi-encoder, and the student is not clearly so",
    ),
    "labels alone as good": (
        {PLAIN: [0.9, 0.83]},
        "Train the small student on labels alone: it keeps 91% of the teacher's lift over a random "
        "order and stands +0.215 nDCG@10",
    ),
    "labels alone better than the teacher, which is no better than what is free": (
        {PLAIN: [0.95, 0.9], "teacher": [0.7, 0.66]},
        "Train the small student on labels alone: it keeps 236% of",
    ),
    "distillation adds to labels alone": (
        {PLAIN: [0.86, 0.84], DISTILLED: [0.88, 0.85]},
        "Distil: the student keeps 91%",
    ),
    "teacher no better than random": (
        {"teacher": [0.56, 0.44], DISTILLED: [0.4, 0.5], PLAIN: [0.5, 0.6]},
        "Stay with the untrained bi-encoder: the teacher's nDCG@10 is not clearly above that of a "
        "random order (+0.000 nDCG@10 (95 % interval ",
    ),
    "teacher and student below random": (
        {"teacher": [0.48, 0.46], DISTILLED: [0.4, 0.35], PLAIN: [0.3, 0.35]},
        "Stay with the untrained bi-encoder: the teacher's nDCG@10 is not clearly above that of a "
        "random order (-0.030",
    ),
    "teacher below random, labels alone above all": (
        {"teacher": [0.3, 0.35], DISTILLED: [0.4, 0.45]},
        "Train the small student on labels alone: it lies +0.425 nDCG@10 from the teacher and "
        "stands +0.100 nDCG@10",
    ),
    "the same difference on every query": (
        {"teacher": [0.8, 0.7]},
        "No verdict: from the untrained bi-encoder the teacher differs by the same +0.100 nDCG@10 "
        "on every test query, so the interval has no width",
    ),
}


@pytest.mark.parametrize(("ndcg", "begins"), VERDICTS.values(), ids=VERDICTS)
def test_verdict(ndcg, begins):
    assert verdict([result(ndcg=ndcg, times=12)]).startswith(begins)


@pytest.mark.parametrize("times", [1, 9])
def test_few_test_queries_give_no_verdict(times):
    words = verdict([result(times=times)])
    assert words.startswith(f"No verdict: there are {2 * times} test queries to go by")
    assert "%" not in words
    assert verdict([result(times=10)]).startswith("Distil")


def test_seeds_that_share_their_queries_count_them_once():
    assert verdict([result(900, times=9), result(901, times=9)]).startswith("No verdict: there are")
    assert verdict([result(900, "a", times=9), result(901, "b", times=9)]).startswith("Distil")


def test_no_share_is_told_of_a_small_lift():
    """The teacher is 0.02 above a random order, the student 0.01 below the teacher."""
    near = {"BM25": [0.88, 0.87], "bi-encoder, untrained": [0.87, 0.88], PLAIN: [0.87, 0.88]}
    near |= {"teacher": [0.91, 0.89], DISTILLED: [0.905, 0.893]}
    words = verdict([result(ndcg=near, times=12, chance=0.88)])
    assert words.startswith(
        "Distil: the student lies -0.001 nDCG@10 from the teacher and stands +0.024 nDCG@10"
    )


GUESSED = {"random": [1, 0, 0, 0]}


def test_verdict_without_ranking_goes_by_macro_f1():
    ours = without_ranking(GUESSED, times=12)
    assert verdict([ours]).startswith("Distil: the student keeps 100% of the teacher's macro-F1")
    worse = without_ranking(GUESSED, times=12)
    worse["systems"]["student, distilled"]["classification"]["macro_f1"] = 0.4
    assert verdict([worse]).startswith(
        "Keep the teacher: it is above what needs no training, and the student keeps only 80% of"
    )
    plain = without_ranking(GUESSED | {PLAIN: [0, 1, 0, 1]}, times=12)
    assert verdict([plain]).startswith("Train the small student on labels alone: it keeps 100%")
    few = without_ranking(GUESSED, times=9)
    assert verdict([few]).startswith("No verdict: there are 18 test queries")


def test_one_class_everywhere_is_no_reason_to_train():
    """Every system is right always, a guess as well."""
    assert verdict([without_ranking({PLAIN: [0, 1, 0, 1]}, times=12)]).startswith(
        "Stay with what needs no training: the teacher's macro-F1 is not clearly above that of "
        "guessing (+0.000 macro-F1"
    )


def test_a_seed_without_an_order_leaves_all_to_classes():
    both = [result(times=12), without_ranking(times=12)]
    assert "ndcg@10" not in tables.table(both)
    assert "macro-F1" in verdict(both)
