"""Pairs of 72 tokens: what is trained, and what it is held against."""

import json
from functools import partial

import chapter_text
import pytest
import tiny_models

import measure_longer_pairs as script
from ecomkd import load, report
from ecomkd.config import Profile

SETTINGS = {"rate": 3e-4, "dropout": 0.0, "steps": 1.0, "warmed": 0.0}
SYSTEMS = {script.TEACHER, *script.STUDENTS}


def test_the_share_of_pairs_that_are_cut_falls_with_their_length(tmp_path):
    data = load("shop", Profile.named("smoke", seed=900, artifacts=tmp_path))
    shares = [script.cut_share(data["test"], tokens) for tokens in (32, script.TOKENS, 200)]
    assert shares[0] > 0.8 and shares[1] < 0.1 and shares[2] == 0


def test_teacher_and_students_read_longer_pairs_in_the_settings_that_were_chosen(
    tmp_path, monkeypatch
):
    profile = tiny_models.distilling(tmp_path)
    monkeypatch.setattr(Profile, "named", lambda seed: profile)
    monkeypatch.setattr(script, "TOKENS", 36)  # the tiny network has forty places
    settings = {script.LABELS: SETTINGS, script.MORE: SETTINGS | {"steps": 2.0}}
    monkeypatch.setattr(script, "chosen", lambda _: settings)
    lengths, learnt = [], []
    teacher, trained, judged = script.stages.teacher, script.trained, script.judged

    def taught(data, own):
        lengths.append(own.max_length)
        return teacher(data, own)

    def watched(data, own, folder, row, chosen):
        lengths.append(own.max_length)
        learnt.append((row, chosen["steps"]))
        return trained(data, own, folder, row, chosen)

    def read(folder, pairs, own):
        lengths.append(own.max_length)
        return judged(folder, pairs, own)

    monkeypatch.setattr(script, "judged", read)
    monkeypatch.setattr(script.stages, "teacher", taught)
    monkeypatch.setattr(script, "trained", watched)
    found = script.measured(900)
    assert set(found["systems"]) == SYSTEMS and set(lengths) == {script.TOKENS}
    assert learnt == [("none", 1.0), ("kd_unlabelled", 2.0)]
    assert set(found["cut"]) == {profile.max_length, script.TOKENS}


