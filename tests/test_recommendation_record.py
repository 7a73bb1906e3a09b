"""The script that measures recommendation, on a made-up shop, and the record that it writes."""

import itertools
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny_baskets
import torch
from tiny_baskets import ITEMS, USERS

import groups
import measure_recommendation as script
import rivals
import shared
from ecomkd import recommend, report
from ecomkd.data.baskets import Baskets


@pytest.fixture(scope="module")
def shop() -> Baskets:
    return tiny_baskets.shop()


def test_a_grown_shop_is_copies_that_share_texts_alone(shop):
    double = script.grown(shop, 2)
    assert len(double.users) == 2 * USERS
    assert len(double.items) == 2 * ITEMS
    assert len(recommend.texts(double)[0]) == len(recommend.texts(shop)[0])
    assert double.events["day"].is_monotonic_increasing
    first = double.events["user"] < USERS
    assert (double.events.loc[first, "item"] < ITEMS).all()
    assert (double.events.loc[~first, "item"] >= ITEMS).all()
    assert len(script.grown(shop, 0.5).users) == USERS // 2


def test_settings_of_one_goal_are_chosen_on_the_validation_days(shop):
    asked = []

    def make(baskets, day, scale):
        asked.append(day)
        ranker = recommend.popular if scale == 1 else recommend.buy_again
        return ranker(baskets, day) if scale == 1 else ranker(baskets, day, scale)

    assert shared.best_of(make, {"scale": (1, 28)}, shop) == {"scale": 28}
    assert set(asked) == {shop.validation_start}


def test_a_setting_at_an_end_is_told_where_more_could_be_tried():
    grid = {"a": (1, 2, 3, 4), "b": (1, 2)}
    chosen = {"recall": {"a": 3, "b": 1}, "new_recall": {"a": 4, "b": 2}}
    edges = script.at_an_edge("a row", chosen, grid)
    assert edges == {"recall": ["b"], "new_recall": ["a", "b"]}
    own = {"recall": {"scale": None}}
    assert script.at_an_edge("a row", own, {"scale": (14, None)}) == {"recall": []}
    own = {goal: {"share": 0.1} for goal in ("recall", "new_recall")}
    edges = script.at_an_edge("user-kNN", own, {"share": (0.1, 1.0)})
    assert edges == {"recall": ["share"], "new_recall": []}


def test_reviews_come_with_an_order_and_no_dates(tmp_path, monkeypatch):
    folder = tmp_path / "amazon18"
    folder.mkdir()
    monkeypatch.setenv("ECOMKD_REAL_DATA", str(tmp_path))
    items = pd.DataFrame({"item": [0, 1, 2, 3], "title": list("ABCD"), "brand": "Acme"})
    items["description"] = "['Good.']"
    items.to_parquet(folder / "office_products_items.parquet")
    rows = [
        ("u", [0], 1, "validation"),
        ("u", [0, 1], 2, "validation"),
        ("u", [0, 1, 2], 3, "test"),
        ("v", [1, 0], 3, "test"),
    ]
    frame = pd.DataFrame(rows, columns=["user", "history", "item", "split"])
    frame.to_parquet(folder / "office_products_histories.parquet")
    baskets = script.load("office_products")
    assert baskets.items["text"][0] == "a. acme. good."
    start, end = baskets.validation_start, baskets.test_start
    of_user = {
        when: {user: items.tolist() for user, items in recommend.targets(baskets, when).items()}
        for when in (start, end)
    }
    assert of_user == {start: {0: [1, 2]}, end: {0: [3], 1: [3]}}
    first = baskets.between(0, start)
    assert [row.tolist() for row in first[["user", "item"]].to_numpy()] == [[1, 1], [0, 0], [1, 0]]
    one = baskets.events[baskets.events["user"] == 0]
    assert one["item"].tolist() == [0, 1, 2, 3]


