"""Ranking and classification metrics against trec_eval, scikit-learn, brute force and by hand."""

import itertools
import math
import tracemalloc

import ir_measures
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, nDCG
from scipy import stats
from sklearn.metrics import f1_score, ndcg_score

from ecomkd import intervals, metrics

GAINS = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}
GRADE_GAINS = {grade: (2**grade - 1) / 7 for grade in range(4)}
FIVE = ["ndcg@10", "ndcg", "mrr", "random_ndcg@10", "lift@10"]


def frame(queries: dict) -> pd.DataFrame:
    """From {query: [(label, score), ...]}."""
    return pd.DataFrame(
        [
            (query, f"p{i}", label, float(score))
            for query, pairs in queries.items()
            for i, (label, score) in enumerate(pairs)
        ],
        columns=["query_id", "product_id", "esci_label", "score"],
    )


def random_frame(seed: int, queries: int = 40, ties: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return frame(
        {
            f"q{q:02}": [
                (rng.choice(list("ESCI")), rng.integers(4) if ties else rng.normal())
                for _ in range(rng.integers(1, 30))
            ]
            for q in range(queries)
        }
    )


pairs = st.lists(
    st.tuples(st.sampled_from("ESCI"), st.sampled_from([-1.5, 0.0, 0.25, 3.0])),
    min_size=1,
    max_size=14,
)
frames = st.dictionaries(st.text("abc", min_size=1, max_size=3), pairs, min_size=1, max_size=5).map(
    frame
)
relaxed = settings(deadline=None, max_examples=60)


# ranking


@pytest.mark.parametrize("ties", [False, True])
def test_mean_ndcg_is_that_of_a_ranking(ties):
    """Queries without a positive gain, lists beyond rank ten and ties among them."""
    given = random_frame(5, ties=ties).sample(frac=1, random_state=0)
    gains = given["esci_label"].map(GAINS)
    found = metrics.mean_ndcg(given["query_id"], given["score"], gains)
    whole = metrics.ranking(given, GAINS)
    assert whole["n_without_positives"] < 40
    assert found == pytest.approx(whole["ndcg@10"], abs=1e-12)
    constant = metrics.mean_ndcg(given["query_id"], np.zeros(len(given)), gains)
    assert constant == pytest.approx(whole["random_ndcg@10"], abs=1e-12)


def test_mean_ndcg_of_nothing_relevant_is_nan_and_lengths_have_to_agree():
    assert math.isnan(metrics.mean_ndcg(["a", "a"], [1.0, 2.0], [0.0, 0.0]))
    with pytest.raises(ValueError, match="mean_ndcg: 2 query ids, 1 scores and 2 gains"):
        metrics.mean_ndcg(["a", "a"], [1.0], [0.0, 1.0])


def test_ndcg_of_gains_is_ndcg_of_a_ranking_without_ties():
    data = random_frame(3)
    ours = metrics.ranking(data, GAINS)["per_query"]
    for query, rows in data.groupby("query_id"):
        gains = rows.sort_values("score", ascending=False)["esci_label"].map(GAINS)
        found = [float(metrics.ndcg_of_gains(gains, depth=depth)) for depth in (10, None)]
        if query in ours.index:
            assert found == pytest.approx(ours.loc[query, ["ndcg@10", "ndcg"]].tolist(), abs=1e-12)
        else:
            assert np.isnan(found).all()


def test_ndcg_of_gains_takes_many_lists_and_an_ideal_of_another_length():
    gains = np.array([[[0, 1, 0.5], [0, 0, 0]], [[1, 0, 0], [0.5, 0.25, 1]]])
    ideal = np.array([0.5, 0, 1, 1, 0.25])
    found = metrics.ndcg_of_gains(gains, ideal, depth=2)
    third = 1 / math.log2(3)
    best = 1 + third
    assert found == pytest.approx(np.array([[third, 0], [1, 0.5 + 0.25 * third]]) / best, rel=1e-15)
    # The list is longer than what there was to find: of three places one could be filled.
    assert metrics.ndcg_of_gains([0, 0, 1], [1], depth=3) == pytest.approx(0.5)


def test_by_hand():
    result = metrics.ranking(frame({"q": [("S", 3), ("E", 2), ("I", 1)]}), GAINS)
    third = 1 / math.log2(3)
    ideal = 1 + 0.1 * third
    discounts = 1 + third + 0.5
    assert result["ndcg"] == pytest.approx((0.1 + third) / ideal, rel=1e-15)
    assert result["ndcg@10"] == result["ndcg"]
    assert result["mrr"] == 0.5
    assert result["random_ndcg@10"] == pytest.approx(1.1 / 3 * discounts / ideal, rel=1e-15)
    assert result["lift@10"] == result["ndcg@10"] - result["random_ndcg@10"]
    assert result["n_without_positives"] == 0
    assert list(result["per_query"]) == FIVE
    assert all(type(result[name]) is float for name in FIVE)


@pytest.mark.parametrize("seed", range(5))
def test_equals_trec_eval(seed):
    data = random_frame(seed)
    qrels = pd.DataFrame(
        {
            "query_id": data["query_id"],
            "doc_id": data["product_id"],
            "relevance": (data["esci_label"].map(GAINS) * 100).round().astype(int),
        }
    )
    run = data.rename(columns={"product_id": "doc_id"})[["query_id", "doc_id", "score"]]
    ours = metrics.ranking(data, GAINS)["per_query"]
    names = {nDCG @ 10: "ndcg@10", nDCG: "ndcg", RR(rel=50): "mrr"}
    compared = 0
    for value in ir_measures.iter_calc(list(names), qrels, run):
        if value.query_id in ours.index:
            mine = ours.loc[value.query_id, names[value.measure]]
            assert mine == pytest.approx(value.value, abs=1e-9)
            compared += 1
    assert compared == 3 * len(ours) > 60


@pytest.mark.parametrize("seed", range(3))
def test_ties_as_scikit_learn_treats_them(seed):
    data = random_frame(seed, ties=True)
    ours = metrics.ranking(data, GAINS)["per_query"]
    for query, rows in data.groupby("query_id"):
        if query in ours.index and len(rows) > 1:
            gain, score = [rows["esci_label"].map(GAINS)], [rows["score"]]
            assert ours.loc[query, "ndcg"] == pytest.approx(ndcg_score(gain, score), abs=1e-12)
            assert ours.loc[query, "ndcg@10"] == pytest.approx(
                ndcg_score(gain, score, k=10), abs=1e-12
            )


def orders(labels, scores):
    """Every order that the scores allow, each as likely as the next."""
    for order in itertools.permutations(range(len(labels))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            yield [labels[i] for i in order]


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        ("EISCI", [0, 0, 0, 0, 0]),
        ("IEEIS", [2, 1, 1, 1, 0]),
        ("IIIEE", [5, 3, 3, 3, 3]),
        ("EIIII", [1, 1, 1, 0, 2]),
        ("SCICI", [1, 1, 0, 0, 0]),
    ],
)
def test_ties_are_the_mean_over_all_orders(labels, scores):
    result = metrics.ranking(frame({"q": list(zip(labels, scores, strict=True))}), GAINS)
    ndcg, rr = [], []
    best = sorted((GAINS[x] for x in labels), reverse=True)
    ideal = sum(g / math.log2(i + 2) for i, g in enumerate(best))
    for order in orders(labels, scores):
        ndcg.append(sum(GAINS[x] / math.log2(i + 2) for i, x in enumerate(order)) / ideal)
        rr.append(1 / (order.index("E") + 1) if "E" in order else 0)
    assert result["ndcg"] == pytest.approx(np.mean(ndcg), rel=1e-12)
    assert result["mrr"] == pytest.approx(np.mean(rr), rel=1e-12)


