"""The script that measures students of clicks, on a made-up shop, and the record that it writes."""

import json

import numpy as np
import pytest
import tiny_baskets
import torch

import click_judges
import click_students
import measure_clicks as script
from ecomkd import report
from ecomkd.search import clicks

WIDTH, PRODUCTS, DEPTH = 6, 30, 5
SMALL = {"LOGS": (40, 80), "ETAS": (0.0, 1.0), "RESAMPLES": 50}


def asked(split: str, queries: int) -> click_students.Asked:
    """Queries whose good products are near, shown in an order that has little to do with it."""
    draw = np.random.default_rng(len(split))
    vectors = click_students.unit(draw.normal(size=(queries, WIDTH)).astype(np.float32))
    rows = np.array([draw.permutation(PRODUCTS)[:DEPTH] for _ in range(queries)])
    near = torch.einsum("qh,qkh->qk", vectors, torch.from_numpy(products())[rows])
    gains = (near == near.max(dim=1, keepdim=True).values).numpy().astype(float)
    signals = torch.zeros((queries, DEPTH, click_students.SIGNALS))
    signals[..., 0] = torch.linspace(1, -1, DEPTH)
    signals[..., 1] = near
    mask = torch.ones((queries, DEPTH), dtype=torch.bool)
    ids = [f"{split}{query}" for query in range(queries)]
    return click_students.Asked(vectors, rows, mask, signals, gains, ids)


