"""The part of the film queries that is measured: which queries it takes, and that it is data."""

import pandas as pd
import pytest

import msrd_part as script
from ecomkd.data import schema


def judgments(queries=12, films=4) -> pd.DataFrame:
    splits = ["train"] * 6 + ["validation"] * 3 + ["test"] * 3
    rows = [
        {
            "query_id": f"q{query}",
            "query": f"film {query}",
            "product_id": f"p{film}",
            "grade": 3 * (film == query % films),
            "split": splits[query],
        }
        for query in range(queries)
        for film in range(films)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_a_larger_part_holds_a_smaller_one_and_labels_stay_behind():
    parts = [script.part(judgments(), count, 2, 3, 8) for count in (1, 3)]
    (small, _), (large, log) = parts
    assert set(small["query_id"]) < set(large["query_id"])
    assert large.groupby("split")["query_id"].nunique().to_dict() == {
        "train": 3,
        "validation": 2,
        "test": 3,
    }
    assert len(large) == 8 * 4  # with all their products
    assert not {"grade", "split"} & set(log.columns)
    assert not set(log["query_id"]) & set(large["query_id"])
    assert set(log["query_id"]) <= {f"q{query}" for query in range(6)}


def test_unlabelled_queries_are_whole():
    _, log = script.part(judgments(), 2, 2, 2, 5)
    assert log["query_id"].value_counts().tolist() == [4, 4]


@pytest.mark.parametrize(
    ("asked", "message"),
    [((7, 1, 1, 4), "labelled: the data have 6 train queries"), ((3, 1, 1, 13), "12 other")],
)
def test_more_than_there_is_gets_a_sentence(asked, message):
    with pytest.raises(ValueError, match=message):
        script.part(judgments(), *asked)


def test_what_is_written_keeps_the_contract(tmp_path, monkeypatch, capsys):
    source = tmp_path / "msrd"
    source.mkdir()
    judgments().to_parquet(source / "judgments.parquet")
    titles = [f"The film {film}" for film in range(4)]
    films = {"product_id": [f"p{film}" for film in range(4)], "product_title": titles}
    pd.DataFrame(films).to_parquet(source / "products.parquet")
    monkeypatch.setenv("ECOMKD_REAL_DATA", str(tmp_path))
    asked = {"labelled": 2, "validation": 1, "tested": 2, "unlabelled": 8}
    options = [text for name, count in asked.items() for text in (f"--{name}", str(count))]
    monkeypatch.setattr("sys.argv", ["msrd_part.py", str(tmp_path / "part"), *options])
    script.main()
    told = schema.check(tmp_path / "part")
    assert told["pairs"] == {"train": 8, "validation": 4, "test": 8, "unlabelled": 8}
    assert "20 judged pairs, 8 without a label" in capsys.readouterr().out