def test_random_stops_at_rank_ten():
    """Mean gain times the sum of the first ten discounts, over the ideal."""
    labels = "E" * 3 + "S" * 4 + "I" * 18
    result = metrics.ranking(frame({"q": [(x, -i) for i, x in enumerate(labels)]}), GAINS)
    discounts = [1 / math.log2(rank + 1) for rank in range(1, 11)]
    ideal = sum(GAINS[x] * d for x, d in zip(labels, discounts, strict=False))
    expected = (3 + 0.4) / 25 * sum(discounts) / ideal
    assert result["random_ndcg@10"] == pytest.approx(expected, rel=1e-14)
    assert result["ndcg@10"] == 1.0


@given(frames, st.floats(-5, 5))
@relaxed
def test_a_constant_scorer_gets_exactly_the_random_score(data, constant):
    result = metrics.ranking(data.assign(score=constant), GAINS)["per_query"]
    assert (result["ndcg@10"] == result["random_ndcg@10"]).all()
    assert (result["lift@10"] == 0).all()


@given(frames)
@relaxed
def test_bounded(data):
    result = metrics.ranking(data, GAINS)
    table = result["per_query"]
    assert table[["ndcg", "ndcg@10", "mrr", "random_ndcg@10"]].stack().between(0, 1).all()
    assert result["n_without_positives"] + len(table) == data["query_id"].nunique()


@given(frames)
@relaxed
def test_a_perfect_order_gets_one_and_no_order_more(data):
    perfect = metrics.ranking(data.assign(score=data["esci_label"].map(GAINS)), GAINS)["per_query"]
    assert np.allclose(perfect["ndcg"], 1, atol=1e-12)
    assert np.allclose(perfect["ndcg@10"], 1, atol=1e-12)


