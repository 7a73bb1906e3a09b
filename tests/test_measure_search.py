"""Search over real catalogues, of which a part is judged: folds, condensed lists, the record."""

import json

import numpy as np
import pandas as pd
import pytest

import measure_search as script
from ecomkd import metrics

SYSTEMS = sorted({"random", *(name for pair in script.COMPARED for name in pair)})
GAINS = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}


def test_a_condensed_list_has_what_was_judged_for_its_query_in_the_same_order():
    judged = pd.DataFrame(
        [("q1", "p1", "E"), ("q1", "p2", "I"), ("q2", "p3", "E")],
        columns=["query_id", "product_id", "esci_label"],
    )
    rows = [("q1", "p3", 0), ("q1", "p2", -1), ("q1", "p1", -2), ("q2", "p9", 0), ("q2", "p3", -1)]
    frame = pd.DataFrame(rows, columns=["query_id", "product_id", "score"])
    kept = script.condensed(frame, judged)
    assert list(zip(kept["query_id"], kept["product_id"], strict=True)) == [
        ("q1", "p2"), ("q1", "p1"), ("q2", "p3"),
    ]  # fmt: skip
    found = metrics.retrieval(kept, judged, GAINS)["per_query"]["ndcg@10"]
    assert found.to_dict() == pytest.approx({"q1": 1 / np.log2(3), "q2": 1.0})


def times(name: str) -> dict:
    return {"p50_ms": 1000.0 if name == script.TEACHER else 1.0, "p95_ms": 2000.0}


def part(fold: int, queries: list[str]) -> dict:
    """The file of a fold, with values drawn at random."""
    rng = np.random.default_rng(fold)
    columns = ("ndcg@10", "recall@100", "mrr@10", "judged@10", script.CONDENSED)
    systems = {
        name: {
            **(times(name) if fold == 0 else {}),
            "per_query": {column: rng.random(len(queries)).tolist() for column in columns},
        }
        for name in SYSTEMS
    }
    return {
        "seed": 7, "fold": fold, "profile": {"precision": "auto", "max_length": 96},
        "generator": None, "hardware": {}, "products": 5, "systems": systems, "memory": {},
        "weights": {"a": fold},
        "query_id": queries, "kind": None, "no_word": [False] * len(queries),
    }  # fmt: skip


def test_folds_are_read_like_one_test_of_all_their_queries(tmp_path):
    parts = [part(0, ["a", "b", "c"]), part(1, ["d", "e"])]
    for one in parts:
        file = tmp_path / f"seed7fold{one['fold']}.json"
        file.write_text(json.dumps(one), encoding="utf-8")
    script.merge(tmp_path, tmp_path / "out.json", "icecat")
    record = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert record["command"] == (
        "python benchmarks/measure_search.py icecat --folds 0 1 --max-length 96 --merge"
    )
    assert (record["data"]["queries"], record["seeds"]) == (5, [7])
    assert record["data"]["weights"] == [{"a": 0}, {"a": 1}] and len(record["goals"]) == 1
    for column in ("ndcg@10", script.CONDENSED):
        mean = {
            name: np.concatenate(
                [one["systems"][name]["per_query"][column] for one in parts]
            ).mean()
            for name in SYSTEMS
        }
        rows = record["data"]["rows"]
        assert {name: row[column] for name, row in rows.items()} == pytest.approx(mean)
        differences = record["data"]["differences"]
        assert [(row["system"], row["minus"]) for row in differences] == list(script.COMPARED)
        for row in differences:
            span = row[column]
            assert span["value"] == pytest.approx(mean[row["system"]] - mean[row["minus"]])
            assert span["low"] <= span["value"] <= span["high"]


@pytest.mark.parametrize(
    "words", [["shop", "--folds", "0"], ["icecat", "--seeds", "3"], ["icecat"], ["shop"]]
)
def test_shops_have_seeds_and_folders_have_folds(words, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["measure_search.py", *words])
    with pytest.raises(SystemExit):
        script.main()
    assert "--seeds" in capsys.readouterr().err.splitlines()[-1]
