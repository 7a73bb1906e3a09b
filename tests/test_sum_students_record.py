"""Students of a sum that nobody trained: what they learn from, on tiny data."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from chapter_text import span
from test_run import judgments, shop

import measure_sum_students as script
import measure_untrained
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
    """Three folds of a small shop, and a profile with a start of two random layers."""
    checkpoint = tiny_models.save(tiny_models.bert(), tmp_path / "pretrained")
    profile = Profile.named(
        "smoke", teacher=str(checkpoint), student_layers=(0,), device="cpu",
        precision="fp32", frozen_layers=1, artifacts=tmp_path / "artifacts",
    )  # fmt: skip
    folder = shop(tmp_path / "shoes", judgments())
    data, catalogue = sources.load(folder, profile), sources.catalogue(folder, profile)
    monkeypatch.setattr(script.Profile, "named", lambda *_, **__: profile)
    monkeypatch.setattr(
        measure_untrained, "parts_of", lambda *_: (divided(data, 3, seed=1), catalogue)
    )
    monkeypatch.setattr(features, "bi_encoder_scores", lambda pairs, *_: np.arange(len(pairs)))
    return profile, catalogue, divided(data, 3, seed=1)[0]


def test_an_answer_rises_with_the_score_by_each_classs_gain(tiny):
    profile, catalogue, data = tiny
    (_, _, seen), *_ = measure_untrained.folds([data], catalogue, profile)
    told, weighed = script.answers(data, catalogue, seen, profile)
    assert len(weighed) == 3 * 4 + 2
    assert {split: len(own) for split, own in told.items()} == {
        split: len(data[split]) for split in ("train", "unlabelled")
    }
    gains = np.asarray(list(script.judge.gains(data["test"]).values()))
    z = told["unlabelled"][:, 0] / (2 * gains[0])
    assert [z.mean(), z.std()] == pytest.approx([0, 1])
    assert told["unlabelled"] == pytest.approx(2 * np.outer(z, gains))


def test_each_system_is_judged_on_the_queries_of_all_folds(tiny, monkeypatch):
    learned = []
    fit = script.distill.fit

    def watched(model, train, *rest, steps, alpha, learning_rate, **options):
        taught = "teacher_logits" in train.column_names
        learned.append((len(train), taught, steps, alpha, learning_rate))
        return fit(model, train, *rest, steps=2, alpha=alpha, learning_rate=1e-4, **options)

    _, *others = script.TRIED
    monkeypatch.setattr(script, "TRIED", (script.BOOK, others[0]))
    monkeypatch.setattr(script.distill, "fit", watched)
    found = script.measured(18)
    rows = {name for pair in script.COMPARED for name in pair}
    assert set(found["systems"]) == rows
    asked = {tuple(own["ndcg@10"]) for own in found["systems"].values()}
    assert len(asked) == 1 and len(found["choices"]) == 3
    for one in found["choices"]:
        names = [run["system"] for run in one]
        three = (script.LABELS, script.SOFT, script.MORE)
        assert [names.count(name) for name in three] == [2, 1, 1]
    # In a fold all take as many steps.
    steps = [steps for _, _, steps, *_ in learned]
    assert len(steps) == 3 * 4
    assert all(len(set(steps[fold : fold + 4])) == 1 for fold in (0, 4, 8))
    for _, taught, _, alpha, rate in learned:
        assert taught == (alpha > 0)
        assert rate == tiny[0].student_learning_rate or not taught
    assert len({pairs for pairs, *_ in learned}) > 1


def merged(script, better: set[str], folder: Path) -> dict:
    """The record of a script from one seed, where some of its systems are 0.1 above all others."""
    systems = {}
    for name in {name for pair in script.COMPARED for name in pair}:
        order = {f"0: q{n}": 0.5 + 0.1 * (name in better) + n / 100 for n in range(4)}
        systems[name] = {"ndcg@10": order, "random_ndcg@10": dict.fromkeys(order, 0.4)}
    part = {"seed": 18, "profile": {}, "hardware": {}, "generator": None, "precision": "bf16"}
    part |= {"systems": systems, "choices": []}
    (folder / "seed18.json").write_text(json.dumps(part), encoding="utf-8")
    script.merge(folder, folder / "record.json")
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))


def test_the_goal_is_what_the_sum_and_mined_pairs_add(tmp_path):
    record = merged(script, {script.MORE}, tmp_path)
    assert [goal["met"] for goal in record["goals"]] == [True]
    assert record["goals"][0]["value"] == pytest.approx(0.1)
    assert record["data"]["rows"][script.MORE]["lift@10"] == pytest.approx(0.215)


def test_the_page_says_what_students_of_the_sum_gain_and_lack(pytestconfig):
    recorded = report.recorded("sum_students")
    page = (pytestconfig.rootpath / "book" / "few_labels.md").read_text("utf-8")
    part = page.partition("(sec-sum-students)=")[2].partition("(sec-icecat-lists)=")[0]
    part = " ".join(part.split())
    found = {(one["system"], one["against"]): one for one in recorded["data"]["comparisons"]}
    labels, soft, more = script.LABELS, script.SOFT, script.MORE
    gain, nothing, mined = found[more, labels], found[soft, labels], found[more, soft]
    taught, free = found[more, script.UNTRAINED_SUM], found[more, script.FREE]
    assert f"the student gains {told(gain)} over labels alone.**" in part
    assert (
        f"nothing that can be told ({told(nothing)}), those for mined pairs {told(mined)}" in part
    )
    assert f"by {told(turned(taught))}, and {told(turned(free))} below the bi-encoder" in part
    assert min(gain["low"], mined["low"]) > 0 > max(taught["high"], free["high"])
    assert nothing["low"] < 0 < nothing["high"]
    rows = recorded["data"]["rows"]
    assert rows[labels]["lift@10"] < 0 < rows[more]["lift@10"]
    assert [goal["met"] for goal in recorded["goals"]] == [True]
    tried = [run for fold in recorded["data"]["choices"]["18"] for run in fold]
    assert {run["system"]: run["rate"] for run in tried if run["system"] != labels} == {
        soft: 1.0,
        more: 1.0,
    }
    assert len([run for run in tried if run["system"] == labels]) == 5 * len(script.TRIED)


def told(one: dict) -> str:
    return span(one, "difference")


def turned(one: dict) -> dict:
    """The same difference the other way round."""
    ends = {"difference": "difference", "low": "high", "high": "low"}
    return {end: -one[other] for end, other in ends.items()}


def test_the_page_says_which_settings_labels_only_took(pytestconfig):
    taken = []
    for fold in report.recorded("sum_students")["data"]["choices"]["18"]:
        runs = [run for run in fold if run["system"] == script.LABELS]
        best = max(runs, key=lambda run: run["ndcg@10"])
        if best["steps"] < 1:
            taken.append("fewer steps")
        elif best["dropout"] > 0:
            taken.append("dropout")
        else:
            rates = [run["rate"] for run in runs]
            taken.append("end" if best["rate"] in (min(rates), max(rates)) else "inner")
    assert sorted(taken) == ["dropout", "end", "end", "fewer steps", "inner"]
    page = " ".join((pytestconfig.rootpath / "book/few_labels.md").read_text("utf-8").split())
    words = "in two folds with the highest or the lowest rate, in one with the fewer steps, in one"
    assert f"({words} with dropout; more steps were not tried)" in page
    rows = report.recorded("whole_lists")["data"]["rows"]
    start = rows["the warm start, no label"]["ndcg@10"] - rows["random"]["ndcg@10"]
    lists = report.recorded("core_esci_150")["data"]["rows"]
    warmed = lists["student, labels only"]["lift@10"]
    words = f"labels alone have {warmed:.3f} in the [first table](#sec-esci-lists); the six layers"
    assert f"{words} of the warm start above, before any label, {start:.3f}.)" in page
