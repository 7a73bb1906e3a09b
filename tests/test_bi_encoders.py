"""The contrastive bi-encoder: the rows that it learns from, and a tiny one that learns."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from datasets import ClassLabel, Dataset, DatasetDict
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from ecomkd.data.schema import TEXT
from ecomkd.relevance import bi_encoders


def judged(*rows: tuple[str, str, str], classes: ClassLabel = tiny_models.CLASSES) -> Dataset:
    """Pairs of a query, a title and a label."""
    pairs = [
        {name: "" for name in TEXT}
        | {"query_id": f"id of {query}", "query": query, "product_id": f"p{number}"}
        | {"product_title": title, "label": label}
        for number, (query, title, label) in enumerate(rows)
    ]
    return Dataset.from_list(pairs).cast_column("label", classes)


def test_rows_have_a_good_product_and_a_bad_one_of_their_query():
    pairs = judged(
        ("lamp", "desk lamp", "E"),
        ("mug", "tea mug", "S"),  # the best that its query has
        ("lamp", "tea lamp", "S"),  # not the best of its query, and not bad
        ("lamp", "lamp shade", "C"),
        ("mug", "tea pot", "I"),
        ("lamp", "red lamp", "E"),
        ("mat", "red strap", "C"),  # a query without a good product has no row
    )
    rows = bi_encoders.contrastive_rows(pairs, seed=0)
    assert rows.column_names == ["query", "product", "rival"]
    assert [tuple(row.values()) for row in rows] == [
        ("lamp", "desk lamp", "lamp shade"),
        ("mug", "tea mug", "tea pot"),
        ("lamp", "red lamp", "lamp shade"),
    ]


def test_grades_have_their_best_and_worst_too():
    grades = ClassLabel(names=["0", "1", "2", "3"])
    rows = [("a", "best", "3"), ("a", "good", "2"), ("b", "fair", "2"), ("b", "poor", "1")]
    rows += [("a", "bad", "0"), ("c", "so so", "1")]
    found = bi_encoders.contrastive_rows(judged(*rows, classes=grades), seed=0)
    assert [tuple(row.values()) for row in found] == [("a", "best", "bad"), ("b", "fair", "poor")]


def test_of_two_classes_one_is_good_and_one_a_rival():
    two = ClassLabel(names=["bad", "good"])
    rows = [("a", "best", "good"), ("a", "worst", "bad"), ("b", "other", "bad")]
    found = bi_encoders.contrastive_rows(judged(*rows, classes=two), seed=0)
    assert [tuple(row.values()) for row in found] == [("a", "best", "worst")]


def test_a_query_without_a_bad_product_has_a_good_one_of_another():
    pairs = judged(("lamp", "desk lamp", "E"), ("mug", "tea mug", "E"), ("mug", "tea pot", "S"))
    rows = bi_encoders.contrastive_rows(pairs, seed=0)
    assert rows["rival"][:] == ["tea mug", "desk lamp"]


def test_a_rival_is_another_text():
    alone = judged(("lamp", "desk lamp", "E"), ("lamp", "desk lamp", "I"))
    assert not len(bi_encoders.contrastive_rows(alone, seed=0))
    both = judged(("lamp", "desk lamp", "E"), ("lamp", "desk lamp", "I"), ("mug", "tea mug", "E"))
    assert bi_encoders.contrastive_rows(both, seed=0)["rival"][0] == "tea mug"


THINGS = ("shoe", "mug", "lamp", "desk", "mat", "strap", "pot", "wool")
OTHERS = ("red", "blue", "green", "large", "small", "steel", "kids", "tea")
MEANT = dict(zip(THINGS, OTHERS, strict=True))


def shop() -> Dataset:
    """Each thing is asked for, and what is meant has another word, which only labels can tell."""
    rows = [
        (thing, f"{MEANT[other]} {MEANT[other]}", "E" if thing == other else "I")
        for thing in THINGS
        for other in THINGS
    ]
    return judged(*rows)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A profile whose pretrained sentence encoder is a random one over a few words."""
    tiny_models.save(tiny_models.bert(dropout=0.0).base_model, tmp_path / "bert")
    parts = [Transformer(str(tmp_path / "bert"))]
    parts += [Pooling(parts[0].get_embedding_dimension()), Normalize()]
    SentenceTransformer(modules=parts, device="cpu").save(str(tmp_path / "start"))
    monkeypatch.setattr(bi_encoders, "PRETRAINED", str(tmp_path / "start"))
    monkeypatch.setattr(bi_encoders, "RATES", (1e-6, 5e-3))
    return tiny_models.profile(tmp_path / "artifacts", teacher_epochs=2, frozen_layers=0)


def margin(folder, profile) -> float:
    """By how much what is meant is nearer than all else, on average."""
    pairs = shop()
    cosine = bi_encoders.cosine_scores(folder, pairs, profile)
    good = np.asarray(pairs["label"]) == 0
    return cosine[good].mean() - cosine[~good].mean()


def test_a_contrast_moves_good_products_to_their_queries(tiny):
    data, tiny = DatasetDict(train=shop(), validation=shop()), replace(tiny, teacher_epochs=20)
    folder = bi_encoders.contrastive(data, tiny)
    assert margin(folder, tiny) > margin(bi_encoders.PRETRAINED, tiny) + 0.3
    looks = bi_encoders.contrastive_choices(folder)
    assert looks["learning_rate"].tolist() == [0.0, *[1e-6] * 20, *[5e-3] * 20]
    # What is kept is the best look: at the higher rate, and better than the start.
    kept = bi_encoders.Validation(data["validation"])(bi_encoders.encoder(folder, tiny))
    assert kept["ndcg@10"] == pytest.approx(looks["ndcg@10"].max())
    assert looks["ndcg@10"].idxmax() > 20
    assert not [path.name for path in folder.iterdir() if path.name.startswith(("rate", "check"))]
    assert bi_encoders.contrastive(data, tiny) == folder
    assert bi_encoders.contrastive(data, replace(tiny, seed=901)) != folder


