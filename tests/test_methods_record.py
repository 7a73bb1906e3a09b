"""What chapter 7 concludes from the recorded methods, held against the record."""

from pathlib import Path

import chapter_text
import nbformat
import numpy as np
import pandas as pd
import pytest

from book import values
from ecomkd import metrics, report
from ecomkd.relevance import verdict

CHAPTER = Path(__file__).resolve().parent.parent / "notebooks" / "07_choosing_a_method.ipynb"
FEW, SOME, MANY, ALL = 50, 200, 1000, 4500
TRAINED = ("frozen", "trees", "full", "LoRA", "adapted", "warmed", "distilled", "scratch")


@pytest.fixture(scope="module")
def record() -> dict:
    return report.recorded("methods")["data"]


@pytest.fixture(scope="module")
def entries(record) -> pd.DataFrame:
    return pd.DataFrame(record["entries"])


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    """What the stored chapter records, by name."""
    return values.values(nbformat.read(CHAPTER, as_version=4))


def number(said: dict, name: str) -> float:
    return float(said[name].replace("−", "-").split()[0])


def leads(entries: pd.DataFrame, measure: str, rival: tuple, others: list) -> pd.DataFrame:
    """Intervals that hold together of what others are ahead of a rival, and their words."""
    runs = entries.pivot(index="seed", columns=["method", "labels"], values=measure)
    found = metrics.simultaneous_intervals(runs[others].sub(runs[rival], axis=0).astype(float))
    ends = found[["low", "high"]].to_numpy()
    return found.assign(word=[verdict.word(*span) for span in ends])


def trained(labels: int, without: str = "") -> list:
    return [(name, labels) for name in TRAINED if name != without]


def test_up_to_a_thousand_labels_each_model_orders_worse_than_the_cosine_of_its_shop(entries):
    runs = entries.pivot(index="seed", columns=["labels", "method"], values="lift@10")
    for labels in (FEW, SOME, MANY):
        assert (runs[labels].sub(runs[0, "cosine"], axis=0) < 0).all(axis=None)


def test_no_method_is_shown_to_beat_the_order_of_the_cosine(entries):
    lift = leads(entries, "lift@10", ("cosine", 0), trained(ALL))
    ahead = lift.index[lift["mean"] > 0].get_level_values("method")
    assert set(ahead) == {"warmed", "LoRA", "distilled"}
    assert lift["mean"].idxmax() == ("warmed", ALL)
    for labels in (FEW, SOME, MANY, ALL):
        for measure in ("lift@10", "lift@10 unseen"):
            found = leads(entries, measure, ("cosine", 0), trained(labels))
            assert verdict.BEATS not in set(found["word"])
        found = leads(entries, "lift@10", ("cosine", 0), trained(labels))
        assert found.loc[("scratch", labels), "word"] == verdict.DOES_NOT_BEAT


def test_the_teacher_leads_in_each_of_the_three_shops(entries):
    runs = entries.pivot(index="seed", columns=["method", "labels"], values="lift@10")
    assert (runs["warmed", ALL] > runs["cosine", 0]).all()


def test_only_lora_beats_what_is_cheapest_in_the_class_and_only_with_all_labels(entries):
    beaten = {
        labels: {
            name
            for (name, _), word in leads(
                entries, "macro_f1", ("frozen", labels), trained(labels, "frozen")
            )["word"].items()
            if word == verdict.BEATS
        }
        for labels in (FEW, SOME, MANY, ALL)
    }
    assert beaten == {FEW: set(), SOME: set(), MANY: set(), ALL: {"LoRA"}}
    runs = entries.pivot(index="seed", columns=["method", "labels"], values="macro_f1")
    gaps = {n: runs["LoRA", n] - runs["full", n] for n in (FEW, SOME, MANY, ALL)}
    found = metrics.simultaneous_intervals(pd.DataFrame(gaps).astype(float))
    assert list(found.index[found["low"] > 0]) == [ALL]
    assert (gaps[ALL] > 0).all()


def test_of_all_28_leads_in_the_class_none_is_told_where_they_hold_together(entries):
    runs = entries.pivot(index="seed", columns=["method", "labels"], values="macro_f1")
    every = {
        (name, n): runs[name, n] - runs["frozen", n]
        for n in (FEW, SOME, MANY, ALL)
        for name in TRAINED
        if name != "frozen"
    }
    assert len(every) == 28
    found = metrics.simultaneous_intervals(pd.DataFrame(every).astype(float))
    assert (found["low"] < 0).all()
    assert (every["LoRA", ALL] > 0).all()