def products() -> np.ndarray:
    drawn = np.random.default_rng(3).normal(size=(PRODUCTS, WIDTH)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def tiny(name: str, profile) -> click_students.Ground:
    parts = {split: asked(split, size) for split, size in (("train", 12), ("validation", 6))}
    return click_students.Ground(parts | {"test": asked("test", 9)}, torch.from_numpy(products()))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clicks")
    with pytest.MonkeyPatch.context() as patch:
        top, least = max(SMALL["LOGS"]), min(SMALL["LOGS"])
        pairs = {"large": (script.LABELS, script.LOGGED)}
        pairs["middle"] = f"{script.ESTIMATED}, {top}", f"{script.NAIVE}, {top}"
        pairs["small"] = f"{script.ESTIMATED}, {top}", f"{script.ESTIMATED}, {least}"
        for name, value in (SMALL | {"PAIRS": pairs, "ground": tiny}).items():
            patch.setattr(script, name, value)
        for name, value in {"DRAFTS": 2, "VISITS": 3, "LOOKS": 5, "TRIALS": 40}.items():
            patch.setattr(click_judges, name, value)
        patch.setattr(click_students, "PASSES", 8)
        patch.setattr(click_students, "SHARE", 0.5)
        for kind in script.DATA:
            tiny_baskets.call(patch, script, f"{kind} --seeds 0 1 2 --folder {folder}")
        out = folder / "clicks.json"
        tiny_baskets.call(patch, script, f"--merge --folder {folder} --out {out}")
    seeds = [json.loads((folder / "shop" / f"seed{s}.json").read_text("utf-8")) for s in (0, 1, 2)]
    return json.loads(out.read_text("utf-8")), seeds


def test_seeds_of_both_sources_are_merged_into_a_record(made):
    record, seeds = made
    assert record["seeds"] == [0, 1, 2] and len(record["goals"]) == 6
    assert record["command"].startswith("python benchmarks/measure_clicks.py shop --seeds 0 1 2")
    shop = record["data"]["shop"]
    for name, row in shop["rows"].items():
        values = [one["values"][name] for one in seeds]
        assert row["value"] == pytest.approx(np.mean(values))
    assert shop["searched"] == {"train": 12, "validation": 6} and shop["queries"] == 9
    rows = {name: row["value"] for name, row in shop["rows"].items()}
    for pair in shop["comparisons"]:
        assert pair["value"] == pytest.approx(rows[pair["system"]] - rows[pair["against"]])
    top = f"{script.ESTIMATED}, 80"
    gain = rows[script.LABELS] - rows[script.LOGGED]
    assert shop["kept"][top]["value"] == pytest.approx((rows[top] - rows[script.LOGGED]) / gain)
    assert rows["random"] < rows[script.FREE]


def test_the_judges_of_a_record_are_those_of_its_seeds(made):
    record, seeds = made
    for name in ("large", "middle"):
        found = record["data"]["shop"]["judged"][name]
        moments = np.mean([one["judged"][name]["moments"]["clicks"] for one in seeds], axis=(0, 1))
        assert found["difference"]["clicks"] == pytest.approx(moments[0] - moments[3])
        fewest = min(click_judges.MEASURES, key=lambda one: found["searches"][one]["value"])
        assert found["best"]["A/B"] == fewest
        idle = found["idle"]["0"]
        assert idle["searches"]["A/B"] == found["searches"][fewest]["value"]


def test_a_student_of_clicks_sees_no_label():
    """With the gains turned around after the log was made, it is the same student."""
    base = tiny("shop", None)
    logs = {
        name: click_students.logged(base.parts[name], 200, 1.0, np.random.default_rng(1))
        for name in script.SEARCHED
    }
    first = script.learnt(base, logs, 1.0, 0, (script.ESTIMATED,))["orders"][script.ESTIMATED][0]
    for part in base.parts.values():
        part.gains[:] = part.gains[:, ::-1].copy()
    again = script.learnt(base, logs, 1.0, 0, (script.ESTIMATED,))["orders"][script.ESTIMATED][0]
    assert (first == again).all()


def test_products_are_ordered_by_their_clicks():
    base = tiny("shop", None)
    rows = base.parts["train"].rows
    seen = np.zeros((200, DEPTH), bool)
    seen[:, 1] = True
    nothing = click_students.Log(np.zeros(1, int), np.zeros(1, int), np.zeros((1, DEPTH), bool))
    log = click_students.Log(np.zeros(200, int), np.zeros(200, int), seen)
    test = base.parts["test"].rows
    rows[0] = np.setdiff1d(np.arange(PRODUCTS), test[0])[:DEPTH]
    rows[0, 1] = test[0, 3]
    order = script.by_product(base, {"train": log, "validation": nothing}, np.ones(DEPTH))
    assert order[0][0] == 3  # the others were never shown, or once


# The record


@pytest.fixture(scope="module")
def recorded():
    return report.recorded("clicks")["data"]


def difference(found: dict, system: str, against: str) -> dict:
    (one,) = (
        one for one in found["comparisons"] if (one["system"], one["against"]) == (system, against)
    )
    return one


def test_the_model_of_the_record_is_that_of_the_package(recorded):
    assert recorded["model"]["attraction"] == {"noise": clicks.NOISE, "most": clicks.MOST}
    assert recorded["model"]["searches"] == list(script.LOGS)


@pytest.mark.parametrize("name", script.DATA)
def test_what_chapter_19_says_of_clicks_as_labels(recorded, name):
    found, top = recorded[name], max(script.LOGS)
    naive, mended = f"{script.NAIVE}, {top}", f"{script.ESTIMATED}, {top}"
    assert difference(found, mended, naive)["low"] > 0
    assert found["kept"][mended]["value"] > 0.9 > 0.7 > found["kept"][naive]["value"]
    # More naive clicks do not help, and what nobody trained is better than they are.
    rows = {row: one["value"] for row, one in found["rows"].items()}
    least = f"{script.NAIVE}, {min(script.LOGS)}"
    assert rows[naive] - rows[least] < 0.1 * (rows[mended] - rows[naive]) + 0.005
    assert rows[naive] < rows[script.FREE] < rows[mended]
    # Where all ranks are looked at, there is nothing to mend; at eta 2 there is more.
    flat = difference(found, f"{mended}, eta 0", f"{naive}, eta 0")
    assert abs(flat["value"]) < 0.003
    steep = difference(found, f"{mended}, eta 2", f"{naive}, eta 2")
    assert steep["value"] > difference(found, mended, naive)["value"]
    # The rival that needs no swaps.
    term = f"{script.TERM}, {top}"
    assert difference(found, term, naive)["low"] > 0
    rival = difference(found, mended, term)
    assert rival["low"] < 0 < rival["high"]


def test_a_thousand_searches_tell_little_of_many_ranks(recorded):
    weighed, naive, term = (f"{row}, 1000" for row in (script.ESTIMATED, script.NAIVE, script.TERM))
    assert difference(recorded["shop"], weighed, naive)["low"] > 0
    assert difference(recorded["msrd"], weighed, naive)["low"] < 0
    assert difference(recorded["msrd"], weighed, term)["high"] < 0


def test_clipping_costs_where_pages_are_long(recorded):
    clipped, whole = (f"{row}, {max(script.LOGS)}" for row in script.ROWS[4:2:-1])
    assert difference(recorded["msrd"], clipped, whole)["high"] < 0
    assert abs(difference(recorded["shop"], clipped, whole)["value"]) < 0.001


@pytest.mark.parametrize("name", script.DATA)
def test_what_chapter_19_says_of_clicks_as_judges(recorded, name):
    middle = recorded[name]["judged"]["middle"]
    needs = {judge: one["value"] for judge, one in middle["searches"].items()}
    assert all(says > 0 for says in middle["difference"].values())
    assert (
        needs["interleaving"]
        < needs["first click"]
        == min(needs[judge] for judge in click_judges.MEASURES)
    )
    # Not the tenth that was asked for; nearer to it where most shoppers click nothing.
    assert middle["idle"]["0"]["quotient"]["value"] > 0.3
    assert middle["idle"]["0.8"]["quotient"]["value"] < 0.2
    assert needs["interleaving, shared head apart"] < needs["interleaving"]
    assert needs["query by query"] < needs["first click"]
    for pair in recorded[name]["judged"].values():
        for judge, shares in pair["right"].items():
            assert judge and np.mean(shares) == pytest.approx(0.8, abs=0.03)


def test_looking_often_raises_false_alarms(recorded):
    for name in script.DATA:
        for found in recorded[name]["false alarms"].values():
            assert found["one look"]["mean"] == pytest.approx(0.05, abs=0.015)
            assert found["every look"]["low"] > 0.3
            assert found["every look, divided"]["high"] < 0.05


def test_goals_are_as_they_came_out():
    goals = report.recorded("clicks")["goals"]
    assert [goal["met"] for goal in goals] == [True, True, False] * 2
