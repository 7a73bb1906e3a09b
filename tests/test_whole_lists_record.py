"""Teachers on whole lists of few judged queries: what is compared, on tiny data."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_run import judgments, shop

import measure_whole_lists as script
from ecomkd import features, report
from ecomkd.config import Profile
from ecomkd.data import sources
from ecomkd.data.folds import divided

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*judged products have more than one title"),
    pytest.mark.filterwarnings("ignore:.*too few to conclude"),
]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Three folds of a small shop; the teacher that trains its last layer knows all."""
    profile = Profile.named("smoke", artifacts=tmp_path / "artifacts", precision="fp32")
    folder = shop(tmp_path / "shoes", judgments())
    data, catalogue = sources.load(folder, profile), sources.catalogue(folder, profile)
    parts = divided(data, 3, seed=1)
    trained = []

    def teacher(data, profile, checkpoint):
        trained.append(
            (profile.frozen_layers, profile.teacher_learning_rate, profile.teacher_epochs,
             profile.warm_up_pairs, profile.spread_head)
        )  # fmt: skip
        return Path(str(profile.frozen_layers))

    def predict(folder, pairs, _):
        classes = pairs.features["label"].num_classes
        known = np.eye(classes)[np.asarray(pairs["label"])]
        return known if folder.name == "5" else np.full((len(pairs), classes), 1 / classes)

    monkeypatch.setattr(script.Profile, "named", lambda *_, **__: profile)
    monkeypatch.setattr(script.measure_untrained, "parts_of", lambda *_: (parts, catalogue))
    monkeypatch.setattr(script.mining, "with_unlabelled", lambda data, *_: data)
    monkeypatch.setattr(script.stages, "teacher", teacher)
    monkeypatch.setattr(script, "warm_start", lambda data, _: -script.judge.worth(data["test"]))
    monkeypatch.setattr(script, "new_head", lambda data, _: np.zeros(len(data["test"])))
    monkeypatch.setattr(script, "looks", lambda _: [{"macro_f1": 0.2, "ndcg@10": 0.5}])
    monkeypatch.setattr(script.judge, "predict", predict)
    monkeypatch.setattr(features, "bi_encoder_scores", lambda pairs, _: np.arange(len(pairs)))
    return parts, trained


def test_each_recipe_is_judged_on_the_queries_of_all_folds(tiny):
    parts, trained = tiny
    found = script.measured(18)
    asked = {
        f"{fold}: {query}"
        for fold, part in enumerate(parts)
        for query, worth in zip(
            part["test"]["query_id"], script.judge.worth(part["test"]), strict=True
        )
        if worth
    }
    for system in found["systems"].values():
        assert set(system["ndcg@10"]) == asked
    assert len(trained) == len(parts) * len(script.RECIPES) and len(set(trained)) == 5
    assert [one["chosen"] for one in found["choices"]] == ["the last layer and the head"] * len(
        parts
    )
    rows = script.summary([{"seed": 18, **found}], [])["rows"]
    assert rows[script.CHOSEN]["ndcg@10"] == rows["the last layer and the head"]["ndcg@10"] == 1
    assert rows[script.added(script.CHOSEN)]["ndcg@10"] == 1
    assert rows[script.START]["ndcg@10"] < rows["all layers, gently"]["ndcg@10"] < 1
    weights = found["choices"][0]["the last layer and the head"]["weights"]
    assert weights["expected gain of the teacher"] > 0


def test_the_start_is_read_by_its_own_head_and_by_a_new_one(tiny, monkeypatch):
    monkeypatch.undo()
    profile, (data, *_) = Profile.named("smoke", seed=900), tiny[0]
    drawn = []
    monkeypatch.setattr(script.stages, "origin", lambda *_: Path("warmed"))
    monkeypatch.setattr(script.models, "load", lambda folder: folder)
    monkeypatch.setattr(
        script.models, "build_teacher", lambda *how: drawn.append(how) or "under a new head"
    )
    monkeypatch.setattr(script, "logits", lambda *_: np.array([[0.0, 2.0], [3.0, 0.0]]))
    assert script.warm_start(data, profile).tolist() == [2, -3]
    classes = data["test"].features["label"].names
    sure = np.full((2, len(classes)), -50.0)
    sure[0, 0] = sure[1, -1] = 50.0
    monkeypatch.setattr(script, "logits", lambda *_: sure)
    assert script.new_head(data, profile) == pytest.approx([1, 0])
    assert drawn == [("warmed", classes, 900)]