@given(frames, st.randoms(use_true_random=False))
@relaxed
def test_row_order_leaves_no_trace(data, random):
    order = list(range(len(data)))
    random.shuffle(order)
    first, second = metrics.ranking(data, GAINS), metrics.ranking(data.iloc[order], GAINS)
    pd.testing.assert_frame_equal(first.pop("per_query"), second.pop("per_query"), check_exact=True)
    assert np.array_equal(list(first.values()), list(second.values()), equal_nan=True)


@given(frames)
@relaxed
def test_only_the_order_of_scores_counts(data):
    scaled = data.assign(score=data["score"] * 8 - 3)
    pd.testing.assert_frame_equal(
        metrics.ranking(data, GAINS)["per_query"], metrics.ranking(scaled, GAINS)["per_query"]
    )


def test_queries_without_positives_are_left_out_and_counted():
    good = {"b": [("S", 3), ("E", 2)], "d": [("E", 1)]}
    bad = {"a": [("I", 1), ("I", 2)], "c": [("I", 0)]}
    with_bad, without = (
        metrics.ranking(frame(good | bad), GAINS),
        metrics.ranking(frame(good), GAINS),
    )
    assert with_bad["n_without_positives"] == 2
    pd.testing.assert_frame_equal(with_bad["per_query"], without["per_query"])
    assert [with_bad[x] for x in FIVE] == [without[x] for x in FIVE]
    none = metrics.ranking(frame(bad), GAINS)
    assert none["n_without_positives"] == 2 and len(none["per_query"]) == 0
    assert all(math.isnan(none[x]) for x in FIVE)


def test_a_query_with_gains_but_nothing_relevant_has_reciprocal_rank_zero():
    result = metrics.ranking(frame({"a": [("S", 2), ("I", 1)], "b": [("E", 1)]}), GAINS)
    assert result["per_query"]["mrr"].tolist() == [0.0, 1.0]
    assert result["n_without_positives"] == 0


@pytest.mark.parametrize("dtype", [int, float])
def test_grades_in_place_of_labels(dtype):
    data = frame({"q": [("E", 1), ("S", 3), ("I", 2)]}).drop(columns="esci_label")
    data["grade"] = np.array([3, 2, 0], dtype=dtype)
    result = metrics.ranking(data, GRADE_GAINS)
    dcg = 3 / 7 + 0 + 1 / 2
    assert result["ndcg"] == pytest.approx(dcg / (1 + 3 / 7 / math.log2(3)))
    assert result["mrr"] == pytest.approx(1 / 3)  # grade 2 has gain 3/7, less than a half


def test_integer_ids_categories_and_half_precision_scores():
    data = frame({1: [("S", 3), ("E", 2)], 0: [("E", 2), ("I", 2)]})
    data["esci_label"] = data["esci_label"].astype(pd.CategoricalDtype([*"ESCI", "?"]))
    result = metrics.ranking(data.astype({"score": np.float16}), GAINS)["per_query"]
    assert result.index.tolist() == [0, 1]
    assert result.loc[0, "ndcg"] == pytest.approx((1 + 1 / math.log2(3)) / 2)


def test_infinite_scores_are_ranked():
    data = frame({"q": [("E", math.inf), ("S", 0), ("I", -math.inf)]})
    assert metrics.ranking(data, GAINS)["ndcg"] == 1.0


PAIR = frame({"q": [("E", 1), ("I", 2)]})
BAD_FRAMES = {
    "score nan": (PAIR.assign(score=[1.0, math.nan]), "score of query q, product p1 is NaN"),
    "score text": (PAIR.assign(score=["a", "b"]), "give numbers"),
    "pair twice": (pd.concat([PAIR, PAIR]), "query q, product p0 stands twice"),
    "label": (PAIR.assign(esci_label=["E", "X"]), "esci_label 'X' has no gain"),
    "no label": (PAIR.assign(esci_label=["E", None]), "has no gain"),
    "grade": (PAIR.drop(columns="esci_label").assign(grade=[1, 9]), "grade 1 has no gain"),
    "no column": (PAIR.drop(columns="score"), "no column 'score'"),
    "neither": (PAIR.drop(columns="esci_label"), "no column 'esci_label'"),
    "no rows": (PAIR.iloc[:0], "no rows"),
    "no query": (PAIR.assign(query_id=["q", None]), "row 1 has no query_id"),
    "no query twice": (PAIR.assign(query_id=None, product_id="p"), "row 0 has no query_id"),
    "no score": (PAIR.drop(columns=["score", "esci_label"]), "esci_label \\(or grade\\), score"),
    "no product": (PAIR.assign(product_id=[None, "p"]), "row 0 has no product_id"),
}