def test_of_most_that_are_not_shown_to_beat_the_cheapest_it_cannot_be_told(entries):
    few = pd.concat(
        leads(entries, "macro_f1", ("frozen", labels), trained(labels, "frozen"))["word"]
        for labels in (FEW, SOME, MANY)
    )
    unseen = leads(entries, "lift@10 unseen", ("cosine", 0), trained(ALL))["word"]
    for found in (few, unseen):
        assert (found == verdict.CANNOT_BE_TOLD).mean() > 0.8


@pytest.mark.parametrize(("one", "other"), [("LoRA", "full"), ("distilled", "warmed")])
def test_what_the_table_of_decisions_cannot_tell(entries, one, other):
    runs = entries.pivot(index="seed", columns=["method", "labels"], values="lift@10")
    gaps = {n: runs[one, n] - runs[other, n] for n in (FEW, SOME, MANY, ALL)}
    found = metrics.simultaneous_intervals(pd.DataFrame(gaps).astype(float)).loc[ALL]
    assert verdict.word(found["low"], found["high"]) == verdict.CANNOT_BE_TOLD


def test_the_mean_of_adaptation_is_a_loss_and_each_interval_holds_zero(entries):
    gaps = {}
    for measure in ("lift@10", "lift@10 unseen"):
        runs = entries.pivot(index="seed", columns=["method", "labels"], values=measure)
        for labels in (FEW, SOME, MANY, ALL):
            gaps[measure, labels] = runs["adapted", labels] - runs["full", labels]
    found = metrics.simultaneous_intervals(pd.DataFrame(gaps).astype(float))
    assert (found["mean"] < 0).all()
    assert (found["low"] < 0).all()
    assert (found["high"] > 0).all()


def test_one_network_has_one_latency_and_half_the_layers_are_twice_as_fast(entries):
    reads = entries[entries["p50_ms"].notna() & ~entries["method"].isin(("frozen", "trees"))]
    small = reads["method"] == "distilled"
    assert reads[small]["p50_ms"].max() < reads[~small]["p50_ms"].min()
    times = reads[~small]["p50_ms"].min() / reads[small]["p50_ms"].min()
    speed = report.recorded("core_shop")["data"]["speed"]
    whole, half = (speed[f"{name}, PyTorch fp32"]["p50_ms"] for name in ("teacher", "student"))
    assert 1.9 < times < 2.3
    told = f"on another machine in the same runtime, measured {whole / half:.1f}."
    assert told in chapter_text.of("07_choosing_a_method")


def test_the_choices_on_an_edge_are_those_that_the_chapter_names(entries, said):
    trees = entries[entries["method"] == "trees"]
    # A hundred trees for each of four labels have fewer leaves than this.
    leaves = np.where(trees["labels"] > FEW, 100 * 4 * 15, 100 * 4 * 10)
    assert number(said, "07-trees-edge") == (trees["trained_parameters"] > leaves).sum() > 0
    tuned = report.recorded("methods_rates")["data"]
    tried = pd.DataFrame(tuned["tried"]).groupby("method")["rate"]
    for method, rate in tuned["chosen"].items():
        assert tried.min()[method] < rate < tried.max()[method]


def test_what_the_chapter_computes_says_what_its_words_say(said):
    assert number(said, "07-bm25") < number(said, "07-cosine") - 0.03
    assert said["07-order-beats"] == said["07-unseen-beats"] == "none"
    # LoRA at its own rate learns more of the labels than at the rate of fine-tuning.
    assert number(said, "07-live-loss") < number(said, "07-live-loss-slow")
    assert number(said, "07-live-f1") > number(said, "07-live-f1-slow")
    # On fifty labels another recipe keeps most of an order that the recorded one loses.
    before = number(said, "07-live-before")
    assert number(said, "07-few-alone") > 0.8 * before > 0.1 > number(said, "07-fall")
    assert number(said, "07-few-added") > 0.9 * before


def test_chapter_2_says_what_few_labels_do_to_the_order_of_the_warm_start(entries):
    runs = entries.pivot(index="seed", columns=["method", "labels"], values="lift@10")
    warmed = runs["warmed"]
    spans = {n: metrics.seed_interval(warmed[n] - warmed[0]) for n in (FEW, SOME, MANY, ALL)}
    assert spans[FEW]["high"] < 0 and spans[SOME]["high"] < 0
    assert spans[MANY]["low"] < 0 < spans[MANY]["high"]
    assert spans[ALL]["low"] > 0
