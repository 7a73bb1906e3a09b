"""Validation queries with unseen words of their own: how they are drawn, and what they choose."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models

import measure_unseen_validation as script
from ecomkd import load, report
from ecomkd.config import Profile
from ecomkd.data import shop
from ecomkd.data.schema import normalise_query

ROOT = Path(__file__).resolve().parent.parent
LABELS, MORE, UNSEEN = script.LABELS, script.MORE, script.UNSEEN


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The smallest shop, its further queries, and the test queries that are left out."""
    profile = Profile.named("smoke", seed=900, artifacts=tmp_path_factory.mktemp("artifacts"))
    data = load("shop", profile)
    return profile, data, *script.drawn(data["test"], profile)


def unseen(pairs) -> dict[str, str]:
    """Queries with a word that no label has seen, by id."""
    columns = (pairs[name] for name in ("query_id", "query", "query_kind"))
    return {name: text for name, text, kind in zip(*columns, strict=True) if kind == UNSEEN}


def test_each_types_unseen_words_are_halved_and_odd_numbers_fall_to_either_side():
    types, sizes = shop.vocabulary().types, set()
    own = script.divided(types, np.random.default_rng(1))
    for kind in types:
        assert set(own[kind.key]) < set(kind.unseen) or len(kind.unseen) == 1
        sizes.add((len(kind.unseen), len(own[kind.key])))
    assert {(1, 0), (1, 1), (2, 1), (3, 1), (3, 2)} <= sizes
    assert all(abs(2 * chosen - whole) <= 1 for whole, chosen in sizes)


def test_the_word_of_a_query_is_the_longest_one_that_it_has():
    words = ("settee", "settee cover")
    assert script.word_of("grey settee covers", words) == "settee cover"
    assert script.word_of("settees for 3 people", words) == "settee"
    assert script.word_of("sofa", words) is None


def test_the_further_queries_are_new_and_each_has_its_judged_candidates(asked):
    profile, data, pairs, _ = asked
    count = script.TIMES * round(0.14 * profile.queries)
    names = list(dict.fromkeys(pairs["query_id"]))
    assert names == [f"V{number:06d}" for number in range(count)]
    assert len(pairs) == count * profile.judged_per_query
    typed = {normalise_query(text) for part in data.values() for text in part["query"]}
    fresh = {normalise_query(text) for text in pairs["query"]}
    assert len(fresh) == count and not fresh & typed
    assert pairs.features["label"] == data["test"].features["label"]
    assert 0.15 < len(unseen(pairs)) / count < 0.5
    again, _ = script.drawn(data["test"], profile)
    assert again.to_dict() == pairs.to_dict()


def test_the_further_queries_are_labelled_by_the_shops_rule(asked):
    profile, _, pairs, _ = asked
    sizes = profile.queries, profile.judged_per_query, profile.unlabelled_pairs
    made = shop.generate(profile.seed, profile.products, *sizes)
    types = made.products.set_index("product_id")["product_type"]
    found = pairs.to_pandas().assign(type=types.loc[pairs["product_id"]].to_numpy())
    exact = found["label"].eq(pairs.features["label"].str2int("E"))
    for _, own in found.groupby("query_id"):
        asked_for = set(own["type"][exact])
        assert len(asked_for) <= 1
        if own["query_kind"].iloc[0] == "plain":
            # It asks for nothing but the type.
            assert exact[own.index[own["type"].isin(asked_for)]].all()
    assert "plain" in set(found["query_kind"])


def test_no_word_of_them_is_left_in_the_test(asked):
    _, data, pairs, both = asked
    words = {word for kind in shop.vocabulary().types for word in kind.unseen}
    theirs = {script.word_of(text, words) for text in unseen(pairs).values()}
    tested = unseen(data["test"])
    assert both and both < set(tested)
    rest = {script.word_of(text, words) for name, text in tested.items() if name not in both}
    assert rest and not rest & theirs


def run(number: int, order: float, **validations: float) -> dict:
    """One training: its learning rate, what validations say of it, and its test queries."""
    values = {name: 0.5 - number / 100 for name in script.VALIDATIONS} | validations
    values[script.TEST] = order
    tested = {f"q{place}": order + place / 100 for place in range(3)}
    return {
        "settings": {"rate": number},
        "validation": {name: dict.fromkeys(script.MEASURES, one) for name, one in values.items()},
        "test": {"ndcg@10": tested, "random_ndcg@10": dict.fromkeys(tested, 0.7)},
    }


