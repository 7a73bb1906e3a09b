"""Tables and verdicts from results small enough to check by hand."""

import pandas as pd
import pytest
from tiny_results import result, without_ranking

from ecomkd import metrics
from ecomkd.relevance import tables
from ecomkd.relevance.verdict import MARGIN, comparisons, verdict, word

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
    "sum": (
        {"words and bi-encoder, added up": [0.95, 0.8]},
        "Stay with the untrained sum of words and bi-encoder: the teacher's nDCG@10 is not clearly "
        "above it",
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
        "on every test query, or in every seed, so the interval has no width",
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


T_SUM, P_SUM, D_SUM = tables.TEACHER_SUM, tables.PLAIN_SUM, tables.DISTILLED_SUM


@pytest.mark.parametrize(
    ("ndcg", "who"),
    [
        ({}, None),
        ({T_SUM: [0.97, 0.83]}, "the teacher"),
        ({T_SUM: [0.97, 0.83], P_SUM: [0.97, 0.82]}, "the student of labels alone"),
        ({D_SUM: [0.98, 0.83], P_SUM: [0.97, 0.82]}, "the distilled student"),
    ],
)
def test_who_stays_hears_what_a_sum_with_a_model_would_bring(ndcg, who):
    """The cheapest that beats what is free; the distilled where its sum beats the undistilled's."""
    below = {"BM25": [0.95, 0.8], T_SUM: [0.9, 0.81], P_SUM: [0.9, 0.8], D_SUM: [0.9, 0.8]}
    said = verdict([result(ndcg=below | ndcg, times=12)])
    assert said.startswith("Stay with BM25: the teacher's nDCG@10 is not clearly above it")
    assert ("Added to words" in said) == (who is not None)
    if who is not None:
        assert f"Added to words and bi-encoder, {who} is worth it: the sum stands +0.0" in said


GUESSED = {name: [1, 0, 0, 0] for name in ("random", *tables.UNTRAINED)}


def test_verdict_without_ranking_goes_by_macro_f1():
    ours = without_ranking(GUESSED, times=12)
    assert verdict([ours]).startswith("Distil: the student keeps 100% of the teacher's macro-F1")
    worse = without_ranking(GUESSED, times=12)
    worse["systems"]["student, distilled"]["classification"]["macro_f1"] = 0.4
    assert verdict([worse]).startswith(
        "Keep the teacher: it is above BM25, and the student keeps only 80% of"
    )
    plain = without_ranking(GUESSED | {PLAIN: [0, 1, 0, 1]}, times=12)
    assert verdict([plain]).startswith("Train the small student on labels alone: it keeps 100%")
    ahead = without_ranking(GUESSED, times=12)
    best = ahead["systems"]["bi-encoder, untrained"]
    best["classification"] = best["classification"] | {"macro_f1": 0.6}
    assert "from the untrained bi-encoder" in verdict([ahead])
    few = without_ranking(GUESSED, times=9)
    assert verdict([few]).startswith("No verdict: there are 18 test queries")


def test_one_class_everywhere_is_no_reason_to_train():
    """Every system is right always, a guess as well."""
    assert verdict([without_ranking({PLAIN: [0, 1, 0, 1]}, times=12)]).startswith(
        "Stay with BM25: the teacher's macro-F1 is not clearly above that of "
        "guessing (+0.000 macro-F1"
    )


def test_a_seed_without_an_order_leaves_all_to_classes():
    both = [result(times=12), without_ranking(times=12)]
    assert "ndcg@10" not in tables.table(both)
    assert "macro-F1" in verdict(both)


# Over seeds and queries


def seeds(data=("same", "same", "same"), **ndcg) -> list[dict]:
    """Three seeds, whose teachers are of different worth; 24 queries."""
    worth = [[0.9, 0.9], [0.8, 0.8], [0.72, 0.7]]
    return [
        result(900 + seed, data[seed], {"teacher": worth[seed], **ndcg}, times=12)
        for seed in range(3)
    ]


def test_three_seeds_that_share_their_queries_are_drawn_with_them():
    shared, apart = seeds(), seeds(data=("a", "b", "c"))
    columns = ["ndcg@10 low", "ndcg@10 high"]
    of_both = tables.table(shared).loc["teacher", columns]
    # One seed thrice has a chance of 1/27: the interval reaches from the worst to the best.
    assert list(of_both) == pytest.approx([0.71, 0.9], abs=0.005)
    # Of other queries in each, what is told is how much the seeds differ.
    of_seeds = tables.table(apart).loc["teacher", columns]
    plain = metrics.seed_interval([0.9, 0.8, 0.71])
    assert list(of_seeds) == pytest.approx([plain["low"], plain["high"]])
    assert tables.table(shared)["ndcg@10"]["teacher"] == pytest.approx(
        tables.table(apart)["ndcg@10"]["teacher"]
    )


def test_two_seeds_or_a_query_less_leave_the_interval_over_queries():
    for few in (seeds()[:2], seeds()):
        if len(few) == 3:
            for entry in few[2]["systems"].values():
                entry["per_query"] = {name: v[1:] for name, v in entry["per_query"].items()}
        values = tables.by_seed(few, ["teacher", "BM25"])
        means = values.groupby(level=1).mean()
        assert tables.difference(values, "teacher", "BM25") == metrics.paired_bootstrap(
            means["teacher"], means["BM25"]
        )


def test_a_difference_of_three_seeds_is_that_of_the_table_of_cells():
    values = tables.by_seed(seeds(), ["teacher", "BM25"])
    cells = values["teacher"].unstack() - values["BM25"].unstack()
    found = tables.difference(values, "teacher", "BM25")
    whole = metrics.two_way_bootstrap(cells.to_numpy())
    assert list(found.values()) == pytest.approx(list(whole.values()), abs=0.005)


def test_macro_f1_of_three_seeds_is_drawn_with_them():
    """The undistilled student is wrong in one seed alone."""
    found = [result(900 + seed, times=12) for seed in range(3)]
    right = [0, 1, 0, 1] * 12
    for one in found[:2]:
        one["systems"][PLAIN]["predicted"] = right
    both = tables.f1_difference(found, DISTILLED, PLAIN)
    assert both["low"] == 0 and both["high"] > 0.5
    gains = (0.0, 0.1, 0.5)
    for seed, one in enumerate(found):
        one["data"] = str(seed)
        one["systems"][DISTILLED]["classification"]["macro_f1"] = 0.5 + gains[seed]
    alone, wanted = tables.f1_difference(found, DISTILLED, PLAIN), metrics.seed_interval(gains)
    assert list(alone.values()) == pytest.approx(list(wanted.values()))


# The three words


def words(results) -> dict:
    rows = comparisons(results)
    names = zip(rows["system"], rows["against"], rows["measure"], strict=True)
    return dict(zip(names, rows["word"], strict=True))


BEST = "the untrained bi-encoder"


def test_the_comparisons_that_decide_in_three_words():
    ndcg = {"teacher": [0.9, 0.85], DISTILLED: [0.6, 0.55], PLAIN: [0.8, 0.5]}
    found = [result(ndcg=ndcg, predicted={PLAIN: [0, 0, 0, 1]}, times=12)]
    assert words(found) == {
        ("teacher", BEST, "nDCG@10"): "beats",
        (DISTILLED, BEST, "nDCG@10"): "does not beat",
        (PLAIN, BEST, "nDCG@10"): "cannot be told",
        (DISTILLED, PLAIN, "nDCG@10"): "does not beat",
        (tables.TEACHER_SUM, BEST, "nDCG@10"): "beats",
        (tables.DISTILLED_SUM, BEST, "nDCG@10"): "beats",
        (tables.PLAIN_SUM, BEST, "nDCG@10"): "beats",
        (tables.DISTILLED_SUM, tables.PLAIN_SUM, "nDCG@10"): "beats",
        (DISTILLED, PLAIN, "macro-F1"): "beats",
    }
    rows = comparisons(found)
    assert list(rows.columns) == [
        "system", "against", "measure", "difference", "low", "high", "word",
    ]  # fmt: skip
    assert rows["difference"][0] == pytest.approx(0.225)


@pytest.mark.parametrize(
    ("by_turns", "word"),
    [
        ((0.001, 0.004), "beats"),  # a small gain, and a sure one
        ((-0.004, 0.005), "does not beat"),  # from -0.001 to 0.002
        ((-0.02, 0.025), "cannot be told"),  # from -0.005 to 0.01
        ((-0.03, -0.01), "does not beat"),
        ((0.0, 0.0), "does not beat"),
    ],
)
def test_not_to_beat_takes_an_interval_below_the_margin(by_turns, word):
    """Of 40 queries, each second one has the one difference, and the others the other."""
    plain = [0.7, 0.6]
    ours = [value + more for value, more in zip(plain, by_turns, strict=True)]
    found = words([result(ndcg={PLAIN: plain, DISTILLED: ours}, times=20)])
    assert MARGIN == 0.005
    assert found[DISTILLED, PLAIN, "nDCG@10"] == word


def test_the_word_of_an_interval_from_elsewhere_follows_the_same_rule():
    ends = [(0.001, 0.2), (-0.2, 0.0049), (-0.2, MARGIN), (0.0, 0.1)]
    wanted = ["beats", "does not beat", "cannot be told", "cannot be told"]
    assert [word(*span) for span in ends] == wanted


def test_where_there_is_no_verdict_nothing_can_be_told():
    assert set(words([result(times=9)]).values()) == {"cannot be told"}
    single = result()
    for entry in single["systems"].values():
        entry["per_query"] = {name: values[:1] for name, values in entry["per_query"].items()}
    assert set(words([single]).values()) == {"cannot be told"}
    same = words([result(ndcg={"teacher": [0.8, 0.7]}, times=12)])
    assert same["teacher", BEST, "nDCG@10"] == "cannot be told"


def test_without_an_order_the_comparisons_go_by_classes():
    found = words([without_ranking({"random": [1, 0, 0, 0]}, times=12)])
    assert {measure for _, _, measure in found} == {"macro-F1"}
    assert list(found) == [
        ("teacher", "BM25", "macro-F1"),
        (DISTILLED, "BM25", "macro-F1"),
        (PLAIN, "BM25", "macro-F1"),
        (DISTILLED, PLAIN, "macro-F1"),
    ]