@pytest.mark.parametrize(("data", "message"), BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_bad_frames_are_named(data, message):
    with pytest.raises(ValueError, match=message):
        metrics.ranking(data, GAINS)


@pytest.mark.parametrize("gain", [-0.1, math.nan, math.inf])
def test_bad_gains_are_named(gain):
    with pytest.raises(ValueError, match="gains must be finite and 0 or more"):
        metrics.ranking(PAIR, GAINS | {"S": gain})


def test_the_frame_is_left_as_it_was():
    data = random_frame(0)
    before = data.copy()
    metrics.ranking(data, GAINS)
    pd.testing.assert_frame_equal(data, before)


# classification


def test_classification_by_hand():
    labels = [0, 0, 1, 1, 2]
    predicted = [0, 1, 1, 1, 0]
    result = metrics.classification(labels, np.eye(4)[predicted])
    # class 0: P 1/2, R 1/2; class 1: P 2/3, R 1; class 2 never predicted; class 3 not there at all
    assert result["accuracy"] == result["micro_f1"] == 0.6
    assert result["macro_precision"] == pytest.approx((1 / 2 + 2 / 3) / 4)
    assert result["macro_recall"] == pytest.approx((1 / 2 + 1) / 4)
    assert result["macro_f1"] == pytest.approx((1 / 2 + 4 / 5) / 4)
    assert result["per_class"]["support"].tolist() == [2, 2, 1, 0]
    assert result["per_class"]["predicted"].tolist() == [2, 3, 0, 0]
    assert result["per_class"].loc[1, "f1"] == pytest.approx(0.8)
    assert all(type(v) is float for k, v in result.items() if k != "per_class")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=50))
@relaxed
def test_classification_agrees_with_scikit_learn_and_is_bounded(rows):
    labels, predicted = np.array(rows).T
    result = metrics.classification(labels, np.eye(4)[predicted])
    for name in ("macro", "micro"):
        assert result[f"{name}_f1"] == pytest.approx(
            f1_score(labels, predicted, labels=range(4), average=name, zero_division=0)
        )
    assert all(0 <= v <= 1 for k, v in result.items() if k != "per_class")
    flipped = metrics.classification(labels[::-1], np.eye(4)[predicted][::-1])
    pd.testing.assert_frame_equal(flipped.pop("per_class"), result.pop("per_class"))
    assert flipped == result


EVEN = np.full((2, 4), 0.25)


def test_the_first_class_wins_a_tie():
    assert metrics.classification([0, 1], EVEN)["per_class"]["predicted"].tolist() == [2, 0, 0, 0]


BAD_CLASSES = {
    "none": ([], np.empty((0, 4)), "neither of them 0"),
    "flat": ([0, 1], [0.5, 0.5], r"give \(pairs, classes\)"),
    "too few": ([0], EVEN, "one per pair"),
    "floats": ([0.0, 1.0], EVEN, "give class numbers"),
    "too high": ([0, 4], EVEN, r"label 4 is outside 0\.\.3"),
    "unlabelled": ([0, -1], EVEN, "label -1 is outside"),
    "nan": ([0, 1], [[0.5, 0.5], [0.5, math.nan]], "row 1 hold NaN"),
}


@pytest.mark.parametrize(("labels", "p", "message"), BAD_CLASSES.values(), ids=BAD_CLASSES)
def test_bad_classes_are_named(labels, p, message):
    with pytest.raises(ValueError, match=message):
        metrics.classification(labels, p)


def test_expected_gain():
    p = [[0.5, 0.2, 0.2, 0.1], [0.0, 0.0, 1.0, 0.0]]
    expected = [0.5 + 0.02 + 0.002, 0.01]
    assert metrics.expected_gain(p, [1.0, 0.1, 0.01, 0.0]) == pytest.approx(expected)
    assert metrics.expected_gain(p, GAINS) == pytest.approx(expected)
    with pytest.raises(ValueError, match="one gain per class"):
        metrics.expected_gain(p, [1.0, 0.0])


def test_share_of_gap_closed():
    assert metrics.share_of_gap_closed(0.85, 0.9, 0.8) == pytest.approx(0.5)
    assert metrics.share_of_gap_closed(0.7, 0.9, 0.8) == pytest.approx(-1)
    assert math.isnan(metrics.share_of_gap_closed(0.9, 0.8, 0.8))


# intervals


def series(values, seed=0):
    ids = [f"q{i}" for i in range(len(values))]
    return pd.Series(values, index=ids).sample(frac=1, random_state=seed)