def test_seeds_of_one_kind_are_merged(tiny, tmp_path):
    for seed in (18, 19):
        script.shared.write(tmp_path / "files", seed, script.measured(seed))
    script.merge(tmp_path / "files", tmp_path / "whole_lists.json")
    record = json.loads((tmp_path / "whole_lists.json").read_text())
    assert record["command"] == (
        "ECOMKD_PRECISION=fp32 python benchmarks/measure_whole_lists.py --seeds 18 19 --merge"
    )
    (goal,) = record["goals"]
    (pair,) = (
        one
        for one in record["data"]["comparisons"]
        if one["system"] == script.added(script.CHOSEN) and one["against"] == script.FREE
    )
    assert goal["value"] == pair["difference"] and goal["met"] == (pair["low"] > 0)
    assert [
        (one["system"], one["against"]) for one in record["data"]["comparisons"]
    ] == script.compared(list(script.RECIPES))


def test_data_without_folds_are_divided_and_named_in_the_record(tiny, tmp_path, monkeypatch):
    parts, trained = tiny
    catalogue = script.measure_untrained.parts_of()[1]
    whole = lambda *_: ([parts[0]], catalogue)  # noqa: E731 - one place, one line
    monkeypatch.setattr(script.measure_untrained, "parts_of", whole)
    monkeypatch.setattr(script, "FOLDS", 3)
    found = script.measured(18, "icecat")
    assert len(found["choices"]) == 3 and {one["chosen"] for one in found["choices"]} == {
        "the last layer, head spread"
    }
    assert len(trained) == 3 * 3 and trained[0] == (
        script.Profile.named().frozen_layers,
        script.Profile.named().teacher_learning_rate,
        script.Profile.named().teacher_epochs,
        script.Profile.named().warm_up_pairs,
        False,
    )
    script.shared.write(tmp_path / "files", 18, found)
    script.merge(tmp_path / "files", tmp_path / "record.json", "icecat")
    record = json.loads((tmp_path / "record.json").read_text())
    assert "measure_whole_lists.py icecat --seeds 18 --merge" in record["command"]
    told = {(one["system"], one["against"]) for one in record["data"]["comparisons"]}
    assert {("the last layer, head spread", script.BOOK), (script.BOOK, script.FREE)} <= told


def test_what_the_page_says_of_other_recipes():
    """book/few_labels.md: the new head loses the order, and no recipe beats what is free."""
    data = report.recorded("whole_lists")["data"]
    told = {(one["system"], one["against"]): one for one in data["comparisons"]}

    def said(system: str, against: str) -> list[str]:
        one = told[system, against]
        return [f"{one[end]:.3f}" for end in ("difference", "low", "high")]

    last, gentle, plain, last_spread, gently_spread = script.RECIPES
    assert said(script.START, script.FREE) == ["-0.002", "-0.039", "0.034"]
    assert said(last, script.START) == ["-0.041", "-0.075", "-0.006"]
    assert said(last, "random") == ["0.073", "0.038", "0.110"]
    assert said(gentle, "random") == ["-0.067", "-0.095", "-0.039"]
    assert told[plain, "random"]["low"] < 0 < told[plain, "random"]["high"]
    assert said(plain, "random") == ["-0.002", "-0.032", "0.029"]
    assert said(script.START, "random") == ["0.114", "0.078", "0.150"]
    assert said(script.HEAD, "random") == ["-0.115", "-0.147", "-0.082"]
    assert said(gentle, script.HEAD) == ["0.048", "0.014", "0.082"]
    assert said(last, script.HEAD) == ["0.189", "0.137", "0.240"]
    assert told[gentle, "random"]["high"] < 0
    assert said(gently_spread, gentle) == ["0.184", "0.137", "0.232"]
    assert said(last_spread, last) == ["0.019", "-0.014", "0.052"]
    assert said(last_spread, script.START) == ["-0.022", "-0.053", "0.008"]
    assert said(gently_spread, script.START) == ["0.003", "-0.023", "0.030"]
    added = script.added(script.CHOSEN)
    assert said(added, script.UNTRAINED_SUM) == ["0.004", "-0.019", "0.025"]
    assert said(added, script.FREE) == ["-0.001", "-0.030", "0.026"]
    (folds,) = data["choices"].values()
    chosen = [fold["chosen"] for fold in folds]
    assert (chosen.count(gently_spread), chosen.count(last_spread)) == (4, 1)
    f1 = {
        recipe: f"{np.mean([fold[recipe]['macro_f1'] for fold in folds]):.2f}"
        for recipe in script.RECIPES
    }
    assert [f1[one] for one in (last_spread, gently_spread, last, gentle)] == [
        "0.24", "0.21", "0.28", "0.25",
    ]  # fmt: skip
    assert data["queries"] == 106 and list(data["choices"]) == ["18"]
    for recipe, begin in ((last, "0.66"), (last_spread, "0.67")):
        looks = [fold[recipe]["looks"] for fold in folds]
        means = [f"{np.mean([seen[at]['ndcg@10'] for seen in looks]):.2f}" for at in (0, -1)]
        assert means == [begin, "0.60"]
    page = (Path(__file__).parents[1] / "book" / "few_labels.md").read_text("utf-8")
    page = " ".join(page.split())
    for sentence in (
        "cannot be told from the bi-encoder that it learnt to imitate (−0.002 [−0.039, 0.034]), "
        "and stands 0.114 [0.078, 0.150] above chance.",
        "under it the network stands 0.115 [0.082, 0.147] *below* chance.",
        "still ends below chance under the drawn head, and 0.184 [0.137, 0.232] higher under the "
        "spread one.",
        "ends 0.019 [−0.014, 0.052] higher under the spread head.",
        "brought none (−0.002 [−0.032, 0.029] from chance).",
        "the network is 0.003 [−0.023, 0.030] from the warm start.",
        "is −0.022 [−0.053, 0.008] from the warm start under the spread head, which cannot be "
        "told, and −0.041 [−0.075, −0.006] under the drawn one.",
        "the sum stands 0.004 [−0.019, 0.025] from the same sum without it.",
        "It is missed (−0.001 [−0.030, 0.026]).",
    ):
        assert sentence in page
    # What is free is that of the table above.
    known = report.recorded("core_esci_150")["data"]["rows"]
    for name in (script.FREE, "words at their best", script.UNTRAINED_SUM):
        assert data["rows"][name]["ndcg@10"] == pytest.approx(known[name]["ndcg@10"], abs=1e-6)