def test_each_validation_has_its_choice_and_the_difference_that_it_leads_to(tmp_path):
    for place, seed in enumerate((18, 19, 20)):
        labels = [run(1, 0.80, **{script.DRAWN: 0.9}), run(2, 0.85, **{script.SHOP: 0.9})]
        more = [run(3, 0.90 + place / 100, **{script.SHOP: 0.9, script.DRAWN: 0.9}), run(4, 0.7)]
        part = {"seed": seed, "profile": {}, "hardware": {}, "generator": "of all"}
        part |= {"precision": "bf16", "runs": {LABELS: labels, MORE: more}}
        part |= {"queries": {}, "unseen": {}, "left out": 1}
        part["kinds"] = {"q0": UNSEEN, "q1": "plain", "q2": UNSEEN}
        (tmp_path / f"seed{seed}.json").write_text(json.dumps(part), encoding="utf-8")
    script.merge(tmp_path, tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    found = record["data"]["chosen by"]
    for validation, rate, added in ((script.SHOP, 2, 0.06), (script.DRAWN, 1, 0.11)):
        own = found[validation]["quality"]
        assert own["settings"]["18"] == {LABELS: {"rate": rate}, MORE: {"rate": 3}}
        assert own["added"]["seeds"]["mean"] == pytest.approx(added)
    for queries in ("moved", "moved on unseen"):
        apart = found[script.DRAWN]["quality"][queries]
        assert apart["difference"] == pytest.approx(0.05) == apart["seeds"]["mean"]
    assert record["data"]["unseen queries left"] == 6
    assert found[script.TEST]["quality"]["added"]["seeds"]["mean"] == pytest.approx(0.06)
    (goal,) = record["goals"]
    assert goal["met"] and goal["value"] == pytest.approx(0.11)


def test_a_seed_judges_every_student_that_was_tried(tmp_path, monkeypatch):
    profile = tiny_models.distilling(tmp_path)
    monkeypatch.setattr(Profile, "named", lambda seed: profile)
    settings = {"rate": 3e-4, "dropout": 0.0, "steps": 1.0, "warmed": 0.0}
    told = {"quality": 0.5, "ndcg@10": 0.7}
    tried = {LABELS: [settings | told], MORE: [settings | told, settings | {"steps": 2.0} | told]}
    record = {"data": {"tried": {"900": tried}}}
    monkeypatch.setattr(script.report, "recorded", lambda name: record)
    found = script.measured(900)
    assert {name: len(runs) for name, runs in found["runs"].items()} == {LABELS: 1, MORE: 2}
    assert found["runs"][MORE][1]["settings"]["steps"] == 2.0
    few, larger, all_of_them = (
        found["queries"][name] for name in (script.ALIKE, script.LARGER, script.DRAWN)
    )
    assert few == all_of_them / script.TIMES and larger < all_of_them
    assert found["unseen"][script.LARGER] == 0 < found["unseen"][script.DRAWN]
    assert set(found["kinds"]) == set(load("shop", profile)["test"]["query_id"])
    for runs in found["runs"].values():
        for one in runs:
            assert set(one["validation"]) == set(script.VALIDATIONS)
            assert one["validation"][script.SHOP] == told
            values = list(one["test"]["ndcg@10"].values())
            assert np.mean(values) == pytest.approx(one["validation"][script.TEST]["ndcg@10"])
            tests = len(set(load("shop", profile)["test"]["query_id"]))
            assert len(values) <= tests - found["left out"]


# The record


@pytest.fixture(scope="module")
def recorded():
    return report.recorded("unseen_validation")["data"]


def test_by_no_validation_does_distillation_add_nothing(recorded):
    """Over queries; chapter 4 and book/compared.md say that the shops are too few."""
    for by_measure in recorded["chosen by"].values():
        for found in by_measure.values():
            assert found["added"]["low"] > 0
    for validation in (script.SHOP, script.DRAWN):
        over_shops = recorded["chosen by"][validation]["quality"]["added"]["seeds"]
        assert over_shops["low"] < 0 < over_shops["high"]


def test_the_larger_validation_moves_the_gain_by_nothing_that_shows(recorded):
    apart = recorded["chosen by"][script.DRAWN]["quality"]["moved"]
    for span in (apart, apart["seeds"]):
        assert span["low"] < 0 < span["high"]
    assert script.SHOP in recorded["chosen by"]
    assert "moved" not in recorded["chosen by"][script.SHOP]["quality"]


def test_the_larger_validation_takes_the_most_steps_and_its_seen_queries_nearly_the_same(recorded):
    tried = report.recorded("labels_only")["data"]["tried"]
    same = 0
    by = {name: recorded["chosen by"][name]["quality"]["settings"] for name in script.VALIDATIONS}
    for seed, runs in tried.items():
        for name in (LABELS, MORE):
            most = max(run["steps"] for run in runs[name])
            assert by[script.DRAWN][seed][name]["steps"] == most
            same += by[script.DRAWN][seed][name] == by[script.LARGER][seed][name]
            assert by[script.SHOP][seed][name] == {
                of: script.measure_labels_only.best_of(runs[name])[of] for of in script.SETTINGS
            }
    assert same == 5


def test_a_third_of_the_larger_validation_has_unseen_words_and_fewer_of_the_test_that_is_left(
    recorded,
):
    assert set(recorded["queries"]) == {"18", "19", "20"}
    for seed, count in recorded["queries"].items():
        assert count[script.DRAWN] == 504
        unseen = recorded["unseen"][seed]
        assert unseen[script.LARGER] == 0 and 0.3 < unseen[script.DRAWN] < 0.36
    left = 972 - sum(recorded["left out"].values())
    assert recorded["unseen queries left"] / left < 0.2


def test_the_page_on_real_products_has_the_numbers(recorded):
    page = " ".join((ROOT / "book" / "compared.md").read_text(encoding="utf-8").split())
    drawn, own = (
        "{difference:.3f} [{low:.3f}, {high:.3f}]".format(
            **recorded["chosen by"][validation]["quality"]["added"]
        )
        for validation in (script.DRAWN, script.SHOP)
    )
    assert f"with them, the gain is then {drawn}. By the choice of the shop's own" in page
    assert f"own validation it is {own}, a difference of" in page
    apart = recorded["chosen by"][script.DRAWN]["quality"]["moved"]
    span = "{difference:.3f} [{low:.3f}, {high:.3f}]".format(**apart).replace("-", "−")
    assert f"a difference of {span}" in page
