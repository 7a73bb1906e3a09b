"""The script that measures descriptions, with tiny models, and the record it writes."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import tiny_baskets

import measure_descriptions as script
from ecomkd import describe
from ecomkd.config import Profile

SEEDS = (0, 1)
STUDENT, MORE = "student", "student, teacher's text, more products"


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("descriptions")
    named = Profile.named

    def tiny(name=None, seed=0):
        return named("smoke", seed=seed, artifacts=folder, device="cpu", precision="fp32")

    def some(task):
        return replace(task, test=task.test[:4])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Profile, "named", tiny)
        # The demo store is not in every copy; some products of the shop stand for it, so that the
        # models are those of the shop.
        patch.setattr(
            script.demo_store,
            "task",
            lambda profile, withheld=False: some(describe.shop_task(profile, withheld)),
        )
        patch.setattr(script.simulated, "generate", cache(script.simulated.generate))
        patch.setattr(script, "SHARES", (0.5, 1.0))
        patch.setattr(script, "WRITTEN", (1, 2))
        return tiny_baskets.record_of(patch, script, folder, SEEDS)


def test_recall_counts_facts_and_rates_count_texts(record):
    told, parts = record[0]["data"]["shop"], record[1]["shop"]
    assert told["products"] == len({one for part in parts for one in part["product"]})
    for name, own in told["rows"].items():
        counts = [part["rows"][name] for part in parts]
        named, facts = (sum(np.sum(one[key]) for one in counts) for key in ("named", "facts"))
        assert own["recall"]["value"] == pytest.approx(named / facts)
        invented = np.concatenate([one["invented"] for one in counts])
        assert own["invented"]["value"] == pytest.approx(invented.mean())
        assert own["invented"]["low"] <= invented.mean() <= own["invented"]["high"]


def test_writers_without_a_model_are_clean_and_the_guard_makes_all_so(record):
    rows = record[0]["data"]["shop"]["rows"]
    for name in ("record", "template", "written"):
        assert rows[name]["clean"]["value"] == rows[name]["recall"]["value"] == 1
    assert {row["guarded"]["clean"]["value"] for row in rows.values()} == {1.0}
    assert rows["teacher"]["clean"]["value"] == 0  # a tiny random model names nothing
    assert rows["teacher"]["mended"]["value"] + rows["teacher"]["refused"]["value"] == 1


def test_differences_are_those_of_the_rows_on_the_same_products(record):
    data = record[0]["data"]["store"]
    for a, b in (("teacher", "prompted"), (MORE, STUDENT)):
        for measure in ("recall", "invented", "clean"):
            found = data["minus"][f"{a} - {b}"][measure]
            rows = data["rows"]
            assert found["value"] == pytest.approx(
                rows[a][measure]["value"] - rows[b][measure]["value"]
            )
            assert found["low"] <= found["value"] <= found["high"]


def test_promises_are_inventions_unless_the_record_has_them(record):
    rows = record[0]["data"]["shop"]["rows"]
    assert rows["written, beyond the record"]["invented"]["value"] > 0.2


def test_goals_say_what_the_rows_say(record):
    goals, data = {goal["name"]: goal for goal in record[0]["goals"]}, record[0]["data"]
    for kind in script.KINDS:
        own = data[kind]["minus"]["teacher - prompted"]["recall"]
        goal = goals[f"{kind}: attribute recall, teacher minus prompted"]
        assert (goal["value"], goal["low"]) == (own["value"], own["low"])
        assert goal["met"] == (own["low"] > 0)
        caught = data[kind]["planted"]["caught"]
        goal = goals[f"{kind}: planted wrong values that are caught"]
        assert goal["met"] == (caught["low"] >= 0.95)


def test_cost_is_told_by_number_of_texts(record):
    cost = record[0]["data"]["scale"]
    assert [row["products"] for row in cost["sizes"]] == sorted(
        row["products"] for row in cost["sizes"]
    )
    assert {one["model"] for one in cost["writing"]} == {"teacher", "student"}
    assert all(len(one["seconds"]) == len(one["tokens"]) == 2 for one in cost["writing"])
