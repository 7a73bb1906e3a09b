"""Tables, goals and verdicts from results small enough to check by hand."""

import numpy as np
import pandas as pd
import pytest

from ecomkd import report, run

CHANCE = 0.5
NDCG = {
    "random": [0.5, 0.4],
    "BM25": [0.6, 0.6],
    "bi-encoder, untrained": [0.7, 0.6],
    "boosted trees on words": [0.6, 0.7],
    "teacher": [0.9, 0.9],
    "student, labels only": [0.7, 0.8],
    "student, KD on labels": [0.8, 0.8],
    "student, distilled": [0.88, 0.86],
    "student, hard pseudo-labels": [0.8, 0.8],
    "student, distilled, int8": [0.872, 0.86],
}
# Labels of the four pairs: E, S in q1 and E, S in q2. Macro-F1 runs over two classes here.
LABELS = [0, 1, 0, 1]
PREDICTED = {name: [0, 1, 0, 1] for name in NDCG} | {
    "student, labels only": [0, 0, 0, 0],
    "student, hard pseudo-labels": [0, 1, 0, 0],
}


def result(seed=900, data="same", ndcg=(), predicted=(), kinds=("plain", "typo")) -> dict:
    """What `one_seed` returns for two queries of two pairs; only what is read is filled in."""
    systems = {}
    for name, values in (NDCG | dict(ndcg)).items():
        ids = [f"q{i + 1}" for i in range(len(values))]
        systems[name] = {
            "predicted": (PREDICTED | dict(predicted))[name],
            "classification": {"accuracy": 0.25 * (seed - 899), "macro_f1": 0.5},
            "per_class": {"0": {}, "1": {}},
            "ranking": {
                "ndcg@10": float(np.mean(values)),
                "lift@10": float(np.mean(values)) - CHANCE,
            },
            "per_query": {
                "query_id": ids,
                "ndcg@10": list(values),
                "random_ndcg@10": [CHANCE] * len(values),
                "lift@10": [value - CHANCE for value in values],
            },
        }
    return {
        "seed": seed,
        "data": data,
        "query_id": ["q1", "q1", "q2", "q2"],
        "label": LABELS,
        "kind": None if kinds is None else [kinds[0], kinds[0], kinds[1], kinds[1]],
        "systems": systems,
    }


def without_ranking(predicted=()) -> dict:
    only = result(predicted=predicted, kinds=None)
    for entry in only["systems"].values():
        del entry["ranking"], entry["per_query"]
    return only


CLOCK = pd.DataFrame(
    {"p50_ms": [20.0, 1.6], "p95_ms": [30.0, 2.0]},
    index=["teacher, PyTorch fp32", "student, ONNX int8"],
)


def goals(*results, clock=CLOCK) -> dict:
    entries = run.goals(results, clock)
    assert all(set(e) == {"name", "value", "low", "high", "goal", "met"} for e in entries)
    assert all(type(entry["met"]) is bool for entry in entries)
    return {entry["name"]: entry for entry in entries}


def find(entries: dict, *words: str) -> dict:
    (name,) = [name for name in entries if all(word in name for word in words)]
    return entries[name]


# The table


def test_table_has_a_row_for_each_system_and_means_over_seeds():
    other = {"teacher": [0.7, 0.9]}
    rows = run.table([result(900, "a"), result(901, "b", other)])
    assert list(rows.index) == list(run.SYSTEMS)
    assert rows["role"].to_dict() == run.SYSTEMS
    assert rows.loc["teacher", "ndcg@10"] == pytest.approx((0.9 + 0.8) / 2)
    assert rows.loc["teacher", "lift@10"] == pytest.approx(0.35)
    assert rows.loc["BM25", "accuracy"] == pytest.approx((0.25 + 0.5) / 2)
    low, high = rows.loc["teacher", ["ndcg@10 low", "ndcg@10 high"]]
    assert 0.7 <= low < 0.85 < high <= 0.9


def test_table_without_ranking_has_no_ranking_columns():
    rows = run.table([without_ranking()])
    assert list(rows.columns) == ["role", "accuracy", "macro_f1"]


def test_intervals_count_a_query_that_seeds_share_once():
    """Noise of the seeds cancels within a query; two shops with the same ids are four queries."""

    def row(*data: str) -> pd.Series:
        first = result(900, data[0], {"teacher": [0.9, 0.7]})
        second = result(901, data[1], {"teacher": [0.7, 0.9]})
        return run.table([first, second]).loc["teacher"]

    shared, apart = row("same", "same"), row("one", "other")
    assert shared["ndcg@10"] == apart["ndcg@10"] == pytest.approx(0.8)
    assert [shared["ndcg@10 low"], shared["ndcg@10 high"]] == pytest.approx([0.8, 0.8])
    assert apart["ndcg@10 high"] - apart["ndcg@10 low"] > 0.1


# The goals


def test_gains_of_distillation_by_hand():
    entries = goals(result())
    plain = find(entries, "nDCG@10", "without distillation")
    assert plain["value"] == pytest.approx(0.87 - 0.75)
    assert [plain["low"], plain["high"]] == pytest.approx([0.06, 0.18])
    assert plain["met"]
    hard = find(entries, "nDCG@10", "hard pseudo-labels")
    assert hard["value"] == pytest.approx(0.07)
    assert hard["met"]


