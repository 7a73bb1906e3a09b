"""Cross-validation by query: how queries are divided, and a run that tests each of them once."""

import json
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny_models
from contract_cases import GOOD, by_fold
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from ecomkd import distill, features, metrics, outputs
from ecomkd.config import Profile
from ecomkd.data import sources
from ecomkd.data.contract import DataError, as_seen
from ecomkd.data.folds import divided, drawn, judged
from ecomkd.data.schema import GAINS
from ecomkd.relevance import baselines, judge, mining
from ecomkd.relevance import run as running
from ecomkd.relevance.run import run
from ecomkd.relevance.tables import SYSTEMS, by_seed, table

COMMAND = "ecomkd run shoes --profile smoke --seeds 1 --first-seed 900 --folds --out report"
QUERIES, FOLDS = 9, 3


def loaded(folder: Path, text: str):
    (folder / "judgments.csv").write_text(text)
    profile = Profile.named("smoke", artifacts=folder / "artifacts")
    with pytest.warns(UserWarning, match="too few"):
        return sources.load(folder, profile), sources.report(folder, profile)


def texts(part) -> set[str]:
    return {as_seen(query) for query in part["query"]}


# How queries are divided


def test_load_takes_fold_0_as_test_and_fold_1_as_validation(tmp_path):
    data, report = loaded(tmp_path, by_fold(lambda number: number % 4))
    assert {name: set(part["fold"]) for name, part in data.items()} == {
        "train": {2, 3},
        "validation": {1},
        "test": {0},
    }
    assert report["folds"] == [3, 3, 3, 3]
    assert "`ecomkd run --folds`" in report["splits"]


def once_each(data, parts) -> None:
    """Each query is tested once, and no text is in two of train, validation and test."""
    tested = Counter(query for part in parts for query in set(part["test"]["query_id"]))
    assert tested == Counter(set(judged(data)["query_id"]))
    for number, part in enumerate(parts):
        found = [texts(part[name]) for name in ("train", "validation", "test")]
        assert all(found)
        assert sum(map(len, found)) == len(set.union(*found)) == len(texts(judged(data)))
        following = parts[(number + 1) % len(parts)]["test"]
        assert set(part["validation"]["query_id"]) == set(following["query_id"])
        assert sum(map(len, part.values())) == len(judged(data))


