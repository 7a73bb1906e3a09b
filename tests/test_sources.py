"""Every way to load a data set gives the same columns; ESCI is tried on rows of its shape."""

from pathlib import Path

import datasets
import pandas as pd
import pytest

from ecomkd import artifacts, load
from ecomkd.config import Profile
from ecomkd.data import sources
from ecomkd.data.schema import LABELS, TEXT, check, normalise_query

CONTRACT = ["query_id", "product_id", "query", *TEXT, "label"]


def esci_rows(split: str, first: int, labels: list[str]) -> list[dict]:
    """Rows with the columns and types of tasksource/esci."""
    return [
        {
            "example_id": first + number,
            "query": f"query {first + number}",
            "query_id": first + number,
            "product_id": f"B{first + number:09d}",
            "product_locale": "us",
            "esci_label": label,
            "small_version": 0,
            "large_version": 1,
            "product_title": f"Title {split} {number}",
            "product_description": None,
            "product_bullet_point": "one\ntwo",
            "product_brand": "Brand",
            "product_color": None,
            "product_text": "all of it",
        }
        for number, label in enumerate(labels)
    ]


def batch(rows: list[dict]) -> dict[str, list]:
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.fixture
def profile(tmp_path) -> Profile:
    return Profile.named("smoke", artifacts=tmp_path / "artifacts")


def test_map_esci_gives_the_contract():
    words = ["Exact", "Substitute", "Complement", "Irrelevant"]
    mapped = sources.map_esci(batch(esci_rows("train", 7, words)), "train")
    assert mapped["esci_label"] == list(LABELS)
    assert mapped["query_id"] == ["7", "8", "9", "10"]
    assert mapped["product_id"][0] == "B000000007"
    assert mapped["product_description"] == mapped["product_color"] == [""] * 4
    assert mapped["product_bullet_point"] == ["one\ntwo"] * 4
    assert mapped["split"] == ["train"] * 4
    assert mapped["small_version"] == [0] * 4 and mapped["large_version"] == [1] * 4
    assert "product_text" not in mapped and "example_id" not in mapped


def test_map_esci_takes_letters_and_the_original_split():
    rows = [row | {"split": "test"} for row in esci_rows("train", 1, list(LABELS))]
    mapped = sources.map_esci(batch(rows), "train")
    assert mapped["esci_label"] == list(LABELS)
    assert mapped["split"] == ["test"] * 4


def test_map_esci_leaves_out_other_locales_and_products_without_a_title():
    rows = esci_rows("train", 1, ["Exact"] * 3)
    rows[0]["product_locale"] = "jp"
    rows[1]["product_title"] = None
    assert sources.map_esci(batch(rows), "train")["query_id"] == ["3"]
    assert sources.map_esci(batch(rows), "train", locale="jp")["query_id"] == ["1"]


@pytest.mark.parametrize("streaming", [False, True])
def test_load_esci(tmp_path, monkeypatch, streaming):
    tables = {
        "train": esci_rows("train", 1, ["Exact", "Substitute", "Complement", "Irrelevant"] * 5),
        "test": esci_rows("test", 101, ["Exact", "Irrelevant"] * 3),
    }
    tables["train"][0]["query"] = "QUERY\u200b  101"  # which test has too
    tables["train"][1]["product_title"] = "\u200e"  # a mark that nobody can see

    def from_hub(name, split, streaming, revision):
        assert name == "tasksource/esci"
        assert revision == sources.ESCI_REVISION
        rows = datasets.Dataset.from_list(tables[split])
        return rows.to_iterable_dataset() if streaming else rows

    monkeypatch.setattr(sources.datasets, "load_dataset", from_hub)
    profile = Profile.named("smoke", artifacts=tmp_path, streaming=streaming)
    with pytest.warns(UserWarning, match="ESCI: 1 training pairs are left out"):
        data = load("esci", profile)
    assert {name: len(part) for name, part in data.items()} == {
        "train": 15,
        "validation": 3,
        "test": 6,
    }
    assert data["train"].column_names == [
        *CONTRACT,
        "product_locale",
        "small_version",
        "large_version",
    ]
    assert len(sources.catalogue("esci", profile)) == 24


def test_load_shop(profile):
    data = load("shop", profile)
    assert list(data) == ["train", "validation", "test", "unlabelled"]
    judged = sum(len(data[name]) for name in ("train", "validation", "test"))
    assert judged == profile.queries * profile.judged_per_query
    assert len(data["unlabelled"]) == profile.unlabelled_pairs
    for part in data.values():
        assert part.column_names == [*CONTRACT, "query_kind"]
        assert part.features["label"] == datasets.ClassLabel(names=list(LABELS))
        assert all(title.strip() for title in part["product_title"])
    assert set(data["unlabelled"]["label"]) == {-1}
    seen = [set(map(normalise_query, part["query"])) for part in data.values()]
    assert sum(map(len, seen)) == len(set.union(*seen))
    products = sources.catalogue("shop", profile)
    assert len(products) == profile.products
    assert products.column_names[:6] == ["product_id", *TEXT]