def test_bootstrap_agrees_with_the_normal_interval():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.5, 0.1, 400), rng.normal(0.48, 0.1, 400)
    result = metrics.paired_bootstrap(series(a), series(b, 1))
    half = 1.96 * (a - b).std() / 20
    assert result["difference"] == pytest.approx((a - b).mean())
    assert result["low"] == pytest.approx((a - b).mean() - half, abs=0.001)
    assert result["high"] == pytest.approx((a - b).mean() + half, abs=0.001)
    assert all(type(x) is float for x in result.values())


def test_bootstrap_of_two_queries_by_hand():
    """Means 0, 1/2 and 1 with probabilities 1/4, 1/2, 1/4: the 95 % interval is all of [0, 1]."""
    result = metrics.paired_bootstrap(series([1.0, 2.0]), series([1.0, 1.0]))
    assert result == {"difference": 0.5, "low": 0.0, "high": 1.0}


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.integers(0, 3))
@relaxed
def test_bootstrap_properties(values, seed):
    a, b = series(values), series(values[::-1], 1)
    there = metrics.paired_bootstrap(a, b, resamples=200, seed=seed)
    back = metrics.paired_bootstrap(b, a, resamples=200, seed=seed)
    assert metrics.paired_bootstrap(a.sort_index(), b, resamples=200, seed=seed) == there
    assert there["low"] == pytest.approx(-back["high"], abs=1e-12)
    assert metrics.paired_bootstrap(a, a, resamples=200, seed=seed)["high"] == 0
    shifted = metrics.paired_bootstrap(a + 1, a, resamples=200, seed=seed)
    assert list(shifted.values()) == pytest.approx([1, 1, 1])


def test_bootstrap_draws_do_not_depend_on_the_size_of_a_table_of_draws():
    d = np.random.default_rng(5).normal(size=30_000)
    result = metrics.paired_bootstrap(series(d), series(np.zeros(30_000)), resamples=130)
    ordered = series(d).sort_index().to_numpy()
    draws = np.random.default_rng(0).integers(30_000, size=(130, 30_000))
    low, high = np.percentile(ordered[draws].mean(axis=1), [2.5, 97.5])
    assert (result["low"], result["high"]) == (low, high)


def in_one_piece(statistic, units: int, resamples: int) -> tuple[float, float]:
    """The interval by a table of all draws."""
    chances = np.full(units, 1 / units)
    counts = np.random.default_rng(0).multinomial(units, chances, size=resamples).astype(float)
    return tuple(np.nanpercentile(statistic(counts), [2.5, 97.5]))


def test_intervals_of_means_and_of_macro_f1_are_those_of_one_large_table_of_draws():
    """960 and 2,064 queries and 3,000 resamples: more draws than one part holds, to the bit."""
    for units in (960, 2064):
        values = np.random.default_rng(units).random((units, 2))
        found = metrics.bootstrap_of_means(
            pd.DataFrame(values, columns=["a", "b"]), lambda m: m["a"] - m["b"], resamples=3_000
        )

        def difference(counts: np.ndarray, values=values) -> np.ndarray:
            return np.subtract(*(counts / len(values) @ values).T)

        assert (found["low"], found["high"]) == in_one_piece(difference, units, 3_000)
    labels, a, b, _ = predictions(pairs=960)
    found = metrics.macro_f1_difference(labels, a, b, np.arange(960), 4, resamples=3_000)

    def f1(counts: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        table = np.zeros((960, 16))
        table[np.arange(960), 4 * labels + predicted] = 1
        return intervals._macro_f1(counts @ table, 4)

    low, high = in_one_piece(lambda counts: f1(counts, a) - f1(counts, b), 960, 3_000)
    assert (found["low"], found["high"]) == (low, high)


def test_intervals_over_many_queries_need_little_memory():
    """One table of all draws would be 10,000 · 1,200 · 8 bytes = 92 MiB, and twice that."""
    labels, a, b, _ = predictions(pairs=1_200)
    values = pd.DataFrame({"a": a, "b": b})
    tracemalloc.start()
    metrics.bootstrap_of_means(values, lambda m: m["a"] - m["b"])
    metrics.macro_f1_difference(labels, a, b, np.arange(1_200), 4)
    metrics.paired_bootstrap(series(a), series(b))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20


@pytest.mark.parametrize(
    ("labels", "ids", "message"),
    [
        ([0, 2], ["a", "b"], "a class is 0 or 2; with 2 classes they are 0 to 1"),
        ([0, -1], ["a", "b"], "a class is -1 or 0"),
        ([0], ["a"], r"arrays of \[1, 2\] values"),
    ],
)
def test_a_difference_in_macro_f1_refuses_what_it_cannot_count(labels, ids, message):
    with pytest.raises(ValueError, match=message):
        metrics.macro_f1_difference(labels, [0, 1], [0, 0], ids, 2)


def test_a_seed_that_lacks_a_query_is_named():
    with pytest.raises(ValueError, match="seed 2 lacks query b; give all seeds the same"):
        metrics.macro_f1_difference(
            [0, 1, 0], [0, 1, 0], [0, 0, 0], ["a", "b", "a"], 2, seeds=[1, 1, 2]
        )


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "0 queries, 0 of them"), ([0.1, np.nan, 0.3], "3 queries, 1 of them with NaN")],
)
def test_means_of_no_query_or_of_nan_have_no_interval(values, message):
    with pytest.raises(ValueError, match=f"bootstrap_of_means: {message}"):
        metrics.bootstrap_of_means(pd.DataFrame({"a": values}), lambda means: means["a"])


