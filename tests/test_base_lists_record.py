"""A base-size teacher on whole lists of few judged queries: what is compared, on tiny data."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chapter_text import span
from test_run import judgments, shop
from test_sum_students_record import merged

import measure_base_lists as script
import measure_untrained
from ecomkd import features, models, report
from ecomkd.config import Profile
from ecomkd.data import sources
from ecomkd.data.folds import divided
from shared import by_pair

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*judged products have more than one title"),
    pytest.mark.filterwarnings("ignore:.*too few to conclude"),
]
ROWS = {name for pair in script.COMPARED for name in pair}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Three folds of a small shop, whose base-size teacher knows all labels."""
    profile = Profile.named("smoke", device="cpu", artifacts=tmp_path / "artifacts")
    folder = shop(tmp_path / "shoes", judgments())
    data, catalogue = sources.load(folder, profile), sources.catalogue(folder, profile)
    parts, trained = divided(data, 3, seed=1), []

    def teacher(data, profile, checkpoint):
        trained.append((set(data["train"]["query_id"]), profile, checkpoint))
        return tmp_path

    def predict(_, pairs, __):
        return np.eye(pairs.features["label"].num_classes)[np.asarray(pairs["label"])]

    monkeypatch.setattr(script.Profile, "named", lambda *_, **__: profile)
    monkeypatch.setattr(measure_untrained, "parts_of", lambda *_: (parts, catalogue))
    monkeypatch.setattr(features, "bi_encoder_scores", lambda pairs, *_: np.arange(len(pairs)))
    monkeypatch.setattr(script.measure_whole_lists.mining, "with_unlabelled", lambda data, *_: data)
    monkeypatch.setattr(script.checkpoints, "put_together", lambda name: Path("folder of", name))
    monkeypatch.setattr(script, "cosines", lambda pairs, *_: -np.arange(len(pairs)))
    monkeypatch.setattr(script, "warm_start", lambda data, _: -np.arange(len(data["test"])))
    monkeypatch.setattr(script.stages, "origin", lambda _, profile: f"warm, {profile.teacher}")
    monkeypatch.setattr(script.stages, "teacher", teacher)
    monkeypatch.setattr(script.judge, "predict", predict)
    monkeypatch.setattr(script, "looks", lambda _: [{"macro_f1": 0.2, "ndcg@10": 0.5}])
    return profile, trained


def test_the_teacher_alone_and_in_the_sum_is_judged_on_the_queries_of_all_folds(tiny):
    profile, trained = tiny
    found = script.measured(18)
    assert set(found["systems"]) == ROWS
    asked = {tuple(own["ndcg@10"]) for own in found["systems"].values()}
    assert len(asked) == 1, "all are asked the same queries"
    mean = {name: np.mean(list(own["ndcg@10"].values())) for name, own in found["systems"].items()}
    assert mean[script.TAUGHT] == 1 > mean[script.FREE]
    assert mean[script.ADDED] > mean[script.UNTRAINED_SUM]
    weights = found["choices"][0]["weights"]
    read = {name: len(signals) for name, signals in weights.items()}
    both = (script.UNTRAINED_SUM, script.BASE_SUM), (script.ADDED, script.ADDED_BASE)
    assert read == dict.fromkeys(both[0], 4) | dict.fromkeys(both[1], 5)
    assert [own["macro_f1"] for own in found["choices"]] == [1.0] * 3
    queries, profiles, starts = zip(*trained, strict=True)
    assert len(trained) == 3 and not set.intersection(*queries)
    base = str(Path("folder of", script.CHECKPOINT))
    assert set(starts) == {f"warm, {base}"}
    for own in profiles:
        assert (own.frozen_layers, own.teacher_learning_rate, own.teacher_epochs) == (None, 5e-5, 3)
        assert own.spread_head and own.max_length == profile.max_length


def test_the_warm_up_of_a_checkpoint_given_as_a_folder_imitates_minilm(tmp_path, monkeypatch):
    asked = []

    def cosine(pairs, profile, name="minilm"):
        asked.append(name)
        return np.arange(len(pairs), dtype=float)

    monkeypatch.setattr(script.checkpoints, "put_together", lambda _: models.checkpoint("minilm"))
    monkeypatch.setattr(features, "bi_encoder_scores", cosine)
    profile = Profile.named("smoke", device="cpu", artifacts=tmp_path, warm_up_pairs=12)
    warmed, taught = script.recipe(profile)
    script.stages.origin(sources.load("shop", profile), warmed)
    assert asked == ["minilm"]
    assert (warmed.student_learning_rate, taught.teacher) == (1e-4, warmed.teacher)