def test_a_contrast_learns_from_pairs_that_a_model_has_labelled(tiny):
    half = THINGS[: len(THINGS) // 2]
    pairs = shop()
    judged_rows = [row for row, query in enumerate(pairs["query"]) if query in half]
    data = DatasetDict(train=pairs.select(judged_rows), validation=pairs)
    told = pairs.select([row for row in range(len(pairs)) if row not in judged_rows])
    rates = (5e-3,)
    alone = bi_encoders.contrastive(data, tiny, passes=20, rates=rates)
    both = bi_encoders.contrastive(data, tiny, told, passes=20, rates=rates)
    assert margin(both, tiny) > margin(alone, tiny) + 0.1
    looks = bi_encoders.contrastive_choices(both)
    assert looks["learning_rate"].tolist() == [0.0, *[5e-3] * tiny.teacher_epochs]
    assert bi_encoders.contrastive(data, tiny, told, passes=20, rates=rates) == both
    part = bi_encoders.contrastive(data, replace(tiny, batch_size=2), told, 2.5, rates)
    steps = json.loads((part / "training.json").read_text(encoding="utf-8"))[-1]["step"]
    assert steps == 2.5 * len(THINGS) / 2


def test_each_contrast_has_an_artefact_of_its_own(tiny, monkeypatch):
    parts, pairs = [], shop()
    monkeypatch.setattr(
        bi_encoders, "stage", lambda name, given, *rest, **more: parts.append(given)
    )
    data = DatasetDict(train=pairs, validation=pairs)
    other = pairs.map(lambda row: {"label": 3 - row["label"]})
    default = None, float(tiny.teacher_epochs), bi_encoders.RATES
    given = [(), default, (pairs,), (other,), (None, 3), (None, None, (1e-3,))]
    for one in given:
        bi_encoders.contrastive(data, tiny, *one)
    bi_encoders.contrastive(data, tiny, start=Path(bi_encoders.PRETRAINED))
    # Who asks for what is there by default has the key of whoever does not ask, and that is old.
    assert parts[0] == parts[1] and len(parts[0]) == 4
    assert len({str(one) for one in parts}) == len(given)


def test_a_contrast_goes_on_from_an_encoder_that_is_no_choice_itself(tiny):
    data, rates = DatasetDict(train=shop(), validation=shop()), (5e-3,)
    first = bi_encoders.contrastive(data, tiny, passes=20, rates=rates)
    further = bi_encoders.contrastive(data, tiny, passes=1, rates=(1e-9,), start=first)
    assert further != bi_encoders.contrastive(data, tiny, passes=1, rates=(1e-9,))
    assert margin(further, tiny) == pytest.approx(margin(first, tiny), abs=1e-5)
    assert bi_encoders.contrastive_choices(further)["ndcg@10"].idxmax() == 0
    assert bi_encoders.has_learnt(further)
    none = judged(("lamp", "desk lamp", "I"), ("mug", "tea mug", "I"))
    with pytest.warns(UserWarning, match="stays as it was"):
        same = bi_encoders.contrastive(
            DatasetDict(train=none, validation=shop()), tiny, rates=rates, start=first
        )
    assert margin(same, tiny) == pytest.approx(margin(first, tiny), abs=1e-6)
    assert not bi_encoders.has_learnt(same)


def test_a_contrast_that_helps_nothing_leaves_the_encoder_as_it_was(tiny, monkeypatch):
    monkeypatch.setattr(bi_encoders, "RATES", (1e-9,))
    folder = bi_encoders.contrastive(DatasetDict(train=shop(), validation=shop()), tiny)
    assert margin(folder, tiny) == pytest.approx(margin(bi_encoders.PRETRAINED, tiny), abs=1e-6)
    looks = bi_encoders.contrastive_choices(folder)
    assert looks["ndcg@10"].idxmax() == 0


def test_without_anything_to_learn_or_to_choose_by_it_stays_as_pretrained(tiny):
    none = judged(("lamp", "desk lamp", "I"), ("mug", "tea mug", "I"))
    for data, reason in (
        (DatasetDict(train=none, validation=shop()), "No training query has a relevant product"),
        (DatasetDict(train=shop(), validation=none), "No validation query has a relevant product"),
    ):
        with pytest.warns(UserWarning, match=f"{reason}.*stays as it was"):
            folder = bi_encoders.contrastive(data, tiny)
        assert margin(folder, tiny) == pytest.approx(margin(bi_encoders.PRETRAINED, tiny))


def test_a_killed_run_goes_on_with_the_rate_that_it_was_at(tiny, monkeypatch):
    data = DatasetDict(train=shop(), validation=shop())
    own = bi_encoders.fit

    def killed(*parts, **further):
        if parts[6] == bi_encoders.RATES[1]:
            raise KeyboardInterrupt
        own(*parts, **further)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bi_encoders, "fit", killed)
        bi_encoders.contrastive(data, tiny)
    rates = []
    monkeypatch.setattr(bi_encoders, "fit", lambda *p, **f: (rates.append(p[6]), own(*p, **f)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        bi_encoders.contrastive(data, tiny)
    assert rates == [bi_encoders.RATES[1]]
