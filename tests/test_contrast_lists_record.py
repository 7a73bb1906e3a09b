"""A bi-encoder that labels teach by contrast on whole lists: what is compared, on tiny data."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chapter_text import span
from test_run import judgments, shop
from test_sum_students_record import merged

import measure_contrast_lists as script
import measure_untrained
from ecomkd import features, models, report
from ecomkd.config import Profile
from ecomkd.data import sources
from ecomkd.data.folds import divided
from ecomkd.relevance import bi_encoders
from shared import by_pair

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*judged products have more than one title"),
    pytest.mark.filterwarnings("ignore:.*too few to conclude"),
]
ROWS = {name for pair in script.COMPARED for name in pair}


def test_the_taught_cosine_takes_the_place_of_the_untrained_one(tmp_path, monkeypatch):
    profile = Profile.named("smoke", device="cpu", artifacts=tmp_path / "artifacts")
    folder = shop(tmp_path / "shoes", judgments())
    data, catalogue = sources.load(folder, profile), sources.catalogue(folder, profile)
    parts = divided(data, 3, seed=1)
    taught = []

    def contrastive(data, profile):
        taught.append(set(data["train"]["query_id"]))
        return tmp_path

    looks = pd.DataFrame([{"learning_rate": 0.0, "epoch": 0.0, "ndcg@10": 0.5}])
    monkeypatch.setattr(script.Profile, "named", lambda *_, **__: profile)
    monkeypatch.setattr(measure_untrained, "parts_of", lambda *_: (parts, catalogue))
    monkeypatch.setattr(features, "bi_encoder_scores", lambda pairs, *_: np.arange(len(pairs)))
    monkeypatch.setattr(script.bi_encoders, "contrastive", contrastive)
    monkeypatch.setattr(script.bi_encoders, "contrastive_choices", lambda _: looks)
    # It knows the labels, the first of which is the best.
    monkeypatch.setattr(script, "cosines", lambda _, pairs, __: -np.array(pairs["label"], float))
    found = script.measured(18)
    assert set(found["systems"]) == ROWS
    asked = {tuple(own["ndcg@10"]) for own in found["systems"].values()}
    assert len(asked) == 1, "all are asked the same queries"
    assert set(found["systems"][script.CONTRAST]["ndcg@10"].values()) == {1.0}
    assert min(found["systems"][script.FREE]["ndcg@10"].values()) < 1
    taught_sum, free_sum = (
        sum(found["systems"][name]["ndcg@10"].values())
        for name in (script.ADDED, script.UNTRAINED_SUM)
    )
    assert taught_sum > free_sum
    assert [own["looks"] for own in found["choices"]] == [looks.to_dict("records")] * 3
    assert len(taught) == 3 and not set.intersection(*taught)


def test_the_taught_encoder_is_asked_with_as_many_tokens_as_the_untrained_one(monkeypatch):
    class Encoder:
        max_seq_length = script.measure_whole_lists.TOKENS

    def encode(model, texts):
        told = Path(models.checkpoint("minilm")) / "sentence_bert_config.json"
        untrained = json.loads(told.read_text(encoding="utf-8"))["max_seq_length"]
        assert model.max_seq_length == script.ASKED == untrained
        return np.array([[len(text), 1.0] for text in texts])

    pairs = pd.DataFrame({"query": ["ab", "c"], "title": ["x", "yy"]})
    monkeypatch.setattr(script.bi_encoders, "encoder", lambda *_: Encoder())
    monkeypatch.setattr(script, "product_text", lambda pairs: list(pairs["title"]))
    monkeypatch.setattr(features, "encode", encode)
    assert script.cosines(None, pairs, None).tolist() == [2 * 1 + 1, 1 * 2 + 1]


def test_goals_are_held_against_the_cosine_and_against_the_sum(tmp_path):
    record = merged(script, {script.ADDED}, tmp_path)
    assert [goal["met"] for goal in record["goals"]] == [False, True]
    assert record["goals"][1]["value"] == pytest.approx(0.1)


def test_the_page_says_that_labels_by_contrast_bring_nothing_that_can_be_told(pytestconfig):
    recorded = report.recorded("contrast_lists")
    page = (pytestconfig.rootpath / "book" / "few_labels.md").read_text("utf-8")
    part = page.partition("(sec-contrast-lists)=")[2].partition("(sec-sum-students)=")[0]
    part = " ".join(part.split())
    told = by_pair(recorded["data"]["comparisons"])
    alone, added = told[script.CONTRAST, script.FREE], told[script.ADDED, script.UNTRAINED_SUM]
    assert f"stands {span(alone, 'difference')} from the untrained one" in part
    assert f"and added to words {span(added, 'difference')} from the sum" in part
    assert all(one["low"] < 0 < one["high"] for one in told.values())
    assert [goal["met"] for goal in recorded["goals"]] == [False, False]
    folds = recorded["data"]["choices"]["18"]
    assert f"a fold gave {np.mean([fold['rows'] for fold in folds]):,.0f} such pairs" in part
    gains, rates = [], []
    for looks in (fold["looks"] for fold in folds):
        start, *others = looks
        assert start["learning_rate"] == 0
        best = max(looks, key=lambda look: look["ndcg@10"])
        assert [look["epoch"] for look in others] == [1, 2, 3, 4, 5, 6] * 2
        gains.append(best["ndcg@10"] - start["ndcg@10"])
        rates.append(best["learning_rate"])
    taught = [gain for gain in gains if gain > 0]
    assert len(folds) == 5 and len(taught) == 4
    assert f"{min(taught):.3f} to {max(taught):.3f} above the untrained one" in part
    assert rates.count(max(bi_encoders.RATES)) == 3
