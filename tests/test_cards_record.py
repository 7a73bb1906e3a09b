"""The script that measures profile cards, on made-up households and shops, and its record."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_profiles
import tiny_baskets
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import measure_cards as script
from ecomkd import people, report
from ecomkd.config import Profile
from ecomkd.data import journey
from ecomkd.data import shop as simulated
from ecomkd.data.baskets import from_lines
from ecomkd.data.schema import GAINS

SEEDS = (1, 2)


@pytest.fixture(scope="module")
def baskets():
    third = np.arange(40) % 3
    told = pd.DataFrame(
        {
            "user_id": range(40),
            "age": np.array(["25-34", "45-54", "65+"])[third],
            "composition": np.where(np.arange(40) % 2, "2 Adults No Kids", "2 Adults Kids"),
            "people": np.array(["1", "2", "3"])[third],
            "income": np.array(["25-34K", "50-74K", "100-124K"])[third],
        }
    )
    items = test_profiles.items().assign(department="GROCERY")
    lines = test_profiles.lines()
    # Half of the kinds are new to a household in the second half of the time.
    early = lines["time"] < lines["time"].min() + pd.Timedelta(days=165)
    odd = lines["item_id"].str[6].map(ord, na_action="ignore") % 2 == lines["user_id"] % 2
    return from_lines(lines[~(early & odd & (lines["user_id"] > 4))], items, told, {})


@pytest.fixture(scope="module")
def record(baskets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards")
    named, noise = Profile.named, np.random.default_rng(0)

    def untrained(profile: Profile) -> dict[str, pd.DataFrame]:
        rows = small_shop(profile).judgments
        rows = rows.assign(score=rows["esci_label"].map(GAINS) + noise.normal(0, 0.3, len(rows)))
        return {split: rows[rows["split"] == split] for split in ("validation", "test")}

    def vectors(texts: list[str], profile: Profile) -> list[np.ndarray]:
        words = pd.get_dummies(pd.Series(texts)).to_numpy(float)
        return [words @ noise.normal(size=(words.shape[1], 16))]

    def line(seed: int):
        """With a penalty that is given: to choose one takes a hundred fits."""
        return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Profile, "named", lambda name=None, seed=0: named("smoke", seed=seed))
        patch.setattr(journey, "load", lambda: baskets)
        patch.setattr(script.features, "layers", vectors)
        patch.setattr(script, "untrained", untrained)
        patch.setattr(people, "classifier", line)
        few = {"CLUSTERS": 8, "FOLDS": 2, "SIZES": (3, 6), "PRIORS": (20.0,), "ENOUGH": 5}
        few |= {"PURCHASES": (0, 10, 30, 100), "WEIGHTS": (0.0, 0.3), "MATCH_PRIORS": (3.0,)}
        few |= {"CLARITIES": (4.0,), "AMBIGUOUS": 2}
        for name, value in few.items():
            patch.setattr(script, name, value)
        out, parts = folder / "record.json", folder / "parts"
        lines = [f"{kind} --seeds 1 2 --folder {parts}" for kind in script.KINDS]
        tiny_baskets.call(patch, script, *lines, f"--merge --out {out} --folder {parts}")
        return json.loads(out.read_text(encoding="utf-8"))


def small_shop(profile: Profile) -> simulated.Shop:
    return simulated.generate(
        profile.seed,
        profile.products,
        profile.queries,
        profile.judged_per_query,
        profile.unlabelled_pairs,
    )


def test_names_are_on_their_receipts_and_statements_are_judged(record):
    cards = record["data"]["cards"]
    assert cards["names"]["own, on the receipt"]["value"] == 1
    assert {"interest", "loyalty", "own brands", "price level", "rhythm"} <= set(cards["held"])
    assert all(0 <= row["value"] <= 1 and 0 <= row["chance"] <= 1 for row in cards["held"].values())
    # These households do in the second half what they did in the first.
    assert cards["held"]["price level"]["value"] == 1
    assert cards["names"]["own, later"]["value"] > cards["names"]["own, chance"]["value"]
    # No kind of this shop is on the list.
    written = cards["written out"]
    assert written["purchases"] == 0
    assert all(written[f"statements{rest}"]["mean"] == 0 for rest in ("", ", other groups"))


def test_statements_are_in_words_where_each_kind_that_they_name_is(baskets):
    groups = np.zeros(len(baskets.items), int)
    groups[baskets.items["type"] == "TEA"] = 1
    made = people.Cards(baskets, baskets.days, groups, journey.FIRST_DAY)
    user = test_profiles.WEEKLY
    (tea,) = (one for one in made(user) if one.topic == "interest")
    assert "Buys tea" in tea.text
    about = [one for one in made(user) if one.about is not None]
    by_hand = np.ones(len(baskets.items), bool)
    assert script.in_words(made, by_hand, np.array([user])) == 1
    by_hand[baskets.items["type"] == "TEA"] = False
    rest = sum(one.about != 1 for one in about) / len(about)
    assert script.in_words(made, by_hand, np.array([user])) == pytest.approx(rest)


def test_a_kind_alone_says_nothing_of_other_kinds(record):
    rows = record["data"]["groups"]["rows"]
    assert rows["each kind alone/new"]["value"] == pytest.approx(0, abs=1e-12)
    both = record["data"]["groups"]["minus"]["MiniLM - TF-IDF/all"]["value"]
    difference = rows["MiniLM/all"]["value"] - rows["TF-IDF/all"]["value"]
    assert both == pytest.approx(difference)


def test_what_groups_say_of_new_kinds_by_hand(baskets):
    """One household that buys of kind 0, then of kinds 0, 1 and 2; the first two are one group."""
    half = baskets.days // 2
    rows = [(0, 0, 0), (0, 0, 0), (1, 1, 0), (1, 2, 0), (0, 0, half), (0, 1, half), (0, 2, half)]
    events = pd.DataFrame(rows, columns=["user", "item", "day"]).assign(basket=range(len(rows)))
    last = pd.DataFrame({"user": [1], "item": [0], "day": [baskets.days - 1], "basket": [99]})
    own = replace(
        baskets,
        events=pd.concat([events, last]),
        items=pd.DataFrame({"item_id": range(3)}),
        users=pd.DataFrame({"user_id": range(2)}),
    )
    known = script.Halves(own, np.arange(3))
    assert [counts.tolist() for counts in known.counts] == [[3, 1], [2, 1]]
    every, new = known.gains(np.array([0, 0, 1]), prior=2.0)
    # Shares are 3/4 and 1/4; the household has 2 of 2 in the first group.
    lifts = np.array([(2 + 2 * 0.75) / 4 / 0.75, (2 * 0.25) / 4 / 0.25])
    assert every[0] == pytest.approx(np.log(lifts[[0, 0, 1]]).sum())
    # Of the kinds that it has not bought, each has a quarter of the shop's sales.
    share = lifts / lifts.sum()
    assert new[0] == pytest.approx(np.log(share / 0.5).sum())


def test_a_guess_speaks_only_where_it_was_right_often_enough(record):
    guesses = record["data"]["guesses"]
    assert guesses["households"] == 39 and len(guesses["rows"]) == 6
    for row in guesses["rows"].values():
        for word in ("yes", "no"):
            assert row["chosen"][word]["n"] <= guesses["households"]
            assert ("value" in row["chosen"][word]) == (row["chosen"][word]["n"] >= 2.5)


def test_a_calibration_keeps_the_order_and_moves_the_mean():
    rng = np.random.default_rng(0)
    p = rng.random(4_000)
    y = rng.random(4_000) < p**2  # it promises too much
    found = script._calibrated(p, y)
    for kind in ("logistic", "isotonic"):
        mended = found[kind](np.linspace(0, 1, 50))
        assert (np.diff(mended) >= -1e-12).all()
        assert abs(found[kind](p).mean() - y.mean()) < 0.01 < abs(p.mean() - y.mean())
    assert (found["as it is"](p) == p).all()


def test_a_profile_moves_a_purchase_up_and_a_new_shopper_loses_nothing(record):
    path = record["data"]["path"]
    rows = path["rows"]
    assert path["shops"] == 2
    for goal in script.MEASURES:
        new = rows[f"4/0/{goal}/all"]
        assert new["value"] == new["low"] == new["high"] == 0
    own, other, taste = (
        rows[f"4/{who}/purchase/all"]["value"] for who in ("100", "another's", "taste")
    )
    assert own > max(other, 0) and taste > 0


def test_the_rank_of_a_purchase_by_hand():
    asked = people.Searches(
        products=np.array([[0, 1, 2]]), gains=np.array([[1.0, 1.0, 0.0]]),
        scores=np.array([[3.0, 2.0, 1.0]]),
    )  # fmt: skip
    taste = np.array([[0.0, 1.0, 0.5]])
    judge = script.Judge(asked, taste, clarity=1.0)
    # Worth 1/2 and 1: the second is bought in two of three cases.
    found = judge.values(None, 0.0)["purchase"]
    assert found[0, 0] == pytest.approx(1 / 3 + 2 / 3 / 2)
    mended = judge.values(np.array([[0.0, 2.0, 0.0]]), 1.0)["purchase"]
    assert mended[0, 0] == pytest.approx(2 / 3 + 1 / 3 / 2)


def test_intervals_are_those_of_shops_and_queries():
    rng = np.random.default_rng(0)
    shops = [rng.normal(mean, 1, 200) for mean in (0, 1, 2, 3)]
    found = script._over_shops(shops)
    assert found["value"] == pytest.approx(1.5, abs=0.1)
    alike = script._over_shops([rng.normal(1.5, 1, 200) for _ in range(4)])
    assert found["high"] - found["low"] > 3 * (alike["high"] - alike["low"])


def test_the_chapter_has_the_measure_of_the_script():
    notebook = Path(report.__file__).parents[1] / "notebooks" / "11_user_profiles.ipynb"
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    sources = ("".join(cell["source"]) for cell in cells)
    source = next(text for text in sources if text.startswith("def found_at("))
    rng = np.random.default_rng(0)
    taste = rng.random((5, 30))
    asked = people.Searches(
        rng.integers(30, size=(7, 10)), rng.choice([0.0, 0.01, 0.1, 1.0], (7, 10)),
        rng.normal(size=(7, 10)),
    )  # fmt: skip
    known = {"np": np, "people": people, "taste": taste}
    exec(source, known)
    fit = rng.normal(size=taste.shape)
    wanted = script.Judge(asked, taste, 4.0).values(fit, 0.3)["purchase"]
    assert known["found_at"](asked, fit, 0.3) == pytest.approx(wanted)


def test_what_chapter_11_says_in_words_is_in_the_record():
    record = report.recorded("cards")
    missed = [goal["name"] for goal in record["goals"] if not goal["met"]]
    new = "nats of purchases of new kinds, groups of MiniLM minus"
    assert missed == [f"{new} TF-IDF", f"{new} the shop's categories"]
    told = record["data"]
    written = told["cards"]["written out"]
    assert written["statements"]["low"] == 1  # the list was made from these cards
    assert min(written["purchases"], written["statements, other groups"]["low"]) > 0.99
    held, names = told["cards"]["held"], told["cards"]["names"]
    assert all(row["low"] > row["chance"] for row in held.values())
    assert min(held, key=lambda topic: held[topic]["value"]) == "weekday"
    assert names["own, on the receipt"]["value"] == 1
    assert 0.4 < 1 - names["shop's, on the receipt"]["value"] < 0.6  # wrong half of the time
    assert names["own, later"]["low"] > names["shop's, later"]["high"]
    assert names["the like, later"]["low"] > names["the like, chance"]["value"]
    rows, minus = told["groups"]["rows"], told["groups"]["minus"]
    best = {goal: max((key for key in rows if key.endswith(goal)), key=lambda k: rows[k]["value"])
            for goal in ("/all", "/new")}  # fmt: skip
    assert best["/new"] == "the shop's categories/new"
    assert rows["at random/new"]["low"] <= 0
    for rival in ("the shop's categories", "TF-IDF"):
        assert minus[f"MiniLM - {rival}/new"]["high"] < 0
    assert minus["MiniLM - each kind alone/new"]["low"] > 0
    assert rows["MiniLM, names written out/new"]["value"] < rows["TF-IDF/new"]["value"]
    sizes = [size for key in rows if key.split("/")[0] in ("MiniLM", "TF-IDF") and "all" in key
             for size, _ in rows[key]["chosen"]]  # fmt: skip
    assert set(sizes) == {1920}
    guess = told["guesses"]["rows"]["text, as it is"]
    assert guess["chosen"]["yes"]["n"] == 0 and guess["0.75"]["yes"]["n"] < 5
    assert guess["chosen"]["no"]["low"] > 1 - told["guesses"]["share"]
    # Where it speaks, what is promised happens.
    assert abs(guess["chosen"]["no"]["promised"] - guess["chosen"]["no"]["value"]) < 0.01
    path = told["path"]["rows"]
    for which in ("all", "ambiguous"):
        assert path[f"4/30/purchase/{which}"]["low"] > 0
        assert path[f"16/30/purchase/{which}"]["low"] > 0
    assert path["4/30/nDCG@10/all"]["low"] < 0 < path["4/30/nDCG@10/all"]["high"]
    for nothing in ("1/30", "4/1", "4/everybody", "4/shared"):
        assert (
            path[f"{nothing}/purchase/all"]["low"] <= 0 <= path[f"{nothing}/purchase/all"]["high"]
        )
    assert path["4/another's/purchase/all"]["high"] < 0
