"""The goals of distillation, from results small enough to check by hand, and the recorded ones."""

import json

import pandas as pd
import pytest
from tiny_results import result, without_ranking

import measure_core
from ecomkd import report

CLOCK = pd.DataFrame(
    {"p50_ms": [20.0, 1.6], "p95_ms": [30.0, 2.0]},
    index=["teacher, PyTorch fp32", "student, ONNX int8"],
)


def goals(*results, clock=CLOCK) -> dict:
    entries = measure_core.goals(results, clock)
    assert all(set(e) == {"name", "value", "low", "high", "goal", "met"} for e in entries)
    assert all(type(entry["met"]) is bool for entry in entries)
    return {entry["name"]: entry for entry in entries}


def find(entries: dict, *words: str) -> dict:
    (name,) = [name for name in entries if all(word in name for word in words)]
    return entries[name]


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


def test_a_record_is_the_report_of_a_run_with_its_goals(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "core_shoes"
    folder.mkdir()
    command = "ecomkd run shoes --profile smoke --seeds 2 --first-seed 900 --out core_shoes"
    own = {"command": command, "seeds": [900, 901], "goals": []}
    own["data"] = {"speed": CLOCK.T.to_dict(), "verdict": "Distil."}
    (folder / "report.json").write_text(json.dumps(own))
    results = [result(900, "a"), result(901, "b")]
    for one in results:
        (folder / f"seed-{one['seed']}.json").write_text(json.dumps(one))
    monkeypatch.setattr(measure_core, "RECORDED", tmp_path)
    monkeypatch.setattr("sys.argv", ["measure_core.py", str(folder)])
    measure_core.main()
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'core_shoes.json'}.\n"
    kept = json.loads((tmp_path / "core_shoes.json").read_text())
    assert kept["command"] == f"{command} && python benchmarks/measure_core.py core_shoes"
    assert {entry["name"]: entry for entry in kept["goals"]} == goals(*results)
    assert kept["data"] == own["data"]
    (folder / "seed-901.json").unlink()
    with pytest.raises(SystemExit, match=r"seed-901\.json: not found; write it with `ecomkd run`"):
        measure_core.main()


@pytest.mark.parametrize("name", ["core_shop", "core_icecat", "core_esci_sample"])
def test_the_recorded_goals_are_those_of_the_script(name):
    names = [entry["name"] for entry in report.recorded(name)["goals"]]
    kinds = without_ranking() if name == "core_esci_sample" else result()
    assert names == list(goals(kinds))
