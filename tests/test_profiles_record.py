"""The script that measures guesses about households, on made-up ones, and its record."""

import numpy as np
import pandas as pd
import pytest
import test_profiles
import tiny_baskets
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import measure_profiles as script
from ecomkd import report
from ecomkd.config import Profile
from ecomkd.data import journey
from ecomkd.data.baskets import from_lines
from ecomkd.people import households


@pytest.fixture(scope="module")
def baskets():
    even, third = np.arange(40) % 2 == 0, np.arange(40) % 3
    people = pd.DataFrame(
        {
            "user_id": range(40),
            "age": np.array(["25-34", "45-54", "65+"])[third],
            "composition": np.where(even, "2 Adults Kids", "2 Adults No Kids"),
            "people": np.array(["1", "2", "3"])[third],
            "income": np.array(["25-34K", "50-74K", "100-124K"])[third],
        }
    )
    people.loc[30:, "age"] = None  # ten have not told
    lines = test_profiles.lines()
    mothers = lines["user_id"] % 2 == 0
    lines.loc[mothers & (lines["basket_id"] % 3 == 0), "item_id"] = "GOODS A1 LB0"
    return from_lines(lines, test_profiles.items(), people, {})


@pytest.fixture(scope="module")
def record(baskets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("profiles")
    named, noise = Profile.named, np.random.default_rng(0)

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
        patch.setattr(households, "classifier", line)
        few = {"SCALES": (1, 2), "CLUSTERS": 8, "FOLDS": 2, "TIMED": 2}
        for name, value in few.items():
            patch.setattr(script, name, value)
        return tiny_baskets.record_of(patch, script, folder, (1, 2))[0]


def test_guesses_are_about_households_that_told(record):
    people = record["data"]["people"]
    assert record["seeds"] == [1, 2]
    assert people["households"] == 29  # of 30, one has bought nothing
    kids = people["guesses"]["kids"]
    assert kids["majority"]["value"] == pytest.approx(np.log(2), abs=0.02)
    assert kids["counts, everything"]["value"] < kids["majority"]["value"]
    assert kids["counts, everything"]["auc"] > 0.9  # what they buy tells
    minus = people["minus"]["kids"]["text - majority"]["difference"]
    told = kids["text, everything"]["value"] - kids["majority"]["value"]
    assert minus == pytest.approx(told)
    assert sum(row["n"] for row in people["reliability"]) == 2 * 29


def test_what_is_hidden_costs_and_is_counted(record):
    people = record["data"]["people"]
    assert list(people["hidden"]) == ["health"]
    assert 0 < people["hidden"]["health"] < 0.2
    cost = people["recall"]
    difference = cost["nothing sensitive"] - cost["everything"]
    assert cost["minus"]["difference"] == pytest.approx(difference)


def test_goals_are_read_off_the_data(record):
    goals = {goal["name"]: goal for goal in record["goals"]}
    kids = record["data"]["people"]["minus"]["kids"]
    for a, b in (("text", "majority"), ("text", "counts"), ("text + tf-idf", "tf-idf")):
        goal = goals[f"log loss of kids, {a} minus {b}"]
        assert goal["value"] == kids[f"{a} - {b}"]["difference"]
        assert goal["met"] == (kids[f"{a} - {b}"]["high"] < 0)
    assert [row["users"] for row in record["data"]["scale"]] == [39, 78]


def test_what_chapter_11_says_of_guesses_in_words_is_in_the_record():
    record = report.recorded("profiles")
    missed = [goal["name"] for goal in record["goals"] if not goal["met"]]
    asked = "log loss of kids,"
    assert missed == [f"{asked} text minus counts", f"{asked} text + tf-idf minus tf-idf"]
    minus = record["data"]["people"]["minus"]
    # That vectors know more than counts of types is not shown for any of the four questions.
    assert all(own["text - counts"]["high"] >= 0 for own in minus.values())
    assert minus["age"]["text - tf-idf"]["low"] > 0
    # The guess about age becomes worse whatever is read, those about income and children with
    # TF-IDF alone.
    costs = {
        (asked, name.partition(",")[0])
        for asked, own in minus.items()
        for name, found in own.items()
        if "sensitive" in name and found["low"] > 0
    }
    read = ("counts", "tf-idf", "text", script.BOTH)
    assert costs == {("age", name) for name in read} | {("income", "tf-idf"), ("kids", "tf-idf")}
    just = minus["kids"]["tf-idf, nothing sensitive - everything"]
    assert just["low"] < 0.1 * just["difference"]
    # At the ends, where a shop would act, what is promised does not happen.
    bins = {row["bin"]: row for row in record["data"]["people"]["reliability"]}
    assert bins[0]["happened"] > 2 * bins[0]["promised"]
    assert all(bins[place]["happened"] < bins[place]["promised"] for place in (7, 8))
    assert all(abs(bins[k]["happened"] - bins[k]["promised"]) < 0.05 for k in range(2, 7))