def test_the_folds_that_data_have_are_taken_as_they_are(tmp_path):
    data, _ = loaded(tmp_path, by_fold(lambda number: number // 4))
    parts = divided(data)
    once_each(data, parts)
    assert [set(part["test"]["fold"]) for part in parts] == [{0}, {1}, {2}]
    assert list(parts[2]["validation"]["fold"]) == list(parts[0]["test"]["fold"])
    first = {name: part.to_list() for name, part in parts[0].items()}
    assert first == {name: part.to_list() for name, part in data.items()}


def test_folds_are_drawn_whatever_the_splits_say(tmp_path):
    data, report = loaded(tmp_path, GOOD)
    assert "folds" not in report
    with pytest.raises(DataError, match="No column 'fold' says to which fold each query belongs"):
        divided(data)
    parts = divided(data, 5, seed=1)
    once_each(data, parts)
    assert sorted(len(texts(part["test"])) for part in parts) == [2, 2, 2, 3, 3]

    def tested(seed: int) -> list:
        return [list(part["test"]["query_id"]) for part in divided(data, 5, seed)]

    assert tested(1) == [list(part["test"]["query_id"]) for part in parts]
    assert tested(2) != tested(1)


def test_unlabelled_pairs_are_those_of_every_fold():
    data = tiny_models.shop()
    for part in divided(data, 3):
        assert part["unlabelled"].to_list() == data["unlabelled"].to_list()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(3, 8), st.integers(0, 5), st.randoms())
def test_drawn_folds_are_even_and_know_no_order_of_rows(folds, seed, random):
    """Ten texts; each is written in two ways, under two ids."""
    base = tiny_models.pairs(40, 1)
    shown = [f"Red  {row // 4}" if row % 2 else f"red {row // 4}\u200b" for row in range(40)]
    pairs = base.remove_columns(["query", "label"]).add_column("query", shown)
    pairs = pairs.add_column("label", [row % 4 for row in range(40)])
    pairs = pairs.cast_column("label", tiny_models.CLASSES)
    fold = drawn(pairs, folds, seed)
    of_text = {as_seen(query): set() for query in shown}
    for query, number in zip(shown, fold, strict=True):
        of_text[as_seen(query)].add(int(number))
    assert len(of_text) == 10 and all(len(numbers) == 1 for numbers in of_text.values())
    counts = np.bincount([numbers.pop() for numbers in of_text.values()], minlength=folds)
    assert len(counts) == folds and counts.max() - counts.min() <= 1
    order = list(range(40))
    random.shuffle(order)
    assert drawn(pairs.select(order), folds, seed).tolist() == fold[order].tolist()


def test_what_cannot_be_divided_is_named():
    pairs = tiny_models.pairs(24).map(lambda row: {"query": row["query_id"]})
    for folds in (2, 7):
        with pytest.raises(DataError, match=rf"^6 queries cannot be divided into {folds} folds: "):
            drawn(pairs, folds, 0)
    barren = pairs.map(lambda row: {"label": 3 if row["query_id"] != "q0" else row["label"]})
    with pytest.raises(DataError, match=r"No product is relevant in fold \d of the 3 that were"):
        drawn(barren, 3, 0)


# A run


def shop(folder: Path) -> Path:
    """Nine queries of four products each, in three folds, and a catalogue."""
    pairs = tiny_models.pairs(4 * QUERIES, 1).to_pandas().drop(columns="label")
    number = pairs.index // 4
    words = tiny_models.WORDS
    pairs["query_id"] = [f"q{i}" for i in number]
    pairs["query"] = [words[i] + " " + words[-1 - i // 2] for i in number]
    pairs["esci_label"] = list(GAINS) * QUERIES
    pairs["fold"] = number % FOLDS
    folder.mkdir()
    pairs.to_csv(folder / "judgments.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run that was killed when it began with the last fold, and started again.

    How often it `trained` a model, each time; what was `written` when it was killed; on which
    `asked` queries a model was trained, for each fold.
    """
    root = tmp_path_factory.mktemp("folds")
    teacher = tiny_models.save(tiny_models.bert(), root / "pretrained")
    profile = tiny_models.profile(
        root / "artifacts", teacher=str(teacher), student_layers=(0,), unlabelled_pairs=24
    )
    found = SimpleNamespace(
        folder=root / "report", data=shop(root / "shoes"), profile=profile, trained=[], asked=[]
    )
    own, fit, trained = baselines.random_scores, distill.fit, running.trained

    def counted(*given, **options):
        found.trained[-1] += 1
        return fit(*given, **options)

    def killed(data, *given):
        if len(found.asked) == FOLDS - 1:
            raise KeyboardInterrupt
        return watched(data, *given)

    def watched(data, *given):
        made = trained(data, *given)
        found.asked.append(
            {name: texts(made.data[name]) for name in ("train", "validation", "test", "unlabelled")}
        )
        return made

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(features, "bi_encoder_scores", lambda pairs, profile: own(pairs))
        vectors = np.random.default_rng(0).normal(size=(4 * QUERIES, 8)).astype(np.float32)
        patch.setattr(mining, "catalogue_vectors", lambda *_: vectors)
        patch.setattr(features, "embed", lambda asked, profile: vectors[: len(asked)])
        patch.setattr(distill, "fit", counted)
        for attempt in (killed, watched):
            patch.setattr(running, "trained", attempt)
            found.trained.append(0)
            try:
                run(found.data, profile, [900], found.folder, COMMAND, folds="given")
            except KeyboardInterrupt:
                found.written = {path.name for path in found.folder.iterdir()}
                found.asked = []
    return found


def kept(ran, name: str) -> dict:
    return json.loads((ran.folder / f"{name}.json").read_text())


def test_a_killed_run_goes_on_with_the_finished_folds(ran):
    """A teacher and four students a fold; the first two folds are found again."""
    assert ran.written == {"manifest.json", "seed-900-fold-0.json", "seed-900-fold-1.json"}
    assert ran.trained == [10, 5]
    listed = outputs.check(ran.folder, "run")["files"]
    assert {f"seed-900-fold-{fold}.json" for fold in range(FOLDS)} | {"seed-900.json"} <= {*listed}
    assert "student/model.int8.onnx" in listed


def test_nothing_learns_from_a_test_query_of_its_fold(ran):
    """Pairs without a label are mined, with queries that nobody judged."""
    assert len(ran.asked) == FOLDS
    everything = set.union(*(found["test"] for found in ran.asked))
    assert len(everything) == QUERIES
    for found in ran.asked:
        assert len(found["test"]) == len(found["validation"]) == len(found["train"]) == FOLDS
        assert found["train"] | found["validation"] | found["test"] == everything
        assert found["unlabelled"] and not found["unlabelled"] & everything


def test_the_pooled_result_is_that_of_pooling_by_hand(ran):
    folds = [kept(ran, f"seed-900-fold-{fold}") for fold in range(FOLDS)]
    whole = kept(ran, "seed-900")
    assert list(whole) == list(folds[0])
    assert whole["seed"] == 900
    assert whole["query_id"] == [query for fold in folds for query in fold["query_id"]]
    assert Counter(whole["query_id"]) == {f"q{i}": 4 for i in range(QUERIES)}
    assert whole["pairs"] == folds[0]["pairs"] | {"test": 4 * QUERIES}
    assert len({fold["data"] for fold in folds} | {whole["data"]}) == 1 + FOLDS
    assert list(whole["systems"]) == list(SYSTEMS)
    for name, entry in whole["systems"].items():
        parts = [fold["systems"][name] for fold in folds]
        assert list(entry) == list(parts[0])
        assert {key: list(value) for key, value in entry.items() if isinstance(value, dict)} == {
            key: list(value) for key, value in parts[0].items() if isinstance(value, dict)
        }
        hits = [
            np.equal(fold["label"], part["predicted"])
            for fold, part in zip(folds, parts, strict=True)
        ]
        assert entry["classification"]["accuracy"] == pytest.approx(np.concatenate(hits).mean())
        ndcg = [value for part in parts for value in part["per_query"]["ndcg@10"]]
        assert entry["per_query"]["ndcg@10"] == ndcg and len(ndcg) == QUERIES
        assert entry["ranking"]["ndcg@10"] == pytest.approx(np.mean(ndcg))
        assert entry["ranking"]["lift@10"] == pytest.approx(
            np.mean(ndcg) - entry["ranking"]["random_ndcg@10"]
        )
    # Macro-F1 is of all pairs together, not a mean of the folds'.
    entry = whole["systems"]["teacher"]
    chances = np.eye(4)[entry["predicted"]]
    found = metrics.classification(whole["label"], chances)
    assert entry["classification"]["macro_f1"] == pytest.approx(found["macro_f1"])
    assert {key: row["support"] for key, row in entry["per_class"].items()} == {
        str(label): QUERIES for label in range(4)
    }


def test_the_report_goes_by_the_pooled_result_and_says_whose_student_it_is(ran):
    report, whole = kept(ran, "report"), kept(ran, "seed-900")
    rows = table([whole])
    assert report["data"]["rows"]["teacher"]["ndcg@10"] == pytest.approx(
        rows.loc["teacher", "ndcg@10"]
    )
    assert len(by_seed([whole], ["teacher"])) == QUERIES
    told = report["data"]["notes"][-1]
    assert told.startswith("Cross-validation in 3 folds: each query was tested once by each seed")
    assert "fold 0 of seed 900" in told and "1 of the 3 folds" in told
    page = (ran.folder / "report.html").read_text()
    assert told in page and "cannot be told" in page
    assert {row["word"] for row in report["data"]["comparisons"]} == {"cannot be told"}


def test_seeds_that_draw_their_own_folds_share_their_queries(ran):
    """Else a query would be counted as another with each seed."""
    data = sources.load(ran.data, ran.profile)
    whole = kept(ran, "seed-900")
    assert running.pooled([whole], judged(data))["data"] == whole["data"]
    values = by_seed([whole, whole | {"seed": 901}], ["teacher"])
    assert len(values.index.get_level_values(1).unique()) == QUERIES


@pytest.mark.parametrize(
    ("folds", "text", "words"),
    [
        (None, by_fold(lambda number: number % 3), "the queries have folds and no split: add --fo"),
        ("given", GOOD, "no column 'fold' stands in the place of 'split': add one, or give a numb"),
    ],
)
def test_data_and_command_agree_on_folds_before_any_training(
    folds, text, words, ran, tmp_path, monkeypatch
):
    monkeypatch.setattr(running, "trained", lambda *_: pytest.fail("training began"))
    (tmp_path / "judgments.csv").write_text(text)
    profile = replace(ran.profile, artifacts=tmp_path / "artifacts")
    with pytest.warns(UserWarning), pytest.raises(DataError, match=words):
        run(tmp_path, profile, [900], tmp_path / "out", COMMAND, folds=folds)
    assert not (tmp_path / "out").exists()


def test_folds_of_rows_that_are_merged_are_theirs(tmp_path):
    """A repeated pair is merged into its first row, and the folds stay beside their rows."""
    text = by_fold(lambda number: number % 3)
    repeated = text + text.splitlines()[5] + "\n"
    data, report = loaded(tmp_path, repeated)
    assert report["duplicates_merged"] == 1
    whole = judged(data).to_pandas()
    assert (whole["fold"] == whole["query_id"].str[1:].astype(int).sub(1) % 3).all()
    assert pd.Series(whole["fold"]).value_counts().to_dict() == {0: 16, 1: 16, 2: 16}


def test_a_fold_in_which_no_order_can_be_judged_is_told():
    """Else a report over all folds would go by classes alone, and not say why."""
    few, many = ({"query_id": list(queries)} for queries in ("aabc", "aabbccd"))
    few, many = Dataset.from_dict(few), Dataset.from_dict(many)
    parts = [{"test": many}, {"test": few}]
    assert judge.rankable(many) and not judge.rankable(few)
    (told,) = running._on_folds(many, parts)
    assert "the report goes by classes alone" in told
    assert not running._on_folds(many, parts[:1]) and not running._on_folds(few, parts)


def test_folds_that_a_later_seed_draws_are_refused_before_any_work(tmp_path, monkeypatch):
    rows = ["query_id,product_id,query,product_title,esci_label,split"]
    for number in range(9):
        split = ("test", "validation")[number] if number < 2 else "train"
        for product in range(3):
            label = "E" if number < 4 and product == 0 else "I"
            rows.append(f"q{number},p{product},query {number},title {product},{label},{split}")
    (tmp_path / "judgments.csv").write_text("\n".join(rows))
    profile = Profile.named("smoke", artifacts=tmp_path / "artifacts")
    monkeypatch.setattr(running, "trained", lambda *_: pytest.fail("the work had begun"))
    with (
        pytest.warns(UserWarning),
        pytest.raises(DataError, match="of the 3 that were drawn with seed 19"),
    ):
        running.run(tmp_path, profile, [18, 19], tmp_path / "out", "ecomkd run", folds=3)
