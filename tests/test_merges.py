"""Scripts that measure seeds and what no seed changes: what is missing is said before a merge."""

import json
from importlib import import_module

import pytest

import shared


@pytest.mark.parametrize("name", ["multimodal", "explanations"])
def test_what_was_not_measured_is_not_merged(name, tmp_path):
    script = import_module(f"measure_{name}")
    with pytest.raises(SystemExit, match=r"no file of a seed; run this script with --seeds"):
        script.merge(tmp_path, tmp_path / "out.json")
    (tmp_path / "seed1.json").write_text(json.dumps({"profile": {}}), "utf-8")
    with pytest.raises(SystemExit, match=r"once.json: not found; run this script with --once"):
        script.merge(tmp_path, tmp_path / "out.json")


def test_recommenders_of_no_shop_are_not_merged(tmp_path):
    script, out = import_module("measure_recommendation"), tmp_path / "out.json"
    with pytest.raises(SystemExit, match=r"no shop was measured; run this script with --once"):
        script.merge(tmp_path, out)
    assert not out.exists()


def test_engines_that_were_not_measured_are_not_merged(tmp_path):
    script = import_module("measure_engines")
    with pytest.raises(SystemExit, match=r"nothing was measured; run this script without --merge"):
        script.merge(tmp_path, tmp_path / "out.json")


def test_a_size_of_an_engine_that_has_no_file_keeps_its_row(tmp_path):
    script, hosted = import_module("measure_engines"), import_module("ecomkd.search.hosted")
    out, kept = tmp_path / "out.json", ("a third", "a tenth", "a hundredth")

    def row(products: int, candidates: int, recall: float) -> dict:
        found = {name: {"recall": recall, "p95_ms": 1.0} for name in ("all", *kept)}
        told = {"engine": "lance", "products": products, "candidates": candidates}
        return {"row": told | found, "hardware": {}}

    large = hosted.CANDIDATES[0] * hosted._EACH * 2
    for number, measured in enumerate(
        (row(10, 100, 0.99), row(large, 100, 0.5), row(large, hosted.enough(large), 0.96))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "lance.json").write_text(json.dumps(measured), "utf-8")
        script.merge(folder, out)
    record = json.loads(out.read_text("utf-8"))
    rows = [(one["products"], one["candidates"]) for one in record["data"]["rows"]]
    assert rows == [(10, 100), (large, 100), (large, hosted.enough(large))]
    assert len(record["goals"]) == 6 and all(goal["met"] for goal in record["goals"])
    out.write_text(json.dumps(record | {"generator": "another"}), "utf-8")
    script.merge(folder, out)
    (only,) = json.loads(out.read_text("utf-8"))["data"]["rows"]
    assert only["products"] == large


def test_seeds_are_read_in_their_order(tmp_path):
    for seed in (10, 9):
        (tmp_path / f"seed{seed}.json").write_text(json.dumps({"seed": seed}), "utf-8")
    assert [part["seed"] for part in shared.read(tmp_path, ())] == [9, 10]