def test_share_of_the_lift_kept_by_hand():
    """(0.87 − 0.5) / (0.9 − 0.5), with the expected score of chance, not the drawn one of 0.45."""
    kept = find(goals(result()), "lift over random")
    assert kept["value"] == pytest.approx(0.37 / 0.4)
    assert [kept["low"], kept["high"]] == pytest.approx([0.36 / 0.4, 0.38 / 0.4])
    assert not kept["met"]
    better = result(ndcg={"student, distilled": [0.9, 0.88]})
    assert find(goals(better), "lift over random")["met"]


def test_share_of_the_gap_closed_by_hand():
    gap = find(goals(result()), "gap")
    assert gap["value"] == pytest.approx(0.12 / 0.15)
    # q1 alone: 0.18 of 0.2; q2 alone: 0.06 of 0.1.
    assert [gap["low"], gap["high"]] == pytest.approx([0.6, 0.9])
    assert gap["met"]
    assert not find(goals(result(ndcg={"student, distilled": [0.75, 0.8]})), "gap")["met"]


def test_macro_f1_by_hand():
    """All E: F1 is 2/3 for E and 0 for S, so 1/3. Three E: 4/5 and 2/3, so 11/15."""
    entries = goals(result())
    assert find(entries, "macro-F1", "without")["value"] == pytest.approx(1 - 1 / 3)
    assert find(entries, "macro-F1", "without")["met"]
    hard = find(entries, "macro-F1", "hard")
    assert hard["value"] == pytest.approx(1 - 11 / 15)
    assert hard["low"] == 0  # q1 drawn twice: no difference
    assert not hard["met"]


def test_what_int8_costs_is_in_points_and_the_right_way_round():
    worse = {"student, distilled, int8": [0, 1, 0, 0]}
    cost = find(goals(result(predicted=worse)), "macro-F1", "int8")
    assert cost["value"] == pytest.approx(100 * (1 - 11 / 15))
    assert cost["low"] <= cost["value"] <= cost["high"]
    assert cost["low"] == 0
    assert not cost["met"]
    cost = find(goals(result()), "nDCG@10", "int8")
    assert cost["value"] == pytest.approx(0.4)
    assert [cost["low"], cost["high"]] == pytest.approx([0, 0.8])
    assert cost["met"]
    assert find(goals(result()), "macro-F1", "int8")["met"]


def test_speed_up_by_hand():
    fast = find(goals(result()), "latency")
    assert [fast["value"], fast["low"], fast["high"]] == pytest.approx([12.5, 10, 18.75])
    assert fast["met"]
    assert not find(goals(result(), clock=CLOCK.assign(p50_ms=[15.9, 1.6])), "latency")["met"]


def test_goals_without_ranking_are_those_of_classes_and_speed():
    names = list(goals(without_ranking()))
    assert len(names) == 4
    assert not [name for name in names if "nDCG" in name]


# By kind, and the verdict


def test_by_kind_is_the_mean_lift_of_each_kind():
    kinds = run.by_kind([result(), result(901, "other", {"teacher": [0.7, 0.9]})])
    assert list(kinds.index) == ["plain", "typo"]
    assert kinds.loc["plain", "teacher"] == pytest.approx((0.4 + 0.2) / 2)
    assert kinds.loc["typo", "teacher"] == pytest.approx(0.4)
    assert run.by_kind([result(kinds=None)]) is None
    assert run.by_kind([without_ranking()]) is None


VERDICTS = {
    "Stay with BM25: the teacher's nDCG@10 is not clearly above": {"BM25": [0.95, 0.8]},
    "Stay with the untrained bi-encoder: the teacher's nDCG@10 is not clearly above": {
        "bi-encoder, untrained": [0.95, 0.8]
    },
    "Distil: the student keeps 92% of the teacher's lift over a random order": {},
    "Keep the teacher: it is above the untrained bi-encoder, and the student keeps only 70%": {
        "student, distilled": [0.8, 0.76]
    },
}


@pytest.mark.parametrize(
    ("begins", "ndcg"), VERDICTS.items(), ids=["bm25", "bi-encoder", "distil", "teacher"]
)
def test_verdict(begins, ndcg):
    assert run.verdict([result(ndcg=ndcg)]).startswith(begins)


def test_verdict_without_ranking_goes_by_macro_f1():
    assert run.verdict([without_ranking()]).startswith("Distil: the student keeps 100%")
    worse = without_ranking()
    worse["systems"]["student, distilled"]["classification"]["macro_f1"] = 0.4
    assert run.verdict([worse]).startswith("Keep the teacher: the student keeps only 80%")


def test_a_result_that_is_not_recorded_is_named_even_where_nothing_is(tmp_path, monkeypatch):
    monkeypatch.setattr(report.resources, "files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"No recorded result 'core': there are none yet\."):
        report.recorded("core")
    (tmp_path / "recorded").mkdir()
    (tmp_path / "recorded" / "core.json").write_text('{"seeds": [1]}')
    assert report.recorded("core") == {"seeds": [1]}
    with pytest.raises(FileNotFoundError, match="there are core"):
        report.recorded("other")