def test_rows_are_held_against_those_of_32_tokens_shop_by_shop(tmp_path, monkeypatch):
    apart = {of: 0.0 for of in SYSTEMS} | {script.FREE: 0.01, script.UNTRAINED_SUM: 0.03}
    rows = {
        of: {"by_seed": [one + higher for one in (0.8, 0.7, 0.75)]} for of, higher in apart.items()
    }
    gain = {"system": script.MORE, "against": script.LABELS, "by_seed": [0.0, 0.01, 0.02]}
    before = {"seeds": [20, 18, 19], "data": {"rows": rows, "differences": [gain]}}
    before |= {"generator": "of all", "hardware": {"precision": "bf16"}}
    monkeypatch.setattr(report, "recorded", lambda name: before)
    for place, seed in enumerate((19, 20, 18)):
        systems = {}
        for name in SYSTEMS:
            # Each shop is 0.1 above what it had; the distilled student 0.02 more.
            base = {18: 0.8, 19: 0.85, 20: 0.9}[seed] + 0.02 * (name == script.MORE)
            order = {f"q{n}": base + (n - 1) / 100 for n in range(3)}
            systems[name] = {"ndcg@10": order, "random_ndcg@10": order, "macro_f1": 0.5}
        part = {"seed": seed, "profile": {}, "hardware": {}, "generator": "of all"}
        part |= {"precision": "bf16", "systems": systems, "cut": {"32": 0.9 + place / 100}}
        (tmp_path / f"seed{seed}.json").write_text(json.dumps(part), encoding="utf-8")
    script.merge(tmp_path, tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    longer = record["data"]["against 32 tokens"]
    assert longer[script.TEACHER]["mean"] == pytest.approx(0.1) == longer[script.TEACHER]["low"]
    assert longer[script.MORE]["mean"] == pytest.approx(0.12)
    free = record["data"]["against what is free"]
    assert free[script.FREE][script.MORE]["mean"] == pytest.approx(0.11)
    assert free[script.UNTRAINED_SUM][script.MORE]["mean"] == pytest.approx(0.09)
    assert record["goals"][0]["value"] == pytest.approx(0.02) and record["goals"][0]["met"]
    gain = record["data"]["gain against 32 tokens"]
    assert gain["mean"] == pytest.approx(0.01) and gain["low"] < 0 < gain["high"]
    before["generator"] = "of earlier shops"
    with pytest.raises(SystemExit, match="another generator"):
        script.merge(tmp_path, tmp_path / "record.json")


# The record


span = partial(chapter_text.span, value="mean")


@pytest.fixture(scope="module")
def recorded():
    return report.recorded("longer_pairs")["data"]


def test_the_page_has_what_longer_pairs_bring(recorded, pytestconfig):
    page = (pytestconfig.rootpath / "book" / "more_pairs.md").read_text("utf-8")
    part = page.partition("(sec-longer-pairs)=")[2].partition("(sec-shop-log)=")[0]
    part = " ".join(part.split())
    longer = recorded["against 32 tokens"]
    assert longer[script.TEACHER]["low"] > 0
    assert f"The teacher's nDCG@10 rises by {span(longer[script.TEACHER])}." in part
    assert all(longer[name]["low"] < 0 < longer[name]["high"] for name in script.STUDENTS)
    labels, more = (span(longer[name]) for name in script.STUDENTS)
    told = f"That of labels alone changes by {labels}, that of the distilled student by {more}."
    assert told in part
    (added,) = (one for one in recorded["differences"] if one["against"] == script.LABELS)
    before = next(
        one["seeds"]
        for one in report.recorded("labels_only")["data"]["differences"]
        if (one["system"], one["against"]) == (script.MORE, script.LABELS)
    )
    gain = recorded["gain against 32 tokens"]
    assert added["seeds"]["low"] > 0 and gain["low"] < 0 < gain["high"]
    assert (
        f"Distillation adds {span(added['seeds'])} to labels alone. Our goal, an interval above 0, "
        f"is met; on 32 tokens distillation adds {span(before)} (a change of {span(gain)})."
    ) in part
    told = f"changes macro-F1 by {span(added['macro_f1'])}. This cannot be told from 0."
    assert told in part and added["macro_f1"]["low"] < 0 < added["macro_f1"]["high"]
    free, summed = (
        recorded["against what is free"][of] for of in (script.FREE, script.UNTRAINED_SUM)
    )
    assert (
        f"stands {span(free[script.MORE])} above the untrained bi-encoder and "
        f"{span(summed[script.MORE])} above its sum with words. Labels alone can be told from "
        "neither."
    ) in part
    assert all(one[script.MORE]["low"] > 0 > one[script.LABELS]["low"] for one in (free, summed))
    assert all(one[script.LABELS]["high"] > 0 for one in (free, summed))


def test_the_page_has_the_share_of_pairs_that_are_cut(recorded, pytestconfig):
    page = " ".join((pytestconfig.rootpath / "book" / "more_pairs.md").read_text("utf-8").split())
    few, many = (
        sum(cut[tokens] for cut in recorded["cut"].values()) / len(recorded["cut"])
        for tokens in ("32", str(script.TOKENS))
    )
    assert f"read 32 tokens of a pair, which cuts {few:.0%} of the test".replace("%", " %") in page
    assert f"pairs of 72 tokens, which cuts {many:.0%}.".replace("%", " %") in page


def test_the_pages_that_point_here_say_by_how_much_the_teacher_rises(recorded, pytestconfig):
    rise = report.number(recorded["against 32 tokens"][script.TEACHER]["mean"])
    for name in ("compared.md", "own_catalogue.md"):
        page = " ".join((pytestconfig.rootpath / "book" / name).read_text("utf-8").split())
        assert f"[72 tokens](#sec-longer-pairs) raised the teacher's nDCG@10 by {rise}" in page
    page = " ".join((pytestconfig.rootpath / "book" / "more_pairs.md").read_text("utf-8").split())
    assert f"by {span(recorded['against 32 tokens'][script.TEACHER])} nDCG@10. What distill" in page
    # Two trainings of one teacher, on 32 tokens: how far apart the luck of training puts them.
    first = report.recorded("core_shop")["data"]["per_seed"]["18"]["teacher"]["ndcg@10"]
    before = report.recorded("labels_only")
    second = before["data"]["rows"][script.TEACHER]["by_seed"][before["seeds"].index(18)]
    assert f"it and one trained anew lie {abs(first - second):.3f} apart." in page
