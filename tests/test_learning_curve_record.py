"""What chapter 2 concludes from the recorded learning curve, held against the record."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest

from book import values
from ecomkd import report

CHAPTER = Path(__file__).resolve().parent.parent / "notebooks" / "02_teacher.ipynb"


@pytest.fixture(scope="module")
def recorded():
    return report.recorded("learning_curve")["data"]


def by_labels(recorded, start: str) -> pd.DataFrame:
    curve = pd.DataFrame(recorded["curve"])
    return curve[curve["start"] == start].set_index("pairs").sort_index()


def test_no_number_of_labels_gives_the_network_from_scratch_an_order(recorded):
    assert by_labels(recorded, "scratch")["lift@10"].abs().max() < 0.02
    assert abs(pd.DataFrame(recorded["longer"])["lift@10"].mean()) < 0.02
    whole = by_labels(recorded, "scratch").iloc[-1]["lift@10 by kind"]
    assert max(whole.values()) < 0.05


def test_the_pretrained_network_orders_every_kind_of_query(recorded):
    whole = by_labels(recorded, "pretrained").iloc[-1]["lift@10 by kind"]
    assert min(whole.values()) > 0.1


def test_words_alone_know_little_of_words_that_no_label_shows():
    kinds = pd.DataFrame(report.recorded("core_shop")["data"]["by_kind"]).T
    words = kinds["boosted trees on words"]
    assert words.idxmin() == "unseen_synonym"
    others = kinds.loc["unseen_synonym", ["bi-encoder, untrained", "teacher"]]
    assert words["unseen_synonym"] < others.min() / 2


def test_freezing_costs_classes_and_saves_nothing_on_unseen_words(recorded):
    kept, free = by_labels(recorded, "pretrained").iloc[-1], recorded["all layers"][0]
    assert free["macro_f1"] - kept["macro_f1"] > 0.05
    assert free["ndcg@10"] > kept["ndcg@10"]
    unseen = [row["lift@10 by kind"]["unseen_synonym"] for row in (kept, free)]
    assert abs(unseen[0] - unseen[1]) < 0.01


def number(name: str) -> float:
    """What the stored chapter recorded under `name`."""
    text = values.values(nbformat.read(CHAPTER, as_version=4))[name]
    return float(text.split()[0].replace("−", "-"))


def test_balancing_finds_complements_and_costs_accuracy():
    assert number("balanced_found") > 2 * number("c_found")
    assert 0 < number("balanced_c") - number("f1_C") < 0.1
    assert number("balanced_accuracy") < number("accuracy") - 0.01