def test_every_interval_takes_a_resample():
    table = np.array([[0.1, 0.2], [0.2, 0.1]])
    for interval in (
        lambda: metrics.paired_bootstrap(TWO, 2 * TWO, resamples=0),
        lambda: metrics.bootstrap_of_means(TWO.to_frame("a"), lambda of: of["a"], resamples=0),
        lambda: metrics.macro_f1_difference([0, 1], [0, 1], [0, 0], ["a", "b"], 2, resamples=0),
        lambda: metrics.two_way_bootstrap(table, resamples=0),
    ):
        with pytest.raises(ValueError, match="at least 1 resample, and 0 were asked for"):
            interval()


TWO = series([0.1, 0.2])
BAD_SERIES = {
    "other queries": ((TWO, TWO.rename({"q0": "x"})), "2 queries stand in one series only"),
    "fewer": ((TWO, TWO.iloc[:1]), "1 queries stand in one series only"),
    "twice": ((pd.concat([TWO, TWO]), TWO), "stands twice in a"),
    "nan": ((TWO, TWO.mask(TWO > 0.15)), "b is NaN for query 'q1'"),
    "lists": (([1, 2], [1, 2]), "a must be a Series"),
    "one query": ((TWO.iloc[:1], TWO.iloc[:1]), "give at least 2"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_SERIES.values(), ids=BAD_SERIES)
def test_bad_series_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.paired_bootstrap(*arguments)


def test_seed_interval():
    """t(0.975, 2) = 4.3027; the standard deviation of 1, 2, 3 is 1."""
    result = metrics.seed_interval([1.0, 2.0, 3.0])
    assert result["mean"] == 2
    assert result["high"] - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert 2 - result["low"] == pytest.approx(result["high"] - 2)
    values = np.random.default_rng(0).normal(size=5)
    half = stats.t.ppf(0.975, 4) * values.std(ddof=1) / math.sqrt(5)
    found = metrics.seed_interval(values)
    assert found["low"] == pytest.approx(values.mean() - half, abs=1e-12)
    assert found["high"] == pytest.approx(values.mean() + half, abs=1e-12)
    assert list(metrics.seed_interval([0.1] * 4).values()) == [0.1] * 3
    for bad in ([1.0, 2.0], [1.0, 2.0, math.nan]):
        with pytest.raises(ValueError, match="at least 3 finite values"):
            metrics.seed_interval(bad)


def test_simultaneous_intervals_are_wider_by_their_number():
    """t(1 - 0.025/2, 2) = 6.2053; a single comparison has the interval of `seed_interval`."""
    table = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [4.0, 4.0, 4.0]}, index=[7, 8, 9])
    found = metrics.simultaneous_intervals(table)
    assert list(found.index) == ["a", "b"]
    assert found.loc["a", "high"] - 2 == pytest.approx(6.205347 / math.sqrt(3), rel=1e-6)
    assert found.loc["b"].tolist() == [4.0, 4.0, 4.0]
    alone = metrics.simultaneous_intervals(table[["a"]]).loc["a"].to_dict()
    assert alone == pytest.approx(metrics.seed_interval([1.0, 2.0, 3.0]))
    bad = ([[1.0], [2.0]], [[1.0], [2.0], [math.inf]], [[], [], []])
    for rows in bad:
        with pytest.raises(ValueError, match="at least 3 seeds, 1 comparison, and finite values"):
            metrics.simultaneous_intervals(pd.DataFrame(rows))


def test_simultaneous_intervals_all_hold_together_as_often_as_they_say():
    rng = np.random.default_rng(0)
    missed = alone = 0
    for _ in range(1000):
        control = rng.normal(size=(5, 1))
        table = pd.DataFrame(rng.normal(size=(5, 8)) - control)  # nothing differs from the control
        found = metrics.simultaneous_intervals(table)
        missed += ((found["low"] > 0) | (found["high"] < 0)).any()
        half = stats.t.ppf(0.975, 4) * table.std() / 5**0.5
        alone += (table.mean().abs() > half).any()
    assert missed < 50 < 150 < alone


def per_query_frame(seed=0, queries=300) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"a": rng.normal(0.8, 0.1, queries), "b": rng.normal(0.7, 0.1, queries)})