def test_seeds_are_measured_and_merged_into_a_record(shop, tmp_path, monkeypatch):
    tiny_baskets.shrink(monkeypatch, script, shop, tmp_path)
    whole = script.classics

    def fewer(source, seed):
        found = {}
        for name, (make, grid) in whole(source, seed).items():
            one = ("learning_rate", "old", "penalty", "width", "weight", "dropout")
            parts = {key: slice(1) if key in one else slice(2, 4) for key in grid}
            found[name] = make, {key: grid[key][part] for key, part in parts.items()}
        return found

    monkeypatch.setattr(script, "classics", fewer)
    for name in ("FEWER_TRIED", "LONG", "NOT_TRIED", "START", "START_OF"):
        monkeypatch.setattr(script, name, {})
    monkeypatch.setattr(script, "LEAST", {"journey": 2})
    grown = {"leaves": (3, 7), "rate": (0.1,), "number": (3, 6)}
    monkeypatch.setattr(script, "GROWN", grown)
    monkeypatch.setattr(script, "LEAST_COLD", 4)
    monkeypatch.setattr(rivals.SASRec, "PASSES", (1, 2, 4))
    folder, out = tmp_path / "parts", tmp_path / "recommendation.json"
    for line in ("journey --once", "journey --seeds 0 1", "--scale", f"--merge --out {out}"):
        tiny_baskets.call(monkeypatch, script, f"{line} --folder {folder}")
    record = json.loads(out.read_text(encoding="utf-8"))
    data = record["data"]["journey"]
    assert record["seeds"] == [0, 1]
    rows = data["rows"]
    parts = [
        json.loads((folder / "journey" / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("once", "seed0", "seed1")
    ]
    for name in ("popularity", "buy it again", "LambdaMART"):  # no seed in it
        alone = parts[0]["systems"][name]["recall"]
        assert rows[name]["recall"] == pytest.approx(alone)
        assert rows[name]["recall low"] <= alone <= rows[name]["recall high"]
    assert rows["buy it again"]["repeats"] == 1
    kept = next(goal for goal in record["goals"] if "share of the teacher's" in goal["name"])
    ratio = rows[script.DISTILLED]["recall"] / rows[script.TEACHER]["recall"]
    assert kept["value"] == pytest.approx(ratio)
    assert kept["met"] == (kept["value"] >= 0.97)
    of_seed = [part["systems"][script.TEACHER]["recall"] for part in parts[1:]]
    assert rows[script.TEACHER]["recall by seed"] == pytest.approx(of_seed)
    for name in ("SASRec", "gSASRec", "BPR", f"{script.DISTILLED} + neighbours"):
        assert 0 <= rows[name]["new_recall"] <= 1
    for own in data["trees"].values():
        assert 0 <= own["reach"] <= 1 and 0 <= own["perfect"] <= 1
    assert rows["LambdaMART"]["recall"] <= data["trees"]["recall"]["perfect"]
    picked = rows[f"{script.DISTILLED}, {script.PICKED}"]["recall"]
    assert picked <= data["trees"]["recall"]["perfect"]
    for name in (script.TEACHER, script.DISTILLED):
        again = rows[f"{name}, {script.REFITTED}"]["recall by seed"]
        assert len(again) == 2 and again != rows[name]["recall by seed"]
    times = data["times"]["student over teacher"]
    assert 0 < times["low"] <= times["value"] <= times["high"]
    assert data["shop"]["cold_items"] == 4
    assert sum("cold items" in goal["name"] for goal in record["goals"]) == len(script.COLD)
    minus = data["minus"]["distilled − buy it again"]["recall"]
    gap = rows[script.DISTILLED]["recall"] - rows["buy it again"]["recall"]
    assert minus["difference"] == pytest.approx(gap)
    assert data["shop"]["repeats"] == pytest.approx(_repeats(shop))
    chance = data["cold"][script.CHANCE]["value"]
    assert chance == pytest.approx(1, abs=0.01)  # four cold items, ten places
    assert len(record["data"]["scale"]) == 4
    assert record["data"]["scale"][-1]["users"] == 2 * USERS
    of_journey = len(record["goals"])
    other = {"seeds": [7], "rows": {}}
    record["data"]["office"] = other
    record["data"]["journey"] = record["data"]["scale"] = "measured again"
    goal = report.goal("office: a goal", 1, 1, 1, "above 0", True)
    stale = report.goal("journey: a goal of old", 1, 1, 1, "above 0", True)
    out.write_text(json.dumps({**record, "goals": [stale, goal]}), encoding="utf-8")
    tiny_baskets.call(monkeypatch, script, f"--merge --out {out} --folder {folder}")
    again = json.loads(out.read_text(encoding="utf-8"))
    assert again["data"]["office"] == other and again["data"]["journey"]["rows"] == rows
    assert again["seeds"] == [0, 1, 7]
    assert again["goals"][0] == goal and len(again["goals"]) == of_journey + 1
    assert len(again["data"]["scale"]) == 4
    (folder / "scale.json").unlink()
    tiny_baskets.call(monkeypatch, script, f"--merge --out {out} --folder {folder}")
    assert json.loads(out.read_text(encoding="utf-8"))["data"] == again["data"]
    with pytest.raises(SystemExit, match="no file of a seed"):
        script.shared.read(tmp_path, ("profile",))


def test_a_search_does_not_choose_settings_with_which_factors_diverge(shop):
    fixed = {"width": 4, "penalty": 0.01, "seed": 0, "passes": 5}
    make = script.partial(recommend.bpr, **fixed)
    with pytest.raises(Exception, match="NaN"):
        make(shop, shop.test_start, learning_rate=1e30)
    grid = {"learning_rate": (1e30, 0.01)}
    chosen, tried = recommend.tuned(script.or_nothing(make), grid, shop)
    assert chosen == {goal: {"learning_rate": 0.01} for goal in recommend.GOALS} and tried == 2


def test_the_calibration_of_gsasrec_takes_weight_from_what_came_next():
    torch.manual_seed(0)
    items, states = torch.randn(30, 8), torch.randn(2, 5, 8)
    wanted = torch.tensor([[1, 2, 3, 4, 30], [5, 6, 30, 30, 30]])
    there = wanted < 30
    right = (states[there] * items[wanted[there]]).sum(dim=-1)
    positive = torch.nn.functional.softplus(-right).mean().item()

    def loss(model: rivals.GSASRec, calibration: float) -> float:
        torch.manual_seed(1)
        return model._loss(items, states, wanted, calibration).item()

    model = rivals.GSASRec(0)
    assert loss(model, 0.0) == pytest.approx(loss(model, 1.0)), "no item is left undrawn"
    model.NEGATIVES = 10  # of the 29 others
    for calibration, power in ((1.0, 10 / 29), (0.5, (1 + 10 / 29) / 2)):
        less = loss(model, 0.0) - loss(model, calibration)
        assert less == pytest.approx((1 - power) * positive, abs=1e-5)


RECORD = report.recorded("recommendation")["data"]
JOURNEY, RETAIL = RECORD["journey"], RECORD["online_retail"]
OFFICE, INDUSTRIAL = (RECORD[name] for name in ("office_products", "industrial_and_scientific"))


def span(shop: dict, name: str, column: str = "recall") -> tuple[float, float]:
    own = shop["minus"][name][column]
    return own["low"], own["high"]


def test_networks_beat_habit_and_not_the_users_alike_nor_trees():
    assert span(JOURNEY, "distilled − buy it again")[0] > 0
    for rival in ("user-kNN", "LambdaMART"):
        for network in ("distilled", "teacher"):
            low, high = span(JOURNEY, f"{network} − {rival}")
            assert low < 0 < high
    recall = {name: row["recall"] for name, row in JOURNEY["rows"].items()}
    ranked = sorted(script.untaught(recall), key=recall.get, reverse=True)
    assert ranked[:3] == ["LambdaMART, refitted", "LambdaMART", "user-kNN"]
    assert recall["TIFU-kNN"] < recall["user-kNN"]
    assert recall["gSASRec"] < recall["popularity"]
    assert recall["user-kNN"] > 0.98 * recall["teacher"]
    assert recall["student, distilled"] > 0.99 * recall["teacher"]


def test_fitted_once_more_the_student_stays_level_with_trees_and_passes_the_users_alike():
    for network in ("distilled", "teacher"):
        low, high = span(JOURNEY, f"{network} refitted − {network}")
        assert low < 0 < high
    minus = {name: own["recall"]["difference"] for name, own in JOURNEY["minus"].items()}
    assert minus["LambdaMART refitted − LambdaMART"] > minus["distilled refitted − distilled"] > 0
    low, high = span(JOURNEY, "distilled refitted − LambdaMART, refitted")
    assert low < 0 < high
    assert 0 < span(JOURNEY, "distilled refitted − user-kNN")[0] < 0.001


def test_the_first_of_two_stages_costs_the_student_nothing():
    stage = JOURNEY["trees"]["recall"]
    assert stage["own"] + stage["others"] == 300
    assert stage["perfect"] > 2 * JOURNEY["rows"]["teacher"]["recall"]
    low, high = span(JOURNEY, "distilled over candidates − distilled")
    assert -0.001 < low < 0 < high < 0.001


def test_an_answer_was_timed_in_turn():
    turns = JOURNEY["times"]["student over teacher"]
    assert 0.1 < turns["low"] <= turns["value"] <= turns["high"] < 0.2


def test_on_new_items_the_users_alike_are_ahead_and_a_blend_comes_up_to_them():
    for shop in (JOURNEY, RETAIL):
        assert span(shop, "distilled − user-kNN", "new_recall")[1] < 0
        assert span(shop, "teacher − user-kNN", "new_recall")[1] < 0
    low, high = span(JOURNEY, "distilled + neighbours − user-kNN", "new_recall")
    assert low < 0 < high
    assert span(RETAIL, "distilled + neighbours − user-kNN", "new_recall")[1] < 0
    new = {name: row["new_recall"] for name, row in JOURNEY["rows"].items()}
    assert new["user-kNN"] > max(new["popularity"], new["EASE"], new["item-kNN"])


def test_a_teacher_brings_little_and_text_nothing():
    assert span(JOURNEY, "distilled − alone")[0] > 0
    low, high = span(JOURNEY, "distilled on labelled days − alone")
    assert low < 0 < high
    weights = JOURNEY["rows"]["student, distilled + neighbours"]["weights"]
    assert not any(own["recall"] for own in weights), "of all items the neighbours have no say"
    assert len(JOURNEY["seeds"]) == len(RETAIL["seeds"]) == 5
    for shop in (JOURNEY, RETAIL, OFFICE, INDUSTRIAL):
        for column in ("recall", "new_recall"):
            low, high = span(shop, "alone − alone, TF-IDF", column)
            assert low < 0 < high


def test_in_the_shop_of_gifts_the_users_alike_find_most():
    recall = {name: row["recall"] for name, row in RETAIL["rows"].items()}
    assert max(script.untaught(recall), key=recall.get) == "user-kNN"
    for row in ("distilled", "distilled refitted"):
        assert span(RETAIL, f"{row} − user-kNN")[1] < 0


def test_where_nobody_buys_twice_ease_is_the_rival_and_a_teacher_may_be_worth_something():
    for shop in (OFFICE, INDUSTRIAL):
        assert shop["shop"]["repeats"] < 0.01
        recall = {name: row["recall"] for name, row in shop["rows"].items()}
        assert max(script.untaught(recall), key=recall.get) == "EASE"
        assert span(shop, "distilled + neighbours − user-kNN", "new_recall")[0] > 0
        for row in ("distilled", "distilled refitted"):
            low, high = span(shop, f"{row} − EASE")
            assert low < 0 < high
        assert span(shop, "distilled − user-kNN", "new_recall")[0] > 0
    assert span(INDUSTRIAL, "distilled over candidates − EASE")[0] > 0
    assert span(RETAIL, "distilled refitted + neighbours − user-kNN", "new_recall")[1] > 0
    assert span(INDUSTRIAL, "distilled − alone")[0] > 0
    low, high = span(OFFICE, "distilled − alone")
    assert low < 0 < high


def test_the_question_decides_the_settings():
    chosen = JOURNEY["settings"]["item-kNN"]
    assert chosen["recall"]["neighbours"] == 1 and chosen["new_recall"]["neighbours"] == 100
    for row in JOURNEY["settings"].values():
        assert row["recall"]["old"], "the chapter shows old items"


def test_the_summary_tells_what_was_missed():
    goals = report.recorded("recommendation")["goals"]
    missed = {
        name: {goal["name"].partition(": ")[0] for goal in goals
               if name in goal["name"] and not goal["met"]}
        for name in ("the best row without", "latency", "nearest text, MiniLM minus nearest text",
                     "neighbours minus user-kNN", "that the distilled student keeps",
                     "distilled minus undistilled")
    }  # fmt: skip
    returning, gifts, office = {"journey", "online_retail"}, "online_retail", "office_products"
    everywhere = {*returning, office, "industrial_and_scientific"}
    assert list(missed.values()) == [
        everywhere, everywhere - {"journey"}, {"journey"}, returning, {office}, {office, gifts}
    ]  # fmt: skip


def test_cold_items_decide_a_goal_in_the_largest_shop_alone():
    cold = {name: shop["shop"]["cold_items"] for name, shop in RECORD.items() if name != "scale"}
    assert {name for name, own in cold.items() if own >= script.LEAST_COLD} == {"journey"}
    goals = [goal["name"] for goal in report.recorded("recommendation")["goals"]]
    assert {name.partition(":")[0] for name in goals if "cold items" in name} == {"journey"}


def test_what_the_chapter_says_was_not_measured_is_not_in_the_record():
    assert "SASRec" not in JOURNEY["rows"]
    tried = JOURNEY["settings"]["gSASRec"].values()
    assert JOURNEY["tried"]["gSASRec"] == len(rivals.GSASRec(0, **script.LONG["journey"]).passes)
    assert all(own["passes"] == 1 for own in tried)
    at_ends = {name for name, own in JOURNEY["edges"].items() if any(own.values())}
    assert at_ends == {"LambdaMART", "TIFU-kNN", "BPR", "gSASRec"}
    assert {"width", "passes"} <= set(RETAIL["edges"]["SASRec"]["recall"])
    assert INDUSTRIAL["edges"]["EASE"]["recall"]
    for shop in (RETAIL, OFFICE, INDUSTRIAL):
        assert shop["times"]["student over teacher"]["value"] > 0.2


def _repeats(shop: Baskets) -> float:
    before = shop.between(0, shop.test_start)
    had = set(zip(before["user"], before["item"], strict=True))
    wanted = shop.between(shop.test_start, shop.days).drop_duplicates(["user", "item"])
    return np.mean([pair in had for pair in zip(wanted["user"], wanted["item"], strict=True)])


def test_groups_are_quarters_and_incomes(shop):
    incomes = ["Under 15K", "50-74K", "250K+", None] * (len(shop.users) // 4)
    told = shop.users.assign(
        income=incomes, age="25-34", people="2", composition="2 Adults No Kids"
    )
    told.loc[told["income"].isna(), "age"] = None
    of = groups.groups(replace(shop, users=told))
    asked = set(recommend.targets(shop, shop.test_start))
    assert set(map(int, of[groups.VISITS])) == asked
    sizes = Counter(of[groups.VISITS].values())
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert {user: of[groups.INCOME].get(user) for user in ("0", "1", "2", "3")} == {
        "0": "under 35K", "1": "35K to 74K", "2": "75K+", "3": None,
    }  # fmt: skip
    habits = groups.habits(replace(shop, users=told), of)
    quarters = [habits[groups.VISITS][name] for name in groups.QUARTERS]
    assert all(low["most"] <= high["least"] for low, high in itertools.pairwise(quarters))
    wanted = recommend.targets(shop, shop.test_start)
    rich = [len(wanted[user]) for user in range(2, len(shop.users), 4)]
    assert habits[groups.INCOME]["75K+"]["items wanted"] == pytest.approx(np.mean(rich))


def test_who_comes_often_is_served_best_where_people_come_back():
    for name in {*RECORD} - {"scale"}:
        told = RECORD[name]["by_group"][groups.VISITS]
        assert list(told["groups"]) == list(groups.QUARTERS)
        assert set(RECORD[name]["habits"][groups.VISITS]) == set(groups.QUARTERS)
        back = name in ("journey", "online_retail")
        for row, gap in told["gap"].items():
            assert gap["low"] > 0 if back else gap["high"] < 0, (name, row)
        for row in script.GROUPED:
            recalls = [own["recall"][row] for own in told["groups"].values()]
            assert max(recalls) == recalls[-1 if back else 0]
    quarters = RETAIL["by_group"][groups.VISITS]["groups"].values()
    assert [one["difference"]["high"] < 0 for one in quarters] == [False, False, True, True]


def test_a_gap_that_visits_explain_is_gone_among_those_who_came_as_often():
    rng = np.random.default_rng(0)
    rich = rng.random(2_000) < 0.5
    often = rng.random(2_000) < np.where(rich, 0.8, 0.2)
    recall = (0.2 + 0.4 * often + rng.normal(0, 0.05, 2_000))[None]
    strata = np.array([often, ~often, np.zeros(2_000, bool)])
    plain = groups.gap_of(recall, rich, ~rich, np.ones((1, 2_000), bool))
    within = groups.gap_of(recall, rich, ~rich, strata)
    assert plain["low"] > 0.2 and abs(within["value"]) < 0.01
    assert within["low"] < 0 < within["high"]


def test_the_page_says_for_whom_lists_work():
    told = RECORD["journey"]["by_group"]
    often = told[groups.VISITS]["groups"]
    recalls = [often[name]["recall"]["student, distilled"] for name in groups.QUARTERS]
    assert [round(recalls[0], 2), round(recalls[-1], 2)] == [0.19, 0.56]
    for row in often["fewest"]["recall"]:
        of_row = [often[name]["recall"][row] for name in groups.QUARTERS]
        assert of_row == sorted(of_row)
    income = told[groups.INCOME]
    student = {
        name: [round(value, 3) for value in income[name]["student, distilled"].values()]
        for name in income
        if name != "groups"
    }
    assert student == {
        "gap": [0.063, 0.013, 0.113],
        "gap, as many baskets": [0.085, 0.037, 0.133],
        "gap, as many purchases": [0.03, -0.016, 0.078],
    }
    habits = RECORD["journey"]["habits"]
    asked = [round(habits[groups.VISITS][name]["items wanted"]) for name in ("fewest", "most")]
    assert asked == [24, 83]
    popular, own = (
        often["most"]["recall"][row] / often["fewest"]["recall"][row]
        for row in ("popularity", "student, distilled")
    )
    assert 0.85 < popular / own < 1
    told_it = sum(one["users"] for one in income["groups"].values())
    asked_all = sum(one["users"] for one in often.values())
    assert round(100 * told_it / asked_all) == 39
    of_all = np.mean([habits[groups.VISITS][name]["purchases"] for name in groups.QUARTERS])
    assert min(habits[groups.INCOME][name]["purchases"] for name in groups.INCOMES) > of_all