def test_vectors_of_known_texts_are_not_computed_again(monkeypatch):
    class Encoder:
        max_seq_length = 384

    def encode(model, texts, **options):
        assert model.max_seq_length == script.measure_whole_lists.TOKENS
        assert options["normalize_embeddings"]
        encoded.extend(texts)
        return np.array([[float(len(text)), 1.0] for text in texts])

    encoded: list[str] = []
    monkeypatch.setattr(script.bi_encoders, "encoder", lambda *_: Encoder())
    monkeypatch.setattr(script.models, "checkpoint", str)
    monkeypatch.setattr(script, "product_text", lambda pairs: list(pairs["title"]))
    monkeypatch.setattr(features, "encode", encode)
    profile, known = Profile.named("smoke", device="cpu"), {"ab": np.array([2.0, 1.0])}
    pairs = pd.DataFrame({"query": ["ab", "c"], "title": ["x", "yy"]})
    for _ in range(2):
        assert script.cosines(pairs, profile, known).tolist() == [2 * 1 + 1, 1 * 2 + 1]
    assert encoded == ["c", "x", "yy"]


def test_goals_are_held_against_the_same_without_the_teacher(tmp_path):
    record = merged(script, {script.ADDED}, tmp_path)
    assert [goal["met"] for goal in record["goals"]] == [True, True, False, False]
    record = merged(script, {script.ADDED_BASE}, tmp_path)
    assert [goal["met"] for goal in record["goals"]] == [False, False, True, True]
    assert record["goals"][3]["value"] == pytest.approx(0.1)


def test_the_page_says_that_a_larger_network_is_not_shown_to_help(pytestconfig):
    data, smaller = (report.recorded(name)["data"] for name in ("base_lists", "whole_lists"))
    page = (pytestconfig.rootpath / "book" / "few_labels.md").read_text("utf-8")
    part = page.partition("(sec-base-lists)=")[2].partition("(sec-contrast-lists)=")[0]
    part = " ".join(part.split())
    told = by_pair(data["comparisons"])

    def apart(one: str, other: str) -> str:
        return span(told[one, other], "difference")

    added, free = (apart(script.ADDED, other) for other in (script.UNTRAINED_SUM, script.FREE))
    assert f"the sum of words and MiniLM's bi-encoder stands {added} from the same sum" in part
    assert f"without it, and {free} from MiniLM's bi-encoder alone" in part
    added, free = (apart(script.ADDED_BASE, other) for other in (script.BASE_SUM, script.BASE))
    assert f"the sum stands {added} from the same sum without the teacher, and {free} from" in part
    assert "All four goals, to lie above 0, are missed" in part
    assert [goal["met"] for goal in report.recorded("base_lists")["goals"]] == [False] * 4
    asked = " ".join((pytestconfig.rootpath / "book" / "faq.md").read_text("utf-8").split())
    assert (
        "teacher of base size, like the small one, is not shown to rank better than what" in asked
    )
    assert not report.recorded("whole_lists")["goals"][0]["met"]
    lost = told[script.TAUGHT, script.BASE]
    lost = {"value": -lost["difference"], "low": -lost["high"], "high": -lost["low"]}
    assert f"{span(lost)} *below* the untrained bi-encoder of its own size" in part
    assert (
        f"by {apart(script.TAUGHT, script.START)} from the warm start, which cannot be told" in part
    )
    assert f"label ({apart(script.START, script.FREE)})" in part
    assert f"stands {apart(script.BASE, script.FREE)} from MiniLM's" in part
    low, high = (told[script.TAUGHT, script.START][end] for end in ("low", "high"))
    assert low < 0 < high
    recipe = "all layers, gently, head spread"
    reached = data["rows"][script.TAUGHT]["ndcg@10"]
    assert reached < smaller["rows"][recipe]["ndcg@10"]
    assert f"({reached:.3f} and {smaller['rows'][recipe]['ndcg@10']:.3f};" in part
    folds = data["choices"]["18"]
    kept = [max(one["looks"], key=lambda look: look["ndcg@10"] + look["macro_f1"]) for one in folds]
    held = np.mean([look["ndcg@10"] for look in kept])
    assert f"mean of {held:.3f} on the validation queries; on the test queries the same" in part
    assert f"networks have {reached:.3f}." in part
    classes = np.mean([one["macro_f1"] for one in folds])
    of_smaller = np.mean([one[recipe]["macro_f1"] for one in smaller["choices"]["18"]])
    assert f"macro-F1 is {classes:.2f} over the folds, and {of_smaller:.2f} with MiniLM" in part
    assert "In three of five folds it gave the teacher the largest weight in either sum" in part
    assert "and in the other two none" in part
    for name in (script.ADDED, script.ADDED_BASE):
        weights = [list(one["weights"][name].values()) for one in folds]
        assert sum(own[-1] == max(own) for own in weights) == 3
        assert sum(own[-1] == 0 for own in weights) == 2
    (cut,) = (
        one
        for one in report.recorded("untrained")["data"]["esci_150"]["comparisons"]
        if one["system"] == measure_untrained.SHORT[96]
    )
    assert f"together, stands {span(cut, 'difference')} from itself uncut" in part
