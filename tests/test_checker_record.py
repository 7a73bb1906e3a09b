"""The script that holds checkers against sentences that were read, and its record."""

import json

import numpy as np
import pandas as pd
import pytest
import tiny_baskets

import measure_checker as script
from ecomkd import describe, report
from ecomkd.describe import Fact, Product, facts, labels

WRITERS = ("teacher", "student, more")


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Twelve products and two sentences about each, one of them wrong in words that repeat."""
    known, rows = {}, []
    for i in range(12):
        colour = ("blue", "red", "green")[i % 3]
        own = (Fact("colour", colour, colour), Fact("material", "steel", "steel"))
        known[f"p{i}"] = Product(f"p{i}", f"kettle {i}", own, written="It is a kettle.")
        right, wrong = f"It comes in {colour}.", "A durable and adjustable gold lid."
        for sentence, label in ((right, "supported"), (wrong, "unsupported")):
            rows.append((WRITERS[i % 2], f"p{i}", known[f"p{i}"].record, sentence, label, ""))
    table = pd.DataFrame(rows, columns=["writer", "product_id", "record", "sentence", "label",
                                        "second"])  # fmt: skip
    table.loc[:3, "second"] = ["supported", "unsupported", "denied", "unsupported"]

    class Reader:
        """A cross-encoder that says that whatever names gold is wrong."""

        def __init__(self, profile):
            self.seen = 0

        def copy(self):
            return Reader(None)

        def learn(self, records, sentences, wrong, passes):
            assert len(records) == len(sentences) == len(wrong)
            self.seen += len(records)

        def __call__(self, records, sentences):
            return np.array([0.9 if "gold" in one else 0.2 for one in sentences])

    monkeypatch.setattr(script, "Reader", Reader)
    monkeypatch.setattr(script, "products", lambda: known)
    monkeypatch.setattr(script, "PLANTED", 20)
    further = table[:3].assign(writer="student, longer")
    monkeypatch.setattr(
        describe, "labelled", lambda later=False: further if later else table, raising=False
    )
    monkeypatch.setattr(script, "planted", lambda own, seed: ([], [], np.array([])))
    return table, known


def test_checkers_are_held_against_what_was_read(made, monkeypatch, tmp_path):
    folder, out = tmp_path / "parts", tmp_path / "record.json"
    for line in ("--seeds 0 1", f"--merge --out {out}"):
        tiny_baskets.call(monkeypatch, script, f"{line} --folder {folder}")
    data = json.loads(out.read_text(encoding="utf-8"))["data"]
    assert data["labels"]["teacher"] == {"supported": 6, "unsupported": 6}
    assert data["agreement"]["sentences"] == 4 and data["agreement"]["same"] == 0.75
    rows = data["rows"]
    assert rows["always wrong"]["precision"]["value"] == 0.5
    assert rows["always wrong"]["recall"]["value"] == 1
    for name in ("words of the sentence", "cross-encoder, planted pairs"):
        assert rows[name]["f1"]["value"] == rows[name]["auc"] == 1
    assert rows["rules"]["recall"]["value"] == 1  # gold is denied: colours are recorded
    for writer in WRITERS:
        behind = data["kept"]["rules or cross-encoder"][writer]
        assert behind["wrong before"] == 0.5 and behind["passed"] == 0.5
        assert behind["wrong"]["value"] == 0


def test_what_was_read_is_counted_by_writer_and_what_was_read_later_apart(
    made, monkeypatch, tmp_path
):
    folder, out = tmp_path / "parts", tmp_path / "record.json"
    for line in ("--seeds 0", f"--merge --out {out}"):
        tiny_baskets.call(monkeypatch, script, f"{line} --folder {folder}")
    data = json.loads(out.read_text(encoding="utf-8"))["data"]
    assert set(data["read"]) == set(WRITERS) and data["sentences"] == 24
    own = data["read"]["teacher"]
    assert (own["sentences"], own["products"], own["wrong"]["value"]) == (12, 6, 0.5)
    later = data["read later"]["student, longer"]
    assert (later["sentences"], later["products"]) == (3, 2)
    # The lower end for one of three solves 1 − (1 − p)³ = 0.025 (Clopper and Pearson).
    span = later["wrong"]
    assert span["low"] == pytest.approx(1 - (1 - 0.025) ** (1 / 3), abs=1e-4)
    assert span["value"] == pytest.approx(1 / 3) and span["high"] == pytest.approx(0.9057, abs=1e-4)


def test_no_product_is_both_learnt_from_and_asked_about(made):
    table, _ = made
    asked = []
    for train, test in script.folds(table, 3):
        names = table["product_id"].to_numpy()
        assert not set(names[train]) & set(names[test])
        asked += test.tolist()
    assert sorted(asked) == list(range(len(table)))


def test_planted_sentences_are_wrong_where_they_are_of_another_value(made):
    _, known = made
    records, sentences, wrong = PLANTED(list(known.values()), 0)
    assert len(records) == len(sentences) == len(wrong) == 20
    assert 0 < wrong.mean() <= 0.5
    words = describe.shop_vocabulary()
    for record, sentence, says in zip(records, sentences, wrong, strict=True):
        product = next(one for one in known.values() if one.record == record)
        assert bool(words.check(sentence, product).wrong) == bool(says)


PLANTED = script.planted


def test_a_template_names_all_and_claims_nothing_else(made):
    _, known = made
    words = describe.shop_vocabulary()
    for product in known.values():
        seen = words.check(facts.template(product), product)
        assert not seen.missing and not seen.wrong
    both = Product("k", "kettle", (Fact("colour", "blue", "Navy"), Fact("colour", "red", "Red"),
                                   Fact("who", "men", "for Men")))  # fmt: skip
    told = "Meet our kettle. It comes in navy and red. It is from the men range."
    assert facts.template(both) == told
    assert facts.template(Product("k", "kettle", ())) == "Meet our kettle."


def test_the_labelled_sentences_are_whole():
    table = labels.labelled()
    assert len(table) == 300 and set(table["label"]) == set(labels.LABELS)
    assert (table["second"] != "").sum() == 100
    assert set(table["second"]) <= {*labels.LABELS, ""}
    assert table["sentence"].str.len().min() > 5
    assert table.groupby("writer").size().min() >= 50
    assert table["record"].str.startswith("Product: ").all()
    later = labels.labelled(later=True)
    assert list(later) == list(table) and set(later["label"]) == set(labels.LABELS)
    assert not set(later["writer"]) & set(table["writer"]) and set(later["second"]) == {""}


def test_what_was_read_later_is_the_whole_of_the_texts_that_were_kept():
    later, shown = labels.labelled(later=True), report.recorded("writers")["data"]["shown"]
    for writer, own in later.groupby("writer"):
        kept = [one for text in shown for one in facts.sentences(text[writer])]
        assert own["sentence"].tolist() == kept


def test_what_chapter_12_says_of_checkers_is_in_the_record():
    data = report.recorded("checker")["data"]
    wrong = {
        name: 1 - own.get("supported", 0) / sum(own.values())
        for name, own in data["labels"].items()
    }
    assert min(wrong, key=wrong.get) == "teacher" and wrong["teacher"] > 1 / 3
    assert (
        0.5
        < sum(sum(own.values()) - own["supported"] for own in data["labels"].values())
        / data["sentences"]
        < 0.55
    )
    assert data["agreement"]["same"] > 0.85
    assert data["read later"] == script.read(labels.labelled(later=True))
    student = data["read"]["student, 1,000 texts of the teacher's"]["wrong"]
    for own in data["read later"].values():  # too few to be told from the student that was read
        assert own["wrong"]["high"] > student["low"] and own["wrong"]["low"] < student["high"]
    rows = data["rows"]
    assert rows["rules"]["recall"]["high"] < 0.8
    assert not any(goal["met"] for goal in report.recorded("checker")["goals"][:2])