def test_what_the_page_says_of_icecats_lists():
    """book/few_labels.md: neither tokens nor recipe close a gap that is there before any label."""
    record = report.recorded("whole_lists_icecat")
    told = {(one["system"], one["against"]): one for one in record["data"]["comparisons"]}

    def said(system: str, against: str) -> list[str]:
        one = told[system, against]
        return [f"{one[end]:.3f}" for end in ("difference", "low", "high")]

    book, last, gentle = script.TRIED["icecat"]
    assert said(book, script.FREE) == ["-0.055", "-0.100", "-0.016"]
    assert said(last, book) == ["-0.012", "-0.046", "0.022"]
    assert said(gentle, book) == ["-0.004", "-0.032", "0.024"]
    assert said(script.START, script.FREE) == ["-0.061", "-0.101", "-0.023"]
    assert said(book, script.START) == ["0.005", "-0.032", "0.043"]
    assert said(script.HEAD, script.START) == ["-0.186", "-0.262", "-0.115"]
    assert said(script.HEAD, "random") == ["0.075", "0.019", "0.131"]
    assert said(script.CHOSEN, script.FREE) == ["-0.054", "-0.098", "-0.013"]
    shop = report.recorded("new_head")["data"]["rows"]
    assert 0 < shop[script.FREE]["ndcg@10"] - shop[script.START]["ndcg@10"] < 0.01
    added = script.added(script.CHOSEN)
    assert said(added, script.UNTRAINED_SUM) == ["-0.019", "-0.048", "0.008"]
    assert said(added, script.FREE) == ["-0.016", "-0.044", "0.011"]
    assert said(script.UNTRAINED_SUM, script.FREE) == ["0.004", "-0.017", "0.027"]
    page = (Path(__file__).parents[1] / "book" / "few_labels.md").read_text("utf-8")
    page = " ".join(page.split())
    for sentence in (
        "the teacher of the book's recipe is 0.055 [0.016, 0.100] below the bi-encoder.",
        "end −0.012 [−0.046, 0.022] and −0.004 [−0.032, 0.024] from that teacher.",
        "is 0.054 [0.013, 0.098] below the bi-encoder.",
        "stands 0.061 [0.023, 0.101] below the bi-encoder.",
        "the labels move the order by 0.005 [−0.032, 0.043] under the book's recipe,",
        "changes nothing that can be told (−0.019 [−0.048, 0.008]).",
        "that sum is −0.016 [−0.044, 0.011] from the bi-encoder.",
        "cannot be told from the bi-encoder either (0.004 [−0.017, 0.027]).",
    ):
        assert sentence in page
    assert record["data"]["queries"] == 80 and record["seeds"] == [18, 19, 20]
    assert not any(goal["met"] for goal in record["goals"])