def test_bootstrap_of_means_is_the_paired_bootstrap_for_a_difference():
    values = per_query_frame()
    found = metrics.bootstrap_of_means(values, lambda m: m["a"] - m["b"])
    plain = metrics.paired_bootstrap(values["a"], values["b"])
    assert found["value"] == pytest.approx(plain["difference"])
    assert found["low"] == pytest.approx(plain["low"], abs=0.001)
    assert found["high"] == pytest.approx(plain["high"], abs=0.001)
    assert all(type(x) is float for x in found.values())


def test_bootstrap_of_means_takes_a_ratio_of_means_and_not_a_mean_of_ratios():
    """Means 2 and 4 give 1/2; the mean of 1/2 and 3/6 … would need no means at all."""
    values = pd.DataFrame({"a": [1.0, 3.0], "b": [6.0, 2.0]})
    found = metrics.bootstrap_of_means(values, lambda m: m["a"] / m["b"])
    assert found["value"] == 0.5
    # Both draws of one query alone have a chance of 1/4: 1/6 and 3/2.
    assert (found["low"], found["high"]) == pytest.approx((1 / 6, 3 / 2))


def test_bootstrap_of_means_draws_all_columns_together():
    values = per_query_frame()
    values["b"] = values["a"] - 0.1
    found = metrics.bootstrap_of_means(values, lambda m: m["a"] - m["b"])
    assert list(found.values()) == pytest.approx([0.1, 0.1, 0.1])


# Over seeds and queries


def crossed(seeds=5, queries=80, seed=0) -> np.ndarray:
    """A table of an effect for each seed, one for each query, and noise in each cell."""
    rng = np.random.default_rng(seed)
    by_seed, by_query = rng.normal(0, 0.05, (seeds, 1)), rng.normal(0.7, 0.2, queries)
    return by_seed + by_query + rng.normal(0, 0.1, (seeds, queries))


def width(found: dict) -> float:
    return found["high"] - found["low"]


def test_seeds_that_agree_leave_the_interval_over_queries():
    by_query = crossed()[0]
    found = metrics.two_way_bootstrap(np.tile(by_query, (5, 1)))
    plain = metrics.bootstrap_of_means(pd.DataFrame({"a": by_query}), lambda m: m["a"])
    assert list(found.values()) == pytest.approx(list(plain.values()), abs=1e-12)


def test_queries_that_agree_leave_the_interval_over_seeds():
    """Three seeds: one of them thrice has a chance of 1/27, more than 2.5 %. Five: by all draws."""
    found = metrics.two_way_bootstrap(np.tile([[0.1], [0.2], [0.6]], 40))
    assert list(found.values()) == pytest.approx([0.3, 0.1, 0.6])
    of_seeds = np.array([0.1, 0.2, 0.23, 0.3, 0.6])
    found = metrics.two_way_bootstrap(np.tile(of_seeds[:, None], 40))
    draws = np.mean(list(itertools.product(of_seeds, repeat=5)), axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    assert [found["low"], found["high"]] == pytest.approx([low, high], abs=0.015)


def test_the_interval_over_both_has_the_variance_of_crossed_draws():
    """That of a normal interval with the variance of seeds, of queries and of the cells."""
    table = crossed(seeds=12, queries=300)
    found = metrics.two_way_bootstrap(table)
    of_seeds, of_queries = table.mean(axis=1), table.mean(axis=0)
    cells = table - of_seeds[:, None] - of_queries + table.mean()
    variance = of_seeds.var() / 12 + of_queries.var() / 300 + cells.var() / table.size
    assert width(found) == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.05)
    alone = metrics.bootstrap_of_means(pd.DataFrame({"a": of_queries}), lambda m: m["a"])
    assert width(found) > width(alone)


def test_the_order_of_seeds_and_queries_and_the_parts_of_the_draws_do_not_matter(monkeypatch):
    table = crossed()
    found = metrics.two_way_bootstrap(table, resamples=500)
    assert metrics.two_way_bootstrap(table, resamples=500) == found
    other = metrics.two_way_bootstrap(table[::-1, ::-1])
    assert list(other.values()) == pytest.approx(
        list(metrics.two_way_bootstrap(table).values()), abs=0.01
    )
    monkeypatch.setattr(intervals, "_CELLS", 4_000)
    assert metrics.two_way_bootstrap(table, resamples=500) == pytest.approx(found, abs=1e-12)


