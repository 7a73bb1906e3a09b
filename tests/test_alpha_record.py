"""Larger weights and temperatures: what is trained, and what is recorded."""

import json

import pytest
import tiny_models

import measure_alpha as script
from ecomkd import load, report
from ecomkd.config import Profile

ROWS = {script.FIRST} | {one for one, _ in script.COMPARED} - set(script.TAKEN.values())


def test_one_value_at_a_time_moves_away_from_the_books():
    profile = Profile.named("book")
    assert {"alpha": profile.alpha, "temperature": profile.temperature} == script.BOOK
    assert script.FIRST == "α = 4, T = 1"
    assert {other for _, other in script.COMPARED} == {script.FIRST}
    assert sum(name.endswith("T = 1") for name in ROWS) == 1 + len(script.TRIED["alpha"])
    assert sum(name.startswith("α = 4,") for name in ROWS) == 1 + len(script.TRIED["temperature"])
    # The first grid ends where this one begins.
    first = report.recorded("student_ablations")["data"]
    assert first["pairs"] == script.PAIRS
    ends = {group: max(one["value"] for one in first["summary"] if one["group"] == group)
            for group in script.TRIED}  # fmt: skip
    assert all(ends[group] <= min(values) for group, values in script.TRIED.items())


def test_all_students_of_a_shop_take_the_same_steps(tmp_path, monkeypatch):
    profile = tiny_models.distilling(tmp_path)
    monkeypatch.setattr(Profile, "named", lambda seed: profile)
    given, whole = [], script.stages.student

    def watched(data, own, row, **how):
        given.append((own.alpha, own.temperature, row, how["unlabelled"], how["steps"]))
        return whole(data, own, row, **how)

    monkeypatch.setattr(script.stages, "student", watched)
    found = script.measured(900)
    assert set(found["systems"]) == set(found["validation"]) == ROWS
    assert {one[2:] for one in given} == {given[0][2:]}
    few = len(load("shop", profile)["unlabelled"])
    assert given[0] == (4.0, 1.0, "kd_unlabelled", few, given[0][4])
    weights = {one[:2] for one in given}
    assert weights == {(4.0, 1.0), (16.0, 1.0), (64.0, 1.0), (256.0, 1.0), (4.0, 4.0), (4.0, 16.0)}


def test_a_record_has_differences_from_the_book_and_what_validation_says(tmp_path):
    favourite = ["α = 16, T = 1", "α = 256, T = 1", "α = 4, T = 16"]
    for place, seed in enumerate((18, 19, 20)):
        systems = {}
        for number, name in enumerate(sorted(ROWS)):
            order = {f"q{n}": 0.8 + number / 100 + (place + n) / 1000 for n in range(3)}
            systems[name] = {
                "ndcg@10": order,
                "random_ndcg@10": dict.fromkeys(order, 0.7),
                "macro_f1": 0.5,
            }
        part = {"seed": seed, "profile": {}, "hardware": {}, "generator": "of all"}
        told = {
            name: {"ndcg@10": 0.8 + place / 10, "quality": 0.7 + 0.1 * (name == favourite[place])}
            for name in ROWS
        }
        part |= {"precision": "bf16", "systems": systems, "validation": told}
        (tmp_path / f"seed{seed}.json").write_text(json.dumps(part), encoding="utf-8")
    script.merge(tmp_path, tmp_path / "record.json")
    data = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))["data"]
    place = {name: number / 100 for number, name in enumerate(sorted(ROWS))}
    assert len(data["differences"]) == len(script.COMPARED)
    for one in data["differences"]:
        if one["system"] in ROWS:
            apart = place[one["system"]] - place[script.FIRST]
            assert one["seeds"]["mean"] == pytest.approx(apart)
    row = data["rows"][script.FIRST]
    assert row["validation ndcg@10 by_seed"] == pytest.approx([0.8, 0.9, 1.0])
    assert row["validation quality by_seed"] == [0.7] * 3
    assert data["chosen"] == {
        "18": {"alpha": favourite[0], "temperature": script.FIRST},
        "19": {"alpha": favourite[1], "temperature": script.FIRST},
        "20": {"alpha": script.FIRST, "temperature": favourite[2]},
    }
    apart = sum(place[name] - place[script.FIRST] for name in favourite[:2]) / 3
    assert data["differences"][-2]["seeds"]["mean"] == pytest.approx(apart)


def test_no_larger_value_is_shown_to_be_better():
    """Chapter 4: validation takes a larger α on each shop, and T = 1; neither brings anything."""
    data = report.recorded("alpha")["data"]
    assert all(one["seeds"]["low"] <= 0 for one in data["differences"])
    for taken in data["chosen"].values():
        assert taken["temperature"] == script.FIRST != taken["alpha"]