def test_load_shop_without_unlabelled_pairs(tmp_path):
    profile = Profile.named("smoke", artifacts=tmp_path, unlabelled_pairs=0)
    assert list(load("shop", profile)) == ["train", "validation", "test"]


def test_what_was_checked_once_is_not_read_again(profile, monkeypatch):
    first = load("shop", profile)["train"][:]

    def never(*args, **kwargs):
        raise AssertionError("the shop is made again")

    monkeypatch.setattr(sources.shop, "write", never)
    monkeypatch.setattr(sources, "read", never)
    assert load("shop", profile)["train"][:] == first


def test_another_seed_is_another_shop(tmp_path):
    one, two = (
        load("shop", Profile.named("smoke", artifacts=tmp_path, seed=seed)) for seed in (900, 901)
    )
    assert one["test"]["query"] != two["test"]["query"]


def written(path: Path, queries: int = 10) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "query_id": [f"q{number // 2}" for number in range(2 * queries)],
            "product_id": [f"p{number % 3}" for number in range(2 * queries)],
            "query": [f"query {number // 2}" for number in range(2 * queries)],
            "product_title": [f"Title {number % 3}" for number in range(2 * queries)],
            "grade": [number % 4 for number in range(2 * queries)],
        }
    )
    frame.to_csv(path, index=False)
    return frame


def test_load_a_file(tmp_path, profile):
    path = tmp_path / "pairs.csv"
    written(path)
    for source in (path, str(path)):
        data = load(source, profile)
        assert {name: len(part) for name, part in data.items()} == {
            "train": 12,
            "validation": 4,
            "test": 4,
        }
        assert data["train"].features["label"].names == ["0", "1", "2", "3"]
    products = sources.catalogue(path, profile)
    assert sorted(products["product_id"]) == ["p0", "p1", "p2"]
    assert products.column_names == ["product_id", *TEXT]


def test_what_check_notes_is_told_when_own_data_are_read(tmp_path, profile):
    written(tmp_path / "pairs.csv")
    with pytest.warns(UserWarning, match="2 test queries are too few to conclude anything"):
        load(tmp_path / "pairs.csv", profile)
    report = check(tmp_path / "pairs.csv")
    assert report["notes"] and report["queries"] == {"train": 6, "validation": 2, "test": 2}


def test_the_report_of_a_named_source_is_that_of_what_is_loaded(tmp_path, profile, monkeypatch):
    (tmp_path / "shop").mkdir()
    monkeypatch.chdir(tmp_path)
    pairs = sources.report("shop", profile)["pairs"]
    assert pairs == {name: len(part) for name, part in load("shop", profile).items()}


def test_one_content_has_one_artefact_whatever_its_place(tmp_path, profile):
    (tmp_path / "a").mkdir()
    written(tmp_path / "a" / "judgments.csv")
    (tmp_path / "b.csv").write_bytes((tmp_path / "a" / "judgments.csv").read_bytes())
    load(tmp_path / "a", profile)
    load(tmp_path / "b.csv", profile)
    assert len(list(profile.artifacts.glob("data-*"))) == 1


def test_a_changed_file_is_read_again(tmp_path, profile):
    path = tmp_path / "pairs.csv"
    written(path)
    before = load(path, profile)
    written(path, queries=20)
    assert len(load(path, profile)["train"]) > len(before["train"])


def test_a_file_is_hashed_once_a_process(tmp_path, profile, monkeypatch):
    path = tmp_path / "pairs.csv"
    written(path)
    hashed = []

    def counted(file):
        hashed.append(file)
        return file_digest(file)

    file_digest = artifacts.file_digest
    monkeypatch.setattr(artifacts, "file_digest", counted)
    load(path, profile)
    sources.catalogue(path, profile)
    assert hashed.count(path.resolve()) == 1


def test_a_killed_load_starts_afresh(tmp_path, profile, monkeypatch):
    path = tmp_path / "pairs.csv"
    written(path)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sources, "to_dataset", killed)
        with pytest.raises(KeyboardInterrupt):
            load(path, profile)
    assert len(load(path, profile)["train"]) == 12
    assert not list(profile.artifacts.glob("data-*/scratch"))


def test_loaded_data_is_memory_mapped(profile):
    train = load("shop", profile)["train"]
    assert train.cache_files and Path(train.cache_files[0]["filename"]).is_relative_to(
        profile.artifacts
    )


def test_product_text():
    row = {
        "product_title": "Kettle, Red",
        "product_description": "Boils\nwater.",
        "product_bullet_point": "1.7 l\n 2 kW",
        "product_brand": "Steamio",
        "product_color": "red",
    }
    assert sources.product_text(row) == "Kettle, Red . Steamio . 1.7 l 2 kW . Boils water."
    bare = dict.fromkeys(TEXT, "") | {"product_title": "Mug"}
    rows = {name: [row[name], bare[name]] for name in TEXT}
    assert sources.product_text(rows) == [sources.product_text(row), "Mug"]
