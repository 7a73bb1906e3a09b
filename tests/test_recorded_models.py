"""How recorded models are made, and what is measured about them."""

import json
import re
from pathlib import Path

import pytest

import measure_recorded
import models as tool
from ecomkd import artifacts, report
from ecomkd.artifacts import stage


def test_recording_packs_new_artefacts_and_goes_on_with_the_packed_ones(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(tool, "PLACE", tmp_path)
    monkeypatch.setenv("ECOMKD_RECORDED", str(tmp_path / "packed"))
    (tmp_path / "packed").mkdir()
    made = []

    def make(folder):
        made.append(folder)
        (folder / "training.json").write_text('[{"eval_quality": 0.5}, {"eval_quality": 0.7}]')

    def one():
        first = stage("first", [1], make, tmp_path / "artifacts")
        return stage("second", [artifacts.file_digest(first / "training.json")], make,
                     tmp_path / "artifacts")  # fmt: skip

    for _ in range(2):  # what was packed is not made again
        tool.record(one, ["second"])
        assert len(made) == 2
        assert len(list(tool.unpacked().glob("*/second-*"))) == 1
    assert [path.name.split("-")[0] for path in (tmp_path / "packed").iterdir()] == ["second"]
    assert "recorded" in one().parts
    (packed,) = (tmp_path / "packed").iterdir()
    assert json.loads((packed / "card.json").read_text())["made"]["quality"] == 0.7
    assert capsys.readouterr().out.count("second-") == 1


def test_what_is_too_large_or_was_not_asked_for_is_not_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "PLACE", tmp_path / "place")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    shipped = tmp_path / "ecomkd" / "recorded" / "models"

    def packed(name: str) -> None:
        folder = tmp_path / "place" / "packed" / name
        folder.mkdir(parents=True)
        (folder / "card.json").write_text("{}")

    packed("one-0a")
    packed("one-00")  # of a former recipe
    (tool.unpacked() / "44136fa3" / "one-0a").mkdir(parents=True)
    tool.ship()
    assert [path.name for path in shipped.iterdir()] == ["one-0a"]
    packed("two-0b")
    (tool.unpacked() / "44136fa3" / "two-0b").mkdir()
    monkeypatch.setattr(tool, "LIMIT_MB", 1e-7)
    with pytest.raises(SystemExit, match="too much to ship"):
        tool.ship()
    assert [path.name for path in shipped.iterdir()] == ["one-0a"]


def test_a_recorded_quality_outside_the_range_of_other_seeds_is_a_missed_goal(
    tmp_path, monkeypatch
):
    names = measure_recorded.NAMES
    monkeypatch.setattr(measure_recorded, "qualities", lambda profile: dict.fromkeys(names, 0.5))
    for seed, value in ((1, 0.4), (2, 0.6)):
        found = dict.fromkeys(names, value) | {"teacher": 0.6}
        measure_recorded.shared.write(tmp_path, seed, {"quality": found})
    measure_recorded.merge(tmp_path, tmp_path / "out.json")
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["seeds"] == [1, 2]
    met = {goal["name"].split(":")[0]: goal["met"] for goal in record["goals"]}
    assert met.pop("teacher") is False
    assert all(met.values())


def test_the_page_on_running_says_which_recorded_models_are_typical():
    rows = {row["name"]: row for row in report.recorded("recorded_models")["data"]["rows"]}
    names = measure_recorded.NAMES
    spans = {
        key: (min(rows[name]["again"]), max(rows[name]["again"])) for key, name in names.items()
    }
    found = {key: rows[name]["recorded"] for key, name in names.items()}
    assert all(len(rows[name]["again"]) == 5 for name in names.values())
    within = {key for key, (low, high) in spans.items() if low <= found[key] <= high}
    page = (Path(__file__).parent.parent / "book" / "running.md").read_text("utf-8")
    page = re.sub(r"\s+", " ", page)
    assert "Three lie within: the warm-up and both students." in page
    assert within == {"warm_up", "none", "kd_unlabelled"}
    below = spans["teacher"][0] - found["teacher"]
    assert f"The teacher lies {below:.3f} below its range." in page