def test_a_statistic_of_several_means_over_both():
    table = np.stack([crossed(seed=1), crossed(seed=2)], axis=2)
    ratio = metrics.two_way_bootstrap(table, lambda m: m[:, 0] / m[:, 1])
    assert ratio["value"] == pytest.approx(np.divide(*table.mean(axis=(0, 1))))
    assert ratio["low"] < ratio["value"] < ratio["high"]
    minus = metrics.two_way_bootstrap(table, lambda m: m[:, 0] - m[:, 1])
    plain = metrics.two_way_bootstrap(table[..., 0] - table[..., 1])
    assert list(minus.values()) == pytest.approx(list(plain.values()), abs=1e-12)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros(4), r"values is \(4,\); give \(seeds, queries\)"),
        (np.zeros((0, 4)), r"values is \(0, 4\)"),
        (np.array([[0.1, math.nan]]), "a value is NaN"),
    ],
)
def test_bad_tables_are_named(values, words):
    with pytest.raises(ValueError, match=words):
        metrics.two_way_bootstrap(values)


def test_macro_f1_over_both_draws_seeds_with_queries():
    """Three seeds of the same predictions: as over queries. One seed that differs: wider."""
    labels, a, b, _ = predictions(pairs=120)
    queries, seeds = np.tile(np.arange(120) // 4, 3), np.repeat([5, 6, 7], 120)
    plain = metrics.macro_f1_difference(labels, a, b, queries[:120], 4)
    same = [np.tile(values, 3) for values in (labels, a, b)]
    both = metrics.macro_f1_difference(*same, queries, 4, seeds=seeds)
    assert list(both) == list(plain)
    assert list(both.values()) == pytest.approx(list(plain.values()), abs=1e-9)
    worse = [same[0], np.where(seeds == 7, 0, same[1]), same[2]]
    alone = metrics.macro_f1_difference(*worse, queries, 4)
    found = metrics.macro_f1_difference(*worse, queries, 4, seeds=seeds)
    assert found["difference"] == pytest.approx(alone["difference"])
    assert width(found) > 1.2 * width(alone)


def predictions(seed=0, pairs=400, classes=4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=pairs)
    a, b = (np.where(rng.random(pairs) < p, labels, rng.integers(classes, size=pairs))
            for p in (0.8, 0.4))  # fmt: skip
    return labels, a, b, [f"q{i // 8}" for i in range(pairs)]


def test_macro_f1_difference_is_scikit_learns():
    labels, a, b, queries = predictions()
    found = metrics.macro_f1_difference(labels, a, b, queries, 4, resamples=500)
    wanted = f1_score(labels, a, average="macro") - f1_score(labels, b, average="macro")
    assert found["difference"] == pytest.approx(wanted, abs=1e-12)
    assert found["low"] < wanted < found["high"]
    assert found["low"] > 0
    back = metrics.macro_f1_difference(labels, b, a, queries, 4, resamples=500)
    assert back["difference"] == pytest.approx(-wanted)
    assert back["low"] == pytest.approx(-found["high"])


def test_macro_f1_counts_a_class_that_is_never_seen_or_named_as_zero():
    labels, a = [0, 0, 1, 1], [0, 0, 1, 2]
    found = metrics.macro_f1_difference(labels, a, labels, ["x", "x", "y", "y"], 4, resamples=10)
    wanted = [f1_score(labels, p, average="macro", labels=range(4), zero_division=0)
              for p in (a, labels)]  # fmt: skip
    assert found["difference"] == pytest.approx(wanted[0] - wanted[1])


def test_macro_f1_difference_of_equal_predictions_is_zero():
    labels, a, _, queries = predictions()
    found = metrics.macro_f1_difference(labels, a, a, queries, 4, resamples=100)
    assert found == {"difference": 0.0, "low": 0.0, "high": 0.0}


def test_macro_f1_difference_draws_whole_queries():
    """Pairs of a query that stand and fall together make the interval wider."""
    labels, _, b, queries = predictions()
    spread = {}
    for name, units in (("queries", queries), ("pairs", range(len(labels)))):
        right = np.repeat(np.random.default_rng(1).random(50) < 0.6, 8)
        c = np.where(right, labels, (labels + 1) % 4)
        found = metrics.macro_f1_difference(labels, c, b, units, 4, resamples=2000)
        spread[name] = found["high"] - found["low"]
    assert spread["queries"] > 1.5 * spread["pairs"]


def test_macro_f1_interval_covers():
    """Of 40 samples of 60 queries the 95 % interval holds the difference of the whole in most."""
    labels, a, b, queries = predictions(3, pairs=40_000)
    whole = metrics.macro_f1_difference(labels, a, b, queries, 4, resamples=2)["difference"]
    covered = 0
    for part in range(40):
        rows = slice(480 * part, 480 * (part + 1))
        found = metrics.macro_f1_difference(
            labels[rows], a[rows], b[rows], queries[rows], 4, resamples=400, seed=part
        )
        covered += found["low"] <= whole <= found["high"]
    assert covered >= 34
